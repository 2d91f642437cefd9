"""A softmax over part of the vocabulary whose sum is right in the mean.

Training with a large vocabulary spends most of its time in the output head. Here a step's softmax
runs over the most frequent tokens, every target of the batch, and a uniform random sample of the
rest. A sampled token's logit gets `log(rest / sampled)` added, so that it stands for the tokens
left out and the normaliser is unbiased (Bengio & Senécal 2008, importance sampling; Jean et al.
2015, section 3). Log-probs become estimates: use it to train, never to score.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_FREQUENT_SHARE = 0.75


class Drawn(NamedTuple):
    """One step's candidates: ids [C] (ascending), bias [C], target [N] as indices into ids."""

    ids: Tensor
    bias: Tensor
    target: Tensor


class CandidateSet:
    """Draws candidates for each step; `counts[V]` says how often each token is a target."""

    def __init__(self, counts: Tensor, candidates: int, seed: int) -> None:
        frequent = int(candidates * _FREQUENT_SHARE)
        self._vocab = counts.numel()
        self._sampled = candidates - frequent
        self._kept = torch.zeros(self._vocab, dtype=torch.bool)
        # Stable: ties keep the lower id, so the set depends on the data alone.
        self._kept[counts.argsort(descending=True, stable=True)[:frequent]] = True
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, target: Tensor) -> Drawn:
        """Candidates for the targets [N] of one step (all must be valid ids)."""
        chosen = self._kept.clone()
        chosen[target.cpu()] = True
        rest = (~chosen).nonzero().squeeze(1)  # [V − kept]
        sampled = min(self._sampled, rest.numel())
        bias = torch.zeros(self._vocab)
        if sampled:
            pick = torch.randperm(rest.numel(), generator=self._generator)[:sampled]
            chosen[rest[pick]] = True
            bias[rest[pick]] = math.log(rest.numel() / sampled)
        place = chosen.cumsum(0) - 1  # [V] → index among the chosen
        ids = chosen.nonzero().squeeze(1)
        device = target.device
        return Drawn(ids.to(device), bias[ids].to(device), place.to(device)[target])


def target_counts(targets: Tensor, vocab: int) -> Tensor:
    """How often each of `vocab` tokens stands in `targets` (any shape; negatives are ignored)."""
    return torch.bincount(targets[targets >= 0].flatten().cpu(), minlength=vocab)
