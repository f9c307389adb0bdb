"""What every model module offers: names and order of parameters, and what they promise."""

import ast
import dataclasses
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gengen
from gengen import contract
from gengen.contract import Task
from gengen.runs import conditions, config, discover
from gengen.stages import Stage
from gengen.types import InputError, Method
from tests.vocabulary import VOCABULARY

MODELS = [model.name for model in discover.models()]
POSITIONAL = {
    "sample": ["cfg", "variables", "key", "num"],
    "log_prob": ["cfg", "variables", "x", "key"],
    "encode": ["cfg", "variables", "x"],
    "decode": ["cfg", "variables", "z"],
    "reconstruct": ["cfg", "variables", "x"],
    "impute": ["cfg", "variables", "x", "mask", "key"],
    "translate": ["cfg", "variables", "x", "key"],
    "with_direction": ["cfg", "direction"],
    "condition_of": ["cfg", "batch"],
    "fit": ["cfg", "x", "key"],
    "method": ["cfg", "tx", "net"],
    "stages": ["cfg", "tx"],
}
MAY_HAVE_A_KEY = ("encode", "reconstruct")  # as a fourth parameter, which is optional
UNCONDITIONED = ("condition_of", "fit", "method", "stages", "with_direction")
OPTIONAL = {"log_prob": ("key",), "method": ("tx", "net"), "stages": ("tx", "net")}
TASKS = [
    Task((8, 8, 1), 10),
    Task((16, 16, 3)),
    Task((28, 28, 1), 10),
    Task((7, 5, 3), 3),
    Task((2,)),
    Task((64,), 4),
    Task((28, 28, 1), 10, accelerator=True),
    Task((16, 16, 1), target_shape=(16, 16, 3)),
    Task((28, 28, 1), 10, target_shape=(28, 28, 1)),
    Task((16, 16, 1), 10, other_shape=(16, 16, 1)),
    Task((32, 32, 3), other_shape=(32, 32, 1)),
]


@pytest.fixture(params=MODELS)
def module(request) -> ModuleType:
    return discover.module(request.param)


def functions(module: ModuleType):
    return [(name, getattr(module, name)) for name in POSITIONAL if hasattr(module, name)]


def test_parameters_have_the_same_names_in_the_same_order(module):
    for name, function in functions(module):
        parameters = list(inspect.signature(function).parameters.values())
        positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        if name in MAY_HAVE_A_KEY and positional[3:] == ["key"]:
            positional = positional[:3]
        wanted = POSITIONAL[name]
        if name in ("method", "stages") and "net" not in positional:
            wanted = [p for p in wanted if p != "net"]
        if name == "stages" and "net" in positional:
            wanted = [*wanted, "net"]
        assert positional == wanted, f"{module.__name__}.{name}{tuple(positional)}"
        for parameter in parameters:
            optional = parameter.default is not parameter.empty
            must = (
                parameter.name in OPTIONAL.get(name, ()) or parameter.kind is parameter.KEYWORD_ONLY
            )
            assert optional or not must, (
                f"{module.__name__}.{name}: {parameter.name} has no default"
            )


def test_what_uses_variables_takes_a_condition_first_and_then_a_network(module):
    trains = getattr(module, "stages", getattr(module, "method", None))
    takes_net = trains is not None and "net" in inspect.signature(trains).parameters
    for name, function in functions(module):
        if name in UNCONDITIONED:
            continue
        parameters = inspect.signature(function).parameters.values()
        keyword = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        assert keyword[:1] == ["condition"], f"{module.__name__}.{name}"
        if takes_net:
            assert keyword[1:2] == ["net"], f"{module.__name__}.{name} takes no net"


def test_every_model_says_what_it_is_conditioned_on(module):
    assert callable(module.condition_of)
    cfg = module.Config()
    kind = conditions.kind(module, cfg)
    assert kind in ("nothing", "label", "caption", "image")
    assert (kind == "caption") == hasattr(module, "condition_of_text")
    if getattr(cfg, "num_classes", 0) and hasattr(module, "sample"):
        assert conditions.kind(module, cfg) in ("label", "image")


