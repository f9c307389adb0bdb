r"""The adversarial game: two networks, their losses, and what may be added to them.

Goodfellow et al. 2014 (1406.2661). A generator g: z ↦ x, a discriminator with the logit D(x), and

    the discriminator minimises   loss_D(D(x), D(g(z))) + Σ penalties
    the generator minimises       loss_G(D(g(z)))

Every variant of the family changes one part: the `Losses` (functions of logits), a `Penalty` on the
discriminator (a function of it and of real and fake examples), a `Transform` of the discriminator's
inputs, a network, or the optimisers and the order of the steps. The parts are independent, so that
any of them can be combined:

    game = dataclasses.replace(lsgan.game(cfg), penalties=(r1(10.0),), transforms=(noise,))
    method = play(game, discriminator_tx, generator_tx)

Example:
    The hinge loss, with a penalty on the discriminator's gradient:

    >>> import dataclasses
    >>> from gengen.gan import gan
    >>> from gengen.gan.regularization import r1
    >>> hinge = Losses(
    ...     discriminator=lambda real, fake: jnp.mean(nn.relu(1 - real) + nn.relu(1 + fake)),
    ...     generator=lambda fake: -jnp.mean(fake),
    ... )
    >>> cfg = gan.Config(shape=(2,), hidden=(8,), latent_dim=2, batch_size=4)
    >>> game = dataclasses.replace(gan.game(cfg), losses=hinge, penalties=(r1(0.1),))
    >>> method = play(game, optax.adam(1e-3), optax.adam(1e-3))
    >>> batch = {"x": jnp.ones((4, 2))}
    >>> state = method.init(jax.random.key(0), batch)
    >>> state, metrics = method.train_step(jax.random.key(1), state, batch)
    >>> sample(game, state.variables, jax.random.key(2), 3).shape
    (3, 2)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen import rng
from gengen.contract import check_labels, labels_of, refuse_condition, require_num
from gengen.gan import diagnostics
from gengen.steps import Loss, player, repeat, sequence, with_ema
from gengen.steps import method as build
from gengen.types import Array, Batch, InputError, Key, Method, Metrics, PyTree, Shape
from gengen.types import check_shape as check_batch
from gengen.xla import jit

# Collection of the transforms' states in the variables. It has this name in all checkpoints, since
# transforms were called remedies once.
STATES = "remedies"
GENERATOR = "generator"  # its name among the parameters

Discriminator = Callable[[Array], Array]  # x [B, ...] -> logits [B]
Networks = tuple[nn.Module, nn.Module]  # generator and discriminator, called as `Game` says
# A step's key -> the keys of z, of the transforms (and of penalties, in the discriminator's step).
Keys = Callable[[Key], Iterable[Key]]


class Losses(NamedTuple):
    """What the players minimise: functions of logits [B] to the mean over the batch, [].

    Attributes:
        discriminator: (D(x), D(g(z))) -> its loss.
        generator: D(g(z)) -> its loss.
    """

    discriminator: Callable[[Array, Array], Array]
    generator: Callable[[Array], Array]


class Penalty(NamedTuple):
    """A term that is added to the discriminator's loss.

    Attributes:
        name: of its metric.
        of: (D, real [B, ...], fake [B, ...], key) -> [], the mean over the batch.
    """

    name: str
    of: Callable[[Discriminator, Array, Array, Key], Array]


def no_state(x: Array) -> PyTree:
    """Return the state of a transform that has none."""
    return {}


def unchanged(state: PyTree, key: Key, fake: Array) -> Array:
    """Return the fake examples as they are."""
    return fake


class Transform(NamedTuple):
    """A transform of the discriminator's inputs.

    Attributes:
        name: of its state, in `variables[STATES][name]`.
        in_discriminator_step: (params of all players, state, key, real, fake) ->
            (real, fake, state): the inputs that the discriminator is trained on.
        in_generator_step: (state, key, fake) -> fake: its input when the generator is trained.
        init: x [1, ...] -> the first state.
        keeps_labels: False if an output may be of another class than the input.
    """

    name: str
    in_discriminator_step: Callable[
        [PyTree, PyTree, Key, Array, Array], tuple[Array, Array, PyTree]
    ]
    in_generator_step: Callable[[PyTree, Key, Array], Array] = unchanged
    init: Callable[[Array], PyTree] = no_state
    keeps_labels: bool = True


@dataclass(frozen=True)
class Game:
    """The parts of a game.

    Attributes:
        generator: (z [B, latent_dim], y, train=) -> x [B, *shape], images in [-1, 1].
        discriminator: (x [B, *shape], y, train=) -> logits [B].
        shape: of an example.
        latent_dim: dimensions of z ~ N(0, I).
        losses: of the players.
        penalties: on the discriminator.
        transforms: of the discriminator's inputs, in the order in which they are applied.
        num_classes: both networks are conditioned on the label y [B]; 0: y is None.
        discriminator_name: of the second player, among the parameters and in metrics:
            "discriminator", or "critic" for a Wasserstein GAN.
    """

    generator: nn.Module
    discriminator: nn.Module
    shape: Shape
    latent_dim: int
    losses: Losses
    penalties: tuple[Penalty, ...] = ()
    transforms: tuple[Transform, ...] = ()
    num_classes: int = 0
    discriminator_name: str = "discriminator"

    def __post_init__(self):
        """Check that the parts can be combined.

        Raises:
            InputError: for two parts of one name, or a transform that mixes up the classes.
        """
        names = [part.name for part in (*self.penalties, *self.transforms)]
        if len({*names}) < len(names):
            raise InputError(f"penalties and transforms {names}: use each of them once")
        mixing = [t.name for t in self.transforms if not t.keeps_labels]
        if self.num_classes and mixing:
            raise InputError(
                f"num_classes = {self.num_classes}, but the transform {mixing[0]} does not keep "
                "the labels: leave one of them out"
            )


def with_networks(game: Game, net: Networks | None) -> Game:
    """Return the game with the user's own generator and discriminator, if any are given."""
    if net is None:
        return game
    generator, discriminator = net
    return dataclasses.replace(game, generator=generator, discriminator=discriminator)


