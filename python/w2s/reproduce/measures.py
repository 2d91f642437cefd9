"""What is measured on a text beside its judge: repetition, and sentiment by a word list."""

from __future__ import annotations

import itertools
from collections.abc import Callable


def distinct_2(text: str) -> float:
    """Share of a text's word pairs that are different; 1 for a text without one."""
    pairs = list(itertools.pairwise(text.split()))
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def vader() -> Callable[[str], float]:
    """Compound sentiment of a text by VADER (Hutto and Gilbert, 2014).

    Raises:
        MissingDemoError: the package is not installed.
    """
    from w2s.embedded.demo_package import require_module

    require_module("vaderSentiment")
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    return lambda text: float(analyzer.polarity_scores(text)["compound"])
