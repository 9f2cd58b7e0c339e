"""A pretended GPU: tensors that say they are on cuda:0 and compute on the CPU.

It raises when devices mix, as torch does. It counts, by place, kernels, waits of the host for the
device, and copies to the device that block. A place is 'file:function' in repro, torch.optim or
torch.nn.utils.

It raises, too, when a stream touches what another one has made, or still reads, without having
waited for it: a GPU might then compute with anything. Storages are what streams share.

It knows no memory and no rounding of its own; autocast to bf16 is the CPU's.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.optim
from torch import Tensor
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._foreach_utils import _group_tensors_by_device_and_dtype
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import repro

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
ROOTS = [Path(package.__path__[0]) for package in (repro, torch.optim, torch.nn.utils)]

# Operations that start no kernel.
VIEWS = {
    "view", "_unsafe_view", "expand", "permute", "transpose", "t", "select", "slice", "split",
    "split_with_sizes", "unbind", "unsqueeze", "squeeze", "detach", "alias", "as_strided", "unfold",
    "_reshape_alias", "diagonal", "lift_fresh", "empty", "empty_like", "new_empty",
    "empty_strided", "new_empty_strided", "resize_", "set_",
}  # fmt: skip
# Operations whose result, or its shape, the host needs before it goes on.
WAITS = {
    "_local_scalar_dense": "item", "nonzero": "nonzero", "masked_select": "masked_select",
    "unique_dim": "unique", "_unique2": "unique", "unique_consecutive": "unique",
    "bincount": "bincount", "equal": "equal", "is_nonzero": "bool",
}  # fmt: skip
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
COPIES = {"_to_copy", "copy_", "_foreach_copy_"}  # whose operands may lie on two devices


class MixedDevices(RuntimeError):
    """An operation has operands on the GPU and on the CPU."""


class Race(RuntimeError):
    """Two streams use the same memory, one of them to write, and neither has waited."""


Event = tuple[str, str]  # what, and its place
Clock = Counter[int]  # of each stream by number, the operations that are known to be done


@dataclass
class Log:
    """What the GPU did, by place."""

    kernels: Counter[str] = field(default_factory=Counter)
    waits: Counter[Event] = field(default_factory=Counter)
    blocking_copies: Counter[Event] = field(default_factory=Counter)

    streams: dict[str, set[int]] = field(default_factory=dict)  # by place; 0 is the default one

    def kernel(self) -> None:
        place = _place()
        self.kernels[place] += 1
        self.streams.setdefault(place, set()).add(_streams.current.number)

    def wait(self, what: str) -> None:
        self.waits[what, _place()] += 1

    def blocking_copy(self, what: str) -> None:
        self.blocking_copies[what, _place()] += 1

    def blocked(self) -> int:
        return self.waits.total() + self.blocking_copies.total()

    def take(self) -> set[Event]:
        """The waits and blocking copies since it was called last, but the test's own."""
        events = {event for event in (*self.waits, *self.blocking_copies) if event[1] != "test"}
        self.waits.clear()
        self.blocking_copies.clear()
        return events


class _Event:
    """A point of a stream. What is waited for in another thread, the loop does not wait for."""

    def __init__(self) -> None:
        self.clock: Clock = Counter()

    def record(self, stream: _Stream | None = None) -> None:
        self.clock = (stream or _streams.current).clock.copy()

    def synchronize(self) -> None:
        if threading.current_thread() is threading.main_thread():
            _log.wait("synchronize")


class _Stream:
    """Its `clock` counts what is known to be done before its next operation."""

    def __init__(self, device: Any = None) -> None:
        self.number = len(_streams.every)
        self.clock: Clock = Counter()
        _streams.every.append(self)

    def wait_event(self, event: _Event) -> None:
        self.clock |= event.clock

    def wait_stream(self, other: _Stream) -> None:
        self.clock |= other.clock


@dataclass
class _Use:
    """By which streams, and when, a storage was written last and read since."""

    written: Clock
    read: Clock = field(default_factory=Counter)


