"""Recipes: they run, their headers say what was measured, and what they compare with is right."""

import importlib
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.processes import for_few_steps

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "experiments"
QUICK = ("ar",)
SLOW = (
    "aae_mnist5k", "attributes", "autoencoder_mnist5k", "beta_vae", "cvae", "denoising_mnist5k",
    "domain_adaptation", "flow_gan", "gmm_mouse", "hvi", "icgan", "photographs", "ppca",
    "realnvp_images", "progressive", "stacked_mnist5k", "vae", "vqvae",
    "why_gans_fail",
)  # fmt: skip
SMALL = {
    "conditional_images": ("--task", "small4", "--evaluations", "2"),
    "ddpm_images": ("--samples", "250", "--evaluations", "2"),
    "gan_images": ("--model", "cgan"),
    "cyclegan": ("--weights", "10"),
    "inverse_images": ("--given", "2", "--draws", "2", "--evaluations", "2"),
    "latent_diffusion": ("--samples", "250", "--evaluations", "2"),
    "latent_superresolution": ("--evaluations", "2"),
    "pix2pix": ("--task", "grey"),
    "vae_fashion": ("--num", "20", "--samples", "250", "--seeds", "2"),
    "vqvae_prior": ("--data", "mnist5k", "--samples", "250"),
}
# Whose results are not recorded yet.
PENDING = {
    "ali": (),
    "flow_matching": ("--samples", "250"),
    "text_to_image": (),
    "vae_gan": (),
}


