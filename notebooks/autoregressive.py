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
# # Autoregressive models: exact likelihoods, and fast draws
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/gengen-jax/gengen/blob/main/notebooks/autoregressive.ipynb)
#
# $p(x) = \prod_i p(x_i | x_{<i})$: any joint distribution, one number after the other, and nothing
# approximated. First where every probability can be summed up, then on digits. Runs on CPU, GPU and
# TPU. The mathematics is in `gengen/autoregressive/`.

# %%
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("gengen") is None:  # on Colab
    source = "git+https://github.com/gengen-jax/gengen"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

import itertools
import time

import jax
import numpy as np
from PIL import Image as Pillow

from gengen.autoregressive import made, nade, pixelcnn
from gengen.compile import compile_step
from gengen.data import batch_indices, load, to_batch
from gengen.viz.grid import grid

smoke = os.environ.get("GENGEN_SMOKE") == "1"  # continuous integration: a few steps
print(jax.devices())

# %% [markdown]
# ## Is it a distribution?
# There are 512 binary images of 3 × 3 pixels. Whatever the parameters, their probabilities must
# sum to 1: a mask that lets a pixel see itself, or one after it, breaks this at once.

# %%
every = np.float32(list(itertools.product((-1, 1), repeat=9)))
tiny = {
    nade: nade.Config(shape=(3, 3, 1), hidden_dim=8, order_seed=1),
    made: made.Config(shape=(3, 3, 1), hidden=(32,)),
    pixelcnn: pixelcnn.Config(shape=(3, 3, 1), hidden_channels=8, num_layers=3, head_channels=8),
}
for model, small in tiny.items():
    x = every.reshape(-1, 3, 3, 1)
    start = model.method(small).init(jax.random.key(0), {"image": x})
    p = np.exp(np.float64(model.log_prob(small, start.variables, x)))
    print(f"{model.__name__.split('.')[-1]:10} Σ p(x) = {p.sum():.7f}")

# %% [markdown]
# ## Who sees whom
# The Jacobian of the logits, of one image of 5 × 5, is the picture of the order: pixel $i$ (row)
# depends on pixels before it alone. PixelCNN looks at a window; MADE at everything before.

# %%
side = 5
shown = []
for layers in (1, 4):
    small = pixelcnn.Config(
        shape=(side, side, 1), hidden_channels=8, num_layers=layers, first_kernel_size=3,
        head_channels=8,
    )  # fmt: skip
    x = np.float32(np.random.default_rng(0).normal(size=(1, side, side, 1)))
    net = pixelcnn.network(small)
    variables = net.init(jax.random.key(1), x)
    leaks = jax.jacobian(lambda x, n=net, v=variables: n.apply(v, x))(x)  # noqa: B023
    seen = np.abs(np.asarray(leaks)).reshape(side * side, -1, side * side).sum(1) > 0
    print(f"a later pixel is seen by none: {not np.triu(seen).any()}")
    shown.append(np.where(seen, 1.0, -1.0))
Pillow.fromarray(grid(np.stack(shown)[..., None])[..., 0]).resize((412, 200), 0)

# %% [markdown]
# ## Digits
# A gated PixelCNN of binary digits. The figures are exact, nats per image.

# %%
data, test = load("mnist5k"), load("mnist5k:test")
steps = 3 if smoke else 500
cfg = pixelcnn.Config(hidden_channels=16, num_layers=5, head_channels=32, num_classes=10)
method = pixelcnn.method(cfg)
state = method.init(jax.random.key(0), to_batch(data.arrays, np.arange(cfg.batch_size)))
step = compile_step(method.train_step)
held_out = to_batch(test.arrays, np.arange(100))
binary = np.where(held_out["image"] > 0, 1, -1).astype(np.float32)
for i in range(steps):
    rows = batch_indices(len(data), cfg.batch_size, seed=0, step=i)
    state, metrics = step(jax.random.key(1), state, to_batch(data.arrays, rows))
    if i + 1 in (1, 10, 100, steps):
        log_p = pixelcnn.log_prob(cfg, state.variables, binary, condition=held_out["label"])
        nats = -log_p.mean()
        print(f"{i + 1:4} steps: {float(nats):7.2f} nats a held-out digit")

# %% [markdown]
# ## A draw: 784 decisions, not 784 passes
# Of the row above all that matters is computed once, of the row itself only the new pixel; the
# images are the same, bit for bit, as those of a pass through the whole network for every pixel.

# %%
y = np.arange(10, dtype=np.int32)
pixelcnn.sample(cfg, state.variables, jax.random.key(2), 10, condition=y)  # compiles
start = time.perf_counter()
digits = pixelcnn.sample(cfg, state.variables, jax.random.key(2), 10, condition=y)
jax.block_until_ready(digits)
print(f"ten digits in {time.perf_counter() - start:.2f} s")
Pillow.fromarray(grid(digits, 10)[..., 0])

# %% [markdown]
# ## Half a digit
# What is known comes first in the order, so completing is drawing the rest, exactly from
# $p(\text{lower half} | \text{upper half})$: five ways to end each.

# %%
known = np.zeros((28, 28, 1), bool)
known[:14] = True
given = np.repeat(binary[:50:10], 5, axis=0)
labels = np.repeat(held_out["label"][:50:10], 5)
ends = pixelcnn.sample(
    cfg, state.variables, jax.random.key(3), len(given), condition=labels, observation=given,
    mask=known,
)  # fmt: skip
rows = np.concatenate([binary[:50:10, None], np.asarray(ends).reshape(5, 5, 28, 28, 1)], axis=1)
Pillow.fromarray(grid(rows.reshape(-1, 28, 28, 1), 6)[..., 0])

# %% [markdown]
# ## Which pixels were a surprise?
# Digits by their probability: the likeliest of those held out, and the least likely.

# %%
log_p = pixelcnn.log_prob(cfg, state.variables, binary, condition=held_out["label"])
nats = -np.asarray(log_p)
order = np.argsort(nats)
print("nats, likeliest:", np.round(nats[order[:8]]), " least likely:", np.round(nats[order[-8:]]))
Pillow.fromarray(grid(binary[np.concatenate([order[:8], order[-8:]])], 8)[..., 0])
