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
# # Autoencoders: a code, and the way back
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/gengen-jax/gengen/blob/main/notebooks/autoencoder.ipynb)
#
# An encoder $e$ and a decoder $d$ minimise $\mathbb E \lVert x - d(e(x)) \rVert^2$ through a code
# with fewer numbers than the data. First linear, where the answer is known, then not. Runs on CPU,
# GPU and TPU. The mathematics is in `gengen/autoencoder/autoencoder.py`.

# %%
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("gengen") is None:  # on Colab
    source = "git+https://github.com/gengen-jax/gengen"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

import jax
import numpy as np
import optax
from PIL import Image as Pillow

from gengen.autoencoder import adversarial, autoencoder
from gengen.compile import compile_step
from gengen.data import batch_indices, load, to_batch
from gengen.representation import embedding
from gengen.viz import latent
from gengen.viz.grid import grid

smoke = os.environ.get("GENGEN_SMOKE") == "1"  # continuous integration: a few steps
print(jax.devices())

# %% [markdown]
# ## Linear: it must become PCA
# With one affine layer each way and $k$ codes, the best one can do is to project on the first $k$
# principal components (Baldi & Hornik, 1989), and the error is the sum of the other eigenvalues.
# The 8×8 digits, as vectors of 64 numbers; one program takes all the steps.

# %%
arrays = load("digits").arrays
x = to_batch(arrays, np.arange(len(arrays["label"])))["image"].reshape(-1, 64)
k, steps = 8, 30 if smoke else 5000
cfg = autoencoder.Config(shape=(64,), latent_shape=(k,), tied=True)
tx = optax.adam(optax.cosine_decay_schedule(1e-2, steps))  # falls to 0: it ends in the minimum
method = autoencoder.method(cfg, tx)
state = method.init(jax.random.key(0), {"x": x})
body = lambda i, state: method.train_step(jax.random.key(1), state, {"x": x})[0]  # noqa: E731
state = jax.jit(lambda state: jax.lax.fori_loop(0, steps, body, state))(state)

# %% [markdown]
# PCA, in NumPy, without a gradient. The error is PCA's in six digits or so, and the angle between
# the two subspaces is nearly nothing.

# %%
centred = np.float64(x) - np.float64(x).mean(0)
values, vectors = np.linalg.eigh(centred.T @ centred / len(x))
out = np.float64(autoencoder.reconstruct(cfg, state.variables, x))
print("PCA leaves        ", values[::-1][k:].sum())
print("autoencoder leaves", np.mean(np.sum((np.float64(x) - out) ** 2, axis=1)))

spanned = np.linalg.qr(np.float64(state.params["mlp"]["W1"]))[0]
cosines = np.linalg.svd(spanned.T @ vectors[:, ::-1][:, :k])[1]
print("largest principal angle", np.arccos(np.clip(cosines.min(), -1, 1)), "radians")

# %% [markdown]
# Yet the columns of $W$ are not the principal components: any rotation of the code is as good.

# %%
print(np.round(spanned.T @ vectors[:, ::-1][:, :k], 2))

# %% [markdown]
# ## Nonlinear: two numbers for a digit
# 28×28 digits, 512 hidden units each way, a code in the plane.

# %%
data, test = load("mnist5k"), load("mnist5k:test")
steps = 20 if smoke else 2000
cfg = autoencoder.Config(channels=(), hidden=(512, 512), latent_shape=(2,))
method = autoencoder.method(cfg)
state = method.init(jax.random.key(0), to_batch(data.arrays, np.arange(2)))
step = compile_step(method.train_step)
for i in range(steps):
    rows = batch_indices(len(data), cfg.batch_size, seed=0, step=i)
    state, metrics = step(jax.random.key(1), state, to_batch(data.arrays, rows))
plain = state.variables
held_out = to_batch(test.arrays, np.arange(len(test)))
back = autoencoder.reconstruct(cfg, plain, held_out["image"][::25])
Pillow.fromarray(latent.reconstructions(held_out["image"][::25], back)[..., 0]).resize(
    (596, 236), 0
)

# %% [markdown]
# Where the codes of digits that it has not seen lie, a colour a class. The space between them is
# empty: nobody said where codes should be, so there is nothing to draw new digits from.

# %%
codes = autoencoder.encode(cfg, plain, held_out["image"])
Pillow.fromarray(embedding.scatter(codes, held_out["label"]))

# %% [markdown]
# ## Adversarial: codes with a law
# A discriminator that sees codes tries to tell them from draws of $p(z)$, and the encoder tries to
# fool it (Makhzani et al., 2015). Here $p(z)$ is ten petals, and each class is told to take one.

# %%
aae = adversarial.Config(prior="petals", num_classes=10)
method = adversarial.method(aae)
state = method.init(jax.random.key(0), to_batch(data.arrays, np.arange(2)))
step = compile_step(method.train_step)
for i in range(2 * steps):
    rows = batch_indices(len(data), aae.batch_size, seed=0, step=i)
    state, metrics = step(jax.random.key(1), state, to_batch(data.arrays, rows))
codes = adversarial.encode(aae, state.variables, held_out["image"])
Pillow.fromarray(embedding.scatter(codes, held_out["label"]))

# %% [markdown]
# Now draws of $p(z)$ can be decoded: new digits.

# %%
images = adversarial.sample(aae, state.variables, jax.random.key(2), 40)
drawn = grid(np.asarray(images), columns=10)
Pillow.fromarray(drawn[..., 0]).resize((drawn.shape[1] * 2, drawn.shape[0] * 2), 0)