# --- applying the networks -----------------------------------------------------------------------


def of_player(name: str, variables: PyTree) -> PyTree:
    """Return one player's own variables: its part of every collection."""
    return {k: tree[name] for k, tree in variables.items() if name in tree}


def split(variables: PyTree) -> tuple[PyTree, PyTree]:
    """Return the parameters, and all other collections."""
    return variables["params"], {k: v for k, v in variables.items() if k != "params"}


def apply(net: nn.Module, name: str, variables: PyTree, *inputs: Array | None):
    """Apply a player's network in training; return its output and all mutables, updated."""
    mutables, own = split(variables)[1], of_player(name, variables)
    collections = [k for k in own if k != "params"]
    out, changed = net.apply(own, *inputs, train=True, mutable=collections)
    return jnp.asarray(out), mutables | {k: {**mutables[k], name: v} for k, v in changed.items()}


def generate(game: Game, variables: PyTree, z: Array, y: Array | None = None):
    """Return g(z | y) [B, *shape], in training, and the mutables."""
    return apply(game.generator, GENERATOR, variables, z, y)


def discriminate(game: Game, variables: PyTree, x: Array, y: Array | None = None) -> Array:
    """Return the logits D(x | y) [B] of a trained discriminator."""
    own = of_player(game.discriminator_name, variables)
    return jnp.asarray(game.discriminator.apply(own, x, y, train=False))


def sample(
    game: Game, variables: PyTree, key: Key, num: int, condition: ArrayLike | None = None
) -> Array:
    """Sample g(z): float32 [num, *shape], images in [-1, 1].

    Args:
        game: that was trained.
        variables: of its players.
        key: of z.
        num: number of samples.
        condition: labels [num], where the networks are conditioned on them; None: each class in
            turn.

    Raises:
        InputError: for num < 1, labels that are no classes, or a condition where there is none.
    """
    require_num(num)
    y = None
    if not game.num_classes:
        refuse_condition(condition)
    elif condition is None:
        y = jnp.arange(num) % game.num_classes
    else:
        y = check_labels(condition, num, game.num_classes)
    own = of_player(GENERATOR, variables)
    return _sample(game.generator, game.latent_dim, own, key, num, y)


@jit(0, 1, 4, often=False)
def _sample(net: nn.Module, latent_dim: int, own: PyTree, key: Key, num: int, y: Array | None):
    return jnp.asarray(net.apply(own, rng.normal(key, (num, latent_dim)), y, train=False))


# --- the losses of both steps --------------------------------------------------------------------

_three_keys = partial(jax.random.split, num=3)


def transform_inputs(game: Game, variables: PyTree, key: Key, real: Array, fake: Array):
    """Apply the transforms in the discriminator's step; return real, fake and the mutables."""
    params, mutables = split(variables)
    states = dict(mutables.get(STATES, {}))
    for i, transform in enumerate(game.transforms):
        state, part_key = states.get(transform.name, {}), jax.random.fold_in(key, i)
        real, fake, state = transform.in_discriminator_step(params, state, part_key, real, fake)
        if transform.name in states:
            states[transform.name] = state
    return real, fake, mutables | ({STATES: states} if states else {})


