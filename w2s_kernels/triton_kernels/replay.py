"""A call's launches, written down once and made again: what a warm call costs the host.

Checking arguments, going through torch's dispatcher, planning and allocating take several times as
long as launching. All of it depends on shapes, strides, dtypes, alignment and options only, never
on values. So a call is recorded while it runs: which buffers it allocates, which kernels it
launches, and for every pointer whose memory it is (an input's or a buffer's) and how far in. A
later call of the same shapes allocates its results, one scratch buffer for everything else, and
launches the same compiled kernels on the new addresses: the same code on the same numbers.

A call that does anything else on the device (a vendor's matrix product, a conversion) is not
replayed: recording refuses it. Recordings hold no tensor.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..dispatch import python_functions
from . import INTERPRETED

_ALIGN = 256  # bytes: every buffer in the scratch starts like an allocation of its own
_ALLOCATES = (
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.new_empty.default,
    torch.ops.aten.empty_like.default,
)
_PLAIN = (int, float, bool, type(None))


class _Pointer(NamedTuple):
    """A kernel's argument `number`: `offset` bytes into the memory of source number `source`."""

    number: int
    source: int
    offset: int
    dtype: torch.dtype


class _Launch(NamedTuple):
    """One launch: the compiled kernel (interpreted: the function), its grid and its arguments.

    Pointers among the arguments are None.
    """

    kernel: Any
    grid: tuple[int, int, int]
    arguments: list[Any]
    pointers: tuple[_Pointer, ...]


class Replay(NamedTuple):
    """The launches of a call, for inputs of the same description as the recorded ones.

    A pointer's source is an input, a result or (the last) the scratch, which holds all buffers that
    are no results.
    """

    launches: tuple[_Launch, ...]
    results: tuple[tuple[torch.Size, torch.dtype], ...]  # of what the call returns
    scratch: int  # bytes
    single: bool  # whether the call returns a tensor, not a tuple

    def __call__(self, inputs: Sequence[Tensor]) -> Any:
        """Makes the launches on these inputs; returns what the recorded call returned."""
        launches, results, scratch, single = self
        device = inputs[0].device
        made = [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in results]
        memory = [*inputs, *made]
        if scratch:
            memory.append(torch.empty(scratch, dtype=torch.uint8, device=device))
        if INTERPRETED:
            _interpret(launches, memory)
        else:
            base = [tensor.data_ptr() for tensor in memory]
            stream = torch._C._cuda_getCurrentRawStream(device.index)
            for kernel, grid, arguments, pointers in launches:
                values = arguments.copy()
                for number, source, offset, _ in pointers:
                    values[number] = base[source] + offset
                kernel[grid](*values, stream=stream)
        return made[0] if single else tuple(made)


def _interpret(launches: Sequence[_Launch], memory: Sequence[Tensor]) -> None:
    """The launches with tensors for pointers, as the interpreter wants them."""
    for kernel, grid, arguments, pointers in launches:
        values = arguments.copy()
        for number, source, offset, dtype in pointers:
            values[number] = _at(memory[source], offset, dtype)
        kernel[grid](*values)


