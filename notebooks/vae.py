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
# # The variational autoencoder, with every number checked
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/gengen-jax/gengen/blob/main/notebooks/vae.ipynb)
#
# $\ln p(x) \ge \mathbb E_{q(z|x)} \ln p(x|z) - \mathrm{KL}(q(z|x) \,\|\, p(z))$, with
# $z = \mu + \sigma \odot \varepsilon$. First where $\ln p(x)$ is known exactly, then on digits.
# Runs on CPU, GPU and TPU. The mathematics is in `gengen/vae/vae.py`.

# %%
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("gengen") is None:  # on Colab
    source = "git+https://github.com/gengen-jax/gengen"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

from functools import partial

import jax
import numpy as np
import optax
from PIL import Image as Pillow

from gengen.compile import compile_step
from gengen.data import batch_indices, load, to_batch
from gengen.density import ppca
from gengen.representation import embedding
from gengen.vae import vae
from gengen.viz import latent

smoke = os.environ.get("GENGEN_SMOKE") == "1"  # continuous integration: a few steps
print(jax.devices())

# %% [markdown]
# ## Linear networks: the bound must become the likelihood
# With linear encoder and decoder the model is probabilistic PCA, whose best likelihood has a closed
# form (Tipping & Bishop, 1999), and whose posterior a linear encoder can say exactly. So the ELBO
# must climb to $\ln p(x)$ and stop there.

# %%
arrays = load("digits").arrays
x = to_batch(arrays, np.arange(len(arrays["label"])))["image"].reshape(-1, 64)
best = ppca.Config(shape=(64,), latent_dim=8)
limit = float(ppca.log_prob(best, ppca.fit(best, x, jax.random.key(0)), x).mean())

steps = 30 if smoke else 5000
linear = vae.Config(shape=(64,), latent_shape=(8,), hidden=())
method = vae.method(linear, optax.adam(optax.cosine_decay_schedule(1e-2, steps)))
state = method.init(jax.random.key(0), {"x": x})
step = compile_step(method.train_step)
for i in range(steps):
    state, metrics = step(jax.random.key(1), state, {"x": x})
    if i + 1 in (1, 10, 100, 1000, steps):
        bounds = [vae.elbo(linear, state.variables, x, jax.random.key(j)).mean() for j in range(10)]
        print(f"{i + 1:5} steps: ELBO {float(np.mean(bounds)):9.3f}   ln p(x) of PPCA {limit:.3f}")

# %% [markdown]
# ## Digits
# Each pixel is drawn anew, black or white, with its grey value as probability, whenever an image is
# seen; figures are nats per binary image. The code has two numbers, so that all of it can be drawn.

# %%
data, test = load("mnist5k"), load("mnist5k:test")
steps = 20 if smoke else 3000
cfg = vae.Config(channels=(), hidden=(512,), latent_shape=(2,))
method = vae.method(cfg)
state = method.init(jax.random.key(0), to_batch(data.arrays, np.arange(2)))
step = compile_step(method.train_step)
losses = []
for i in range(steps):
    rows = batch_indices(len(data), cfg.batch_size, seed=0, step=i)
    state, metrics = step(jax.random.key(1), state, to_batch(data.arrays, rows))
    losses.append(metrics)
losses = jax.device_get(losses)
for name in ("reconstruction", "kl", "loss"):
    print(
        f"{name:15} {losses[0][name]:8.2f} → {np.mean([m[name] for m in losses[-10:]]):8.2f} nats"
    )

# %% [markdown]
# ## The manifold
# The plane of codes at percentiles of the prior: each image stands for as much of it as any other
# (Kingma & Welling, 2014, figure 4).

# %%
decode = partial(vae.decode, cfg, state.variables)
Pillow.fromarray(latent.manifold(decode, side=15)[..., 0])

# %% [markdown]
# ## Where held-out digits lie

# %%
held_out = to_batch(test.arrays, np.arange(len(test)))
codes = vae.encode(cfg, state.variables, held_out["image"])
Pillow.fromarray(embedding.scatter(codes, held_out["label"]))

# %% [markdown]
# ## From digit to digit
# Decoded codes on the straight way between those of two held-out digits.

# %%
Pillow.fromarray(latent.interpolations(decode, codes[:250:50], codes[250::50], num=15)[..., 0])

# %% [markdown]
# ## How good is the bound?
# Of $K$ draws, $\mathbb E \ln \frac1K \sum_k w_k$ with $w = p(x, z)/q(z|x)$ is a bound too, the
# tighter the larger $K$ (Burda et al., 2016).

# %%
for num in (1, 10, 100):
    estimate = vae.log_prob(
        cfg, state.variables, held_out["image"][:100], jax.random.key(3), num=num
    )
    print(f"K = {num:3}: ln p(x) ≥ {float(estimate.mean()):.2f} nats")

# %% [markdown]
# ## Half a digit
# A chain of draws, the code given the image and the missing pixels given the code, completes digits
# of which only the upper half is known.

# %%
known = np.zeros((28, 28, 1), bool)
known[:14] = True
some = held_out["image"][::50]
links = 10 if smoke else 100
whole = vae.impute(cfg, state.variables, some, known, jax.random.key(4), steps=links)
shown = latent.reconstructions(np.where(known, some, -1), whole)
Pillow.fromarray(shown[..., 0]).resize((596, 116), 0)