class _Streams:
    """All streams, what the host has waited for, and how every storage was used."""

    current: _Stream
    every: list[_Stream]
    host: Clock
    uses: dict[int, _Use]

    def begin(self) -> None:
        self.every, self.host, self.uses = [], Counter(), {}
        self.current = _Stream()

    @contextmanager
    def on(self, stream: _Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def operate(self, read: list[Tensor], written: list[Tensor]) -> None:
        """One operation of the current stream. Race if it depends on what may not be done."""
        number, clock = self.current.number, self.current.clock
        known = clock | self.host
        for tensors, kinds in ((read, ("written",)), (written, ("written", "read"))):
            for use in filter(None, (self.uses.get(_storage(each)) for each in tensors)):
                for kind in kinds:
                    if not getattr(use, kind) <= known:
                        raise Race(f"stream {number}, of what is {kind} by another, in {_place()}")
        clock[number] += 1
        now = Counter({number: clock[number]})
        for each in read:
            self.uses.setdefault(_storage(each), _Use(Counter())).read |= now
        for each in written:
            self.uses[_storage(each)] = _Use(now)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


_streams = _Streams()
_log = Log()
_values = CPU  # where the values are; torch's meta device: there are none


@cache
def _file(path: str) -> str:
    """The short name of a source file in `ROOTS`; '' of another one."""
    roots = [root for root in ROOTS if Path(path).is_relative_to(root)]
    return str(Path(path).relative_to(roots[0].parent)) if roots else ""


def _place() -> str:
    """The innermost function on the stack from a file in `ROOTS`."""
    frame: FrameType | None = sys._getframe(1)
    while frame:
        code = frame.f_code
        if (file := _file(code.co_filename)) and not code.co_name.startswith("<"):
            return f"{file}:{code.co_name}"
        frame = frame.f_back
    return "test"


class GPUTensor(torch.Tensor):
    """A tensor that says it is on cuda:0; `cpu_values` are its values."""

    cpu_values: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor) -> GPUTensor:
        made: GPUTensor = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), inner.stride(), inner.storage_offset(),
            dtype=inner.dtype, layout=inner.layout, device=CPU,
        )  # fmt: skip
        made.cpu_values = inner
        return made

    def __init__(self, inner: Tensor) -> None:
        pass

    def __repr__(self) -> str:  # type: ignore[override]
        return f"GPUTensor({tuple(self.shape)}, {self.dtype})"

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return GPU

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})

    def _fetch(self, what: str) -> Tensor:
        """The values on the CPU, for which the host waits."""
        _log.wait(what)
        _streams.operate([self.cpu_values], [])
        _streams.host |= _streams.current.clock
        return self.detach().cpu_values.clone()  # type: ignore[attr-defined, no-any-return]

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        if isinstance(args[0] if args else None, Tensor):
            args = args[0].device, args[0].dtype
        device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
        here = self._fetch("to cpu") if device is not None and device.type == "cpu" else self
        return here if dtype is None else here.type(dtype)

    def record_stream(self, stream: Any) -> None:
        """On a GPU, its memory is not used again before the stream has come to here."""

    def cpu(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._fetch("to cpu")

    def cuda(self, *args: Any, **kwargs: Any) -> Tensor:
        return self

    def tolist(self) -> Any:
        return self._fetch("tolist").tolist()

    def item(self) -> Any:
        return self._fetch("item").item()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __index__(self) -> int:
        return int(self.item())

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def new_tensor(self, data: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        _log.blocking_copy("new_tensor")
        return _from_host(torch.tensor(data, dtype=kwargs.get("dtype", self.dtype)))

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Saved like the CPU's, since no machine here could load the other kind."""
        return self._fetch("save").__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied = self.detach().clone().requires_grad_(self.requires_grad)
        memo[id(self)] = copied
        return copied


def _synchronize(*_: Any) -> None:
    _log.wait("synchronize")
    for stream in _streams.every:
        _streams.host |= stream.clock


def _from_host(values: Tensor) -> GPUTensor:
    """Copied while the host waited: every stream may use it."""
    _streams.uses.pop(_storage(values), None)
    return GPUTensor(values)


def _on_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """Carry out one operation of torch, and note what it would mean on a GPU."""
    name = func.overloadpacket.__name__
    flat, spec = pytree.tree_flatten((args, kwargs))
    operands = [each for each in flat if isinstance(each, Tensor)]
    moved_to_gpu = _on_gpu(kwargs.get("device"))
    here = any(isinstance(each, GPUTensor) for each in operands)
    blocked = _log.blocked()
    if here:
        _refuse_mixing(name, args, operands)
        _note_waits(name, args, kwargs)
    _note_copies(name, args, kwargs)
    if name == "copy_" and not isinstance(args[0], GPUTensor):
        here = False  # the result is on the CPU
    if name == "empty_like" and kwargs.get("device") == CPU:
        here = False  # nor is one made for it
    if (here or moved_to_gpu) and name not in VIEWS:
        _log.kernel()
    args, kwargs = pytree.tree_unflatten([_as_values(each, here) for each in flat], spec)
    with _disable_current_modes():
        out = func(*args, **kwargs)
    wrapped = {id(each.cpu_values): each for each in operands if isinstance(each, GPUTensor)}
    results = pytree.tree_leaves(out) if here or moved_to_gpu else []
    if (wrapped or results) and (name not in VIEWS or "empty" in name):
        _note_use(func, args, kwargs, wrapped, results)
        if _log.blocked() > blocked:
            _streams.host |= _streams.current.clock
    if not here and not moved_to_gpu:
        return out

    def wrap(each: Tensor) -> Tensor:
        """What was computed in place is the operand itself."""
        return wrapped[id(each)] if id(each) in wrapped else GPUTensor(each)

    return pytree.tree_map_only(Tensor, wrap, out)


def _note_use(func: Any, args: Any, kwargs: Any, of_gpu: Any, results: list[Any]) -> None:
    """Tell the current stream which of the GPU's storages the operation reads and writes."""
    read: list[Tensor] = []
    written: list[Tensor] = []
    for number, argument in enumerate(func._schema.arguments):
        value = args[number] if number < len(args) else kwargs.get(argument.name)
        writes = argument.alias_info is not None and argument.alias_info.is_write
        tensors = [each for each in pytree.tree_leaves(value) if id(each) in of_gpu]
        (written if writes else read).extend(tensors)
    there = {_storage(each) for each in (*read, *written)}
    made = [each for each in results if isinstance(each, Tensor) and _storage(each) not in there]
    for each in made:  # in memory that was perhaps another tensor's
        _streams.uses.pop(_storage(each), None)
    _streams.operate(read, [*written, *made])


def _as_values(value: Any, here: bool) -> Any:
    """`here`: of an operation on the GPU, whose tensors torch's C++ takes for the CPU's."""
    if isinstance(value, GPUTensor):
        return value.cpu_values
    return _values if isinstance(value, torch.device) and (here or _on_gpu(value)) else value


def _refuse_mixing(name: str, args: Any, operands: list[Tensor]) -> None:
    """torch lets a number on the CPU pass, a copy, and the indices of an indexing."""
    if name in COPIES:
        return
    if name in INDEXING:
        operands = [args[0], *(each for each in args[2:3] if isinstance(each, Tensor))]
    strangers = [each for each in operands if not isinstance(each, GPUTensor) and each.ndim]
    if strangers:
        shapes = ", ".join(str(tuple(each.shape)) for each in strangers)
        raise MixedDevices(f"{name} of the GPU's tensors and the CPU's {shapes}, in {_place()}")


def _note_waits(name: str, args: Any, kwargs: Any) -> None:
    if name in WAITS:
        _log.wait(WAITS[name])
    if name == "repeat_interleave" and kwargs.get("output_size") is None:
        _log.wait(name)
    if name == "copy_" and not isinstance(args[0], GPUTensor):
        non_blocking = len(args) > 2 and args[2]
        if not (non_blocking and getattr(args[0], "pinned", False)):
            _log.wait("to cpu")
    if name in INDEXING:
        for index in (each for each in args[1] if each is not None):
            if index.dtype in (torch.bool, torch.uint8):
                _log.wait("mask as index")
            elif not isinstance(index, GPUTensor) and index.ndim:
                _log.blocking_copy("index on the CPU")


def _note_copies(name: str, args: Any, kwargs: Any) -> None:
    """A copy to the GPU blocks unless its source is pinned and it is asked not to."""
    if name == "_to_copy" and _on_gpu(kwargs.get("device")):
        source, non_blocking = args[0], kwargs.get("non_blocking", False)
    elif name == "copy_" and isinstance(args[0], GPUTensor):
        source, non_blocking = args[1], len(args) > 2 and args[2]
    else:
        return
    pinned = getattr(source, "pinned", False) and non_blocking
    if not isinstance(source, GPUTensor) and not pinned:
        _log.blocking_copy("to gpu")


class _Dispatch(TorchDispatchMode):
    """Makes what is created on the GPU, or moved there.

    In the place of torch's fake tensors: with those torch does not look for a driver.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE

    @classmethod
    def is_infra_mode(cls) -> bool:
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What torch does for a GPU before it dispatches operations."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        first: Any = args[0] if args else None
        creates = func in (torch.tensor, torch.as_tensor) and not isinstance(first, Tensor)
        if creates and _on_gpu(kwargs.get("device")):
            _log.blocking_copy("torch.tensor")
            return _from_host(func(*args, **kwargs | {"device": CPU}))
        if func is torch.nn.functional.one_hot and isinstance(first, GPUTensor):
            zeros = torch.zeros(*first.shape, args[1], dtype=torch.int64, device=GPU)
            return zeros.scatter_(-1, first.unsqueeze(-1), 1)  # does not look at the values
        if func is Tensor.to and isinstance(args[1] if args[1:] else None, GPUTensor):
            return first.to(GPU, args[1].dtype)
        if func is Tensor.pin_memory:
            first.pinned = True
            return first
        pinned = kwargs.pop("pin_memory", False)
        out = func(*args, **kwargs)
        if pinned:
            out.pinned = True
        return out


def _group_on_gpu(tensors: Any, *args: Any) -> Any:
    """torch's grouping by device and dtype, which asks in C++ and would be told 'cpu'."""
    groups = _group_tensors_by_device_and_dtype(tensors, *args)
    return {
        (GPU if isinstance(lists[0][0], GPUTensor) else device, dtype): (lists, places)
        for (device, dtype), (lists, places) in groups.items()
    }


class _Autocast(torch.autocast):
    """The GPU's, by the CPU's rules."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


@contextmanager
def pretended_gpu(values: bool = True) -> Iterator[Log]:
    """One H100, as long as it lasts; what it did is in the log.

    Without `values` it computes only shapes, at no cost.
    """
    global _log, _values
    _values = CPU if values else torch.device("meta")
    _log, before = Log(), torch.__future__.get_overwrite_module_params_on_conversion()
    _streams.begin()
    fraction = [1.0]
    there: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "is_bf16_supported": lambda including_emulation=True: True,
        "get_device_name": lambda *_: "NVIDIA H100 80GB HBM3",
        "get_device_properties": lambda *_: SimpleNamespace(
            total_memory=80 * 10**9, multi_processor_count=132
        ),
        "set_sync_debug_mode": lambda *_: None,
        "Event": _Event,
        "Stream": _Stream,
        "stream": _streams.on,
        "current_stream": lambda *_: _streams.current,
        "get_per_process_memory_fraction": lambda *_: fraction[-1],
        "set_per_process_memory_fraction": fraction.append,
        "synchronize": _synchronize,
        "reset_peak_memory_stats": lambda *_: None,
        "max_memory_allocated": lambda *_: 1,
    }
    torch._C._ensureCUDADeviceGuardSet()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with (
            mock.patch.multiple(torch.cuda, **there),
            mock.patch.object(torch, "autocast", _Autocast),
            mock.patch.object(clip_grad, "_group_tensors_by_device_and_dtype", _group_on_gpu),
            _Functions(),
            _Dispatch(),
        ):
            yield _log
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
