"""The candidate softmax: which tokens it runs over, and that it is right in the mean."""

import pytest
import torch

from w2s.train.candidates import CandidateSet, target_counts
from w2s_kernels import Head, linear_logprob

VOCAB = 400


def counts() -> torch.Tensor:
    return torch.arange(VOCAB, 0, -1)  # id 0 is the most frequent


def test_targets_and_the_most_frequent_tokens_are_always_in() -> None:
    target = torch.tensor([399, 5, 250, 5])
    drawn = CandidateSet(counts(), 80, seed=0).draw(target)
    assert set(range(60)) <= set(drawn.ids.tolist())
    assert torch.equal(drawn.ids[drawn.target], target)
    assert drawn.ids.tolist() == sorted(set(drawn.ids.tolist()))
    assert len(drawn.ids) == 60 + 2 + 20


def test_the_normaliser_is_right_in_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(VOCAB, generator=generator)
    drawer, target = CandidateSet(counts(), 200, seed=0), torch.tensor([3])
    sums = []
    for _ in range(2000):
        drawn = drawer.draw(target)
        sums.append(float((logits[drawn.ids] + drawn.bias).exp().sum()))
    spread = torch.tensor(sums).std() / len(sums) ** 0.5
    exact = float(logits.exp().sum())
    assert abs(sum(sums) / len(sums) - exact) < 4 * float(spread)
    assert float(spread) < 0.01 * exact


def test_candidates_that_cover_the_vocabulary_give_the_exact_softmax() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden, weight = (
        torch.randn(5, 8, generator=generator),
        torch.randn(VOCAB, 8, generator=generator),
    )
    target = torch.randint(VOCAB, (5,), generator=generator)
    drawn = CandidateSet(counts(), VOCAB * 4, seed=0).draw(target)
    few = linear_logprob(hidden, Head(weight[drawn.ids], bias=drawn.bias), drawn.target)
    exact = linear_logprob(hidden, Head(weight), target)
    assert torch.allclose(few, exact, rtol=1e-6, atol=1e-6)


def test_ignored_targets_are_not_counted() -> None:
    found = target_counts(torch.tensor([[2, -100], [2, 0]]), 4)
    assert found.tolist() == [1, 0, 2, 0]


@pytest.mark.parametrize("candidates", [80, 81, 3])
def test_a_draw_is_about_as_large_as_asked(candidates: int) -> None:
    drawn = CandidateSet(counts(), candidates, seed=0).draw(torch.tensor([0]))
    assert candidates <= len(drawn.ids) <= candidates + 1
