"""Prompts and guard text for a sweep that is given none: reviews that no model here has seen."""

from __future__ import annotations

from w2s import embedded
from w2s.embedded.demo_package import MissingDemoError
from w2s.errors import ExpoError
from w2s.reproduce.experiment import OPENING_TOKENS


def review_openings(count: int, *, skip: int) -> list[str]:
    """The first words of held-out reviews, those of `w2s reproduce sentiment` after `skip`.

    Raises:
        ExpoError: there are not so many, or the reviews are not installed.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(embedded.large()))
        return embedded.openings(tokenizer, count, tokens=OPENING_TOKENS, skip=skip)
    except (MissingDemoError, ValueError) as error:
        raise ExpoError(" ".join(str(error).split())) from error


def review_texts(count: int, *, skip: int) -> list[str]:
    """Whole held-out reviews: those whose openings come after the first `skip`.

    Raises:
        ExpoError: there are not so many, or the reviews are not installed.
    """
    try:
        found = embedded.held_out()[skip : skip + count]
    except MissingDemoError as error:
        raise ExpoError(" ".join(str(error).split())) from error
    if len(found) < count:
        raise ExpoError(f"there are {len(found)} held-out reviews after {skip}, not {count}")
    return found
