"""The short Python API: train, load, sample, log_prob, evaluate; own models, networks, losses."""

import subprocess
import sys
import textwrap
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gengen
from gengen.data import Dataset, load
from gengen.density import gmm
from gengen.diffusion import ddpm
from gengen.errors import InputError
from gengen.gan import gan
from gengen.gan.game import Losses, play
from gengen.vae import vae

SMALL_DDPM = {"T": 8, "channels": (8,), "num_blocks": (1,), "num_groups": 4, "batch_size": 16}
SMALL_VAE = {"hidden": (8,), "latent_shape": (2,), "batch_size": 16}

OWN_MODEL = '''
"""A model of one's own: a Gaussian of fixed variance, fitted by gradient descent."""
from dataclasses import dataclass

import jax, jax.numpy as jnp, optax

from gengen.contract import unconditional as condition_of
from gengen.steps import descent
from gengen.steps import method as close

print("imported")


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (2,)
    batch_size: int = 16
    learning_rate: float = 0.1


def method(cfg, tx=None):
    def loss(params, mutables, key, batch):
        return jnp.mean((batch["x"] - params["mean"]) ** 2), ({}, mutables)

    init = lambda key, batch: {"params": {"mean": jnp.zeros(cfg.shape)}}
    return close(init, descent(loss, tx or optax.adam(cfg.learning_rate)))


def sample(cfg, variables, key, num, *, condition=None):
    return variables["params"]["mean"] + jax.random.normal(key, (num, *cfg.shape))
'''


def test_import_alone_does_not_import_jax():
    code = "import gengen, sys; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_train_load_sample_log_prob_evaluate(tmp_path):
    """The example of the package's docstring, at a size for a test."""
    out = tmp_path / "ddpm"
    run = gengen.train("ddpm", data="digits", config=SMALL_DDPM, steps=3, out=out)
    images = run.sample(5, seed=0)
    assert images.shape == (5, 8, 8, 1) and images.dtype == np.float32
    again = gengen.load(out)
    np.testing.assert_array_equal(again.sample(5, seed=0), images)
    assert not np.array_equal(again.sample(5, seed=1), images)
    x = load("digits:test").arrays["image"][:4]  # uint8, or floats in [-1, 1]
    nats = again.log_prob(x)
    assert nats.shape == (4,) and np.all(np.isfinite(nats))
    np.testing.assert_allclose(again.log_prob(x / 127.5 - 1.0), nats, rtol=1e-5)
    scores = again.evaluate("digits:test", metrics=("nearest",), num=20)
    assert scores[0].n_fake == 20 and scores[0].value > 0


