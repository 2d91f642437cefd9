"""Training rows for the sentiment pair, from labelled reviews."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from w2s.embedded import Review


def write_texts(reviews: Sequence[Review], path: Path) -> None:
    """One {"text"} row a review, in an order set by the reviews alone."""
    _write(path, [{"text": review.text} for review in reviews])


def write_preferences(
    reviews: Sequence[Review], path: Path, *, count: int, words: tuple[int, int], seed: int
) -> None:
    """`count` {"prompt", "chosen", "rejected"} rows: an excerpt of a positive review and one of a
    negative review of like length, without a prompt.

    Lengths are drawn from `words` (inclusive). Every second pair starts where its reviews start, as
    a search does; the others anywhere. Reviews come up in shuffled passes, so all are used about
    equally often.
    """
    draw = random.Random(seed)
    sides = {
        sign: _passes([r.text.split(" ") for r in reviews if r.positive is sign], draw)
        for sign in (True, False)
    }
    rows = []
    for number in range(count):
        length = draw.randint(*words)
        opening = number % 2 == 0
        chosen = _excerpt(next(sides[True]), length, opening, draw)
        rejected = _excerpt(next(sides[False]), length, opening, draw)
        rows.append({"prompt": "", "chosen": chosen, "rejected": rejected})
    _write(path, rows)


def _passes(texts: list[list[str]], draw: random.Random) -> Iterator[list[str]]:
    while True:
        order = list(range(len(texts)))
        draw.shuffle(order)
        yield from (texts[i] for i in order)


def _excerpt(words: list[str], length: int, opening: bool, draw: random.Random) -> str:
    start = 0 if opening else draw.randint(0, max(0, len(words) - length))
    return " ".join(words[start : start + length])


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
