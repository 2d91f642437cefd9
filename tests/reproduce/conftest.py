"""Made-up reviews, and an experiment small enough to do by hand."""

import pytest

from w2s.embedded import Review
from w2s.reproduce.experiment import Experiment, Method, Run

GOOD = ("a warm and lovely film", "great acting, great fun", "I loved the lovely story")
BAD = ("a dull and awful film", "bad acting, no fun", "I hated the awful story")


@pytest.fixture
def made_up_reviews():
    """60 reviews, half of them positive."""
    return [
        Review(f"{text}, scene {number} of this film", text in GOOD, "imdb")
        for number in range(10)
        for text in (*GOOD, *BAD)
    ]


@pytest.fixture
def small():
    """Two openings and two seeds: a pool of three, a search, guided draws on two; a variant."""
    runs = (
        Run("pool", "pool", 1, 3, None, 2, (0, 1)),
        Run("CBS 4,4,5", "search", 4, 4, 5, 2, (0, 1)),
        Run("EFT β=1", "guided", 1, 2, None, 2, (0, 1), beta=1.0),
        Run("CBS 2,2,5", "search", 2, 2, 5, 1, (1,)),
    )
    methods = (
        Method("base", "pool", None, 1, None, guided=False),
        Method("EFT β=1", "EFT β=1", None, 1, None),
        Method("BoN-2", "pool", 2, 2, None),
        Method("BoN-16", "pool", 3, 3, None),
        Method("CBS 4,4,5", "CBS 4,4,5", None, 16, 5),
        Method("CBS 2,2,5", "CBS 2,2,5", None, 4, 5),
    )
    return Experiment(2, 0, runs, methods)