def test_a_run_continues_where_it_stopped(tmp_path):
    data, out = gengen.load_data("grid25"), tmp_path / "run"
    config = {"hidden": (8,), "latent_dim": 2, "batch_size": 16, "decay_steps": 0}
    gengen.train("gan", data, config=config, steps=3, out=out)
    cut = gengen.train("gan", data, steps=6, out=out, resume=True)
    whole = gengen.train("gan", data, config=config, steps=6, out=tmp_path / "whole")
    for a, b in zip(*map(jax.tree.leaves, (cut.variables, whole.variables)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_data_may_be_an_array_a_data_set_or_a_spec(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float64)
    run = gengen.train("vae", x, config=SMALL_VAE, steps=2, out=tmp_path / "a")
    assert run.cfg.shape == (3,) and run.sample(2).shape == (2, 3)
    images = gengen.load_data(np.zeros((9, 4, 4), np.uint8), label=np.arange(9) % 3)
    assert isinstance(images, Dataset) and images.shape == (4, 4, 1)
    assert gengen.load_data(images) is images
    with pytest.raises(InputError, match="labels"):
        gengen.load_data(np.zeros((9, 2), np.float32), label=np.zeros(8, int))


def test_a_config_or_a_module_stands_for_the_model(tmp_path):
    cfg = gmm.Config(num_components=2)
    run = gengen.train(cfg, data="mouse", out=tmp_path / "a")
    assert run.cfg == cfg and run.name == "gmm"
    run = gengen.train(gmm, data="mouse", config={"num_components": 3}, out=tmp_path / "b")
    assert run.cfg.num_components == 3
    with pytest.raises(InputError, match="num_componentz"):
        gengen.train(gmm, data="mouse", config={"num_componentz": 3}, out=tmp_path / "c")
    with pytest.raises(InputError, match="is no model"):
        gengen.train(3, data="mouse")


def test_a_network_of_ones_own(tmp_path):
    class Net(nn.Module):
        """(z, t, train) → like z."""

        width: int = 8

        @nn.compact
        def __call__(self, z, t, train=False):
            t = jnp.broadcast_to(t[:, None] / 8.0, (len(z), 1))
            h = nn.relu(nn.Dense(self.width)(jnp.concatenate([z, t], axis=1)))
            return nn.Dense(z.shape[1])(h)

    out = tmp_path / "run"
    run = gengen.train(ddpm.Config(shape=(2,), T=8), "moons", net=Net(), steps=2, out=out)
    assert "Dense_1" in run.variables["params"] and run.sample(3).shape == (3, 2)
    with pytest.raises(InputError, match="network of its own, Net: pass net="):
        gengen.load(out)
    np.testing.assert_array_equal(gengen.load(out, net=Net()).sample(3), run.sample(3))


def test_a_loss_of_ones_own(tmp_path):
    hinge = Losses(
        lambda real, fake: jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean(),
        lambda fake: -fake.mean(),
    )
    cfg = gan.Config(shape=(2,), latent_dim=2, hidden=(8,), batch_size=16)
    game = gan.game(cfg)
    game = type(game)(**{**vars(game), "losses": hinge})
    adam = optax.adam(1e-3)
    run = gengen.train(cfg, "ring8", method=play(game, adam, adam), steps=2, out=tmp_path / "run")
    assert run.sample(4).shape == (4, 2)
    assert gengen.load(tmp_path / "run").cfg == cfg


def test_a_model_of_ones_own_is_never_imported_unasked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("my_model.py").write_text(OWN_MODEL)
    run = gengen.train("./my_model.py", data="moons", steps=3, out="run")
    assert run.settings["model"] == "./my_model.py" and run.settings["family"] == "own"
    assert "imported" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"--model \./my_model.py"):
        gengen.load("run")
    assert "imported" not in capsys.readouterr().out
    again = gengen.load("run", model="./my_model.py")
    np.testing.assert_array_equal(again.sample(3), run.sample(3))
    Path("no_model.py").write_text("x = 1\n")
    with pytest.raises(InputError, match="it must define Config"):
        gengen.train("no_model.py", data="moons", out="other")


def test_a_run_without_settings_says_what_is_missing(tmp_path):
    from gengen import loop

    cfg = vae.Config(shape=(2,), **SMALL_VAE)
    data, out = gengen.load_data("moons"), tmp_path / "run"
    loop.run(vae.method(cfg), data, out=out, steps=2, batch_size=16)
    with pytest.raises(InputError, match="does not say which model"):
        gengen.load(out)
    assert gengen.load(out, model=cfg).sample(3).shape == (3, 2)


def test_labels_that_are_no_classes_are_refused_before_training(tmp_path):
    data = gengen.load_data("digits")
    with pytest.raises(InputError, match="num_classes = 5, but digits.* has 10 classes"):
        gengen.train("cgan", data, config={"num_classes": 5}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_a_model_cannot_do_is_said_in_one_line(tmp_path):
    run = gengen.train("gmm", "mouse", out=tmp_path / "run")
    for function in (run.encode, run.decode, run.reconstruct):
        with pytest.raises(InputError, match="gmm has no"):
            function(np.zeros((2, 2), np.float32))
    with pytest.raises(InputError, match="num = 0"):
        run.sample(0)


@pytest.mark.slow
def test_a_script_of_thirty_lines(tmp_path):
    """A DDPM with a network of one's own, a GAN with a loss of one's own, a VAE on an array."""
    script = textwrap.dedent(
        """
        import dataclasses

        import flax.linen as nn
        import jax
        import jax.numpy as jnp
        import numpy as np
        import optax

        import gengen
        from gengen.diffusion import ddpm
        from gengen.gan import gan
        from gengen.gan.game import Losses, play


        class Net(nn.Module):
            @nn.compact
            def __call__(self, z, t, train=False):
                h = jnp.concatenate([z, t[:, None] / 1000], axis=1)
                return nn.Dense(z.shape[1])(nn.gelu(nn.Dense(32)(h)))


        run = gengen.train(ddpm.Config(shape=(2,)), "moons", net=Net(), steps=5, out="runs/net")
        print(run.sample(3).shape)
        hinge = Losses(lambda real, fake: jnp.mean(jax.nn.relu(1 - real) + jax.nn.relu(1 + fake)),
                       lambda fake: -jnp.mean(fake))
        cfg = gan.Config(shape=(2,))
        game = dataclasses.replace(gan.game(cfg), losses=hinge)
        own = play(game, optax.adam(1e-3), optax.adam(1e-3))
        print(gengen.train(cfg, "ring8", method=own, steps=5, out="runs/gan").sample(3).shape)
        x = np.random.default_rng(0).normal(size=(500, 5))
        print(gengen.train("vae", x, steps=5, out="runs/vae").log_prob(x[:2]).shape)
        """
    ).strip()
    assert len(script.splitlines()) <= 35
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:3] == ["(3, 2)", "(3, 2)", "(2,)"]
