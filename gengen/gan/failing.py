"""Signs that a game fails, measured at every step, and the sentences that say so.

A loss says little of a game: it is the other player's success as well. What does say something:

    `discriminator_pull`
        B · mean |∂ loss_D / ∂ logit|: by how much its loss would change for a unit of each logit.
        The cross-entropy's is ½(1 - D(x)) + ½D(g(z)): ½ where D cannot tell, → 0 where it is sure
        (saturated), as then is what the generator learns from. A Wasserstein critic's is 1, always.
    `spread`
        √(Σ var g(z) / Σ var x) over the batch: 1 where samples differ as the data do, 0 where all
        are one (mode collapse).
    `generator_gradient_norm`, `real_logit`, `fake_logit`
        As the steps measure them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from gengen.types import Array

SURE = 0.01  # pull; of the cross-entropy: D(x) and 1 - D(g(z)) of 0.99 on average
ALIKE = 0.05  # spread
STILL = 1e-7  # norm of the generator's gradient; float32 resolves no less of parameters of size 1
EXPLODED = 1e4  # mean logit


def pull(loss: Callable[[Array, Array], Array], on_real: Array, on_fake: Array) -> Array:
    """By how much the discriminator's loss changes for a unit of each logit: [].

    Args:
        loss: (D(x), D(g(z))) -> the mean over the batch.
        on_real: logits [B].
        on_fake: logits [B].
    """
    slopes = jax.grad(loss, argnums=(0, 1))(*jax.lax.stop_gradient((on_real, on_fake)))
    return sum(jnp.abs(s).sum() for s in slopes) / jnp.float32(len(slopes))


def spread(real: Array, fake: Array) -> Array:
    """How far samples [B, ...] lie apart, real ones being 1; 1 where those are all alike: []."""
    ours, theirs = (jnp.var(jax.lax.stop_gradient(x), 0).sum() for x in (fake, real))
    return jnp.where(theirs > 0, jnp.sqrt(ours / jnp.where(theirs > 0, theirs, 1)), 1.0)


def warn(metrics: Mapping[str, float]) -> list[str]:
    """What is wrong with a game, of its mean metrics: a sentence each, with what was measured."""
    found = []
    if (value := metrics.get("discriminator_pull", 1.0)) < SURE:
        found.append(
            f"the discriminator is saturated (discriminator_pull = {value:.2g}, 0.5 where it "
            "cannot tell): slow it down, or add instance noise or a penalty on it, such as R1"
        )
    if (value := metrics.get("generator_gradient_norm", 1.0)) < STILL:
        found.append(
            f"the generator learns nothing (generator_gradient_norm = {value:.2g}): take the "
            "non-saturating loss, or slow the discriminator down"
        )
    if (value := metrics.get("spread", 1.0)) < ALIKE:
        found.append(
            f"the generator has collapsed (spread = {value:.2g}, 1 where samples differ as the "
            "data do): see the remedies, minibatch discrimination, replay, WGAN-GP, R1"
        )
    logits = {k: abs(metrics.get(k, 0.0)) for k in ("real_logit", "fake_logit")}
    name = max(logits, key=lambda k: logits[k])
    if logits[name] > EXPLODED:
        found.append(
            f"the discriminator explodes ({name} = {metrics[name]:.2g}): lower its rate, or add a "
            "penalty on its slope"
        )
    return found
