"""`gengen sample`'s pictures of codes, on tiny runs of every kind of model that has codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gengen.cli import latent as pictures
from gengen.cli import main
from gengen.data import batch_indices, load, to_batch
from gengen.gan import cgan
from gengen.metrics import attributes
from gengen.representation import embedding
from gengen.runs import trained
from tests.processes import settings

SMALL = {
    "vae": ("channels=4,8", "hidden=8", "latent_shape=2"),
    "cvae": ("channels=4,8", "hidden=8", "latent_shape=2"),
    "autoencoder": ("channels=4,8", "latent_shape="),
    "adversarial": (
        "hidden=8",
        "discriminator_hidden=8",
        "prior=petals",
        "latent_dim=2",
        "num_classes=10",
    ),
    "vqvae": ("channels=4,8", "codebook_size=8", "code_dim=4"),
    "stacked": ("hidden=6",),
    "marginalized": (),
    "ppca": ("latent_dim=2",),
    "gmm": ("num_components=2",),
    "cgan": ("channels=", "hidden=8", "latent_dim=4"),
}
FITTED = ("marginalized", "ppca", "gmm")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Model → run directory; trained when first asked for."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def run(model, data="digits", words=()):
        name = f"{model}-{data}"
        if name not in made:
            made[name] = folder / name
            line = ["train", model, "--data", data, "--out", str(made[name])]
            line += settings(words or SMALL[model])
            line += [] if model in FITTED else ["--steps", "3", "--set", "batch_size=16"]
            assert main(line) == 0
        return made[name]

    return run


def draw(tmp_path, capsys, source, *words):
    """The picture, every second pixel of it, and what was said."""
    out = tmp_path / "x.png"
    capsys.readouterr()
    line = ["sample", str(source), *map(str, words), "--out", str(out), "--overwrite"]
    code = main(line)
    said = capsys.readouterr().err
    assert code == 0, said
    assert str(out) in said
    with Image.open(out) as image:
        array = np.asarray(image)
    return (array if array.ndim == 3 else array[..., None])[::2, ::2], said


def opened(run):
    model = trained.load(run)
    return model._replace(variables=jax.tree.map(jnp.asarray, model.variables))


def held_out(num, seed=0, name="digits:test"):
    data = load(name)
    rows = batch_indices(len(data), min(num, len(data)), seed, 0)
    return to_batch(data.arrays, rows)


def cell(picture, row, column, side=8):
    at = side + 2
    return picture[at * row : at * row + side, at * column : at * column + side]


def pixels(images):
    return np.rint((np.asarray(images, np.float32) + 1) * 127.5).astype(np.uint8)


@pytest.mark.parametrize("model", ["vae", "autoencoder", "adversarial", "vqvae", "stacked", "ppca"])
def test_reconstructions_of_held_out_examples(model, runs, tmp_path, capsys):
    """The upper row is the data, pixel by pixel; the lower what the model's own function says."""
    run = runs(model)
    seen, said = draw(tmp_path, capsys, run, "--reconstruct", "--num", 7, "--seed", 3)
    assert "7 examples of digits:test" in said
    x = held_out(7, seed=3)["image"]
    m = opened(run)
    z = m.module.encode(m.cfg, m.variables, x)
    out = m.module.decode(m.cfg, m.variables, z)
    for i in range(7):
        np.testing.assert_array_equal(cell(seen, 0, i), pixels(x[i]))
        # One level: float32 sums in another order, by another batch size.
        np.testing.assert_allclose(
            cell(seen, 1, i).astype(int), pixels(np.clip(out[i], -1, 1)), atol=1
        )


@pytest.mark.parametrize("model", ["vae", "vqvae"])
def test_interpolations_begin_and_end_at_reconstructions(model, runs, tmp_path, capsys):
    run = runs(model)
    seen, _ = draw(tmp_path, capsys, run, "--interpolate", "--num", 3)
    assert seen.shape[:2] == (3 * 10 - 2, 10 * 10 - 2)
    x, m = held_out(6)["image"], opened(run)
    out = m.module.reconstruct(m.cfg, m.variables, x)
    for i in range(3):
        for column, k in ((0, i), (9, i + 3)):
            got = cell(seen, i, column).astype(int)
            np.testing.assert_allclose(got, pixels(out[k]), atol=1)


