# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Normalising flows: a density you can evaluate, invert and bend
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/gengen-jax/gengen/blob/main/notebooks/flow.ipynb)
#
# $\ln p(x) = \ln \mathcal N(f(x); 0, I) + \ln |\det \partial f / \partial x|$ with an invertible
# network $f$. First in the plane, where all of it can be drawn and checked; then on digits, in bits
# per dimension. Runs on CPU, GPU and TPU. The mathematics is in `gengen/flow/realnvp.py`.

# %%
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("gengen") is None:  # on Colab
    source = "git+https://github.com/gengen-jax/gengen"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

import jax
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image as Pillow

from gengen.compile import compile_step
from gengen.data import batch_indices, load, to_batch
from gengen.flow import realnvp
from gengen.viz import latent
from gengen.viz.grid import grid

smoke = os.environ.get("GENGEN_SMOKE") == "1"  # continuous integration: a few steps
print(jax.devices())

# %% [markdown]
# ## Two moons
# Twelve affine couplings, each of which changes one coordinate by a scale and a shift that the
# other one says: $y_2 = x_2 \, e^{s(x_1)} + m(x_1)$. Its Jacobian is triangular, so that the
# determinant is a product, and its inverse is as cheap as itself.

# %%
moons, held_out = load("moons"), load("moons:test").arrays["x"]
steps = 20 if smoke else 4000
plane = realnvp.Config(shape=(2,), num_couplings=12, batch_size=256)
method = realnvp.method(plane)
state = method.init(jax.random.key(0), to_batch(moons.arrays, np.arange(256)))
step = compile_step(method.train_step)
for i in range(steps):
    rows = batch_indices(len(moons), plane.batch_size, seed=0, step=i)
    state, metrics = step(jax.random.key(1), state, to_batch(moons.arrays, rows))
    if i + 1 in (1, 10, 100, 1000, steps):
        nats = -realnvp.log_prob(plane, state.variables, held_out).mean()
        print(f"{i + 1:5} steps: {float(nats):.3f} nats on held-out points")

# %% [markdown]
# ## The density, draws, and a grid of $z$
# On the right, the square $[-2, 2]^2$ of $z$ and what $f^{-1}$ makes of it: a continuous map cannot
# tear the plane in two, hence the thin bridge between the moons.

# %%
line = np.linspace(-3, 3, 200, dtype=np.float32)
points = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
log_p = np.asarray(realnvp.log_prob(plane, state.variables, points))
draws = np.asarray(realnvp.sample(plane, state.variables, jax.random.key(2), 2000))
figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
axes[0].imshow(np.exp(log_p).reshape(200, 200), origin="lower", extent=(-3, 3, -3, 3))
axes[0].set_title("density")
axes[1].scatter(*draws.T, s=2)
axes[1].set_title("draws")
fine, coarse = np.linspace(-2, 2, 100), np.linspace(-2, 2, 17)
for c in coarse:
    for z in (np.stack([fine, 0 * fine + c], 1), np.stack([0 * fine + c, fine], 1)):
        axes[2].plot(
            *np.asarray(realnvp.inverse(plane, state.variables, np.float32(z))[0]).T, "C3", lw=0.6
        )
axes[2].set_title("a grid of z")
for each in axes:
    each.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal")

# %% [markdown]
# ## Is it a density, and is it its own inverse?
# The sum of $p$ over the grid of points should be 1, and $f^{-1}(f(x)) = x$ up to float32.

# %%
area = float((line[1] - line[0]) ** 2)
print(f"mass on the square: {np.exp(log_p).sum() * area:.4f}")
z, log_det = realnvp.forward(plane, state.variables, held_out)
back, log_det_back = realnvp.inverse(plane, state.variables, z)
print(f"largest error, there and back: {np.abs(back - held_out).max():.1e}")
print(f"log-determinants, there and back, differ by: {np.abs(log_det - log_det_back).max():.1e}")
print(f"held-out z: mean {np.round(z.mean(0), 2)}, deviation {np.round(z.std(0), 2)}")

# %% [markdown]
# ## Digits
# Pixels have 256 levels, so that a density could grow without bound on them: noise $u \in [0, 1)$
# is added to each level, and $\mathbb E_u \ln p$ is then a bound on the log-probability of the
# levels. In bits per dimension, 8 is what a uniform law needs.

# %%
data, test = load("mnist5k"), load("mnist5k:test")
steps = 3 if smoke else 600
cfg = realnvp.Config(num_couplings=2, hidden_channels=16)
method = realnvp.method(cfg)
state = method.init(jax.random.key(0), to_batch(data.arrays, np.arange(cfg.batch_size)))
step = compile_step(method.train_step)
losses = []
for i in range(steps):
    rows = batch_indices(len(data), cfg.batch_size, seed=0, step=i)
    state, metrics = step(jax.random.key(1), state, to_batch(data.arrays, rows))
    losses.append(metrics)
digits = to_batch(test.arrays, np.arange(len(test)))["image"]
bits = realnvp.bits_per_dim(cfg, state.variables, digits[:100], jax.random.key(2))
print(f"{float(np.mean(bits)):.3f} bits/dim of held-out digits")
drawn = realnvp.sample(cfg, state.variables, jax.random.key(3), 32)
Pillow.fromarray(grid(drawn, 16)[..., 0])

# %% [markdown]
# ## From digit to digit
# Every image has its own $z$, exactly: what lies between two of them, on the great circle, as
# lengths of Gaussian vectors hardly vary.

# %%
ends = [digits[k : k + 500 : 100][:4] for k in (0, 50)]
codes = [np.asarray(realnvp.encode(cfg, state.variables, x)) for x in ends]
way = latent.interpolate(*(z.reshape(4, -1) for z in codes), num=12, spherical=True)
between = realnvp.decode(cfg, state.variables, np.float32(way).reshape(48, -1))
Pillow.fromarray(grid(between, 12)[..., 0])
