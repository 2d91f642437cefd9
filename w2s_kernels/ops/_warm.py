"""Warm calls: a public function on Triton's backend, called again with the same shapes and options.

`@warm` describes a call by what its launches depend on (types, dtypes, shapes, strides, devices,
alignment of the tensors; the options), records the second call of a description and replays it
from then on (`triton_kernels/replay.py`). Checks of a replayed call are those of the recorded one:
all of them are of the description alone.

A call goes the long way where anything listens or changes what an op is: torch.compile, autograd,
dispatch and function modes (fake tensors among them), functorch, tracing, the profiler, tensor
subclasses, `checks(True)`.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad, profiler
from torch.nn import Parameter

from .. import dispatch, triton_kernels
from ..head import Head

P = ParamSpec("P")
R = TypeVar("R")

_MOST = 4096  # descriptions; ragged batches make many
_SCALARS = frozenset((float, int, bool, str))

# Looked up once: a warm call is a few microseconds, and each dot in a name is a part of one.
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_functorch = torch._C._functorch.peek_interpreter_stack
_tracing = torch._C._get_tracing_state
_grad_enabled = torch.is_grad_enabled
_COLD, _REFUSED = object(), object()  # seen once; cannot be replayed

_calls: dict[tuple[Any, ...], Any] = {}


def warm(function: Callable[P, R]) -> Callable[P, R]:
    """Makes warm calls of a public function cheap; results are the same bits."""
    name = function.__name__

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling() or not _on_triton(args):
            return function(*args, **kwargs)
        tensors: list[Tensor] = []
        key: list[Any] = [name]
        if _is_listening() or not _describe((*args, *kwargs.items()), key, tensors):
            return function(*args, **kwargs)
        described = tuple(key)
        found = _calls.get(described)
        if found is None or found is _REFUSED:
            if found is None:
                _remember(described, _COLD)
            return function(*args, **kwargs)
        if found is not _COLD:
            replayed: R = found(tensors)
            return replayed
        if _overlap(tensors):
            return function(*args, **kwargs)
        from ..triton_kernels import replay

        with replay.recording(tensors) as recorder:
            returned = function(*args, **kwargs)
        _remember(described, recorder.replay(returned) or _REFUSED)
        return returned

    return call


def forget() -> None:
    """Drops all recordings; needed where launch settings change inside a process."""
    _calls.clear()


def recordings() -> list[Any]:
    """The recordings that are replayed."""
    return [value for value in _calls.values() if value is not _COLD and value is not _REFUSED]


def _remember(described: tuple[Any, ...], value: Any) -> None:
    if len(_calls) >= _MOST:
        _calls.clear()
    _calls[described] = value


def _on_triton(args: tuple[Any, ...]) -> bool:
    """Whether the first argument's device and the forced backend lead to Triton's kernels."""
    first = args[0] if args else None
    if not isinstance(first, Tensor):
        return False
    if first.is_cuda:
        return dispatch.forced() in (None, "triton") and (
            first.get_device() == torch.cuda.current_device()
        )
    return triton_kernels.INTERPRETED and dispatch.forced() == "triton"


def _is_listening() -> bool:
    """Whether anything wants to see the op itself."""
    return (
        _dispatch_modes() != 0
        or _function_modes() != 0
        or _functorch() is not None
        or forward_ad._current_level >= 0
        or profiler._is_profiler_enabled
        or _tracing() is not None
        or dispatch.checks_enabled()
    )


def _describe(values: tuple[Any, ...], key: list[Any], tensors: list[Tensor]) -> bool:
    """Appends what a call's launches depend on; False where a value has no description."""
    for value in values:
        kind = type(value)
        if kind is Tensor or kind is Parameter:
            if (value.requires_grad and _grad_enabled()) or value.is_neg():
                return False
            key += (
                value.dtype, value.shape, value.stride(), value.get_device(),
                value.data_ptr() & 15,
            )  # fmt: skip
            tensors.append(value)
        elif value is None or kind in _SCALARS:
            key.append(value)
        elif kind is tuple:
            key.append(len(value))
            if not _describe(value, key, tensors):
                return False
        elif kind is Head:
            parts = (
                value.weight, value.bias, value.weight_scale, value.softcap, value.logit_scale,
                value.valid_vocab,
            )  # fmt: skip
            if not _describe(parts, key, tensors):
                return False
        else:
            return False
    return True


def _overlap(tensors: list[Tensor]) -> bool:
    """Whether two of the tensors share memory: then nobody can tell whose a pointer is."""
    from ..triton_kernels.replay import extent

    spans = sorted(span for span in map(extent, tensors) if span[0] < span[1])
    return any(spans[i][1] > spans[i + 1][0] for i in range(len(spans) - 1))