def test_a_spherical_way_is_round(runs, tmp_path, capsys):
    """At a third of the way: a third of the angle, and of the difference of lengths."""
    run = runs("vae")
    seen, said = draw(tmp_path, capsys, run, "--interpolate", "--spherical", "--num", 2)
    straight, _ = draw(tmp_path, capsys, run, "--interpolate", "--num", 2)
    assert "great circles" in said and (seen != straight).any()
    x, m = held_out(4)["image"], opened(run)
    z = np.asarray(m.module.encode(m.cfg, m.variables, x), np.float64)
    for row, (a, b) in enumerate(zip(z[:2], z[2:], strict=True)):
        la, lb = np.linalg.norm(a), np.linalg.norm(b)
        angle, t = np.arccos(a @ b / la / lb), 3 / 9
        way = (np.sin((1 - t) * angle) * a / la + np.sin(t * angle) * b / lb) / np.sin(angle)
        code = jnp.asarray(way * ((1 - t) * la + t * lb), jnp.float32)[None]
        want = pixels(m.module.decode(m.cfg, m.variables, code)[0])
        np.testing.assert_allclose(cell(seen, row, 3).astype(int), want, atol=1)


@pytest.mark.parametrize("name, strength", [("slant", -2.5), ("thickness", 3.0), ("7", 2.0)])
def test_an_attribute_is_added_to_codes(name, strength, runs, tmp_path, capsys):
    run = runs("ppca")
    seen, said = draw(tmp_path, capsys, run, "--attribute", f"{name}={strength}", "--num", 3)
    assert f"3 examples of digits:test, with 0 to {strength:g} of {name} added" in said
    m, batch = opened(run), held_out(pictures.LOOKED_AT)
    x = np.asarray(batch["image"])
    if name in attributes.ATTRIBUTES:
        value = attributes.ATTRIBUTES[name](x)
        has = value > np.median(value)
    else:
        has = np.asarray(batch["label"]) == int(name)
    z = np.asarray(m.module.encode(m.cfg, m.variables, x), np.float64)
    vector = z[has].mean(0) - z[~has].mean(0)
    for row in range(3):
        for column in (0, 7):
            code = jnp.asarray(z[row] + strength * column / 7 * vector, jnp.float32)[None]
            want = pixels(np.clip(m.module.decode(m.cfg, m.variables, code)[0], -1, 1))
            np.testing.assert_allclose(cell(seen, row, column).astype(int), want, atol=1)


@pytest.mark.parametrize("model", ["vae", "ppca"])
@pytest.mark.parametrize("known", ["top", "bottom", "left", "right", "mask"])
def test_the_unknown_part_is_filled_in(model, known, runs, tmp_path, capsys):
    mask = np.zeros((8, 8), bool)
    part = {"top": np.s_[:4], "bottom": np.s_[4:], "left": np.s_[:, :4], "right": np.s_[:, 4:]}
    mask[part.get(known, np.s_[2:5, 1:7])] = True
    where = known
    if known == "mask":
        where = tmp_path / "mask.png"
        Image.fromarray(np.uint8(255 * mask)).save(where)
    seen, said = draw(tmp_path, capsys, runs(model), "--impute", where, "--num", 2, "--seed", 3)
    assert "2 examples of digits:test" in said
    x = held_out(2, seed=3)["image"]
    for row in range(2):
        truth, given = pixels(x[row]), cell(seen, row, 0)
        np.testing.assert_array_equal(cell(seen, row, 5), truth)
        np.testing.assert_array_equal(given[mask], truth[mask])
        np.testing.assert_array_equal(given[~mask], 128)
        filled = [cell(seen, row, column) for column in range(1, 5)]
        for each in filled:
            np.testing.assert_array_equal(each[mask], truth[mask])
            assert (each[~mask] != 128).any() and (each[~mask] != truth[~mask]).any()
        assert (filled[0] != filled[1]).any()


