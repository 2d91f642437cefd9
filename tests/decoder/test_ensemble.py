"""`EnsembleScorer`: weighted scorers, and the identities that must hold to the bit."""

import math

import pytest
import torch

import w2s
from support.tiny import TableModel, random_table

PROMPTS = [[5, 6, 7], [9], [4, 4, 8, 10, 12, 30, 2]]
PLAN = w2s.SearchPlan(3, 2, 4, max_new_tokens=14)


def table(seed):
    return w2s.load((TableModel(random_table(seed)), None))


def pair(seed):
    return w2s.PairScorer(table(seed), table(seed + 10), PLAN)


def search(scorer):
    return w2s.search(PROMPTS, w2s.LocalProposer(table(3), PLAN), scorer, PLAN)


class Never:
    """A scorer that must not be run."""

    def start(self, prompts, rows_per_prompt):
        raise AssertionError("a scorer of weight 0 was run")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_one_hot_ensemble_is_the_single_scorer_bit_for_bit(place):
    scorers = [Never(), Never(), Never()]
    scorers[place] = pair(1)
    weights = [float(place == i) for i in range(3)]
    assert search(w2s.EnsembleScorer(scorers, weights)) == search(pair(1))


def test_the_score_is_the_weighted_sum_of_the_members():
    weights = [0.25, -0.5, 2.0]
    members = [pair(seed) for seed in (1, 2, 4)]
    ensemble = w2s.EnsembleScorer([pair(seed) for seed in (1, 2, 4)], weights)
    rows = PLAN.pool
    for scorer in (*members, ensemble):
        scorer.start(PROMPTS, rows)
    dice = torch.Generator().manual_seed(0)
    total = len(PROMPTS) * rows
    for _ in range(3):
        tokens = torch.randint(4, 60, (total, 4), generator=dice)
        full = torch.full((total,), 4)
        chunk = w2s.Chunk(tokens, torch.zeros(total, 4), full, full < 0)
        parts = [scorer.score(chunk) for scorer in members]
        expected = sum(w * part for w, part in zip(weights, parts, strict=True))
        assert torch.allclose(ensemble.score(chunk), expected, rtol=0, atol=1e-12)
        parent = torch.randint(rows, (len(PROMPTS), rows), generator=dice)
        share = torch.zeros(len(PROMPTS), rows, rows, dtype=torch.long)
        for scorer in (*members, ensemble):
            scorer.reorder(parent, share)


def test_an_ensemble_of_ensembles_is_flat_in_the_checks():
    inner = w2s.EnsembleScorer([pair(1)], [1.0])
    short = w2s.SearchPlan(3, 2, 4, max_new_tokens=5)
    bad = w2s.EnsembleScorer([inner, w2s.PairScorer(table(2), table(5), short)], [0.5, 0.5])
    with pytest.raises(w2s.SearchError, match="PairScorer was made for 5 new tokens"):
        search(bad)
    other = w2s.load((TableModel(random_table(1, vocab=50)), None))
    with pytest.raises(w2s.VocabularyError, match="50"):
        search(w2s.EnsembleScorer([inner, w2s.PairScorer(other, other, PLAN)], [0.5, 0.5]))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "got 2 scorers and 1 weights"),
        ([0.0, 0.0], "a weight other than 0"),
        ([math.nan, 1.0], "finite numbers, got nan"),
        ([math.inf, 1.0], "finite numbers, got inf"),
        (["1", 1.0], "finite numbers, got '1'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, message):
    with pytest.raises(w2s.SearchError, match=message):
        w2s.EnsembleScorer([pair(1), pair(2)], weights)
