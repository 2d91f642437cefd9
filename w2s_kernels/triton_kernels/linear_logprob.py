"""linear_logprob on Triton: what `ops/linear_logprob.py` calls, forward and backward."""

import torch
from torch import Tensor

from ..ops._linear import HeadArgs
from .launch import launch
from .linear_backward import backward
from .linear_finish import finish_kernel
from .linear_forward import parts_of, path_of, plan_of, tile_of
from .linear_plan import target_block
from .linear_side import Side, groups, taken

linear_logprob_backward = backward


def linear_logprob(
    hidden: Tensor,  # [N, D]
    weight: Tensor,  # [V, D]
    bias: Tensor | None,
    weight_scale: Tensor | None,
    softcap: float,
    logit_scale: float,
    valid_vocab: int,
    target: Tensor,  # [N, K]
    temperature: float,
    temperature_rows: Tensor | None,  # [N] fp32
    entropy: bool,
    invariant: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probs `[N, K]`, m, s and the entropy (`[0]` when it is not asked for)."""
    head = HeadArgs(weight, bias, weight_scale, softcap, logit_scale, valid_vocab)
    side = Side(hidden, head, temperature, temperature_rows)
    rows, targets = target.shape
    value = hidden.new_empty(target.shape, dtype=torch.float32)
    m = hidden.new_empty(rows, dtype=torch.float32)
    s = hidden.new_empty(rows, dtype=torch.float64)
    h = hidden.new_empty(rows if entropy else 0, dtype=torch.float32)
    if rows == 0:
        return value, m, s, h
    path, tile = path_of(side, invariant), tile_of(side, invariant)
    block = target_block(targets)
    for group in groups(rows, plan_of(side, path, invariant).rows):
        part, ids = side.rows(group), taken(target, group)
        made = parts_of(part, ids, path, entropy, tile)
        launch(
            finish_kernel,
            (ids.shape[0], 1, 1),
            hidden.device,
            (
                made.parts, made.z_target, ids, part.temperature_rows, taken(value, group),
                taken(m, group), taken(s, group), taken(h, group) if entropy else None,
                ids.shape[0], targets,
                made.parts.shape[2], valid_vocab, temperature, block,
            ),
            (target.dtype, temperature_rows is None, entropy, block),
            warps=4,
        )  # fmt: skip
    return value, m, s, h