def test_imputations_are_the_model_s_own(runs, tmp_path, capsys):
    """What is unknown does not enter."""
    seen, _ = draw(tmp_path, capsys, runs("vae"), "--impute", "left", "--num", 2, "--seed", 1)
    m, x = opened(runs("vae")), held_out(2, seed=1)["image"]
    mask = np.arange(8)[None, :, None] < 4
    key = jax.random.fold_in(jax.random.key(1), 0)
    given = jnp.repeat(jnp.where(mask, x, 0), 4, axis=0)
    want = np.asarray(m.module.impute(m.cfg, m.variables, given, mask, key)).reshape(2, 4, 8, 8, 1)
    for row in range(2):
        for i in range(4):
            got = cell(seen, row, 1 + i).astype(int)
            np.testing.assert_allclose(got, pixels(want[row, i]), atol=1)


def test_an_exported_file_draws_as_its_run(runs, tmp_path, capsys):
    run, file = runs("adversarial"), tmp_path / "aae.safetensors"
    assert main(["export", str(run), str(file)]) == 0
    for words in (["--interpolate", "--num", 2], ["--embed", "pca", "--num", 40]):
        a, _ = draw(tmp_path, capsys, run, *words)
        b, _ = draw(tmp_path, capsys, file, *words)
        np.testing.assert_array_equal(a, b)


def test_a_traversal_is_of_the_dimensions_that_vary_most(runs, tmp_path, capsys):
    run = runs("autoencoder")  # whose code is a map, 2 × 2 × 16
    seen, said = draw(tmp_path, capsys, run, "--traverse", "--num", 3)
    m, x = opened(run), held_out(pictures.LOOKED_AT)["image"]
    z = np.asarray(m.module.encode(m.cfg, m.variables, x), np.float64).reshape(len(x), -1)
    dims = np.argsort(-z.std(0))[:3]
    assert "z[" + ", ".join(map(str, dims)) + "]" in said
    for row, dim in enumerate(dims):
        for column, away in ((0, -3), (4, 0), (8, 3)):
            code = z[0].copy()
            code[dim] = z[:, dim].mean() + away * z[:, dim].std()
            code = jnp.asarray(code.reshape(1, 2, 2, 16), jnp.float32)
            want = pixels(m.module.decode(m.cfg, m.variables, code)[0])
            got = cell(seen, row, column).astype(int)
            np.testing.assert_allclose(got, want, atol=1)


@pytest.mark.parametrize("model", ["vae", "adversarial", "ppca"])
def test_a_manifold_lies_at_percentiles_of_the_prior_or_of_the_codes(model, runs, tmp_path, capsys):
    run = runs(model)
    seen, said = draw(tmp_path, capsys, run, "--manifold", "--num", 9)
    m = opened(run)
    if model == "ppca":  # it names no prior
        x = held_out(pictures.LOOKED_AT)["image"]
        z = np.asarray(m.module.encode(m.cfg, m.variables, x))
        assert "the codes of digits:test" in said
    elif model == "vae":  # N(0, I): percentiles of 10,000 draws have errors of up to 0.04
        z = np.random.default_rng(0).normal(size=(10**6, 2))
    else:
        z = np.asarray(m.module.sample_prior(m.cfg, jax.random.key(0), 10_000))
    low, middle, high = np.quantile(z, [0.01, 0.5, 0.99], axis=0)
    for row, column, code in (
        (0, 0, (low[0], high[1])), (1, 1, middle), (2, 2, (high[0], low[1]))
    ):  # fmt: skip
        code = jnp.asarray(code, jnp.float32)[None]
        want = np.clip(m.module.decode(m.cfg, m.variables, code)[0], -1, 1)
        tolerance = 3 if model == "vae" else 1
        got = cell(seen, row, column).astype(int)
        np.testing.assert_allclose(got, pixels(want), atol=tolerance)


