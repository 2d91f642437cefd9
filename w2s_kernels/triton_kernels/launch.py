"""Launches a kernel with little work on the host.

`kernel[grid](…)` binds and inspects every argument at every call. Here a caller names what the
code depends on (`key`), and from the second call on the compiled kernel is launched directly. That
is sound because kernels are declared with `kernel` below: no integer is specialised on its value
and no pointer on its alignment, so that dtypes and constants, which are in the key, are all there
is. Launching reads nothing from the device, so it may be captured in a graph once it has run.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch
import triton
import triton.language as tl
from torch.utils._python_dispatch import _disable_current_modes

from . import INTERPRETED
from .replay import recorder

_compiled: dict[tuple[Hashable, ...], Any] = {}


def kernel(function: Callable[..., Any]) -> Any:
    """`triton.jit` for kernels that `launch` runs: nothing but dtypes and constants specialises.

    Integer and float arguments carry their type as an annotation (`n: tl.int32`); pointers have
    none. Where 16-byte loads are wanted, the kernel says so itself (`tl.multiple_of`).
    """
    types = function.__annotations__
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    free = [name for name in names if types.get(name) is not tl.constexpr]
    return triton.jit(function, do_not_specialize=free, do_not_specialize_on_alignment=free)


def launch(
    function: Any,
    grid: tuple[int, int, int],
    device: torch.device,
    arguments: tuple[Any, ...],
    key: Hashable,
    *,
    warps: int,
    stages: int = 1,
) -> None:
    """Runs a kernel on the current stream of `device`.

    Args:
        function: declared with `kernel`.
        grid: numbers of programs; nothing is launched when one is 0.
        device: of every tensor among the arguments.
        arguments: all of them, constants too, in the kernel's order.
        key: whatever the code depends on: dtypes of the pointers, which are None, the constants.
        warps: of a program.
        stages: that a loop without its own number of stages is pipelined in.
    """
    if 0 in grid:
        return
    record = recorder()
    if record is not None:
        with _disable_current_modes():  # what Triton itself does is part of the launch
            made = _launch(function, grid, device, arguments, key, warps, stages)
        record.add(made, grid, arguments)
        return
    _launch(function, grid, device, arguments, key, warps, stages)


def _launch(
    function: Any,
    grid: tuple[int, int, int],
    device: torch.device,
    arguments: tuple[Any, ...],
    key: Hashable,
    warps: int,
    stages: int,
) -> Any:
    """Launches and returns what `[grid](*arguments)` launches again."""
    if INTERPRETED:
        function[grid](*arguments)
        return function
    index = device.index
    if torch.cuda.current_device() != index:
        with torch.cuda.device(index):
            return _launch(function, grid, device, arguments, key, warps, stages)
    compiled = _compiled.get((function, index, warps, stages, key))
    if compiled is None:
        compiled = function[grid](
            *arguments, num_warps=warps, num_stages=stages, enable_fp_fusion=False
        )
        _compiled[(function, index, warps, stages, key)] = compiled
        return compiled
    compiled[grid](*arguments, stream=torch._C._cuda_getCurrentRawStream(index))
    return compiled


def aligned(*tensors: torch.Tensor) -> bool:
    """Whether every row `[N, V]` starts at a multiple of 16 bytes: loads may be 16 bytes wide."""
    return all(
        (t.data_ptr() | (t.stride(0) * t.itemsize if t.shape[0] > 1 else 0)) % 16 == 0
        for t in tensors
    )