def test_a_model_that_translates_says_what(module):
    if not hasattr(module, "translate"):
        return
    cfg = module.Config()
    assert conditions.kind(module, cfg) == "image"
    assert any(hasattr(cfg, name) for name in contract.SECOND_SHAPES)
    if hasattr(module, "with_direction"):
        assert [module.with_direction(cfg, d).direction for d in contract.DIRECTIONS] == [
            "ab",
            "ba",
        ]


def test_a_density_says_of_which_kind_it_is(module):
    assert hasattr(module, "log_prob") == hasattr(module, "LOG_PROB")
    if hasattr(module, "LOG_PROB"):
        assert module.LOG_PROB in contract.LOG_PROBS


# --- Configs -------------------------------------------------------------------------------------


def test_the_papers_config_is_of_the_models_own_class(module):
    assert isinstance(inspect.getattr_static(module.Config, "paper"), classmethod)
    assert "paper" in vars(module.Config), "inherited: it would be another paper's"
    assert type(module.Config.paper()) is module.Config


def test_fields_have_one_name_one_type_and_one_meaning(module):
    for field in dataclasses.fields(module.Config):
        assert field.name in VOCABULARY, f"{field.name}: not in tests/vocabulary.py"
        kind, _ = VOCABULARY[field.name]
        own = str(field.type).replace("Shape", "tuple[int, ...]")
        assert own == kind or own in kind.split(" | "), f"{field.name}: {own}, not {kind}"


def test_the_vocabulary_has_no_word_that_nobody_uses():
    used = {f.name for name in MODELS for f in dataclasses.fields(discover.module(name).Config)}
    assert {*VOCABULARY} == used


def batch_for(shape: tuple[int, ...], num: int, num_classes: int = 10) -> dict[str, Any]:
    name = "image" if len(shape) == 3 else "x"
    labels = np.arange(num, dtype=np.int32) % max(num_classes, 1)
    return {name: np.zeros((num, *shape), np.float32), "label": labels}


def trace(method: Method, batch: dict[str, Any]) -> None:
    key = jax.random.key(0)
    state = jax.eval_shape(method.init, key, batch)
    after, _ = jax.eval_shape(method.train_step, key, state, batch)
    like = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)  # noqa: E731
    assert like(after) == like(state)


@pytest.mark.slow  # networks of full size are traced
def test_the_papers_network_trains_abstractly(module):
    cfg = module.Config.paper()
    if hasattr(module, "fit"):
        return
    trains = getattr(module, "stages", getattr(module, "method", None))
    assert trains is not None
    made = trains(cfg)
    first = made if isinstance(made, Method) else made[0].method
    batch = batch_for(cfg.shape, cfg.batch_size, getattr(cfg, "num_classes", 10))
    for field, name in (("target_shape", "target"), ("other_shape", "other")):
        if hasattr(cfg, field):
            batch[name] = np.zeros((cfg.batch_size, *getattr(cfg, field)), np.float32)
    trace(first, batch)


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_the_default_fits_the_data_or_says_why_not(module, task):
    try:
        cfg = config.initial(module, task)
    except InputError as error:
        assert discover.name_of(module) in str(error)
        return
    assert type(cfg) is module.Config
    if hasattr(cfg, "shape"):
        assert tuple(cfg.shape) == task.shape
    for name in contract.SECOND_SHAPES:
        assert getattr(cfg, name, None) in (None, getattr(task, name))
    if conditions.kind(module, cfg) == "label":
        assert cfg.num_classes == task.num_classes
    if hasattr(module, "method"):
        assert isinstance(module.method(cfg), Method)
    if hasattr(module, "stages"):
        assert all(isinstance(stage, Stage) for stage in module.stages(cfg))


def test_every_model_takes_some_images_or_vectors(module):
    taken = []
    for task in TASKS:
        try:
            config.initial(module, task)
            taken.append(task)
        except InputError:
            pass
    assert len(taken) >= 2 or discover.name_of(module) == "ar"


