r"""Steps in which all players of a game move at once.

The players' parameters w = (w_1, w_2, ...) follow the field v(w) = (∇_1 loss_1, ∇_2 loss_2, ...):
each player's gradient of its own loss, all at the same w.

`simultaneous` combines the steps of single players, each with a sample of its own. `descend` is one
optimiser on all parameters, along one sample of v, and takes the correction of consensus
optimisation (Mescheder et al. 2017, *The Numerics of GANs*, 1705.10461), v + γ ∇½‖v‖².

Example:
    A GAN with consensus optimisation, Adam for the discriminator, and RMSProp for the generator:

    >>> from gengen.gan import gan
    >>> cfg = gan.Config(shape=(2,), hidden=(8,), latent_dim=2, batch_size=4)
    >>> method = play_at_once(gan.game(cfg), optax.adam(1e-3), optax.rmsprop(1e-3), consensus=0.1)
    >>> batch = {"x": jax.numpy.ones((4, 2))}
    >>> state = method.init(jax.random.key(0), batch)
    >>> state, metrics = method.train_step(jax.random.key(1), state, batch)
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import optax

from gengen.gan import diagnostics
from gengen.gan.game import GENERATOR, Game, init_variables, player_losses
from gengen.gan.regularization import squared_field
from gengen.steps import Loss, Step, descent, with_ema
from gengen.steps import method as build
from gengen.types import Batch, InputError, Key, Method, Metrics, PyTree, TrainState


def simultaneous(players: Mapping[str, Step]) -> Step:
    """Return a step in which all players move from the same state.

    In `sequence` the second player sees the first one's new parameters.

    Args:
        players: the step of each, from `gengen.steps.player`, by its name among the parameters.
    """

    def init(state: TrainState) -> TrainState:
        for step in players.values():
            state = step.init(state)
        return state

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        new, metrics = state, {}
        keys = jax.random.split(key, len(players))
        for (name, step), step_key in zip(players.items(), keys, strict=True):
            moved, found = step.update(step_key, state.replace(mutables=new.mutables), batch)
            new = new.replace(
                params={**new.params, name: moved.params[name]},
                opt_state={**new.opt_state, name: moved.opt_state[name]},
                mutables=moved.mutables,
            )
            metrics |= found
        return new, metrics

    return Step(init, update)


def joint_loss(losses: Mapping[str, Loss], consensus: float = 0.0) -> Loss:
    """Return the loss whose gradient is v + γ ∇½‖v‖², v being the players' field.

    Its value is the sum of the players' losses, which says nothing. Metrics: those of the losses,
    `<name>_loss` of each player, and with consensus `field`, ‖v‖².

    Args:
        losses: what each player minimises, by its name among the parameters.
        consensus: γ.
    """
    if not consensus >= 0:
        raise InputError(f"consensus = {consensus}; it must be at least 0")

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        before, others = mutables, jax.lax.stop_gradient(params)
        total, metrics = jnp.zeros(()), {}
        for name, own in losses.items():
            value, (found, mutables) = own({**others, name: params[name]}, mutables, key, batch)
            total += value
            metrics |= {f"{name}_loss": value, **found}
        if consensus:
            metrics["field"] = squared_field(losses)(params, before, key, batch)
            total += consensus / 2 * metrics["field"]
        return total, (metrics, mutables)

    return loss


def descend(
    losses: Mapping[str, Loss],
    txs: Mapping[str, optax.GradientTransformation],
    consensus: float = 0.0,
) -> Step:
    """Return a step of all players at once, with the one optimiser `optax.partition(txs, player)`.

    All losses get the same key and batch. Metrics: those of `joint_loss`; `gradient_norm`, that of
    the whole field.

    Args:
        losses: what each player minimises, by its name among the parameters.
        txs: the optimiser of each player, by the same names.
        consensus: γ of consensus optimisation; 0: none.

    Raises:
        InputError: for other names of optimisers than of losses, or consensus < 0.
    """
    if losses.keys() != txs.keys():
        raise InputError(f"losses of {sorted(losses)}, but optimisers of {sorted(txs)}")
    by_player: dict[Hashable, optax.GradientTransformation] = {**txs}
    tx = optax.partition(by_player, lambda params: {name: name for name in params})
    step = descent(joint_loss(losses, consensus), tx)

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        state, metrics = step.update(key, state, batch)
        return state, {k: v for k, v in metrics.items() if k != "loss"}

    return Step(step.init, update)


def play_at_once(
    game: Game,
    discriminator_tx: optax.GradientTransformation,
    generator_tx: optax.GradientTransformation,
    consensus: float = 0.0,
    ema_decay: float = 0.0,
) -> Method:
    """Return the method: one step of both players at once. `gengen.gan.game.play` takes turns.

    Args:
        game: that is played.
        discriminator_tx: the discriminator's optimiser. It descends: of a Wasserstein GAN too.
        generator_tx: the generator's.
        consensus: γ of consensus optimisation; 0: none.
        ema_decay: of the average of the parameters that samples come from; 0: none.

    Returns:
        The method. Metrics: those of `play`, but for one `gradient_norm` of both players.
    """
    name = game.discriminator_name
    step = descend(
        player_losses(game), {name: discriminator_tx, GENERATOR: generator_tx}, consensus
    )
    step = with_ema(step, ema_decay) if ema_decay else step
    return build(init_variables(game), step, partial(diagnostics.warn, discriminator=name))
