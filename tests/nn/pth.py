"""Files as `torch.save` writes them, made without PyTorch."""

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from types import ModuleType

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def _function(name):
    def named(*args):
        raise AssertionError("it was called")

    named.__module__, named.__qualname__ = "torch._utils", name
    return named


REBUILD = _function("_rebuild_tensor_v2")
STORAGES = {
    "f4": type("FloatStorage", (), {"__module__": "torch"}),
    "i8": type("LongStorage", (), {"__module__": "torch"}),
}


class Reference:
    """What becomes a persistent id."""

    def __init__(self, *words):
        self.words = words


class Tensor:
    def __init__(self, reference, offset, size, stride):
        self.parts = reference, offset, size, stride

    def __reduce__(self):
        return REBUILD, (*self.parts, False, OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.words if isinstance(obj, Reference) else None


def dumps(tree):
    """Pickle a tree that names PyTorch's functions, though they are not there."""
    package, utils = ModuleType("torch"), ModuleType("torch._utils")
    vars(utils)["_rebuild_tensor_v2"] = REBUILD
    for storage in STORAGES.values():
        setattr(package, storage.__name__, storage)
    vars(package)["_utils"] = utils
    there = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update({"torch": package, "torch._utils": utils})
    try:
        file = io.BytesIO()
        Pickler(file, protocol=2).dump(tree)
        return file.getvalue()
    finally:
        for name, module in there.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def state_dict(arrays, view=False):
    """Tensors of arrays, with the metadata that PyTorch's state dicts have."""
    found = OrderedDict()
    for i, (name, array) in enumerate(arrays.items()):
        key = array.dtype.str[1:]
        words = ("storage", STORAGES[key], str(i), "cpu", array.size)
        stride = tuple(s // array.itemsize for s in array.strides)
        found[name] = Tensor(Reference(*words, *([None] if view else [])), 0, array.shape, stride)
    found._metadata = OrderedDict({"": {"version": 1}})  # pyright: ignore
    return found


def as_zip(arrays, program=None):
    """The bytes of a file of PyTorch 1.6 or later."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("w/data.pkl", program or dumps(state_dict(arrays)))
        archive.writestr("w/byteorder", "little")
        for i, array in enumerate(arrays.values()):
            archive.writestr(f"w/data/{i}", array.tobytes())
    return file.getvalue()


def as_stream(arrays):
    """The bytes of an earlier file."""
    keys = [str(i) for i in range(len(arrays))]
    machine = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"int": 4}}
    parts = [dumps(part) for part in (MAGIC, PROTOCOL, machine, state_dict(arrays, True), keys)]
    parts += [array.size.to_bytes(8, "little") + array.tobytes() for array in arrays.values()]
    return b"".join(parts)
