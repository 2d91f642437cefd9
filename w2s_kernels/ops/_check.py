"""Checks shared by the ops. Each raises a typed error that names the argument and what to do."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from .. import dispatch
from ..errors import DeviceError, DtypeError, LayoutError, RangeError, ShapeError

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
INTEGERS = (torch.int32, torch.int64)
IGNORE_INDEX = -100
T = TypeVar("T")


def tensor(name: str, value: object, dtypes: Sequence[torch.dtype], *, min_dim: int = 0) -> Tensor:
    """A tensor of one of these dtypes, with at least `min_dim` dimensions."""
    if not isinstance(value, Tensor):
        raise DtypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in dtypes:
        allowed = ", ".join(str(d).removeprefix("torch.") for d in dtypes)
        found = str(value.dtype).removeprefix("torch.")
        raise DtypeError(f"{name} must have dtype {allowed}, got {found}; convert it first")
    if value.dim() < min_dim:
        raise ShapeError(
            f"{name} must have at least {min_dim} dimension(s), got {list(value.shape)}"
        )
    return value


def logits(name: str, value: object, dtypes: Sequence[torch.dtype] = FLOATS) -> Tensor:
    """`[…, V]`, floating, V ≥ 1, last dimension contiguous (any other stride is fine)."""
    found = tensor(name, value, dtypes, min_dim=1)
    if found.shape[-1] == 0:
        raise ShapeError(f"{name} must have at least one column, got {list(found.shape)}")
    last_dim_contiguous(name, found)
    return found


def last_dim_contiguous(name: str, value: Tensor) -> None:
    """The last dimension has stride 1 (or a single element)."""
    if value.dim() and value.shape[-1] > 1 and value.stride(-1) != 1:
        raise LayoutError(
            f"{name} must be contiguous in its last dimension, got stride {value.stride(-1)}; "
            f"call {name}.contiguous()"
        )


def same_device(**tensors: Tensor | None) -> torch.device:
    """All (present) tensors lie on one device, which is returned."""
    first_name, first = next((n, t) for n, t in tensors.items() if t is not None)
    for name, value in tensors.items():
        if value is not None and value.device != first.device:
            raise DeviceError(
                f"{name} is on {value.device} but {first_name} is on {first.device}; "
                f"move one to the other"
            )
    return first.device


def same_shape(name: str, value: Tensor, shape: Sequence[int], like: str) -> None:
    """`value` has exactly `shape`, which is that of `like`."""
    if list(value.shape) != list(shape):
        raise ShapeError(
            f"{name} must have shape {list(shape)} (from {like}), got {list(value.shape)}"
        )


def same_rows(name: str, value: Tensor, leading: Sequence[int], like: str) -> None:
    """`value` is `[…, any]` with the leading dimensions of `like`."""
    if list(value.shape[:-1]) != list(leading):
        raise ShapeError(
            f"{name} must have leading dimensions {list(leading)} (those of {like}), "
            f"got {list(value.shape)}"
        )


def targets_of(target: object, leading: Sequence[int], like: str, name: str = "target") -> Tensor:
    """Target ids `[…]` or `[…, K]` for rows of shape `leading`; returned as is."""
    found = tensor(name, target, INTEGERS)
    fits = list(found.shape) == list(leading) or (
        found.dim() == len(leading) + 1 and list(found.shape[:-1]) == list(leading)
    )
    if not fits:
        raise ShapeError(
            f"{name} must have shape {list(leading)} or {[*leading, 'K']} (rows of {like}), "
            f"got {list(found.shape)}"
        )
    return found


def rows_of_targets(target: Tensor, leading: Sequence[int]) -> Tensor:
    """Targets `[…]` or `[…, K]` as contiguous `[N, K]` (K = 1 for the former)."""
    per_row = target.shape[-1] if target.dim() > len(leading) else 1
    rows = 1
    for size in leading:
        rows *= size
    return target.reshape(rows, per_row).contiguous()


def non_negative(name: str, value: float) -> float:
    """A finite number ≥ 0."""
    if not (0.0 <= value < float("inf")):
        raise RangeError(f"{name} must be a finite number >= 0, got {value}")
    return float(value)


def positive(name: str, value: float, hint: str = "") -> float:
    """A finite number > 0."""
    if not (0.0 < value < float("inf")):
        raise RangeError(f"{name} must be a finite number > 0, got {value}{hint}")
    return float(value)


def valid_columns(name: str, value: int | None, columns: int) -> int:
    """`valid_vocab` as a number of columns: None means all; else 1 … columns."""
    if value is None:
        return columns
    if not 1 <= value <= columns:
        raise RangeError(f"{name} must lie in [1, {columns}], got {value}")
    return int(value)


def temperature_of(
    value: float | Tensor, leading: Sequence[int], *, name: str = "temperature"
) -> tuple[float, Tensor | None]:
    """(scalar, None) or (1, fp32 tensor with one entry a row). A scalar must be > 0."""
    if isinstance(value, Tensor):
        if value.dtype not in FLOATS:
            raise DtypeError(f"{name} must be a float or a floating tensor, got {value.dtype}")
        same_shape(name, value, leading, "the rows")
        return 1.0, value.to(torch.float32).reshape(-1).contiguous()
    hint = "; a greedy choice is guided_sample(temperature=0)" if value == 0 else ""
    return positive(name, float(value), hint), None


def pair(name: str, value: T | tuple[T, T]) -> tuple[T, T]:
    """A pair's option: one value for both models or a 2-tuple (tuned, untuned)."""
    if not isinstance(value, tuple):
        return value, value
    if len(value) != 2:
        raise RangeError(f"{name} must be one value or 2 (tuned, untuned), got {len(value)}")
    return value


def target_values(target: Tensor, columns: int, *, name: str = "target") -> None:
    """Under `checks(True)`: every target is IGNORE_INDEX or in [0, columns). Reads the device."""
    if not dispatch.checks_enabled() or torch.compiler.is_compiling():
        return
    if target.is_cuda and torch.cuda.is_current_stream_capturing():
        raise RangeError("checks(True) reads tensors on the host: turn it off for graph capture")
    bad = ((target < 0) | (target >= columns)) & (target != IGNORE_INDEX)
    if bool(bad.any()):
        where = [int(i) for i in bad.nonzero()[0]]
        raise RangeError(
            f"{name}{where} is {int(target[tuple(where)])}: it must be {IGNORE_INDEX} or lie in "
            f"[0, {columns})"
        )


def no_nan(name: str, value: Tensor) -> None:
    """Under `checks(True)`: no NaN and no +inf. Reads the device."""
    if not dispatch.checks_enabled() or torch.compiler.is_compiling():
        return
    if value.is_cuda and torch.cuda.is_current_stream_capturing():
        raise RangeError("checks(True) reads tensors on the host: turn it off for graph capture")
    bad = value.isnan() | value.isposinf()
    if bool(bad.any()):
        where = [int(i) for i in bad.nonzero()[0]]
        raise RangeError(f"{name}{where} is {float(value[tuple(where)])}: logits must be < inf")


def reads_values(value: Tensor) -> bool:
    """Whether `checks(True)` asks for a look at the elements of `value` in this call.

    Raises:
        RangeError: a CUDA graph is being captured, which a host read would break.
    """
    if not dispatch.checks_enabled() or torch.compiler.is_compiling():
        return False
    if value.is_cuda and torch.cuda.is_current_stream_capturing():
        raise RangeError("checks(True) reads tensors on the host: turn it off for graph capture")
    return True
