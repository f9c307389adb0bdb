r"""The adversarial game: two networks, what each descends, and what is added, each for itself.

Goodfellow et al. 2014 (1406.2661). A generator g: z ↦ x, a discriminator whose logit is D(x), and

    the discriminator descends   loss_D(D(x), D(g(z))) + Σ penalties
    the generator descends       loss_G(D(g(z)))

Every variant of the family changes one thing: the `Losses` (functions of logits), a `Penalty` on
the discriminator (a function of it, of real and of generated examples), a `Remedy` (what is done to
examples before the discriminator sees them), a network, or the optimisers and the order of moves.
None of them knows the others, so any goes with any:

    game = dataclasses.replace(lsgan.game(cfg), penalties=(r1(10.0),), remedies=(noise,))
    method = play(game, discriminator_tx, generator_tx)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen import rng
from gengen.gan import failing
from gengen.steps import Loss, Step, player, repeat, sequence, with_ema
from gengen.steps import method as close
from gengen.types import (
    Array,
    Batch,
    InputError,
    Key,
    Method,
    Metrics,
    PyTree,
    Shape,
    TrainState,
    check_shape,
)

Discriminator = Callable[[Array], Array]  # x [B, ...] -> logits [B]


class Losses(NamedTuple):
    """What the players descend, of logits [B]; the mean over the batch, [].

    Attributes:
        discriminator: (D(x), D(g(z))) -> its loss.
        generator: D(g(z)) -> its loss.
    """

    discriminator: Callable[[Array, Array], Array]
    generator: Callable[[Array], Array]


class Penalty(NamedTuple):
    """A term that the discriminator descends too.

    Attributes:
        name: of the metric.
        of: (D, real [B, ...], fake [B, ...], key) -> [], the mean over the batch.
    """

    name: str
    of: Callable[[Discriminator, Array, Array, Key], Array]


def no_state(x: Array) -> PyTree:
    """The state of a remedy that has none."""
    return {}


def as_it_is(state: PyTree, key: Key, fake: Array) -> Array:
    """What is generated, unchanged."""
    return fake


class Remedy(NamedTuple):
    """What is done to examples before the discriminator sees them.

    Attributes:
        name: of its state among the mutables: mutables["remedies"][name].
        shown: (params of all players, state, key, real, fake) -> (real, fake, state): what the
            discriminator learns from in its own move.
        judged: (state, key, fake) -> fake: what it judges in the generator's move.
        init: x [1, ...] -> the first state.
        keeps_labels: False: what is shown may be of another class than what was generated.
    """

    name: str
    shown: Callable[[PyTree, PyTree, Key, Array, Array], tuple[Array, Array, PyTree]]
    judged: Callable[[PyTree, Key, Array], Array] = as_it_is
    init: Callable[[Array], PyTree] = no_state
    keeps_labels: bool = True


@dataclass(frozen=True)
class Game:
    """Who plays, and for what.

    Attributes:
        generator: (z [B, latent], y, train=) -> x [B, *shape].
        discriminator: (x [B, *shape], y, train=) -> logits [B].
        shape: of an example.
        latent: dimensions of z ~ N(0, I).
        losses: of the players.
        penalties: on the discriminator.
        remedies: in the order in which they are applied.
        classes: the label y [B] is told to both; 0: y is None.
    """

    generator: nn.Module
    discriminator: nn.Module
    shape: Shape
    latent: int
    losses: Losses
    penalties: tuple[Penalty, ...] = ()
    remedies: tuple[Remedy, ...] = ()
    classes: int = 0

    def __post_init__(self):
        """Refuse what does not go together."""
        names = [part.name for part in (*self.penalties, *self.remedies)]
        if len({*names}) < len(names):
            raise InputError(f"penalties and remedies {names}: each is used once")
        mixing = [r.name for r in self.remedies if not r.keeps_labels]
        if self.classes and mixing:
            raise InputError(f"classes = {self.classes}, but {mixing[0]} loses the labels: leave "
                             "one of them out")  # fmt: skip


# --- the networks at work ------------------------------------------------------------------------


def of_player(name: str, variables: PyTree) -> PyTree:
    """One player's own variables: his part of every collection."""
    return {k: tree[name] for k, tree in variables.items() if name in tree}


