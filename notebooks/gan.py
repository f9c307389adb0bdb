# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The adversarial game: what converges, what collapses, and what helps
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/gengen-jax/gengen/blob/main/notebooks/gan.ipynb)
#
# Two networks, each descending a loss of its own: nothing says that they come to rest. First the
# smallest game of all, where theory knows the answer; then modes that can be counted; then digits.
# Runs on CPU, GPU and TPU. The mathematics is in `gengen/gan/`.

# %%
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("gengen") is None:  # on Colab
    source = "git+https://github.com/gengen-jax/gengen"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

import dataclasses

import jax
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image as Pillow

from gengen.compile import compile_step
from gengen.data import batch_indices, load, to_batch
from gengen.gan import dcgan, diagnostics, dirac, game, gan, networks
from gengen.gan.regularization import r1
from gengen.metrics import modes
from gengen.viz.grid import grid

smoke = os.environ.get("GENGEN_SMOKE") == "1"  # continuous integration: a few steps
print(jax.devices())

# %% [markdown]
# ## The Dirac-GAN
# The data are the point 0, the samples the point $\theta$, and $D(x) = \psi x$ (Mescheder et al.,
# 2018). The one equilibrium is $(0, 0)$. Each variant is trained from $(1, 1)$ by the steps that
# train every model here. What the theorem says of it is the largest eigenvalue of one step's
# Jacobian; what the step has, by automatic differentiation, stands beside it.

# %%
cfg = dirac.Config()
names = ("GAN", "NSGAN", "WGAN", "R1", "instance noise", "optimistic")
length = 200 if smoke else 2000
figure, axes = plt.subplots(2, 3, figsize=(10, 6.6), layout="constrained")
for panel, name in zip(axes.ravel(), names, strict=True):
    variant = dirac.variants(cfg)[name]
    path = dirac.trajectory(cfg, variant, length, alternating=False)
    half = 1.1 * np.abs(path).max()
    line = np.linspace(-half, half, 13)
    points = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    panel.quiver(*points.T, *dirac.field(cfg, variant, points).T, color="0.7")
    panel.plot(*path.T, lw=0.7)
    rho = np.abs(dirac.eigenvalues(cfg, variant, alternating=False)).max()
    wanted = np.abs(dirac.theorem(cfg, variant, alternating=False)).max()
    panel.set_title(f"{name}: ρ = {rho:.4f} (theorem {wanted:.4f})")

# %% [markdown]
# ## Eight modes
# Eight Gaussians on a ring. The plain game, and the same with R1, a penalty on the discriminator's
# slope at real examples: a part is replaced, nothing else. A mode is found if a sample lies within
# three deviations of it.

# %%
ring = load("ring8")
settings = gan.Config(shape=(2,), hidden=(128, 128), latent_dim=2, batch_size=256, ema_decay=0.99)
plain = gan.game(settings)
steps = 20 if smoke else 6000
figure, axes = plt.subplots(1, 2, figsize=(8, 4.2), layout="constrained")
penalised = dataclasses.replace(plain, penalties=(r1(0.1),))
for panel, played in zip(axes, (plain, penalised), strict=True):
    method = game.play(played, *networks.adam(settings), ema_decay=settings.ema_decay)
    state = method.init(jax.random.key(0), to_batch(ring.arrays, np.arange(256)))
    step = compile_step(method.train_step)
    for i in range(steps):
        rows = batch_indices(len(ring), 256, seed=0, step=i)
        state, metrics = step(jax.random.key(1), state, to_batch(ring.arrays, rows))
    x = np.asarray(game.sample(played, state.variables, jax.random.key(2), 2000))
    found = modes.ring8(x)
    panel.scatter(*x.T, s=2)
    title = "R1" if played.penalties else "GAN"
    panel.set_title(f"{title}: {found.found} of 8, {found.high_quality:.0%} of high quality")
    panel.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal")

# %% [markdown]
# ## How does one see that a game fails?
# Not by the losses: each depends on the other player, too. `discriminator_gradient_signal` says how
# uncertain the discriminator is (½: cannot tell, 0: saturated), `spread` how much samples vary (1:
# as the data do, 0: collapsed). The training loop warns when they are too small.

# %%
last = {k: float(v) for k, v in metrics.items()}
for name in ("discriminator_gradient_signal", "spread", "generator_gradient_norm"):
    print(f"{name:30} {last[name]:.3g}")
print("warnings:", diagnostics.warn(last))
print("of a collapsed one:", diagnostics.warn(last | {"spread": 0.01}))

# %% [markdown]
# ## Digits
# DCGAN, at a size for two cores; samples are drawn with averaged parameters.

# %%
data = load("mnist5k")
steps = 3 if smoke else 1500
small = dcgan.Config(channels=(32, 64), latent_dim=64, batch_size=64)
method = dcgan.method(small)
state = method.init(jax.random.key(0), to_batch(data.arrays, np.arange(small.batch_size)))
step = compile_step(method.train_step)
for i in range(steps):
    rows = batch_indices(len(data), small.batch_size, seed=0, step=i)
    state, metrics = step(jax.random.key(1), state, to_batch(data.arrays, rows))
samples = dcgan.sample(small, state.variables, jax.random.key(2), 48)
Pillow.fromarray(grid(samples, 16)[..., 0])