def _at(tensor: Tensor, offset: int, dtype: torch.dtype) -> Tensor:
    """A tensor of one element whose address lies `offset` bytes behind that of `tensor`."""
    if tensor.numel() == 0:
        return tensor.new_empty(1, dtype=dtype)
    first = tensor.storage_offset() * tensor.itemsize + offset
    empty = torch.empty(0, dtype=dtype, device=tensor.device)
    return empty.set_(tensor.untyped_storage(), first // dtype.itemsize, (1,), (1,))


class Recorder(TorchDispatchMode):
    """Sees what a call allocates and launches. `refused` says why it cannot be replayed."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.inputs = list(inputs)
        self.buffers: list[Tensor] = []
        self.launches: list[_Launch] = []
        self.refused = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inner = python_functions.get(func)
        if inner is not None:
            with self:
                return inner(*args, **(kwargs or {}))
        made = func(*args, **(kwargs or {}))
        if func in _ALLOCATES:
            self.buffers.append(made)
        elif not _is_view(func):
            self.refused = self.refused or f"{func} runs beside the launches"
        return made

    def add(self, kernel: Any, grid: tuple[int, int, int], arguments: tuple[Any, ...]) -> None:
        """Writes a launch down; `kernel` is the compiled one (the function, when interpreted)."""
        pointers = []
        for number, argument in enumerate(arguments):
            if isinstance(argument, Tensor):
                place = self._place(argument)
                if place is not None:
                    pointers.append(_Pointer(number, *place, argument.dtype))
                else:
                    self.refused = self.refused or "a kernel reads memory of nobody"
            elif not isinstance(argument, _PLAIN) and not _is_triton_dtype(argument):
                self.refused = self.refused or f"a kernel takes a {type(argument).__name__}"
        plain = [None if isinstance(argument, Tensor) else argument for argument in arguments]
        self.launches.append(_Launch(kernel, grid, plain, tuple(pointers)))

    def _place(self, tensor: Tensor) -> tuple[int, int] | None:
        """Whose memory a tensor is (inputs, then buffers) and how far in; an empty one anyone's."""
        address = tensor.data_ptr()
        for number, source in enumerate([*self.inputs, *self.buffers]):
            if source is tensor or (tensor.numel() == 0 and source.numel() == 0):
                return number, 0
            begin, end = extent(source)
            if tensor.numel() and begin <= address < end:
                return number, address - begin
        return None

    def replay(self, returned: Any) -> Replay | None:
        """The recording of a call that returned these tensors; None when it is refused."""
        results = [returned] if isinstance(returned, Tensor) else list(returned)
        first, order = len(self.inputs), []
        for result in results:
            place = self._place(result)
            if place is None or place[0] < first or place[1] or not result.is_contiguous():
                self.refused = self.refused or "a result is no buffer of this call"
                return None
            order.append(place[0])
        if len(set(order)) < len(order):
            self.refused = self.refused or "two results share a buffer"
        if self.refused:
            return None
        # Source number of the recording -> (source, offset) of the replay.
        moved = {number: (number, 0) for number in range(first)}
        moved |= {number: (first + place, 0) for place, number in enumerate(order)}
        size = 0
        for number, buffer in enumerate(self.buffers, start=first):
            if number not in moved:
                moved[number] = (first + len(order), size)
                size += -(-max(1, buffer.numel() * buffer.itemsize) // _ALIGN) * _ALIGN
        launches = [
            launch._replace(pointers=tuple(_moved(p, *moved[p.source]) for p in launch.pointers))
            for launch in self.launches
        ]
        shapes = tuple((result.shape, result.dtype) for result in results)
        return Replay(tuple(launches), shapes, size, isinstance(returned, Tensor))


def _moved(pointer: _Pointer, source: int, offset: int) -> _Pointer:
    return pointer._replace(source=source, offset=offset + pointer.offset)


def _is_view(func: Any) -> bool:
    """Whether an op only looks at its input's memory in another way."""
    returns = func._schema.returns
    return bool(returns) and all(
        found.alias_info is not None and not found.alias_info.is_write for found in returns
    )


def extent(tensor: Tensor) -> tuple[int, int]:
    """The addresses that a tensor's elements span, [begin, end)."""
    begin = tensor.data_ptr()
    if tensor.numel() == 0:
        return begin, begin
    last = sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    return begin, begin + (last + 1) * tensor.itemsize


def _is_triton_dtype(argument: object) -> bool:
    return type(argument).__module__ == "triton.language.core"


_active = threading.local()


def recorder() -> Recorder | None:
    """The recorder of the call that this thread is in."""
    return getattr(_active, "recorder", None)


@contextlib.contextmanager
def recording(inputs: Sequence[Tensor]) -> Iterator[Recorder]:
    """Records the call inside the `with` block."""
    found = Recorder(inputs)
    _active.recorder = found
    try:
        with found:
            yield found
    finally:
        _active.recorder = None
