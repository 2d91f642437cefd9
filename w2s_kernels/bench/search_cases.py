"""Cases of a search's bookkeeping: segment_score_, select_beams, gather_beams_."""

from typing import Any

import torch
from torch import Tensor

from ..ops import gather_beams as _gather
from ..ops import segment_score as _segment
from ..ops import select_beams as _select
from .case import Case, Inputs, Provider, Size
from .logit_cases import backends

_CHUNK = 5  # tokens between two selections
_LAYERS, _HEADS, _SIZE, _LENGTH = 30, 3, 64, 512  # SmolLM2-135M's cache


def _diffs(size: Size, seed: int) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    diff = torch.randn(size.rows, _CHUNK, generator=generator)
    return torch.zeros(size.rows, dtype=torch.float64), diff


def _add(score: Tensor, diff: Tensor) -> Tensor:
    _segment.segment_score_(score, diff)
    return score


def _eager_add(score: Tensor, diff: Tensor) -> Tensor:
    return score.add_(diff.double().sum(1))


def _add_error(found: Tensor, inputs: Inputs) -> tuple[float, float]:
    """Called on fresh inputs: whether float64 additions in order give just this."""
    expected = torch.zeros_like(found)
    for step in inputs[1].double().t():
        expected += step
    return _equal([found], [expected])


def _equal(found: list[Tensor], expected: list[Tensor]) -> tuple[float, float]:
    same = all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(found, expected, strict=True))
    return (0.0, 0.0) if same else (float("inf"), float("inf"))


def _pools(size: Size, seed: int) -> Inputs:
    return _select.example_inputs(size.rows, 16, seed=seed)


def _pick(score: Tensor, clone_of: Tensor) -> Any:
    return _select.select_beams(score, 4, repeat=4, clone_of=clone_of)


def _pick_error(found: Any, inputs: Inputs) -> tuple[float, float]:
    score, clone_of = (t.cpu() for t in inputs)
    expected = _select._reference(score, clone_of, 4, 4)
    return _equal([found[0], found[2]], [expected[0], expected[2]])


def _eager_pick(score: Tensor, clone_of: Tensor) -> Tensor:
    """Without clones and NaN: what a sort alone costs."""
    return score.topk(4).indices.repeat_interleave(4, dim=1)


def _caches(size: Size, seed: int) -> Inputs:
    caches, _, _, _ = _gather.example_inputs(
        16, layers=2 * _LAYERS, heads=_HEADS, length=_LENGTH, size=_SIZE, dtype=size.dtype,
        seed=seed,
    )  # fmt: skip
    parent = torch.arange(16)
    parent[8:] = torch.arange(8)
    stop = torch.full((16,), _LENGTH)
    return caches, parent, stop - size.k, stop


def _move(caches: list[Tensor], parent: Tensor, start: Tensor, stop: Tensor) -> list[Tensor]:
    _gather.gather_beams_(caches, parent, start, stop)
    return caches


def _copy(caches: list[Tensor], parent: Tensor, start: Tensor, stop: Tensor) -> list[Tensor]:
    """The whole KV, re-ordered by index_select."""
    return [cache.index_select(0, parent) for cache in caches]


def _move_error(found: list[Tensor], inputs: Inputs) -> tuple[float, float]:
    """The caches were moved in place: rows 8 to 15 must now end like rows 0 to 7."""
    first = int(inputs[2][0])
    return _equal(
        [cache[8:, :, first:] for cache in found], [cache[:8, :, first:] for cache in found]
    )


def _least_moved(size: Size) -> int:
    return 2 * 8 * size.k * 2 * _LAYERS * _HEADS * _SIZE * size.dtype.itemsize


CASES = [
    Case(
        "segment_score_",
        _diffs,
        backends("segment_score_", _add) | {"eager": Provider(_eager_add, judged=False)},
        lambda size: size.rows * (4 * _CHUNK + 16),
        _add_error,
        uses=frozenset({"rows"}),
    ),
    Case(
        "select_beams",
        _pools,
        backends("select_beams", _pick) | {"topk alone": Provider(_eager_pick, judged=False)},
        lambda size: size.rows * 16 * (8 + 8 + 8 + 8 + 1),
        _pick_error,
        size=Size(rows=8),
        uses=frozenset({"rows"}),
    ),
    Case(
        "gather_beams_",
        _caches,
        backends("gather_beams_", _move) | {"index_select of all": Provider(_copy, judged=False)},
        _least_moved,
        _move_error,
        size=Size(rows=16, k=5),
        uses=frozenset({"k", "dtype"}),
    ),
]
