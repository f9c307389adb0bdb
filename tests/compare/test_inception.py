"""Our Inception beside torch-fidelity's and pytorch-fid's, with the same weights and images."""

import json
from importlib.util import find_spec

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gengen.nn import protocols
from gengen.nn.inception import TAPS, features, from_torch, torch_shapes
from tests.compare import inception_references as references
from tests.nn.random_weights import random_images, random_state_dict

pytestmark = [
    pytest.mark.compare,
    # Of the libraries' own imports, not of gengen.
    pytest.mark.filterwarnings("default"),
]
# Both sides are float32 over 94 layers with activations of size 1 to 10; each is within 5e-5 of a
# float64 run at the last tap, and within an ulp or two at the first ones.
ATOL = {"64": 5e-6, "192": 1e-5, "768": 6e-5, "2048": 2e-4, "logits_unbiased": 2e-4}
SIZES = [(2, 64, 48), (1, 32, 32), (1, 299, 299), (1, 400, 320)]


@pytest.fixture(autouse=True, scope="module")
def libraries():
    missing = [n for n in ("torch", "torch_fidelity", "pytorch_fid") if not find_spec(n)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="module")
def state_dict():
    return random_state_dict(torch_shapes(), seed=2)


def assert_same(variables, images, reference, protocol):
    want = reference(images)
    got = features(variables, images, tuple(want), protocol)
    for tap in want:
        np.testing.assert_allclose(got[tap], want[tap], rtol=0, atol=ATOL[tap], err_msg=tap)


def test_equals_torch_fidelity_at_every_tap(state_dict):
    reference, variables = references.TorchFidelity(state_dict, TAPS), from_torch(state_dict)
    for size in SIZES:
        assert_same(variables, random_images((*size, 3), seed=3), reference, "torch-fidelity")


def test_equals_pytorch_fid_at_every_tap(state_dict):
    reference, variables = references.PytorchFID(state_dict), from_torch(state_dict)
    for size in SIZES:
        assert_same(variables, random_images((*size, 3), seed=3), reference, "pytorch-fid")


def test_reads_the_modules_themselves_and_a_file_of_theirs(state_dict, tmp_path):
    """Tensors, with counters of batches; pytorch-fid's numbered layers; what torch.load gives."""
    import torch  # pyright: ignore[reportMissingImports]

    want = from_torch(state_dict)["params"]
    theirs = references.TorchFidelity(state_dict, TAPS).net.state_dict()
    assert sum(name.endswith("num_batches_tracked") for name in theirs) == 94
    torch.save(theirs, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    read = torch.load(tmp_path / "w.pth", weights_only=True)
    numbered = from_torch(references.PytorchFID(state_dict).net.state_dict())["params"]
    chex.assert_trees_all_equal(from_torch(read)["params"], want)
    chex.assert_trees_all_equal(numbered, {k: v for k, v in want.items() if k != "fc"})


@pytest.mark.parametrize("height, width", [(32, 32), (28, 33), (64, 299), (512, 700), (1, 5)])
def test_resizes_as_each_tool_does(height, width):
    """In grey levels; the rounding of sums of two to sixteen terms up to 255."""
    import torch  # pyright: ignore[reportMissingImports]

    images = random_images((2, height, width, 3), seed=4)
    tensor = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float()
    with references.without_torchvision():
        from torch_fidelity.interpolate_compat_tensorflow import (  # pyright: ignore[reportMissingImports]
            interpolate_bilinear_2d_like_tensorflow1x as tensorflow_1,
        )
    size = (299, 299)
    bilinear = torch.nn.functional.interpolate(
        tensor, size=size, mode="bilinear", align_corners=False
    )
    pil = [
        [
            np.asarray(
                Image.fromarray(plane.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
            ).clip(0, 255)
            for plane in image.transpose(2, 0, 1)
        ]
        for image in images
    ]
    for protocol, want in {
        "torch-fidelity": tensorflow_1(tensor, size=size, align_corners=False).numpy(),
        "pytorch-fid": bilinear.numpy(),
        "clean-fid": np.stack(pil),
    }.items():
        got = protocols.resize(jnp.asarray(images), protocol).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-4, err_msg=protocol)


def test_the_fixture_is_what_the_references_give():
    committed, live = json.loads(references.FIXTURE.read_text()), references.fixture()
    for protocol, taps in live.items():
        for tap, want in taps.items():
            np.testing.assert_allclose(committed[protocol][tap], want, rtol=0, atol=ATOL[tap])