def test_earlier_names_of_fields_are_accepted(module):
    renamed: dict[str, str | None] = {}
    for base in reversed(module.Config.__mro__):
        renamed |= vars(base).get("RENAMED", {})
    fields = {field.name for field in dataclasses.fields(module.Config)}
    default = module.Config()
    for old, new in renamed.items():
        if old in fields:
            continue
        assert new is None or new in fields, (old, new)
        value = None if new is None else getattr(default, new)
        assert module.Config(**{old: value}) == default
        assert dataclasses.replace(default, **{old: value}) == default
        assert config.from_json(module.Config, {old: value}) == default


def test_a_field_given_under_its_earlier_name_counts():
    @dataclasses.dataclass(frozen=True)
    class Config(contract.BaseConfig):
        RENAMED = {"latent": "latent_dim", "seed": None}
        latent_dim: int = 3

    assert Config(**{"latent": 5, "seed": 1}) == Config(latent_dim=5)
    assert dataclasses.replace(Config(), latent=7).latent_dim == 7
    assert config.configure(Config(), ("latent=9",)).latent_dim == 9
    with pytest.raises(InputError, match="no longer exists"):
        config.configure(Config(), ("seed=9",))


def test_an_earlier_name_may_be_the_present_name_of_another_field():
    @dataclasses.dataclass(frozen=True)
    class Config(contract.BaseConfig):
        RENAMED = {"hidden": "head", "widths": "hidden"}
        head: int = 1
        hidden: tuple[int, ...] = (2,)

    earlier = {"hidden": 8, "widths": [4]}
    assert config.from_json(Config, earlier) == Config(head=8, hidden=(4,))
    assert config.from_json(Config, {"head": 8, "hidden": [4]}) == Config(head=8, hidden=(4,))
    assert dataclasses.replace(Config(head=8), **{"widths": (5,)}) == Config(head=8, hidden=(5,))


# --- conditions ----------------------------------------------------------------------------------


def test_labels_outside_the_classes_are_refused():
    labels = contract.check_labels(np.array([0, 2]), 2, 3)
    assert labels.dtype == jnp.int32
    for wrong, message in (
        (np.array([0, 3]), r"0\.\.3.*num_classes = 3"),
        (np.array([-1, 0]), r"-1\.\.0"),
        (np.array([0.0, 1.0]), "integers"),
        (np.array([0]), "integers"),
    ):
        with pytest.raises(InputError, match=message):
            contract.check_labels(wrong, 2, 3)


def test_a_condition_of_an_unconditional_model_is_refused(module):
    if not hasattr(module, "sample") or conditions.kind(module, module.Config()) != "nothing":
        return
    with pytest.raises(InputError, match="condition"):
        module.sample(module.Config(), {"params": {}}, jax.random.key(0), 2, condition=np.zeros(2))


# --- the package ---------------------------------------------------------------------------------

PACKAGE = Path(gengen.__file__).parent
CORE = {p.stem for p in PACKAGE.glob("*.py")}


def imports(path: Path) -> set[str]:
    """The parts of gengen, folders or modules of the top level, that a file imports to run."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gengen"):
            parts = (node.module or "").split(".")
            names = [alias.name for alias in node.names] if len(parts) == 1 else [parts[1]]
            found |= set(names)
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("gengen.")}
    return found - {"__version__"}


def graph() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).parts
        part = parts[0].removesuffix(".py")
        if part not in ("__init__", "__main__"):
            found.setdefault(part, set()).update(imports(path) - {part})
    return found


def test_no_import_cycles_between_folders():
    left = graph()
    while left:
        free = [part for part, needs in left.items() if not needs & left.keys()]
        assert free, f"a cycle among { ({k: sorted(v & left.keys()) for k, v in left.items()}) }"
        for part in free:
            del left[part]


def test_the_engine_imports_no_family():
    engine = CORE | {"training", "runs", "xla", "nn", "data", "metrics", "viz"}
    for part, needs in graph().items():
        if part in engine:
            assert not needs & set(discover.FAMILIES), part


def test_the_package_fits_in_one_glance():
    entries = [p for p in PACKAGE.iterdir() if p.name not in ("__pycache__", "py.typed")]
    assert len(entries) <= 30
    long = {
        str(path.relative_to(PACKAGE)): lines
        for path in PACKAGE.rglob("*.py")
        if (lines := path.read_text().count("\n")) > 400
    }
    assert not long