def discriminator_loss(game: Game, keys: Keys = _three_keys) -> Loss:
    """Return the loss of the discriminator's step, loss_D + Σ penalties.

    Metrics: each penalty, the mean logits, and those of `diagnostics`.

    Args:
        game: that is played.
        keys: derives the keys of z, of the transforms and of the penalties from the step's.
    """
    name = game.discriminator_name

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x, y = check_batch(batch, game.shape), labels_of(game, batch)
        z_key, transform_key, penalty_key = keys(key)
        z = rng.normal(z_key, (x.shape[0], game.latent_dim))
        generated, _ = generate(game, {"params": params, **mutables}, z, y)
        before = {"params": params, **mutables}
        real, fake, mutables = transform_inputs(game, before, transform_key, x, generated)

        def D(x: Array) -> Array:
            return apply(game.discriminator, name, before, x, y)[0]

        before = {"params": params, **mutables}
        on_real, mutables = apply(game.discriminator, name, before, real, y)
        before = {"params": params, **mutables}
        on_fake, mutables = apply(game.discriminator, name, before, fake, y)
        value = game.losses.discriminator(on_real, on_fake)
        signal = diagnostics.gradient_signal(game.losses.discriminator, on_real, on_fake)
        metrics: Metrics = {
            "real_logit": on_real.mean(),
            "fake_logit": on_fake.mean(),
            f"{name}_gradient_signal": signal,
            "spread": diagnostics.spread(x, generated),
        }
        for i, penalty in enumerate(game.penalties):
            part_key = jax.random.fold_in(penalty_key, i)
            metrics[penalty.name] = penalty.of(D, real, fake, part_key)
            value += metrics[penalty.name]
        return value, (metrics, mutables)

    return loss


def generator_loss(game: Game, n_critic: int = 1, keys: Keys = jax.random.split) -> Loss:
    """Return the loss of the generator's step, loss_G.

    Args:
        game: that is played.
        n_critic: the generator's step uses as many examples as one of n_critic steps of the
            discriminator.
        keys: derives the keys of z and of the transforms from the step's.
    """

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        num = check_batch(batch, game.shape).shape[0] // n_critic
        y = labels_of(game, batch)
        y = None if y is None else y[::n_critic]  # on each replica those of one device
        z_key, transform_key = keys(key)
        z = rng.normal(z_key, (num, game.latent_dim))
        fake, mutables = generate(game, {"params": params, **mutables}, z, y)
        for i, transform in enumerate(game.transforms):
            state = mutables.get(STATES, {}).get(transform.name, {})
            fake = transform.in_generator_step(state, jax.random.fold_in(transform_key, i), fake)
        variables = {"params": params, **mutables}
        logits, _ = apply(game.discriminator, game.discriminator_name, variables, fake, y)
        return game.losses.generator(logits), ({}, mutables)

    return loss


def player_losses(game: Game, n_critic: int = 1) -> dict[str, Loss]:
    """Return what each player minimises, by its name among the parameters."""
    return {
        game.discriminator_name: discriminator_loss(game),
        GENERATOR: generator_loss(game, n_critic),
    }


# --- the train step ------------------------------------------------------------------------------


def init_variables(game: Game) -> Callable[[Key, Batch], PyTree]:
    """Return (key, batch) -> the variables of both networks and the transforms' states."""

    def init(key: Key, batch: Batch) -> PyTree:
        x, y = check_batch(batch, game.shape)[:1], labels_of(game, batch)
        y = None if y is None else y[:1]
        generator_key, discriminator_key = jax.random.split(key)
        z = jnp.zeros((1, game.latent_dim))
        players = {
            GENERATOR: game.generator.init(generator_key, z, y, train=False),
            game.discriminator_name: game.discriminator.init(discriminator_key, x, y, train=False),
        }
        variables: dict[str, PyTree] = {}
        for name, collections in players.items():
            for collection, tree in collections.items():
                variables.setdefault(collection, {})[name] = tree
        states = {transform.name: transform.init(x) for transform in game.transforms}
        states = {name: state for name, state in states.items() if state}
        return variables | ({STATES: states} if states else {})

    return init


def play(
    game: Game,
    discriminator_tx: optax.GradientTransformation,
    generator_tx: optax.GradientTransformation,
    n_critic: int = 1,
    ema_decay: float = 0.0,
    losses: Mapping[str, Loss] | None = None,
) -> Method:
    """Return the method: n_critic steps of the discriminator, then one of the generator.

    Each of the discriminator's steps uses a fresh part of the batch.

    Args:
        game: that is played.
        discriminator_tx: the discriminator's optimiser. With another learning rate than the
            generator's, the two have their own time scales (Heusel et al. 2017, 1706.08500).
        generator_tx: the generator's.
        n_critic: steps of the discriminator for each of the generator.
        ema_decay: of the average of the parameters that samples come from; 0: none.
        losses: to use instead of `player_losses(game, n_critic)`.

    Returns:
        The method. Metrics: `discriminator_loss`, penalties included, and each penalty by its name;
        `real_logit`, `fake_logit`; `generator_loss`; `discriminator_gradient_signal` and `spread`,
        from which it warns of a failing game (`gengen.gan.diagnostics`). Another
        `game.discriminator_name` replaces "discriminator".
    """
    losses, name = losses or player_losses(game, n_critic), game.discriminator_name
    discriminator = player(name, losses[name], discriminator_tx)
    step = sequence(
        repeat(discriminator, n_critic) if n_critic > 1 else discriminator,
        player(GENERATOR, losses[GENERATOR], generator_tx),
    )
    step = with_ema(step, ema_decay) if ema_decay else step
    warn = partial(diagnostics.warn, discriminator=name)
    return build(init_variables(game), step, warn)