def apply(net: nn.Module, name: str, variables: PyTree, *inputs: Array | None):
    """A player's network in training: its output, and all mutables with what it changed."""
    params, mutables = variables["params"], {k: v for k, v in variables.items() if k != "params"}
    mine = of_player(name, {"params": params, **mutables})
    collections = [k for k in mine if k != "params"]
    out, changed = net.apply(mine, *inputs, train=True, mutable=collections)
    return jnp.asarray(out), mutables | {k: {**mutables[k], name: v} for k, v in changed.items()}


def generate(game: Game, variables: PyTree, z: Array, y: Array | None = None):
    """g(z | y) in training: x [B, *shape] and the mutables."""
    return apply(game.generator, "generator", variables, z, y)


def criticise(game: Game, variables: PyTree, x: Array, y: Array | None = None) -> Array:
    """The logit of D(x | y), once trained: [B]."""
    mine = of_player("discriminator", variables)
    return jnp.asarray(game.discriminator.apply(mine, x, y, train=False))


def sample(game: Game, variables: PyTree, key: Key, num: int, y: ArrayLike | None = None) -> Array:
    """Draw `num` samples g(z): float32 [num, *shape], images in [-1, 1].

    Args:
        game: that was played.
        variables: of its players.
        key: of z.
        num: of samples.
        y: classes [num]; None: each in turn, where there are classes.

    Raises:
        InputError: for num < 1, or labels that are no classes.
    """
    if num < 1:
        raise InputError(f"num = {num}, but at least 1 sample is drawn")
    if game.classes:
        y = jnp.arange(num) % game.classes if y is None else jnp.asarray(y)
        if y.shape != (num,) or jnp.any((y < 0) | (y >= game.classes)):
            raise InputError(f"y = {y}: it is {num} labels in 0..{game.classes - 1}")
    elif y is not None:
        raise InputError("y is given, but this generator knows no classes: leave it out")
    return _sample(game.generator, game.latent, variables, key, num, y)


def _sample(net: nn.Module, latent: int, variables: PyTree, key: Key, num: int, y: Array | None):
    mine = of_player("generator", variables)
    return _draw(net, latent, mine, key, num, y)


@jax.jit(static_argnums=(0, 1, 4))
def _draw(net: nn.Module, latent: int, mine: PyTree, key: Key, num: int, y: Array | None) -> Array:
    return jnp.asarray(net.apply(mine, rng.normal(key, (num, latent)), y, train=False))


# --- the moves -----------------------------------------------------------------------------------


def labels(game: Game, batch: Batch) -> Array | None:
    """Y [B], or None where the game has no classes.

    Raises:
        InputError: where there is none in the batch and there should be.
    """
    if not game.classes:
        return None
    if "label" not in batch:
        raise InputError(
            f'classes = {game.classes}, but a batch has {sorted(batch)} and no "label": '
            "take labelled data"
        )
    return jnp.asarray(batch["label"])


def show(game: Game, variables: PyTree, key: Key, real: Array, fake: Array):
    """What the discriminator learns from: (real, fake, mutables), once the remedies are applied."""
    params, mutables = variables["params"], {k: v for k, v in variables.items() if k != "params"}
    states = dict(mutables.get("remedies", {}))
    for i, remedy in enumerate(game.remedies):
        state = states.get(remedy.name, {})
        real, fake, state = remedy.shown(params, state, jax.random.fold_in(key, i), real, fake)
        if remedy.name in states:
            states[remedy.name] = state
    return real, fake, mutables | ({"remedies": states} if states else {})


def discriminator_loss(game: Game) -> Loss:
    """loss_D + Σ penalties. Metrics: each penalty, mean logits, and what `failing` looks at."""

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x, y = check_shape(batch, game.shape), labels(game, batch)
        z_key, show_key, key = jax.random.split(key, 3)
        z = rng.normal(z_key, (x.shape[0], game.latent))
        generated, _ = generate(game, {"params": params, **mutables}, z, y)
        real, fake, mutables = show(game, {"params": params, **mutables}, show_key, x, generated)

        def D(x: Array) -> Array:
            return apply(game.discriminator, "discriminator", before, x, y)[0]

        before = {"params": params, **mutables}
        on_real, mutables = apply(game.discriminator, "discriminator", before, real, y)
        before = {"params": params, **mutables}
        on_fake, mutables = apply(game.discriminator, "discriminator", before, fake, y)
        value = game.losses.discriminator(on_real, on_fake)
        metrics: Metrics = {
            "real_logit": on_real.mean(),
            "fake_logit": on_fake.mean(),
            "discriminator_pull": failing.pull(game.losses.discriminator, on_real, on_fake),
            "spread": failing.spread(x, generated),
        }
        for i, penalty in enumerate(game.penalties):
            metrics[penalty.name] = penalty.of(D, real, fake, jax.random.fold_in(key, i))
            value += metrics[penalty.name]
        return value, (metrics, mutables)

    return loss