@pytest.mark.parametrize("view", ["pca", "tsne"])
def test_codes_as_points(view, runs, tmp_path, capsys, monkeypatch):
    """The points are the codes of held-out examples; each class has its name in the legend."""
    given = {}

    def scatter(z, labels, classes, *rest):
        given.update(z=z, labels=labels, classes=classes, view=rest[0])
        return np.zeros((640, 640, 3), np.uint8) if view == "tsne" else drawn(z, labels, classes)

    drawn = embedding.scatter
    monkeypatch.setattr(embedding, "scatter", scatter)
    run = runs("stacked")
    seen, said = draw(tmp_path, capsys, run, "--embed", view, "--num", 60)
    assert seen.shape == (320, 320, 3) and "60 examples of digits:test" in said
    batch, m = held_out(60), opened(run)
    want = m.module.encode(m.cfg, m.variables, batch["image"])
    np.testing.assert_allclose(given["z"], want, atol=1e-6)
    np.testing.assert_array_equal(given["labels"], batch["label"])
    assert given["view"] == view and given["classes"] == load("digits").classes


def test_vectors_are_points_and_other_data_can_be_given(runs, tmp_path, capsys):
    run = runs("autoencoder", "mouse", ("latent_shape=1",))
    picture, said = draw(tmp_path, capsys, run, "--reconstruct")
    assert "50 examples of mouse:test" in said and picture.shape[2] == 3
    _, said = draw(tmp_path, capsys, run, "--embed", "pca", "--data", "moons", "--num", 30)
    assert "30 examples of moons" in said
    np.save(tmp_path / "plain.npy", np.random.default_rng(0).normal(size=(20, 2)))
    _, said = draw(tmp_path, capsys, run, "--embed", "pca", "--data", tmp_path / "plain.npy")
    assert "20 examples" in said  # without classes


def test_classes_are_asked_for_in_turn(runs, tmp_path, capsys, monkeypatch):
    """Of every part that is drawn at once: 300 are 256 and the rest."""
    run, out = runs("cgan"), tmp_path / "x.npz"
    asked = []
    monkeypatch.setattr(cgan, "sample", spy(cgan.sample, asked))
    line = ["sample", str(run), "--num", "300", "--out", str(out), "--classes", "3", "8", "1"]
    assert main(line) == 0, capsys.readouterr().err
    np.testing.assert_array_equal(np.concatenate(asked)[:300], np.resize([3, 8, 1], 300))
    assert len(asked) == 2 and np.load(out)["arr_0"].shape == (300, 8, 8, 1)


def spy(sample, asked):
    """`sample`, keeping the classes of each call."""

    def call(cfg, variables, key, num, *, condition=None):
        asked.append(condition)
        return sample(cfg, variables, key, num, condition=condition)

    return call


