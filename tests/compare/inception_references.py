"""The extractors of torch-fidelity and pytorch-fid, with weights of our choice.

Both import torchvision, of which there is no build for every machine that has torch. What they use
of it is put in its place:

- torch-fidelity's extractor uses nothing of it; the import is satisfied with an empty stand-in.
- pytorch-fid changes torchvision's network in place: it replaces the blocks A, C and E by its own,
  and sets weights. As torchvision's network it gets torch-fidelity's. So its resize, normalisation,
  order of layers and blocks A, C and E are its own, blocks B, D and the stem are torch-fidelity's.

    python -m tests.compare.inception_references      # writes tests/fixtures/inception.json
"""

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.compare_metrics import without_torchvision
from gengen.nn.inception import TAPS, torch_shapes
from tests.nn.random_weights import random_images, random_state_dict


class TorchFidelity:
    """Its features of uint8 images [B, H, W, 3]."""

    def __init__(self, state_dict: Mapping[str, np.ndarray], taps: Sequence[str]):
        self.taps, self.net = tuple(taps), _torch_fidelity(state_dict, taps)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        import torch  # pyright: ignore[reportMissingImports]

        with torch.no_grad():
            found = self.net(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        return {tap: x.numpy() for tap, x in zip(self.taps, found, strict=True)}


class PytorchFID:
    """Its features of uint8 images [B, H, W, 3]: some of the taps 64, 192, 768 and 2048."""

    def __init__(self, state_dict: Mapping[str, np.ndarray], taps: Sequence[str] = TAPS[:4]):
        import torch  # pyright: ignore[reportMissingImports]

        tensors = {k: torch.from_numpy(v) for k, v in state_dict.items()}
        module = _pytorch_fid(lambda: _torch_fidelity(state_dict, ("2048",)))
        module.load_state_dict_from_url = lambda *args, **kwargs: tensors
        self.net = module.InceptionV3(output_blocks=[TAPS.index(tap) for tap in taps]).eval()

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        import torch  # pyright: ignore[reportMissingImports]

        # As its fid_score reads images: ToTensor's /255, channels first.
        x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 255
        with torch.no_grad():
            found = self.net(x)
        return {str(x.shape[1]): x.mean((2, 3)).numpy() for x in found}


def _torch_fidelity(state_dict: Mapping[str, np.ndarray], taps: Sequence[str]) -> Any:
    import torch  # pyright: ignore[reportMissingImports]

    with without_torchvision():
        from torch_fidelity import (  # pyright: ignore[reportMissingImports]
            feature_extractor_inceptionv3 as theirs,
        )

    tensors = {k: torch.from_numpy(v) for k, v in state_dict.items()}
    read, torch.load = torch.load, lambda *args, **kwargs: tensors  # its constructor reads a file
    try:
        return theirs.FeatureExtractorInceptionV3(
            "inception-v3-compat", list(taps), feature_extractor_weights_path="none"
        )
    finally:
        torch.load = read


def _pytorch_fid(make: Any) -> Any:
    """The package's inception.py, under a name of its own: others import it without a network."""
    with without_torchvision():
        from torch_fidelity import (  # pyright: ignore[reportMissingImports]
            feature_extractor_inceptionv3 as theirs,
        )

        found = importlib.util.find_spec("pytorch_fid")
    assert found is not None and found.submodule_search_locations
    blocks = {name: getattr(theirs, f"Inception{name}") for name in ("A", "C", "E_1")}
    named = {f"Inception{name[0]}": block for name, block in blocks.items()}
    models = SimpleNamespace(
        inception=SimpleNamespace(**named), inception_v3=lambda **options: make()
    )
    stand_in: Any = ModuleType("torchvision")
    stand_in.models, stand_in.__version__ = models, "0.24"
    before = sys.modules.get("torchvision")
    sys.modules["torchvision"] = stand_in
    try:
        path = Path(found.submodule_search_locations[0]) / "inception.py"
        spec = importlib.util.spec_from_file_location("pytorch_fid_with_stand_in", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        del sys.modules["torchvision"]
        if before is not None:
            sys.modules["torchvision"] = before


FIXTURE = Path(__file__).parents[1] / "fixtures" / "inception.json"
EVERY = 16  # channels between those that the fixture keeps


def fixture() -> dict[str, dict[str, list[list[float]]]]:
    """What the references make of seeded weights and images: every 16th channel of each tap."""
    state_dict = random_state_dict(torch_shapes(), seed=0)
    images = random_images((2, 64, 48, 3), seed=1)
    references = {
        "torch-fidelity": TorchFidelity(state_dict, TAPS),
        "pytorch-fid": PytorchFID(state_dict),
    }
    return {
        name: {tap: x[:, ::EVERY].astype(float).round(6).tolist() for tap, x in of(images).items()}
        for name, of in references.items()
    }


if __name__ == "__main__":
    FIXTURE.parent.mkdir(exist_ok=True)
    FIXTURE.write_text(json.dumps(fixture()) + "\n")
