"""Every model through the command line: train, preview, sample, evaluate, export, sample again."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gengen.cli import main
from gengen.data import load
from gengen.runs import conditions, discover, trained, translations
from tests.processes import settings

U_NET = "T=8 channels=8 num_blocks=1 num_groups=4 batch_size=16"
VAE = "channels=4,8 hidden=8 latent_shape=3 batch_size=16"
GAN = "latent_dim=4 channels=4,8 hidden=8 batch_size=16"
VECTOR_GAN = "latent_dim=4 hidden=8 batch_size=16"

# model or model-variant -> data, fields of the Config
RUNS: dict[str, tuple[str, str]] = {
    "adagan": ("grid25", "num_generators=2 latent_dim=2 hidden=8 batch_size=16"),
    "adversarial": ("digits", "hidden=16 discriminator_hidden=16 batch_size=16"),
    "ali": ("digits", f"{GAN} discriminator_hidden=8 feature_dim=4"),
    "ar": ("moons", "order=1"),
    "autoencoder": ("digits", "channels=4,8 batch_size=16"),
    "cgan": ("digits", GAN),
    "conditional": ("digits", U_NET),
    "conditional-small": ("digits", f"{U_NET} num_classes=0 condition_image=small"),
    "conditional-class-and-small": ("digits", f"{U_NET} condition_image=small"),
    "cvae": ("digits", VAE),
    "cvae-region": ("digits", f"{VAE} known_region=0,4,0,8 condition_dim=4"),
    "cyclegan": (
        "unpaired:digits,digits:test",
        "channels=4,8 num_blocks=1 discriminator_channels=4,8 batch_size=16",
    ),
    "dcgan": ("digits", "latent_dim=4 channels=4,8 batch_size=16"),
    "ddpm": ("digits", U_NET),
    "flow_matching": (
        "digits",
        "num_classes=10 sample_steps=4 " + U_NET[4:],
    ),
    "ddpm-vectors": ("moons", "T=8 hidden_dim=8 batch_size=16"),
    "denoising": ("digits", "channels=4,8 batch_size=16"),
    "edm": ("digits", "num_classes=10 sample_steps=5 " + U_NET[4:]),
    "factor_analysis": ("digits", "latent_dim=3"),
    "flow_gan": ("moons", "num_couplings=2 hidden=8 critic_hidden=8 batch_size=16 n_critic=2"),
    "fvsbn": ("digits", "batch_size=16"),
    "gan": ("digits", GAN),
    "gmm": ("mouse", "num_components=2"),
    "hvi": ("digits", f"{VAE} num_transitions=1 num_leapfrog_steps=1"),
    "icgan": ("digits", f"{GAN} encoder_channels=4,8 encoder_hidden=8"),
    "kmeans": ("digits", "num_clusters=4"),
    "latent": (
        "digits",
        "latent_shape=2,2,2 codec_channels=4,4 channels=8 num_blocks=1 num_groups=4 T=8 "
        "batch_size=16",
    ),
    "latent-small": (
        "digits",
        "latent_shape=2,2,2 codec_channels=4,4 channels=8 num_blocks=1 num_groups=4 T=8 "
        "batch_size=16 condition_image=small factor=4",
    ),
    "lsgan": ("digits", GAN),
    "made": ("digits", "hidden=8 batch_size=16"),
    "marginalized": ("digits", ""),
    "minibatch": ("grid25", f"{VECTOR_GAN} num_kernels=3 kernel_dim=2"),
    "nade": ("digits", "hidden_dim=4 batch_size=16"),
    "pix2pix": ("edges:digits", "channels=4,8 discriminator_channels=4,8 batch_size=16"),
    "pixelcnn": (
        "digits",
        "hidden_channels=4 head_channels=4 num_layers=1 first_kernel_size=3 batch_size=16",
    ),
    "pixelcnn-classes": (
        "digits",
        "hidden_channels=4 head_channels=4 num_layers=1 first_kernel_size=3 batch_size=16 "
        "num_classes=10",
    ),
    "pixelrnn": (
        "digits",
        "hidden_channels=3 head_channels=4 num_layers=1 first_kernel_size=3 batch_size=16",
    ),
    "ppca": ("digits", "latent_dim=3"),
    "progressive": ("digits", "latent_dim=4 channels=4,8 batch_size=16"),
    "realnvp": ("digits", "num_couplings=2 num_levels=1 hidden_channels=4 batch_size=16"),
    "regularization": ("grid25", VECTOR_GAN),
    "replay": ("grid25", f"{VECTOR_GAN} capacity=32"),
    "resnet_gan": ("digits", "latent_dim=4 channels=4,8 batch_size=16"),
    "score_sde": ("digits", "num_classes=10 sample_steps=4 " + U_NET[4:]),
    "siamese": ("digits", "channels=4,8 latent_dim=4 batch_size=32"),
    "stacked": ("digits", "hidden=16,8 batch_size=16"),
    "text_to_image": (
        "captions:digits",
        "channels=4,8 codebook_size=8 code_dim=4 hidden_dim=8 num_layers=1 num_heads=2 "
        "batch_size=16",
    ),
    "tempered": ("grid25", f"{VECTOR_GAN} fade_steps=10"),
    "vae": ("digits", VAE),
    "vae_gan": ("digits", f"{VAE} discriminator_channels=4 discriminator_hidden=8"),
    "vqvae": ("digits", "channels=4,8 codebook_size=8 code_dim=4 batch_size=16"),
    "vqvae_prior": (
        "digits",
        "channels=4,8 codebook_size=8 code_dim=4 hidden_channels=4 num_layers=1 "
        "first_kernel_size=3 head_channels=4 num_classes=10 batch_size=16",
    ),
    "wgan": ("grid25", "latent_dim=4 hidden=8 critic_batch_size=8 n_critic=2"),
    "wgan_gp": ("grid25", "latent_dim=4 hidden=8 batch_size=16 n_critic=2"),
}
# One of each kind; the others are slow tests.
FAST = (
    "ar",
    "autoencoder",
    "cgan",
    "ddpm-vectors",
    "gmm",
    "stacked",
)


def test_every_model_is_here():
    assert {model.name for model in discover.models()} == {name.split("-")[0] for name in RUNS}


def cases():
    for name in RUNS:
        mark = [] if name in FAST else [pytest.mark.slow]
        yield pytest.param(name, marks=[pytest.mark.xdist_group(f"cli {name}"), *mark])


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("name", list(cases()))
def test_train_preview_sample_evaluate_export(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model, (data, words) = name.split("-")[0], RUNS[name]
    train = ["train", model, "--data", data, "--steps", "6", "--out", "run"]
    assert main([*train, *settings(words.split())]) == 0, capsys.readouterr().err
    run, num = trained.load("run"), 40
    is_translation = translations.translates(run.module)
    draws = is_translation or any(hasattr(run.module, f) for f in ("sample", "reconstruct"))
    assert bool(sorted(Path("run/samples").glob("*.png"))) == draws
    assert "<html" in Path("run/report.html").read_text()

    # What an exported file does not know: the data to translate or to embed.
    given = ["--data", f"{data}:test"] if not draws else []
    if is_translation:
        given = ["--input", "digits:test" if data.startswith("unpaired") else f"{data}:test"]
    picture = [] if draws else ["--embed", "pca"]
    assert main(["sample", "run", "--out", "a.png", *picture, *given]) == 0, capsys.readouterr().err
    assert main(["export", "run", "run.safetensors"]) == 0
    assert main(["sample", "run.safetensors", "--out", "b.png", *picture, *given]) == 0
    np.testing.assert_array_equal(pixels(Path("a.png")), pixels(Path("b.png")))
    if not draws:
        return

    metrics = ["--metrics", "nearest", "--num", str(num), "--json"]
    capsys.readouterr()
    assert main(["evaluate", "run", *metrics]) == 0, capsys.readouterr().err
    found = json.loads(capsys.readouterr().out)
    assert found["scores"][0]["n_fake"] == num and np.isfinite(found["scores"][0]["value"])

    if conditions.kind(run.module, run.cfg) == "image" and not is_translation:
        truth = load(f"{data}:test")
        side = run.cfg.shape[0] + 2
        rows = (pixels(Path("a.png"))[::2, ::2].shape[0] + 2) // side
        last = pixels(Path("a.png"))[::2, ::2][: side - 2, -(side - 2) :]
        batch = conditions.some(truth, rows)
        want = np.rint((np.asarray(batch["image"])[0, ..., 0] + 1) * 127.5)
        np.testing.assert_array_equal(last, want)  # condition, samples, truth