def generator_loss(game: Game, n_critic: int = 1) -> Loss:
    """loss_G, of as many examples as one of the discriminator's n_critic moves has."""

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        num = check_shape(batch, game.shape).shape[0] // n_critic
        y = labels(game, batch)
        y = None if y is None else y[::n_critic]  # on each replica those of one device
        z_key, key = jax.random.split(key)
        z = rng.normal(z_key, (num, game.latent))
        fake, mutables = generate(game, {"params": params, **mutables}, z, y)
        for i, remedy in enumerate(game.remedies):
            state = mutables.get("remedies", {}).get(remedy.name, {})
            fake = remedy.judged(state, jax.random.fold_in(key, i), fake)
        variables = {"params": params, **mutables}
        logits, _ = apply(game.discriminator, "discriminator", variables, fake, y)
        return game.losses.generator(logits), ({}, mutables)

    return loss


def moves(game: Game, n_critic: int = 1) -> dict[str, Loss]:
    """What each player descends, by his name."""
    return {
        "discriminator": discriminator_loss(game),
        "generator": generator_loss(game, n_critic),
    }


def simultaneous(players: Mapping[str, Step]) -> Step:
    """Both move from the same state, where `sequence` lets the second see the first one's move.

    Args:
        players: each one's step, `gengen.steps.player`, by his name among the parameters.
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


# --- the whole -----------------------------------------------------------------------------------


def init_variables(game: Game) -> Callable[[Key, Batch], PyTree]:
    """(key, batch) -> the variables of both networks, and the remedies' states."""

    def init(key: Key, batch: Batch) -> PyTree:
        x, y = check_shape(batch, game.shape)[:1], labels(game, batch)
        y = None if y is None else y[:1]
        generator_key, discriminator_key = jax.random.split(key)
        z = jnp.zeros((1, game.latent))
        players = {
            "generator": game.generator.init(generator_key, z, y, train=False),
            "discriminator": game.discriminator.init(discriminator_key, x, y, train=False),
        }
        variables: dict[str, PyTree] = {}
        for name, collections in players.items():
            for collection, tree in collections.items():
                variables.setdefault(collection, {})[name] = tree
        states = {remedy.name: remedy.init(x) for remedy in game.remedies}
        states = {name: state for name, state in states.items() if state}
        return variables | ({"remedies": states} if states else {})

    return init


def play(
    game: Game,
    discriminator_tx: optax.GradientTransformation,
    generator_tx: optax.GradientTransformation,
    n_critic: int = 1,
    ema_decay: float = 0.0,
    losses: Mapping[str, Loss] | None = None,
) -> Method:
    """n_critic moves of the discriminator, each on a fresh part of the batch, then the generator's.

    Args:
        game: what is played.
        discriminator_tx: the discriminator's optimiser; at another rate than the generator's the
            two have time-scales of their own (Heusel et al. 2017, 1706.08500).
        generator_tx: the generator's.
        n_critic: moves of the discriminator for each of the generator.
        ema_decay: of the average of the parameters that samples are drawn with; 0: none.
        losses: in the place of `moves(game, n_critic)`.

    Returns:
        The method. Metrics: `discriminator_loss`, penalties included, and each penalty by its name;
        `real_logit`, `fake_logit`; `generator_loss`; `discriminator_pull` and `spread`, by which
        it warns of a game that fails (`gengen.gan.failing`).
    """
    losses = losses or moves(game, n_critic)
    critic = player("discriminator", losses["discriminator"], discriminator_tx)
    step = sequence(
        repeat(critic, n_critic) if n_critic > 1 else critic,
        player("generator", losses["generator"], generator_tx),
    )
    step = with_ema(step, ema_decay) if ema_decay else step
    return close(init_variables(game), step, failing.warn)
