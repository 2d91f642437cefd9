"""linear_logprob_diff on Triton: both heads' parts, then one kernel that finishes the pair."""

from typing import Any

import torch
from torch import Tensor

from ..ops._linear import HeadArgs
from .launch import launch
from .linear_finish import finish_pair_kernel
from .linear_forward import pair_tile_parts, parts_of, path_of, plan_of, tile_of
from .linear_plan import target_block
from .linear_side import Parts, Side, groups, taken


def linear_logprob_diff(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Differences `[N, K]` and (m, s) of the tuned and of the untuned head.

    The arguments are those of the op's schema: (hidden, head…) twice, then target and settings.
    """
    target, t_tuned, rows_t, t_untuned, rows_u, invariant = args[14:]
    tuned = Side(args[0], HeadArgs(*args[1:7]), t_tuned, rows_t)
    untuned = Side(args[7], HeadArgs(*args[8:14]), t_untuned, rows_u)
    rows, targets = target.shape
    value = tuned.hidden.new_empty(target.shape, dtype=torch.float32)
    m = [value.new_empty(rows) for _ in range(2)]
    s = [value.new_empty(rows, dtype=torch.float64) for _ in range(2)]
    results = value, m[0], s[0], m[1], s[1]
    if rows == 0:
        return results
    sides = (tuned, untuned)
    paths = [path_of(side, invariant) for side in sides]
    plans = [
        plan_of(side, path, invariant, heads=2) for side, path in zip(sides, paths, strict=True)
    ]
    valid = min(tuned.head.valid, untuned.head.valid)
    block = target_block(targets)
    for group in groups(rows, min(plan.rows for plan in plans)):
        part_t, part_u, ids = tuned.rows(group), untuned.rows(group), taken(target, group)
        parts_t, parts_u = _parts(part_t, part_u, ids, paths, invariant)
        launch(
            finish_pair_kernel,
            (ids.shape[0], 1, 1),
            target.device,
            (
                *parts_t, part_t.temperature_rows, taken(m[0], group), taken(s[0], group),
                *parts_u, part_u.temperature_rows, taken(m[1], group), taken(s[1], group),
                ids, taken(value, group), ids.shape[0], targets, parts_t.parts.shape[2],
                parts_u.parts.shape[2], valid, t_tuned, t_untuned, block,
            ),
            (target.dtype, rows_t is None, rows_u is None, block),
            warps=4,
        )  # fmt: skip
    return results


def _parts(
    tuned: Side, untuned: Side, target: Tensor, paths: list[str], invariant: bool
) -> tuple[Parts, Parts]:
    """Both heads' parts of a group of rows: in one launch where one tile fits both."""
    tiles = [tile_of(side, invariant) for side in (tuned, untuned)]
    if paths == ["tile", "tile"] and tiles[0] == tiles[1]:
        return pair_tile_parts(tuned, untuned, target, tiles[0])
    return (
        parts_of(tuned, target, paths[0], False, tiles[0]),
        parts_of(untuned, target, paths[1], False, tiles[1]),
    )
