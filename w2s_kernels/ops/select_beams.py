"""select_beams: the best rows of each prompt's pool, clones counted once."""

import torch
from torch import Tensor

from .. import dispatch
from ..errors import RangeError, ShapeError
from . import _check, _op

# Selection is exact: parents, scores and flags are the same on every backend.
ATOL, RTOL = 0.0, 0.0


def example_inputs(
    prompts: int, rows: int, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Random (score, clone_of), each `[prompts, rows]`, with ties, NaN and groups of clones."""
    generator = torch.Generator().manual_seed(seed)
    shape = (prompts, rows)
    score = torch.randint(-rows, rows + 1, shape, generator=generator).to(dtype) / 4
    score[torch.rand(shape, generator=generator) < 0.05] = float("nan")
    clone_of = torch.randint(-1, max(1, rows // 4), shape, generator=generator)
    clone_of[torch.rand(shape, generator=generator) < 0.5] = -1
    return score, clone_of


def select_beams(
    score: Tensor, width: int, *, repeat: int = 1, clone_of: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The `width` best rows of each pool, in order (score descending, row ascending).

    The selection of chunk-level beam search (arXiv 2405.19262): each kept row is listed `repeat`
    times in a row, so with C = W·K rows, width W and repeat K the result is the next round's pool.
    Rows with a NaN score are invalid and come last. Of rows with the same `clone_of` ≥ 0 the first
    in order holds a place, the others are losers. Only when fewer than `width` valid rows remain do
    losers, then NaN rows, fill the places; they are flagged invalid and keep their score.

    Args:
        score: `[P, C]` fp32 or float64, one pool of C rows a prompt, last dimension contiguous.
        width: places, 1 … C.
        repeat: times each kept row is listed, ≥ 1.
        clone_of: `[P, C]` int32 or int64: which finished ancestor the row is a copy of, a negative
            number for none; None for no clones.

    Returns:
        (parent int64 in [0, C), score, valid bool), each `[P, width·repeat]`.

    Raises:
        DtypeError, ShapeError, DeviceError, LayoutError, RangeError: naming the argument.
    """
    _check.tensor("score", score, (torch.float32, torch.float64))
    if score.dim() != 2:
        raise ShapeError(f"score must be [P, C], got {list(score.shape)}")
    _check.last_dim_contiguous("score", score)
    if not 1 <= width <= score.shape[1]:
        raise RangeError(
            f"width must lie in [1, {score.shape[1]}] (the rows of a pool), got {width}"
        )
    if repeat < 1:
        raise RangeError(f"repeat must be >= 1, got {repeat}")
    if clone_of is not None:
        _check.tensor("clone_of", clone_of, _check.INTEGERS)
        _check.same_shape("clone_of", clone_of, score.shape, "score")
        clone_of = clone_of.contiguous()
    device = _check.same_device(score=score, clone_of=clone_of)
    parent, value, valid = dispatch.resolve("select_beams", device)(score, clone_of, width, repeat)
    return parent, value, valid


def _reference(
    score: Tensor, clone_of: Tensor | None, width: int, repeat: int
) -> tuple[Tensor, Tensor, Tensor]:
    nan = score.isnan()
    # Stable sorts keep rows ascending among equals. + 0.0: −0.0 and 0.0 are one value.
    order = (score.masked_fill(nan, float("-inf")) + 0.0).argsort(
        dim=1, descending=True, stable=True
    )
    order = order.gather(
        1, nan.gather(1, order).byte().argsort(dim=1, stable=True)
    )  # NaN behind −inf
    nan = nan.gather(1, order)  # [P, C] from here on, all in the order of the selection
    rank = nan.byte() * 2
    if clone_of is not None:
        group = clone_of.gather(1, order).masked_fill(nan, -1)
        by_group = group.argsort(dim=1, stable=True)
        group = group.gather(1, by_group)
        again = torch.zeros_like(nan)
        again[:, 1:] = (group[:, 1:] == group[:, :-1]) & (group[:, 1:] >= 0)
        rank = rank + torch.zeros_like(nan).scatter(1, by_group, again).byte()
    places = rank.argsort(dim=1, stable=True)[:, :width]  # valid rows, losers, NaN rows
    places = places.repeat_interleave(repeat, dim=1)  # [P, width·repeat]
    parent = order.gather(1, places)
    return parent, score.gather(1, parent), rank.gather(1, places) == 0


def _fake(
    score: Tensor, clone_of: Tensor | None, width: int, repeat: int
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (score.shape[0], width * repeat)
    return (
        score.new_empty(shape, dtype=torch.int64),
        score.new_empty(shape),
        score.new_empty(shape, dtype=torch.bool),
    )


_op.define(
    "select_beams",
    "(Tensor score, Tensor? clone_of, int width, int repeat) -> (Tensor, Tensor, Tensor)",
    reference=_reference,
    fake=_fake,
)