@pytest.fixture
def recipe(monkeypatch):
    """A recipe's module by its name: recipes find each other beside themselves."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def ran(name: str, out: Path) -> str:
    """What a recipe prints after 3 steps, in a process of its own, on one device."""
    words = [sys.executable, FOLDER / f"{name}.py", "--steps", "3", "--out", out]
    words = [*words, *(SMALL | PENDING).get(name, ())]
    done = subprocess.run(words, capture_output=True, text=True, env=for_few_steps(), check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", QUICK)
def test_a_recipe_runs(name, tmp_path):
    check_run(name, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SLOW, *SMALL, *PENDING])
def test_a_longer_recipe_runs(name, tmp_path):
    check_run(name, tmp_path / "run")


def check_run(name: str, out: Path) -> None:
    printed = ran(name, out)
    rows = json.loads((out / "evaluation.json").read_text())["rows"]
    assert rows and all(row["name"] in printed for row in rows)
    assert all(np.isfinite([v for k, v in row.items() if k != "name"]).all() for row in rows)
    assert (out / "report.html").exists()


def test_a_taken_directory_is_one_line(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "something").touch()
    words = [sys.executable, FOLDER / "gmm_mouse.py", "--out", tmp_path / "run"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("gmm_mouse: ") and done.stderr.count("\n") == 1


# Recipes of several results.
SEVERAL = {
    "binary_likelihoods": ("binary_mnist5k", "binary_fashion"),
    "cyclegan": ("cyclegan_digits", "cyclegan_shoes"),
    "latent_superresolution": ("latent_superresolution_mnist5k",),
    "pix2pix": ("pix2pix_edges", "pix2pix_grey"),
    "progressive": ("progressive_mnist5k",),
    "realnvp_images": ("realnvp_mnist5k", "realnvp_fashion"),
}


GANS = ("dcgan", "lsgan", "wgan", "wgan_gp", "resnet_gan")
TABLES = {
    "conditional_images": (
        "DIFFUSION.md",
        [
            "conditional_class_mnist5k",
            "conditional_class_fashion",
            "conditional_small2_mnist5k",
            "conditional_small4_mnist5k",
            "conditional_grey_photographs",
        ],
    ),
    "conditional_images.full_markdown": (
        "DIFFUSION.md",
        [f"conditional_class_fashion_full{s}" for s in range(3)],
    ),
    "ddpm_images.full_markdown": ("DIFFUSION.md", [f"ddpm_fashion_full{s}" for s in range(3)]),
    "inverse_images": ("DIFFUSION.md", ["inverse_mnist5k"]),
    "latent_diffusion": ("DIFFUSION.md", ["latent_mnist5k"]),
    "latent_superresolution": ("DIFFUSION.md", ["latent_superresolution_mnist5k"]),
    "shared_denoiser": ("DIFFUSION.md", ["shared_denoiser"]),
    "dirac": ("GAN.md", ["dirac"]),
    "gan_images": (
        "GAN.md",
        ["cgan_mnist5k"] + [f"{m}_{d}" for d in ("mnist5k", "fashion") for m in GANS],
    ),
    "mode_collapse": ("GAN.md", ["mode_collapse"]),
    "why_gans_fail": ("GAN.md", ["why_gans_fail"]),
    "why_gans_fail.fits_markdown": ("GAN.md", ["why_gans_fail"]),
    "exact_mixture": ("DIFFUSION.md", ["exact_mixture"]),
    "exact_mixture.inverse_markdown": ("DIFFUSION.md", ["exact_mixture"]),
    "ddpm_images": ("DIFFUSION.md", ["ddpm_mnist5k_steps", "ddpm_fashion_steps"]),
    "binary_likelihoods": ("AUTOREGRESSIVE.md", ["binary_mnist5k", "binary_fashion"]),
}


@pytest.mark.parametrize(
    "name",
    [
        *QUICK,
        *SLOW,
        *sorted(SMALL.keys() - TABLES.keys()),
        "exact_mixture",
        "latent_superresolution",
    ],
)
def test_headers_say_what_was_measured(recipe, name):
    """Word for word what results/NAME.json holds."""
    module = recipe(name)
    for result in SEVERAL.get(name) or (module.NAME,):
        found = json.loads((ROOT / "results" / f"{result}.json").read_text())
        assert recipe("recipe").lines(result, found) in module.__doc__


@pytest.mark.parametrize("name", [n for n in TABLES if not n.startswith("conditional_images")])
def test_headers_say_where_and_how_long_tables_were_measured(recipe, name):
    """A line for each result, and below it some of its figures, word for word."""
    module, _, _ = name.partition(".")
    for source in TABLES[name][1]:
        found = json.loads((ROOT / "results" / f"{source}.json").read_text())
        head, _, *rows = recipe("recipe").lines(source, found).split("\n")
        _, begin, after = recipe(module).__doc__.partition(head)
        assert begin, f"{module} does not say: {head}"
        stated = after.partition("Expected")[0].split("\n")
        stated = [line for line in stated if line.startswith("    ")]
        assert stated and {*stated} <= {*rows}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_the_docs_are_the_results(recipe, name):
    """Word for word what the recipe makes of results/NAME.json."""
    page, sources = TABLES[name]
    results = {s: json.loads((ROOT / "results" / f"{s}.json").read_text()) for s in sources}
    table = results[sources[0]].get("table")
    module, _, function = name.partition(".")
    make = getattr(recipe(module), function or "markdown")
    lines = make(results if table is None else table)
    assert "\n".join(lines) in (ROOT / "docs" / page).read_text()


@pytest.mark.slow
def test_samplers_and_inverse_methods_are_measured(tmp_path):
    words = [sys.executable, FOLDER / "exact_mixture.py", "--out", tmp_path / "run"]
    words += ["--steps", "20", "--samples", "500", "--draws", "100"]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert printed.count("multistep") == 1 and "| twisted, 16 |" in printed
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"samplers.png", "posteriors.png"}


@pytest.mark.slow
def test_one_network_and_many_are_compared(tmp_path):
    words = [sys.executable, FOLDER / "shared_denoiser.py", "--out", tmp_path / "run"]
    words += ["--steps", "2", "4", "--samples", "100"]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert printed.count("one for each t") == 2 and "| train steps | 2 | 4 |" in printed
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["errors.png"]


def test_at_t_many_networks_are_those_of_the_times(recipe):
    """What samplers ask for, ε̂(z, t) of one t, is what was trained at t."""
    import jax

    shared = recipe("shared_denoiser")
    z = jax.random.normal(jax.random.key(0), (shared.T, 3, 2))
    keys = jax.random.split(jax.random.key(1), shared.T)
    params = jax.vmap(lambda k: shared.NET.init(k, z[0], shared.TIMES[:3]))(keys)
    params = jax.tree.map(lambda p: p + 0.1, params)  # the last layer begins as zeros
    together = shared.predict(0, params, z)
    for t in (1, 7, 20):
        own = shared.at(0, params)(z[t - 1], jax.numpy.full(3, t))
        np.testing.assert_allclose(own, together[t - 1], atol=1e-5)


def test_a_regression_on_the_class_returns_the_mean_of_the_class(recipe):
    """By the squared error the best answer to a label is the mean of all that have it."""
    import jax.numpy as jnp

    from gengen.diffusion import conditional
    from tests.train_steps import train

    regression = recipe("conditional_images")
    cfg = conditional.Config(shape=(2,), num_classes=2, hidden_dim=16, learning_rate=1e-2,
                             decay_steps=300, warmup_steps=10, ema_decay=0.9)  # fmt: skip
    y = np.arange(12, dtype=np.int32) % 2
    x = np.random.default_rng(0).normal(np.where(y[:, None], 1.0, -0.5), 0.5, (12, 2))
    batch = {"x": x.astype(np.float32), "label": y}
    state = train(regression.regressor(cfg), batch, 300)
    found = regression.mean_given(cfg, state.variables["params"], jnp.eye(2), None)
    means = np.stack([x[y == k].mean(0) for k in range(2)])
    assert np.abs(means[0] - means[1]).min() > 0.5
    np.testing.assert_allclose(found, means, atol=0.01)  # Adam's last steps are of 2 % of 1e-2


@pytest.mark.slow
def test_modes_are_counted_and_runs_that_were_done_are_kept(tmp_path):
    out = tmp_path / "runs"
    words = ["--steps", "4", "--data", "ring8", "--seeds", "0", "--out", out]
    words = [sys.executable, FOLDER / "mode_collapse.py", *words, "--ways", "GAN", "AdaGAN"]
    first = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    times = {p: p.stat().st_mtime_ns for p in out.glob("*.json")}
    assert len(times) == 2 and (out / "samples.png").exists()
    assert "| AdaGAN | " in first and "ring8: modes of 8" in first
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == first
    assert {p: p.stat().st_mtime_ns for p in out.glob("*.json")} == times


def test_free_directory(recipe, tmp_path):
    free = recipe("recipe").free_directory
    assert free(tmp_path / "a") == tmp_path / "a"
    (tmp_path / "a").mkdir()
    (tmp_path / "a-2").mkdir()
    assert free(tmp_path / "a") == tmp_path / "a-3"


def test_in_parts_is_the_whole(recipe):
    x, y = np.random.default_rng(0).random((2, 601, 3))  # two whole parts and one of 101
    np.testing.assert_array_equal(recipe("recipe").in_parts(lambda a, b: a - b, x, y), x - y)


def test_seeds_are_told_by_their_mean_and_deviation(recipe):
    over_seeds = recipe("recipe").over_seeds
    assert over_seeds([2.04]) == "2.0"
    assert over_seeds([1.0, 2.0, 6.0]) == "3.0 ± 2.6"  # √((4 + 1 + 9)/2) = √7 = 2.65
    assert over_seeds([1.0, 2.0, 6.0], 2) == "3.00 ± 2.65"


def test_pca_is_scikit_learns(recipe):
    from sklearn.decomposition import PCA

    draw = np.random.default_rng(0)
    seen = np.tanh(draw.normal(size=(60, 4, 5, 1)))
    x = np.tanh(draw.normal(size=(9, 4, 5, 1)))
    model = PCA(3).fit(seen.reshape(60, -1))
    wanted = model.inverse_transform(model.transform(x.reshape(9, -1))).clip(-1, 1)
    got = recipe("autoencoder_mnist5k").pca(seen, x, 3)
    # float32 at the end, of numbers up to 1: half an ulp is 3e-8.
    np.testing.assert_allclose(got.reshape(9, -1), wanted, atol=1e-6)


def test_no_other_linear_filter_beats_wieners(recipe):
    """On the data that it is made of, with all noise averaged out, it is a minimum: any change of W
    costs. E ‖(x + σε - μ)W - (x - μ)‖² = tr((W - I)ᵀ S (W - I)) + σ² tr(WᵀW).
    """
    draw = np.random.default_rng(0)
    seen, sigma = 0.2 * draw.normal(size=(40, 2, 3, 1)), 0.3
    wiener = recipe("denoising_mnist5k").wiener
    mean, flat = seen.mean(0), seen.reshape(40, -1)
    S = np.cov(flat.T, ddof=0)
    # The filter is affine, and within [-1, 1] here: its matrix is read off the unit vectors.
    W = wiener(seen, mean + 0.1 * np.eye(6).reshape(6, 2, 3, 1), sigma) - mean
    W = W.reshape(6, 6).astype(np.float64) / 0.1

    def cost(W: np.ndarray) -> float:
        return np.trace((W - np.eye(6)).T @ S @ (W - np.eye(6))) + sigma**2 * np.trace(W.T @ W)

    for _ in range(20):  # a change of 1e-2 costs at least σ² 1e-4; float32 errs by 1e-6 squared
        change = draw.normal(size=(6, 6))
        assert cost(W + 1e-2 * change / np.linalg.norm(change)) > cost(W)


def test_an_attribute_is_more_than_the_median_of_the_class(recipe):
    values, labels = np.array([1, 2, 3, 10, 30, 20.0]), np.array([0, 0, 0, 1, 1, 1])
    has = recipe("attributes").above_median(values, labels)
    np.testing.assert_array_equal(has, [0, 0, 1, 0, 1, 0])


def test_changes_of_an_attribute_are_counted(recipe):
    slant = np.array([[0, 5], [1, 4], [2, 6], [3, 7], [6, 10.0]])  # of two digits, by strength
    kept = np.array([[0, 0], [1, 0], [1, 1], [1, 1], [1, 0]], bool)
    found = {"slant": slant, "thickness": 2 * slant}, kept
    random = [
        ({"slant": np.array([[0, 0], [c, c + 2.0]]), "thickness": np.ones((2, 2))}, kept[3:])
        for c in (1, -5)
    ]
    rows = {k: row["value"] for k, row in recipe("attributes").rows("slant", found, random).items()}
    assert rows["slant: change, -2 vectors"] == -1.5 and rows["slant: change, 2 vectors"] == 4
    assert rows["slant: class kept, 0 vectors"] == 1 and rows["slant: class kept, 2 vectors"] == 0.5
    assert rows["slant: share of digits in which it grows with each vector"] == 0.5
    assert rows["slant: change of thickness, 2 vectors"] == 8
    assert rows["slant: size of the change, 2 random vectors"] == 3  # |2| and |-4|
    assert rows["slant: class kept, 2 random vectors"] == 0.5


def test_the_period_of_a_damped_wave(recipe):
    """x_t = r^t cos(2πt/T) solves x_t = 2r cos(2π/T) x_{t-1} - r² x_{t-2}."""
    phi = np.array([2 * 0.8 * np.cos(2 * np.pi / 11), -(0.8**2)])
    np.testing.assert_allclose(recipe("ar").period(phi), 11)


def test_forecasts_are_of_what_is_not_known(recipe):
    """Of x_t = 2 x_{t-1} - x_{t-2}, a straight line, each is exact."""
    recipe = recipe("ar")
    cfg = recipe.ar.Config(shape=(5,), order=2)
    variables = {"params": {"c": 0.0, "phi": np.array([2.0, -1.0]), "variance": 1.0}}
    x = 3.0 * np.arange(9)
    for years in (1, 3):
        mean, _, truth = recipe.rolling(cfg, variables, x, 5, years)
        np.testing.assert_allclose(mean, x[4 + years :])
        np.testing.assert_array_equal(truth, mean)
        x_changed = np.where(np.arange(9) < 5, x, 0)  # the first forecast knows nothing later
        np.testing.assert_allclose(
            recipe.rolling(cfg, variables, x_changed, 5, years)[0][0], mean[0]
        )


def test_sharpness_is_the_variance_of_the_laplacian(recipe):
    """The Laplacian of one bright pixel: 4 at it, -1 at its four neighbours, 0 elsewhere."""
    x = np.zeros((2, 7, 7, 1), np.uint8)
    x[0, 3, 3] = 255
    one = (4**2 + 4 * 1) / 25  # of 5 × 5 pixels with four neighbours, whose mean is 0
    np.testing.assert_allclose(recipe("vae_gan").sharpness(x), one / 2, rtol=1e-12)


def test_the_autoencoder_beside_ali_is_of_its_networks(recipe):
    """The squared error of an image decoded from the mean of q(z|x); both networks learn."""
    import jax

    from gengen.gan import ali
    from tests.train_steps import train

    cfg = ali.Config(shape=(5,), latent_dim=2, hidden=(), batch_size=6, ema_decay=0.5)
    x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    method = recipe("ali").autoencoder(cfg)
    state = method.init(jax.random.key(0), {"x": x})
    assert {*state.params} == {"generator", "encoder"}
    _, metrics = method.train_step(jax.random.key(1), state, {"x": x})
    squared = ((x - np.asarray(ali.reconstruct(cfg, state.variables, x))) ** 2).sum(1).mean()
    np.testing.assert_allclose(metrics["loss"], squared, rtol=1e-5)
    x = x[:, :2] @ np.array([[1.0, 0.5, 0.2, -0.4, 0.0], [0.0, 0.3, -0.6, 0.5, 1.0]])
    last = train(method, {"x": x.astype(np.float32)}, 3000)  # rank 2: no error is left
    assert np.abs(x - ali.reconstruct(cfg, last.variables, x.astype(np.float32))).max() < 0.05


def test_parts_are_renamed_for_the_best(recipe):
    y, known = np.array([0, 0, 1, 2, 2, 3]), np.array([1, 1, 1, 1, 1, 0], bool)
    parts = np.array([2, 2, 0, 1, 1, 1])
    np.testing.assert_array_equal(recipe("gmm_mouse").renamed(parts, y, known), [0, 0, 1, 2, 2, 2])
    for order in itertools.permutations(range(3)):
        got = recipe("gmm_mouse").renamed(np.array(order)[parts], y, known)
        np.testing.assert_array_equal(got, [0, 0, 1, 2, 2, 2])


def test_a_ring_is_two_deviations_away(recipe):
    L = np.linalg.cholesky([[2.0, 0.6], [0.6, 1.0]])
    d = recipe("gmm_mouse").ring(np.array([1.0, -2.0]), L) - [1.0, -2.0]
    found = np.einsum("ni,ij,nj->n", d, np.linalg.inv(L @ L.T), d)  # Mahalanobis, squared
    np.testing.assert_allclose(found, 4, rtol=1e-12)


def test_codes_are_grey_by_what_lies_under_them(recipe):
    """Three of four atoms, on one image of 2 × 2 cells: under 2 it is darkest, under 0 lightest.

    Atom 3 is not used: it counts as 0, the mean of black and white, between 1 and 0.
    """
    from gengen.vae import vqvae

    cfg = vqvae.Config(shape=(4, 4, 1), codebook_size=4, channels=(2,))
    x = np.kron([[0.9, -0.2], [-0.8, 0.5]], np.ones((2, 2)))[None, ..., None]
    x[0, 0, 0, 0] -= 0.4  # the mean counts, not one pixel
    got = recipe("vqvae").greys(cfg, np.array([[[0, 1], [2, 0]]]), x)
    wanted = np.kron([[1, -1 / 3], [-1, 1]], np.ones((2, 2)))[None, ..., None]
    np.testing.assert_allclose(got, wanted, atol=1e-7)


def test_the_box_of_a_digit(recipe):
    """8 × 8 means of the 20 × 20 box in the middle."""
    data = recipe("gengen.data").load("mnist5k:test")
    small = recipe("domain_adaptation").boxed("mnist5k:test").arrays["image"]
    assert small.shape == (500, 8, 8, 1) and small.dtype == np.uint8
    # A cell is 2½ pixels wide: cells 0 and 1 of both sides are pixels 4..8, whose mean is theirs.
    wanted = data.arrays["image"][:, 4:9, 4:9, 0].mean((1, 2))
    got = small[:, :2, :2, 0].mean((1, 2))
    assert np.abs(got - wanted).max() <= 0.5  # each cell is rounded
    assert wanted.max() > 50


def test_binary_test_images_are_numpys(recipe):
    """As the header says to others; each grey level's mean is right, and black stays black."""
    from gengen.data import Dataset

    v = np.repeat(np.array([0, 64, 255], np.uint8), 784).reshape(3, 28, 28, 1)
    x = recipe("vae_fashion").binarised(Dataset("levels", {"image": v}))
    b = np.random.default_rng(0).random((3, 28, 28, 1)) < v / 255
    np.testing.assert_array_equal(x, 2.0 * b - 1)
    assert x.dtype == np.float32
    # The mean of 784 draws of probability 1/4 has a deviation of 0.0155: within 4 of them.
    np.testing.assert_allclose(b.mean((1, 2, 3)), [0, 64 / 255, 1], atol=0.062)


def test_binarising_leaves_binary_images_alone():
    import jax

    from gengen.vae import vae

    x = np.where(np.random.default_rng(0).random((5, 4, 4, 1)) < 0.5, 1.0, -1.0)
    x = jax.numpy.asarray(x, jax.numpy.float32)
    seen = vae.observed(vae.Config(shape=(4, 4, 1)), x, jax.random.key(0))
    np.testing.assert_array_equal(seen, x)
