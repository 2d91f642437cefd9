"""Ways to the loss of a training step, of which only the head's part differs.

All begin with the same hidden states of the counted positions; none pays for logits of a prompt.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from w2s.models import Model
from w2s.train import dpo
from w2s.train.dpo import DPOConfig
from w2s.train.policy import mean_nll
from w2s.train.rows import IGNORE

OURS, PLAIN = "ours", "plain torch"
FUSED, CHUNKED = "F.linear_cross_entropy", "F.linear_cross_entropy in chunks"
# Rows at once. Left to itself torch takes 2 to 8 at these sizes and reads the whole head for each
# such chunk, which takes ten times as long.
_CHUNK = 256
# hidden [N, D], weight [V, D], target [N], reduction "mean" or "none" → loss, a scalar or [N]
CrossEntropy = Callable[[Tensor, Tensor, Tensor, str], Tensor]


@dataclass(frozen=True)
class Way:
    """`cross_entropy` None is what `w2s train` itself does. `absent` says why it cannot run."""

    name: str
    cross_entropy: CrossEntropy | None = None
    absent: str | None = None

    def sft_loss(self, policy: Model, ids: Tensor, target: Tensor) -> Tensor:
        """ids, target [B, T] → the mean negative log-prob of the counted targets."""
        if self.cross_entropy is None:
            return mean_nll(policy, ids, target)
        return self.cross_entropy(*_counted(policy, ids, target), "mean")

    def dpo_loss(
        self, policy: Model, reference: Model, ids: Tensor, target: Tensor, config: DPOConfig
    ) -> Tensor:
        """ids, target [2B, T], chosen sides first → the loss that `w2s.train.dpo` defines."""
        if self.cross_entropy is None:
            return dpo.dpo_loss(policy, reference, ids, target, config)[0]
        # Only how log-probs come about is exchanged; what DPO makes of them is the same code.
        with patch.object(dpo, "target_logprob", self._target_logprob):
            return dpo.dpo_loss(policy, reference, ids, target, config)[0]

    def _target_logprob(self, policy: Model, ids: Tensor, target: Tensor, _: object) -> Tensor:
        assert self.cross_entropy is not None
        logprob = -self.cross_entropy(*_counted(policy, ids, target), "none")  # [N]
        counted = target != IGNORE
        return torch.zeros(target.shape, device=ids.device).masked_scatter(counted, logprob)


def _counted(policy: Model, ids: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states [N, D] and targets [N] of the counted positions, and the head's weight."""
    counted = target != IGNORE
    hidden = policy.backbone(input_ids=ids, use_cache=False).last_hidden_state[counted]
    return hidden, policy.module.get_output_embeddings().weight, target[counted]


def _plain(hidden: Tensor, weight: Tensor, target: Tensor, reduction: str) -> Tensor:
    """All logits [N, V] at once; single log-probs as most trainers make them."""
    logits = hidden @ weight.T
    if reduction == "mean":
        return F.cross_entropy(logits, target)
    return -torch.log_softmax(logits, dim=-1).gather(-1, target[:, None])[:, 0]


def _fused(hidden: Tensor, weight: Tensor, target: Tensor, reduction: str) -> Tensor:
    loss: Tensor = F.linear_cross_entropy(hidden, weight, target, reduction=reduction)
    return loss


def _chunked(hidden: Tensor, weight: Tensor, target: Tensor, reduction: str) -> Tensor:
    options: Any = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=_CHUNK, chunking_method=None)
    loss: Tensor = F.linear_cross_entropy(
        hidden, weight, target, reduction=reduction, options=options
    )
    return loss


def _missing(module: Any, name: str) -> str | None:
    return None if hasattr(module, name) else f"torch {torch.__version__} has no {name}"


WAYS = {
    way.name: way
    for way in (
        Way(OURS),
        Way(PLAIN, _plain),
        Way(FUSED, _fused, _missing(F, "linear_cross_entropy")),
        Way(CHUNKED, _chunked, _missing(torch.nn, "LinearCrossEntropyOptions")),
    )
}
