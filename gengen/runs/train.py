"""Training a model in one call: `gengen.train`, and what `gengen train` runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import optax

from gengen import loop
from gengen.compile import use_compilation_cache
from gengen.data import AnyData, DataOptions
from gengen.data.sources import load_data
from gengen.errors import InputError
from gengen.runs import conditions, config, discover, pictures, validating, warm_start
from gengen.runs.resolve import DATA, Asked, resolve
from gengen.runs.trained import Run
from gengen.stages import Stage
from gengen.training import distributed, run_dir
from gengen.training.augmentation import Augment
from gengen.training.closed_form import fit_run
from gengen.training.tracking import OnMetrics, Tracker
from gengen.training.trial import trial
from gengen.training.validation import NO_VALIDATION
from gengen.types import Batch, Method, PyTree


def train(
    model: Any,
    data: Any = None,
    *,
    config: Any = None,
    config_file: str | Path | None = None,
    preset: str | None = None,
    method: Method | Sequence[Stage] | None = None,
    tx: optax.GradientTransformation | None = None,
    net: Any = None,
    steps: int | None = None,
    epochs: float | None = None,
    out: str | Path | None = None,
    seed: int | None = None,
    resume: bool = False,
    init: str | Path | None = None,
    data_options: DataOptions = DataOptions(),  # noqa: B008  frozen
    hold_out: float | None = None,
    patience: int | None = None,
    validate_every: int | None = None,
    validate_num: int | None = None,
    log_every: int | None = None,
    save_every: int | None = None,
    preview_every: int | None = None,
    flip: bool | None = None,
    augment: Augment | None = None,
    engine: loop.Engine | Mapping[str, Any] | None = None,
    tracker: str | Tracker | Sequence[str | Tracker] | None = None,
    on_metrics: OnMetrics | None = None,
    dry_run: bool = False,
) -> Run:
    """Train a model, and return it as `gengen.load` does.

    Args:
        model: a name of `gengen list`, a module, a file ("./my_model.py"), a dotted name, or a
            Config, which stands for its module.
        data: a name ("mnist5k", "photos/", ...: see `load_data`), a `Dataset`, an array, or a pair
            of arrays (x, y) with labels y; None: as before a resume, or "mnist5k".
        config: a Config, or fields to set as a dict; None: the default for these data.
        config_file: a .json or .yaml of fields of the Config, which `config` goes before; or the
            config.json of a run, whose data, steps, seed and so on are then the defaults.
        preset: what the Config starts from: "quick", "paper"; None: the default for the device.
        method: what is trained, instead of `module.method(cfg)` or `module.stages(cfg)`: such as a
            game with other losses.
        tx: an optimiser instead of the Config's.
        net: a network instead of the Config's, for models that take one.
        steps: train steps in all; None: as before a resume, or 1,000.
        epochs: instead of steps: passes over the data, a last part of a batch counted as one step.
        out: run directory, new; None: runs/MODEL-DATA.
        seed: of data order, initial parameters and noise; None: as before, or 0.
        resume: continue the run in `out`.
        init: a run directory or an exported file whose weights (EMA, if there is one) are the first
            ones, and whose Config is the default. The optimiser starts anew. Not needed on resume.
        data_options: how images are read.
        hold_out: share of the data that is held out for validation by -log_prob.
        patience: validations without a lower loss after which training ends.
        validate_every: steps between validations; None: steps / 20, or 50 if that is more.
        validate_num: held-out examples of each validation, always the same ones; None: at most
            1,000, and fewer for models whose log_prob takes many network evaluations.
        log_every: steps between lines of metrics.jsonl.
        save_every: steps between checkpoints.
        preview_every: steps between pictures.
        flip: mirror training images left to right at random; None: as before a resume, or False.
        augment: a pure function (key, batch) -> batch that changes what a train step sees, inside
            the compiled step: see `gengen.training.augmentation.augmented`. On resume pass it
            again.
        engine: a `loop.Engine`, or some of its fields, those that are None being as before.
        tracker: "tensorboard", "wandb", "mlflow", a `gengen.training.tracking.Tracker`, or several.
        on_metrics: (step, mean metrics) -> None, called at each logged step. What it raises ends
            the run, once a checkpoint is saved, and is passed on.
        dry_run: compile and time a few steps, and write nothing.

    Returns:
        The trained model: the last state, or with `hold_out` the best. Of a dry run the untrained
        model, with `settings["estimates"]`: see `gengen.training.trial.Estimate`.

    Raises:
        InputError: for settings that cannot work; nothing is written then.
        loop.Interrupted: after SIGINT or SIGTERM, once a checkpoint is saved.
        loop.Diverged: when a logged metric is not finite.

    Example:
        >>> run = gengen.train("gmm", data="mouse", config={"num_components": 4}, out="runs/mouse")
        >>> run.sample(3).shape
        (3, 2)
    """
    module = discover.module(model)
    if isinstance(model, module.Config):
        config = model if config is None else config
    out = Path(out) if out is not None else default_out(module, data)
    if dry_run and resume:
        raise InputError("a dry run is of a new run: leave --resume out")
    old = _before(module, out) if resume else {}
    start = warm_start.read(init, module, net) if init is not None and not resume else None
    asked = Asked(
        data, data_options, config, config_file, preset, steps, epochs, hold_out, seed, start
    )
    cfg, spec, options, total, seed, past = resolve(module, asked, old)
    how = validating.settings(
        cfg, past.get("validation", {}), hold_out, total, validate_every, patience, validate_num,
        resume,
    )  # fmt: skip
    about = _settings(module, cfg, options, how, net, old)
    about |= {"init": str(init)} if start else {}
    opened, validation = spec, NO_VALIDATION
    if how:
        opened, validation = validating.split_off(spec, module, cfg, net, **how)
    preview = _preview(module, cfg, spec, options, method, net)
    if not dry_run:
        use_compilation_cache()
    if hasattr(module, "fit") and method is None:
        _check_fit(
            module, resume=resume, dry_run=dry_run, hold_out=bool(how), flip=bool(flip or augment),
            tracker=bool(tracker or on_metrics),
        )  # fmt: skip
        fitted = fit_run(module, cfg, opened, out=out, settings=about, seed=seed, preview=preview)
        return Run(module, cfg, fitted, run_dir.read(out), out, net)
    words: dict[str, Any] = {
        "steps": total,
        "batch_size": cfg.batch_size,
        "seed": seed,
        "start": warm_start.begin_with(start) if start else None,
        "engine": _engine(engine, past.get("engine", {}), flip=flip, augment=augment),
    }
    trained = _method(module, cfg, tx, net) if method is None else method
    if dry_run:
        estimates, variables = trial(trained, opened, **words)
        about = run_dir.settings(about, opened, seed=seed, steps=total)
        return Run(module, cfg, variables, about | {"estimates": estimates}, None, net)
    state = loop.run(
        trained,
        opened,
        out=out,
        settings=about,
        resume=resume,
        preview=preview,
        log_every=log_every,
        save_every=save_every,
        preview_every=preview_every,
        validation=validation,
        tracker=tracker,
        on_metrics=on_metrics,
        **words,
    )
    return Run(module, cfg, _variables(state), run_dir.read(out), out, net)


def _preview(
    module: ModuleType, cfg: Any, data: AnyData, options: DataOptions, method: Any, net: Any
) -> loop.Preview | None:
    """Return what draws pictures of samples; None for a method whose samples are not known."""
    if method is not None and not (isinstance(method, Method) and hasattr(module, "method")):
        return None
    examples = cache(lambda: _examples(data, options))  # read once, if a picture shows any
    return pictures.preview(module, cfg, examples, net)


def _check_fit(module: ModuleType, **asked: bool) -> None:
    """Check that a model that is fitted at once is not asked for what takes steps."""
    name = discover.name_of(module)
    why = {
        "resume": "nothing to resume",
        "dry_run": "there are no train steps to time",
        "flip": "--flip and augment= are of train steps",
        "tracker": "there are no lines of metrics for --tracker or on_metrics=",
        "hold_out": "score held-out data with gengen evaluate instead of --hold-out",
    }
    for each, reason in why.items():
        if asked[each]:
            raise InputError(f"{name} is fitted at once: {reason}")


def default_out(module: ModuleType, data: Any) -> Path:
    """Return the run directory of a run for which none is given: runs/MODEL-DATA."""
    name = Path(discover.name_of(module)).stem.rpartition(".")[2]
    spec = getattr(data, "name", "array") if not isinstance(data, str | None) else data or DATA
    return Path("runs") / f"{name}-{Path(spec).stem}"


def _before(module: ModuleType, out: Path) -> dict[str, Any]:
    """Return the settings of the run that is continued, brought to the present schema."""
    stored = run_dir.read(out).get("model")
    name = discover.name_of(module)
    if stored is not None and stored != name:
        raise InputError(f"the run is of {stored}, not of {name}")
    if distributed.is_main():
        config.migrate(out, module)
    distributed.wait_for_all("migrate")
    return run_dir.read(out)


def _settings(
    module: ModuleType, cfg: Any, options: DataOptions, how: dict, net: Any, old: dict[str, Any]
) -> dict[str, Any]:
    about = config.describe(module, cfg, old.get("config"))
    about |= {"data_options": dataclasses.asdict(options), "picture": pictures.shown(module, cfg)}
    about |= {"validation": how} if how else {}
    if net is None:
        return about
    return about | {"net": getattr(net, "__name__", type(net).__name__)}


def _method(module: ModuleType, cfg: Any, tx: Any, net: Any) -> Method | Sequence[Stage]:
    given = {name: value for name, value in (("tx", tx), ("net", net)) if value is not None}
    return (module.stages if hasattr(module, "stages") else module.method)(cfg, **given)


def _variables(state: Any) -> PyTree:
    if isinstance(state, dict):
        return {name: each.variables for name, each in state.items()}
    return state.variables


def _engine(given: Any, old: dict[str, Any], **more: Any) -> loop.Engine:
    """Return the engine: what is not given, there or as `more`, is as before a resume."""
    more = {name: value for name, value in more.items() if value is not None}
    if isinstance(given, loop.Engine):
        return dataclasses.replace(given, **more)
    asked = {name: value for name, value in (given or {}).items() if value is not None} | more
    if "augment" in old and "augment" not in asked:
        raise InputError(
            f"the run is trained with augment={old['augment']}: pass that function to gengen.train"
        )
    return loop.Engine(**{**old, **asked})


def _examples(data: AnyData, options: DataOptions) -> Batch:
    """Return examples for previews: held out where the data have such a part that fits."""
    num = max(pictures.ROWS, pictures.PAIRS)
    spec = conditions.held_out_of(data.name)
    if spec is not None and spec != data.name:
        try:
            other = load_data(spec, options=options)
            if tuple(other.shape) == tuple(data.shape):
                return conditions.some(other, num)
        except InputError:
            pass  # no such part: examples of the data themselves
    return conditions.some(data, num)
