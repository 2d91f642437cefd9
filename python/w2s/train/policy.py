"""A causal language model as training sees it: token ids in, log-probs of the targets out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from w2s_kernels import Head, linear_logprob

from w2s.train.candidates import Drawn
from w2s.train.rows import IGNORE

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def head_of(model: PreTrainedModel) -> Head:
    """The model's output head, with its weight and bias as the live parameters."""
    layer = model.get_output_embeddings()
    config = model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    scale /= float(getattr(config, "logits_scaling", None) or 1.0)
    return Head(
        layer.weight,
        bias=getattr(layer, "bias", None),
        softcap=float(getattr(config, "final_logit_softcapping", None) or 0.0),
        logit_scale=scale,
    )


def target_logprob(
    model: PreTrainedModel, ids: Tensor, target: Tensor, drawn: Drawn | None = None
) -> Tensor:
    """log p(target) at every position: ids [B, T], target [B, T] → float32 [B, T], 0 where ignored.

    Only hidden states of counted positions reach the head, and its logits [N, V] are never stored.
    With `drawn` (made for exactly these targets) the softmax is over its candidates alone.
    Differentiable in every parameter of `model`.
    """
    counted = target != IGNORE
    # Rows are padded on the right and attention is causal, so no counted position can see padding
    # and no mask is needed.
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[counted]  # [N, D]
    head = head_of(model)
    if drawn is None:
        logprob = linear_logprob(hidden, head, target[counted])
    else:
        bias = drawn.bias if head.bias is None else head.bias[drawn.ids] + drawn.bias
        few = Head(
            head.weight[drawn.ids],  # [C, D]
            bias=bias,
            softcap=head.softcap,
            logit_scale=head.logit_scale,
        )
        logprob = linear_logprob(hidden, few, drawn.target)
    return torch.zeros(target.shape, device=ids.device).masked_scatter(counted, logprob)


def padded(rows: list[list[int]], fill: int) -> Tensor:
    """Rows of different lengths as one int64 tensor [B, T], filled on the right."""
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])
