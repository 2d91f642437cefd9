"""`EnsembleScorer`: several scorers' opinions in one number."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from w2s.errors import SearchError
from w2s.prompts import Prompt
from w2s.proposers import Chunk
from w2s.scorers import Scorer


class EnsembleScorer:
    """Σ_m λ_m S_m of several scorers' cumulative scores, in float64 and in their order.

    scorers: at least one, made with one plan, on one device. weights: a finite number λ_m for each.
    A scorer of weight 0 is not run at all, so it contributes nothing even where it would give −inf
    or NaN, and a one-hot ensemble gives the single scorer's bits. For pairs this is the product
    rule Σ_m λ_m (log p_tuned,m − log p_untuned,m) (arXiv 2406.03199 combines weak models so).

    Raises `SearchError` for weights that do not fit the scorers, or are all 0.
    """

    def __init__(self, scorers: Sequence[Scorer], weights: Sequence[float]) -> None:
        if len(scorers) != len(weights):
            raise SearchError(
                f"an ensemble needs a weight for each scorer; got {len(scorers)} scorers and "
                f"{len(weights)} weights"
            )
        bad = [w for w in weights if not isinstance(w, int | float) or not math.isfinite(w)]
        if bad:
            raise SearchError(f"weights must be finite numbers, got {bad[0]!r}")
        self.weights = tuple(float(w) for w in weights if w != 0)
        self.scorers = tuple(s for s, w in zip(scorers, weights, strict=True) if w != 0)
        if not self.scorers:
            raise SearchError("an ensemble needs at least one scorer with a weight other than 0")
        devices = {getattr(scorer, "device", None) for scorer in self.scorers} - {None}
        if len(devices) > 1:
            names = " and ".join(sorted(map(str, devices)))
            raise SearchError(f"the scorers are on {names}; load all models on one device")

    def start(self, prompts: Sequence[Prompt], rows_per_prompt: int) -> None:
        """See `Scorer.start`."""
        for scorer in self.scorers:
            scorer.start(prompts, rows_per_prompt)

    def score(self, chunk: Chunk) -> Tensor:
        """Cumulative scores [R] float64; see `Scorer.score`."""
        parts = [
            scorer.score(chunk).to(torch.float64) * weight
            for scorer, weight in zip(self.scorers, self.weights, strict=True)
        ]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def reorder(self, parent: Tensor, share: Tensor) -> None:
        """See `Scorer.reorder`."""
        for scorer in self.scorers:
            scorer.reorder(parent, share)
