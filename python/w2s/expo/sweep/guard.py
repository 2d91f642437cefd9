"""The guard: perplexity of text that the tuning was not about, at every α (arXiv 2404.16792 warns
of losses elsewhere)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from w2s.errors import ExpoError
from w2s.memory import memory_errors
from w2s.reader import Reader
from w2s_kernels import linear_logprob

if TYPE_CHECKING:
    from w2s.models import Model

WINDOW = 256  # tokens that are read without what stands before them, at most
_TOKENS_AT_ONCE = 4096


@dataclass(frozen=True)
class GuardText:
    """Held-out text as token windows, each of two tokens at least.

    A window's first token is given, all others are predicted: `tokens` of them.
    """

    windows: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        return sum(len(window) - 1 for window in self.windows)


def guard_text(model: Model, texts: Sequence[str], window: int = WINDOW) -> GuardText:
    """Tokenizes each text with the tokenizer's defaults and cuts it into windows.

    window: the longest; shorter where the model's context is.

    Raises:
        ExpoError: there is nothing to predict.
    """
    if model.tokenizer is None:
        raise ExpoError(f"{model.name} was given without a tokenizer; guard text needs one")
    size = window if model.context is None else min(window, model.context)
    found = []
    for text in texts:
        ids = model.tokenizer(text)["input_ids"]
        cut = (ids[first : first + size] for first in range(0, len(ids), size))
        found += [tuple(part) for part in cut if len(part) > 1]
    if not found:
        raise ExpoError("the guard text has no two tokens in a row; give longer texts")
    return GuardText(tuple(found))


def perplexity(model: Model, guard: GuardText) -> float:
    """exp of the mean −log p(token | its window so far), over all predicted tokens.

    Each token's log-prob comes from hidden state and head (`linear_logprob`, fp32); they are added
    in float64. inf or NaN where the model breaks down.
    """
    total = 0.0
    with torch.inference_mode(), memory_errors("the guard perplexity", "the length of its texts"):
        for batch in _batches(guard.windows):
            total += _logprob(model, batch)
    try:
        return math.exp(-total / guard.tokens)
    except OverflowError:
        return math.inf


def _batches(windows: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Windows of about one length, as many as a forward takes."""
    batch: list[tuple[int, ...]] = []
    for window in sorted(windows, key=len):
        if batch and (len(batch) + 1) * len(window) > _TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(window)
    yield batch


def _logprob(model: Model, windows: Sequence[tuple[int, ...]]) -> float:
    """Σ log p over all windows' tokens but their first."""
    longest = max(map(len, windows)) - 1
    ids = torch.zeros(len(windows), longest + 1, dtype=torch.long)  # [R, L + 1], padded with 0
    own = torch.zeros(len(windows), longest, dtype=torch.bool)
    for row, window in enumerate(windows):
        ids[row, : len(window)] = torch.tensor(window)
        own[row, : len(window) - 1] = True
    ids, own = ids.to(model.device), own.to(model.device)
    reader = Reader(model)
    reader.start([window[:1] for window in windows], 1, longest, whole=False)
    hidden = reader.read(ids[:, :-1])[own]  # [N, D]
    found = linear_logprob(hidden, model.head, ids[:, 1:][own])  # [N]
    return float(found.double().sum())
