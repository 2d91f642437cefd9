"""How well a pair models reviews and tells good ones from bad, on reviews it never saw."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from w2s.embedded import Review
from w2s.models import Model
from w2s.train.policy import padded, target_logprob
from w2s.train.rows import IGNORE, encode

_ROWS = 32


@torch.inference_mode()
def review_scores(
    tuned: Model, untuned: Model, reviews: Sequence[Review], *, tokens: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Each review's summed log-probs over its first `tokens` tokens: (tuned [R], untuned [R], count
    [R] of tokens they are sums of), float64. The pair's score of a review is the first − second."""
    sums: list[tuple[float, float, int]] = [(0.0, 0.0, 0)] * len(reviews)
    texts = [encode(untuned.tokenizer, "", review.text, end=False) for review in reviews]
    order = sorted(range(len(texts)), key=lambda index: len(texts[index][0]))  # little padding
    for begin in range(0, len(order), _ROWS):
        rows = order[begin : begin + _ROWS]
        ids = padded([texts[index][0][:tokens] for index in rows], 0)
        # The target of the last token kept would be a token that was cut off.
        target = padded([[*texts[index][1][: tokens - 1], IGNORE] for index in rows], IGNORE)
        target = target[:, : ids.shape[1]]
        parts = [target_logprob(m, ids, target).double().sum(dim=1) for m in (tuned, untuned)]
        count = (target != IGNORE).sum(dim=1)
        for place, index in enumerate(rows):
            sums[index] = (float(parts[0][place]), float(parts[1][place]), int(count[place]))
    table = torch.tensor(sums, dtype=torch.float64)  # [R, 3]
    return table[:, 0], table[:, 1], table[:, 2]


def auc(scores: Sequence[float], positive: Sequence[bool]) -> float:
    """Chance that a random positive review scores above a random negative one (ties count half).

    Raises:
        ValueError: one of the classes is empty.
    """
    count = len(scores)
    order = sorted(range(count), key=lambda index: scores[index])
    ranks = [0.0] * count
    begin = 0
    while begin < count:
        end = begin
        while end < count and scores[order[end]] == scores[order[begin]]:
            end += 1
        for place in order[begin:end]:
            ranks[place] = (begin + end + 1) / 2
        begin = end
    above = sum(positive)
    below = count - above
    if not above or not below:
        raise ValueError(
            f"AUC needs both classes; got {above} positive and {below} negative scores"
        )
    total = sum(rank for rank, sign in zip(ranks, positive, strict=True) if sign)
    return (total - above * (above + 1) / 2) / (above * below)


def figures(
    tuned: Model, untuned: Model, reviews: Sequence[Review], *, tokens: int, seed: int = 0
) -> dict[str, float]:
    """NLL a token of both models (nats), the score's AUC and its bootstrap 95 % half-width."""
    good, plain, count = review_scores(tuned, untuned, reviews, tokens=tokens)
    scores = (good - plain).tolist()
    signs = [review.positive for review in reviews]
    draw = random.Random(seed)
    again = []
    for _ in range(200):
        pick = draw.choices(range(len(scores)), k=len(scores))
        again.append(auc([scores[i] for i in pick], [signs[i] for i in pick]))
    again.sort()
    return {
        "tokens": tokens,
        "reviews": len(reviews),
        "auc": round(auc(scores, signs), 4),
        "auc_half_width_95": round((again[194] - again[5]) / 2, 4),
        "nll_tuned": round(float(-good.sum() / count.sum()), 4),
        "nll_untuned": round(float(-plain.sum() / count.sum()), 4),
    }
