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
# # Denoising diffusion, step by step
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/gengen-jax/gengen/blob/main/notebooks/ddpm.ipynb)
#
# A network learns to take a little noise away; applied from pure noise on, it draws digits. Runs on
# CPU, GPU and TPU. The mathematics is in `gengen/diffusion/ddpm.py`, which reads like the paper.

# %%
import dataclasses
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("gengen") is None:  # on Colab
    source = "git+https://github.com/gengen-jax/gengen"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

import jax
import numpy as np
from PIL import Image as Pillow

from gengen.compile import compile_step
from gengen.contract import Task
from gengen.data import batch_indices, load, to_batch
from gengen.diffusion import ddpm, inverse, operators, samplers
from gengen.viz.grid import grid

smoke = os.environ.get("GENGEN_SMOKE") == "1"  # continuous integration: a few steps
steps = 20 if smoke else 1500
evaluations = 3 if smoke else 100  # of the network, for a draw of what it may have been
print(jax.devices())

# %% [markdown]
# ## The data
# 4,500 handwritten digits, held on the device; a batch is images in [-1, 1].

# %%
data = load("mnist5k")
batch = to_batch(data.arrays, batch_indices(len(data), 64, seed=0, step=0))
Pillow.fromarray(grid(np.asarray(batch["image"]), columns=16)[..., 0]).resize((722, 182), 0)

# %% [markdown]
# ## Forward: data to noise
# $q(z_t \mid x) = \mathcal N(\sqrt{\bar\alpha_t}\, x, (1 - \bar\alpha_t) I)$. Eight digits at
# $t = 1, 125, \dots, 1000$ of the cosine schedule.

# %%
schedule = ddpm.cosine_schedule(1000)
x = batch["image"][:8]
eps = jax.random.normal(jax.random.key(0), x.shape)
times = [1, *range(125, 1001, 125)]
rows = [ddpm.q_sample(schedule, x, jax.numpy.full(8, t), eps) for t in times]
noised = grid(np.concatenate(rows), columns=8)
Pillow.fromarray(noised[..., 0]).resize((noised.shape[1] * 2, noised.shape[0] * 2), 0)

# %% [markdown]
# ## Training
# `Config.for_task` is the default for these data and so many steps. A model is two pure functions;
# `compile_step` makes one program of the step. On several devices, `mode="pmap"` gives the same
# numbers.

# %%
cfg = ddpm.Config.for_task(Task(data.shape, steps=steps))
method = ddpm.method(cfg)
state = method.init(jax.random.key(0), batch)
step = compile_step(method.train_step)
losses = []
for i in range(steps):
    indices = batch_indices(len(data), cfg.batch_size, seed=0, step=i)
    state, metrics = step(jax.random.key(1), state, to_batch(data.arrays, indices))
    losses.append(metrics["loss"])
print(f"loss {float(losses[0]):.3f} → {float(np.mean(jax.device_get(losses[-10:]))):.3f}")

# %% [markdown]
# ## Reverse: noise to digits
# The sampler is one `lax.scan`. With $\eta = 1$ it is the ancestral sampler in fewer steps; with
# $\eta = 0$ the digit is a function of the first noise alone.

# %%
images = ddpm.sample(cfg, state.variables, jax.random.key(2), 64)
drawn = grid(np.asarray(images), columns=16)
Pillow.fromarray(drawn[..., 0]).resize((drawn.shape[1] * 2, drawn.shape[0] * 2), 0)

# %% [markdown]
# ## Any function is a denoiser
# Of Gaussian data the exact $\mathbb E[\varepsilon \mid z_t]$ is known; the samplers take it in the
# place of a network and must give the Gaussian back.

# %%
alpha, rest = schedule.alpha_bars, schedule.one_minus_alpha_bars
coefficient = jax.numpy.asarray(rest**0.5 / (alpha * 0.25 + rest))
exact = lambda z, t: coefficient[t - 1][:, None] * z  # noqa: E731
for count in (5, 20, 100, 1000):
    draws = samplers.ddim(exact, schedule, jax.random.key(3), (10_000, 1), steps=count)
    print(f"{count:5} steps: standard deviation {float(draws.std()):.4f} (the truth: 0.5)")
    second = samplers.multistep(exact, schedule, jax.random.key(3), (10_000, 1), steps=count)
    print(f"{'':5} of second order: {float(second.std()):.4f}")

# %% [markdown]
# ## Fewer steps
# The same first noise, deterministic samplers: DDIM in 10, 20 and 50 evaluations, then the
# second-order solver. Its 20 are near what 50 of the other give.

# %%
rows = []
for sampler in ("ddim", "multistep"):
    for count in (10, 20, 50):
        few = dataclasses.replace(cfg, sampler=sampler, sample_steps=count, eta=0.0)
        rows.append(ddpm.sample(few, state.variables, jax.random.key(4), 16))
drawn = grid(np.concatenate(rows), columns=16)
Pillow.fromarray(drawn[..., 0]).resize((drawn.shape[1] * 2, drawn.shape[0] * 2), 0)

# %% [markdown]
# ## What was it?
# $y = Ax + \sigma_y n$ is seen of a held-out digit, and the trained model is the prior: draws of
# $p(x \mid y)$ for a lower half that is hidden, an image of a quarter of the pixels, and a blurred
# one. Each row: the digit, what was seen of it, eight draws, their mean.

# %%
digit = to_batch(load("mnist5k:test").arrays, np.arange(60, 61))["image"]
upper = np.arange(28)[:, None, None] < 14
problems = {
    "half": operators.inpaint(np.broadcast_to(upper, (28, 28, 1))),
    "small": operators.box(cfg.shape, 4),
    "blurred": operators.convolve(cfg.shape, operators.gaussian(2.0)),
}
rows = []
for name, operator in problems.items():
    y = operator.forward(digit)
    y = y + 0.05 * jax.random.normal(jax.random.key(5), y.shape)
    measured = inverse.Measurement(operator, y, 0.05)
    draws = ddpm.posterior(
        cfg, state.variables, jax.random.key(6), 8, measured, "pigdm", evaluations
    )
    shown = np.kron(y[0, :, :, 0], np.ones((28 // y.shape[1],) * 2))[None, :, :, None]
    rows += [digit, shown, draws, draws.mean(0, keepdims=True)]
    error = float(np.sqrt(np.mean((operator.forward(draws) - y) ** 2)))
    print(f"{name}: the draws miss what was seen by {error:.3f} (the noise is 0.05)")
drawn = grid(np.concatenate(rows), columns=11)
Pillow.fromarray(drawn[..., 0]).resize((drawn.shape[1] * 2, drawn.shape[0] * 2), 0)
