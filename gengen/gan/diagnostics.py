"""Diagnostics of a game that fails: what is measured at every step, and the warnings.

A loss says little about a game, since it also depends on the other player. These metrics do:

    `discriminator_gradient_signal`
        B · mean |∂ loss_D / ∂ logit|: how much the loss changes per unit of each logit. For the
        cross-entropy it is ½(1 - D(x)) + ½D(g(z)): ½ where D cannot tell real from fake, → 0 where
        D is certain (saturated). Then the generator's gradient vanishes, too. It is always 1 for a
        Wasserstein critic.
    `spread`
        √(Σ var g(z) / Σ var x) over the batch: 1 where samples vary as the data do, 0 where all
        samples are equal (mode collapse).
    `generator_gradient_norm`, `real_logit`, `fake_logit`
        as the train steps measure them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from gengen.types import Array

SATURATED = 0.01  # gradient signal; of the cross-entropy: D(x) and 1 - D(g(z)) of 0.99 on average
COLLAPSED = 0.05  # spread
VANISHED = 1e-7  # norm of the generator's gradient: about the rounding of parameters of size 1
EXPLODED = 1e4  # mean logit


def gradient_signal(
    loss: Callable[[Array, Array], Array], real_logits: Array, fake_logits: Array
) -> Array:
    """Return how much the discriminator's loss changes per unit of each logit: [].

    Args:
        loss: (D(x), D(g(z))) -> the mean over the batch.
        real_logits: [B].
        fake_logits: [B].
    """
    logits = jax.lax.stop_gradient((real_logits, fake_logits))
    slopes = jax.grad(loss, argnums=(0, 1))(*logits)
    return sum(jnp.abs(s).sum() for s in slopes) / jnp.float32(len(slopes))


def spread(real: Array, fake: Array) -> Array:
    """Return the standard deviation of samples [B, ...] relative to that of the data: [].

    It is 1 where the data do not vary.
    """
    ours, theirs = (jnp.var(jax.lax.stop_gradient(x), 0).sum() for x in (fake, real))
    return jnp.where(theirs > 0, jnp.sqrt(ours / jnp.where(theirs > 0, theirs, 1)), 1.0)


def warn(metrics: Mapping[str, float], discriminator: str = "discriminator") -> list[str]:
    """Return warnings about a game from its mean metrics, each a sentence with the measured value.

    Args:
        metrics: of the train steps.
        discriminator: the name of that player.
    """
    found, signal = [], f"{discriminator}_gradient_signal"
    if (value := metrics.get(signal, 1.0)) < SATURATED:
        found.append(
            f"the {discriminator} is saturated ({signal} = {value:.2g}; 0.5 where it cannot tell "
            "real from fake): lower its learning rate, or add instance noise or a penalty such as "
            "R1"
        )
    if (value := metrics.get("generator_gradient_norm", 1.0)) < VANISHED:
        found.append(
            f"the generator's gradient has vanished (generator_gradient_norm = {value:.2g}): use "
            f"the non-saturating loss, or lower the {discriminator}'s learning rate"
        )
    if (value := metrics.get("spread", 1.0)) < COLLAPSED:
        found.append(
            f"the generator has collapsed (spread = {value:.2g}; 1 where samples vary as the data "
            "do): try minibatch discrimination, replay, WGAN-GP or R1"
        )
    logits = {k: abs(metrics.get(k, 0.0)) for k in ("real_logit", "fake_logit")}
    name = max(logits, key=lambda k: logits[k])
    if logits[name] > EXPLODED:
        found.append(
            f"the {discriminator}'s logits explode ({name} = {metrics[name]:.2g}): lower its "
            "learning rate, or add a penalty on its gradient"
        )
    return found