@pytest.mark.parametrize(
    "model, words, message",
    [
        ("vae", "--interpolate --embed pca", "one picture at a time"),
        ("vae", "--interpolate --num 0", "--num 0"),
        ("vae", "--spherical", "--spherical is of --interpolate"),
        ("vae", "--impute top --attribute slant=1", "one picture at a time"),
        ("vae", "--impute up", "--impute up: neither top, bottom, left, right nor an image file"),
        ("autoencoder", "--impute top", "autoencoder has no impute; vae, ppca and text_to_image"),
        ("marginalized", "--attribute slant=1", "marginalized has no encode"),
        ("vae", "--attribute smile=1", "known: slant, thickness, 0, 1, 2"),
        ("vae", "--attribute slant", "NAME=STRENGTH"),
        ("vae", "--attribute slant=far", "NAME=STRENGTH"),
        ("gmm", "--impute top", "are vectors"),
        ("vae", "--interpolate --out x.npz", "must end in .png"),
        ("vae", "--data digits", "say how"),
        ("vae", "--reconstruct --data mnist5k", "Config.shape"),
        ("vae", "--reconstruct --data minst5k", "did you mean 'mnist5k'"),
        ("marginalized", "--embed pca", "marginalized has no encode"),
        ("gmm", "--embed pca", "gmm has no encode"),
        ("stacked", "--manifold", "codes in the plane"),
        ("autoencoder", "--classes 3", "autoencoder does not sample"),
        ("autoencoder", "--out x.npz", "must end in .png"),
        ("vae", "--classes 3", "this vae is not conditioned on a class"),
        ("vae", "--classes 3 --reconstruct", "this vae is not conditioned on a class"),
        ("cvae", "--classes 3 --interpolate", "--classes and --interpolate"),
        ("cvae", "--classes 10 --reconstruct", "knows 0 to 9"),
        ("adversarial", "--classes 3 --reconstruct", "adversarial decodes a code alike"),
        ("cgan", "--classes 3 10", "knows 0 to 9"),
    ],
)
def test_bad_input_is_one_line(model, words, message, runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = runs(model, "mouse" if model == "gmm" else "digits")
    capsys.readouterr()
    assert main(["sample", str(run), *words.split()]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error and error.startswith("gengen: "), error


def test_pictures_of_codes_of_a_conditioned_model(runs, tmp_path, capsys):
    """Each example is coded and decoded with its own label."""
    run = runs("cvae")
    seen, _ = draw(tmp_path, capsys, run, "--reconstruct", "--num", 6)
    m, batch = opened(run), held_out(6)
    out = m.module.reconstruct(m.cfg, m.variables, batch["image"], condition=batch["label"])
    other = (batch["label"] + 1) % 10
    wrong = m.module.reconstruct(m.cfg, m.variables, batch["image"], condition=other)
    assert np.abs(pixels(out).astype(int) - pixels(wrong)).max() > 1
    for i in range(6):
        np.testing.assert_allclose(cell(seen, 1, i).astype(int), pixels(out[i]), atol=1)
    seen, _ = draw(tmp_path, capsys, run, "--interpolate", "--num", 3)
    for i in range(3):  # a row has the label of its first example
        np.testing.assert_allclose(cell(seen, i, 0).astype(int), pixels(out[i]), atol=1)
    for flag in ("--manifold", "--traverse"):
        draw(tmp_path, capsys, run, flag, "--num", 4)


def test_the_class_of_real_examples_is_changed(runs, tmp_path, capsys):
    """A row for each example: it, and its code decoded with every class that is asked."""
    run = runs("cvae")
    words = ("--reconstruct", "--num", 3, "--classes", 7, 2)
    seen, said = draw(tmp_path, capsys, run, *words)
    assert "3 examples of digits:test, and as 7, 2" in said
    m, batch = opened(run), held_out(3)
    z = m.module.encode(m.cfg, m.variables, batch["image"], condition=batch["label"])
    for column, k in enumerate([7, 2]):
        out = m.module.decode(m.cfg, m.variables, z, condition=np.full(3, k))
        for i in range(3):
            np.testing.assert_array_equal(cell(seen, i, 0), pixels(batch["image"][i]))
            got = cell(seen, i, 1 + column).astype(int)
            np.testing.assert_allclose(got, pixels(out[i]), atol=1)
    assert np.abs(cell(seen, 0, 1).astype(int) - cell(seen, 0, 2)).max() > 1


def test_a_model_that_does_not_sample_draws_reconstructions(runs, tmp_path, capsys):
    seen, said = draw(tmp_path, capsys, runs("autoencoder"))
    want, _ = draw(tmp_path, capsys, runs("autoencoder"), "--reconstruct")
    assert "does not sample: these are reconstructions" in said
    np.testing.assert_array_equal(seen, want)


def test_pictures_of_vectors_are_refused_where_images_are_meant(runs, tmp_path, capsys):
    vectors = runs("autoencoder", "mouse", ("latent_shape=2",))
    for flag in ("--interpolate", "--traverse", "--manifold"):
        assert main(["sample", str(vectors), flag, "--out", str(tmp_path / "x.png")]) == 2
        assert "vectors" in capsys.readouterr().err
