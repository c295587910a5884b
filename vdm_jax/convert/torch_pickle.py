"""Safe parser of the pickle inside a PyTorch file, which never executes it.

A pickle is a program for a stack machine that imports names and calls them. This machine implements only the
instructions that `torch.save` writes. Names are treated as strings: nothing is imported and no attribute is set. The
three functions that a tensor needs are recognized by name and produce records.
"""

from __future__ import annotations

import pickletools
from typing import Any, NamedTuple

from vdm_jax.convert.untrusted import Refused, shown

# Longest accepted program: a parameter takes about 130 bytes, so this suffices for 15,000 of them.
MAX_PROGRAM = 2 * 2**20

# torch's storage type → numpy's dtype of its elements; bfloat16 is from ml_dtypes.
STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
_DICT = "collections.OrderedDict"
_TENSOR = "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_OPTIONS = "argparse.Namespace"  # command-line options in a training state; they become an empty dict
_NAMES = {_DICT, _TENSOR, _PARAMETER, _OPTIONS, *STORAGES}
# TorchScript's: classes of modules, whose code lies elsewhere and is not read; and lists and dicts with their types.
_MODULE = "__torch__."
_LISTS = {f"torch.jit._pickle.build_{kind}list" for kind in ("int", "double", "bool", "tensor")}
_TAG = "torch.jit._pickle.restore_type_tag"

STATE_DICT = "if the file is yours, save the model's .state_dict() alone"


class Storage(NamedTuple):
    """`size` elements of a type in the member data/`key` of the archive."""

    key: str
    dtype: str
    size: int


class Tensor(NamedTuple):
    """A view of a storage, in elements; its bounds have not been checked yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Name(NamedTuple):
    """A global that the pickle refers to, one of _NAMES."""

    dotted: str


def parse(program: bytes, script: bool = False) -> Any:
    """Parse a pickle that contains only dicts, lists, tuples, numbers, strings, None and Tensors.

    Args:
        program: The pickle.
        script: Whether it is of TorchScript; its modules become dicts of their attributes.

    Raises:
        Refused: The pickle contains anything else, or is damaged.
    """
    machine = _Machine(script)
    try:
        for opcode, argument, _ in pickletools.genops(program):
            machine.step(opcode.name, argument)
        (value,) = machine.stack
    except (ValueError, IndexError, KeyError) as error:
        # genops raises ValueError for invalid instructions; the others mean a missing stack or memo entry
        raise Refused(f"has a damaged description of its tensors ({type(error).__name__}); copy it again") from None
    if machine.below:
        raise Refused("has a damaged description of its tensors (an open mark); copy it again")
    return value


class _Machine:
    """The stack machine: the stack, the stacks below open marks, the memo, and modules without attributes yet."""

    def __init__(self, script: bool) -> None:
        self.script = script
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.empty: dict[int, dict[str, Any]] = {}  # by id

    def step(self, name: str, argument: Any) -> None:
        push = self.stack.append
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "NONE":
                push(None)
            case "NEWTRUE" | "NEWFALSE":
                push(name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                push(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                push(argument)
            case "EMPTY_TUPLE":
                push(())
            case "EMPTY_LIST":
                push([])
            case "EMPTY_DICT":
                push({})
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple(self.pop(int(name[-1]))))
            case "MARK":
                self.below.append(self.stack)
                self.stack = []
            case "TUPLE":
                items = self.since_mark()
                self.stack.append(tuple(items))
            case "APPEND":
                self.extend(self.pop(1))
            case "APPENDS":
                self.extend(self.since_mark())
            case "SETITEM":
                self.update(self.pop(2))
            case "SETITEMS":
                self.update(self.since_mark())
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                push(self.memo[argument])
            case "GLOBAL":
                module, word = argument.split(" ", 1)
                push(_name(module, word, self.script))
            case "STACK_GLOBAL":
                module, word = self.pop(2)
                push(_name(module, word, self.script))
            case "BINPERSID":
                push(_storage(*self.pop(1)))
            case "REDUCE":
                push(_call(*self.pop(2)))
            case "NEWOBJ":
                push(self.new(*self.pop(2)))
            case "BUILD":
                self.set_state()
            case _:
                raise Refused(f"holds more than tensors (the pickle instruction {name}); it was not run")

    def pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError
        self.stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        # a key made of tuples of tuples would take forever to hash
        if type(target) is not dict or len(items) % 2 or not all(type(key) in (str, int) for key in items[::2]):
            raise ValueError
        target.update(zip(items[::2], items[1::2], strict=True))

    def set_state(self) -> None:
        """Set the attributes of a module; drop those of a dict: `_metadata` of a state dict, or options."""
        target, state = self.pop(2)
        if type(target) is not dict:
            raise Refused("holds more than tensors (an object with attributes); it was not run")
        if self.empty.pop(id(target), None) is not None:
            if type(state) is not dict:
                raise ValueError
            target.update(state)
        self.stack.append(target)

    def new(self, kind: Any, arguments: Any) -> dict[str, Any]:
        module = type(kind) is _Name and kind.dotted.startswith(_MODULE)
        if type(kind) is not _Name or not (module or kind.dotted == _OPTIONS) or arguments != ():
            raise Refused("holds more than tensors (the pickle instruction NEWOBJ); it was not run")
        made: dict[str, Any] = {}
        if module:
            self.empty[id(made)] = made
        return made


def _name(module: Any, name: Any, script: bool) -> _Name:
    if type(module) is not str or type(name) is not str:
        raise ValueError
    dotted = f"{module}.{name}"
    of_script = script and (dotted.startswith(_MODULE) or dotted in _LISTS or dotted == _TAG)
    if dotted not in _NAMES and not of_script:
        raise Refused(f"refers to {shown(dotted)}, which is not part of a tensor; it was not run; {STATE_DICT}")
    return _Name(dotted)


def _storage(identity: Any) -> Storage:
    """Parse torch's persistent id: ('storage', type, key, device, number of elements)."""
    if type(identity) is not tuple or len(identity) != 5:
        raise ValueError
    word, kind, key, _, size = identity
    if word != "storage" or type(kind) is not _Name or type(key) is not str or type(size) is not int or size < 0:
        raise ValueError
    return Storage(key, STORAGES[kind.dotted], size)


def _call(function: Any, arguments: Any) -> Any:
    if type(function) is not _Name or type(arguments) is not tuple:
        raise Refused("calls something that is not a function of tensors; it was not run")
    if function.dotted == _DICT and not arguments:
        return {}
    if function.dotted == _TENSOR and len(arguments) in (6, 7):
        return _tensor(*arguments)
    if function.dotted == _PARAMETER and len(arguments) == 3 and type(arguments[0]) is Tensor:
        return arguments[0]
    if function.dotted in _LISTS and len(arguments) == 1 and type(arguments[0]) is list:
        return arguments[0]
    if function.dotted == _TAG and len(arguments) == 2 and type(arguments[0]) in (list, dict):
        return arguments[0]
    name = function.dotted if function.dotted in _NAMES else shown(function.dotted)
    raise Refused(f"calls {name} with arguments that PyTorch would not write")


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> Tensor:
    numbers = (offset, *shape, *strides) if type(shape) is tuple and type(strides) is tuple else (None,)
    if type(storage) is not Storage or not all(type(n) is int for n in numbers) or len(shape) != len(strides):
        raise Refused("has a tensor with an invalid layout in memory")
    if hooks or metadata:  # a lazy negation or conjugation, code to run on gradients
        raise Refused("has a tensor with metadata or hooks; save its .clone().detach()")
    return Tensor(storage, offset, shape, strides)
