"""gather_beams: re-orders the rows of KV caches, moving only the positions that differ."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import dispatch
from ..errors import DtypeError, LayoutError, RangeError, ShapeError
from . import _check, _op

# Elements are copied: every backend gives the same bits.
ATOL, RTOL = 0.0, 0.0


def example_inputs(
    rows: int,
    *,
    layers: int = 2,
    heads: int = 2,
    length: int = 16,
    size: int = 8,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Random (caches: `layers` of `[rows, heads, length, size]`, parent, start, stop)."""
    generator = torch.Generator().manual_seed(seed)
    caches = [
        torch.randn(rows, heads, length, size, generator=generator).to(dtype) for _ in range(layers)
    ]
    parent = torch.randint(max(1, rows), (rows,), generator=generator)
    ends = torch.randint(length + 1, (2, rows), generator=generator)
    return caches, parent, ends.amin(0), ends.amax(0)


def gather_beams_(caches: Sequence[Tensor], parent: Tensor, start: Tensor, stop: Tensor) -> None:
    """Row r of every cache becomes row parent[r] on positions [start[r], stop[r]), in place.

    All rows are read as they were before the call, whatever chains and cycles `parent` has. Nothing
    outside [start[r], stop[r]) is touched; a row that is its own parent costs nothing. Positions
    are clipped to a cache's own length; a row whose parent is not in [0, R) stays as it is.

    Args:
        caches: `[R, heads, T, D]` tensors of any dtype, one device, last dimension contiguous and
            no element shared by two places; heads, T and D may differ from cache to cache.
        parent, start, stop: `[R]` int32 or int64, physical rows and positions.

    Raises:
        DtypeError, ShapeError, DeviceError, LayoutError, RangeError: naming the argument.
    """
    device, tensors, indices = _arguments(caches, parent, start, stop)
    dispatch.resolve("gather_beams_", device)(tensors, *indices)


def gather_beams(
    caches: Sequence[Tensor], parent: Tensor, start: Tensor, stop: Tensor
) -> list[Tensor]:
    """`gather_beams_` on copies: the re-ordered caches, contiguous; `caches` stay as they are."""
    device, tensors, indices = _arguments(caches, parent, start, stop)
    result: list[Tensor] = dispatch.resolve("gather_beams", device)(tensors, *indices)
    return result


def _arguments(
    caches: Sequence[Tensor], parent: Tensor, start: Tensor, stop: Tensor
) -> tuple[torch.device, list[Tensor], tuple[Tensor, Tensor, Tensor]]:
    if isinstance(caches, Tensor):
        raise DtypeError("caches must be a list of tensors, got one Tensor; pass [cache]")
    for name, index in (("parent", parent), ("start", start), ("stop", stop)):
        _check.tensor(name, index, _check.INTEGERS)
        if index.dim() != 1:
            raise ShapeError(f"{name} must be [R], got {list(index.shape)}")
        _check.same_shape(name, index, parent.shape, "parent")
    device = _check.same_device(parent=parent, start=start, stop=stop)
    tensors, rows = list(caches), parent.shape[0]
    for i, cache in enumerate(tensors):  # a model has some 60: names are made for the bad one only
        if not isinstance(cache, Tensor):
            raise DtypeError(f"caches[{i}] must be a torch.Tensor, got {type(cache).__name__}")
        shape, strides = cache.shape, cache.stride()
        if len(shape) != 4 or shape[0] != rows:
            raise ShapeError(
                f"caches[{i}] must be [R, heads, T, D] with R = {rows} (from parent), "
                f"got {list(shape)}"
            )
        if strides[3] != 1:
            _check.last_dim_contiguous(f"caches[{i}]", cache)
        if 0 in strides and any(n > 1 and s == 0 for n, s in zip(shape, strides, strict=True)):
            raise LayoutError(
                f"caches[{i}] is an expanded view (strides {list(strides)}): its rows share "
                f"memory; call caches[{i}].contiguous()"
            )
        if cache.device != device:
            _check.same_device(**{"parent": parent, f"caches[{i}]": cache})
    _check_values(parent, start, stop)
    # One integer type for all three, and the usual one: a [R] conversion is nothing here.
    return (
        device,
        tensors,
        (parent.long().contiguous(), start.long().contiguous(), stop.long().contiguous()),
    )


def _check_values(parent: Tensor, start: Tensor, stop: Tensor) -> None:
    """Under `checks(True)`: parents are rows, and 0 <= start <= stop."""
    if not _check.reads_values(parent):
        return
    rows = parent.shape[0]
    bad = (parent < 0) | (parent >= rows) | (start < 0) | (start > stop)
    if bool(bad.any()):
        r = int(bad.nonzero()[0, 0])
        raise RangeError(
            f"parent[{r}], start[{r}], stop[{r}] are {int(parent[r])}, {int(start[r])}, "
            f"{int(stop[r])}: parent must lie in [0, {rows}) and 0 <= start <= stop"
        )


def _moved(cache: Tensor, parent: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """The re-ordered cache as a new tensor."""
    rows, _, length, _ = cache.shape
    position = torch.arange(length, device=cache.device)
    known = (parent >= 0) & (parent < rows)
    takes = (position >= start[:, None]) & (position < stop[:, None]) & known[:, None]  # [R, T]
    source = cache.index_select(0, parent.clamp(0, max(0, rows - 1)))
    return torch.where(takes[:, None, :, None], source, cache).contiguous()


def _reference_(caches: list[Tensor], parent: Tensor, start: Tensor, stop: Tensor) -> None:
    for cache in caches:
        cache.copy_(_moved(cache, parent, start, stop))


def _reference(caches: list[Tensor], parent: Tensor, start: Tensor, stop: Tensor) -> list[Tensor]:
    return [_moved(cache, parent, start, stop) for cache in caches]


def _fake_(caches: list[Tensor], *_: Any) -> None:
    return None


def _fake(caches: list[Tensor], *_: Any) -> list[Tensor]:
    return [torch.empty_like(cache, memory_format=torch.contiguous_format) for cache in caches]


def _cpu(caches: list[Tensor], parent: Tensor, start: Tensor, stop: Tensor) -> list[Tensor]:
    copies = [cache.clone(memory_format=torch.contiguous_format) for cache in caches]
    torch.ops.w2s_cpu.gather_beams_(copies, parent, start, stop)
    return copies


_INDICES = "Tensor parent, Tensor start, Tensor stop"
_op.define(
    "gather_beams_",
    f"(Tensor(a!)[] caches, {_INDICES}) -> ()",
    reference=_reference_,
    fake=_fake_,
)
_op.define(
    "gather_beams",
    f"(Tensor[] caches, {_INDICES}) -> Tensor[]",
    reference=_reference,
    fake=_fake,
    cpu=_cpu,
    needs=("gather_beams_",),
)
