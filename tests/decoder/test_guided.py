"""`GuidedProposer` (emulated fine-tuning): identities, and the law against plain Python."""

import math

import pytest
import torch

import w2s
from support.slow_cbs import log_softmax
from support.tiny import (
    EOS,
    VOCAB,
    TableModel,
    gpt2_config,
    llama_config,
    random_table,
    table_row,
    tiny_model,
)

PROMPTS = [[5, 6, 7], [9], [4, 4, 8, 10, 12, 30, 2], [11, 12]]
SIZE = 97
LARGE, TUNED, UNTUNED = (random_table(seed) for seed in (3, 1, 2))


def table(which):
    return w2s.load((TableModel(which), None))


def guided(plan, beta, large=LARGE, tuned=TUNED, untuned=UNTUNED):
    return w2s.GuidedProposer(table(large), table(tuned), table(untuned), plan, beta=beta)


def law(prefix, beta, temperature):
    """log softmax((z + beta (t - u)) / T) of the tables' rows, in Python floats."""
    row = table_row(prefix, SIZE)
    base, t, u = (m[row].double().tolist() for m in (LARGE, TUNED, UNTUNED))
    return log_softmax(
        [(z + beta * (a - b)) / temperature for z, a, b in zip(base, t, u, strict=True)]
    )


PLANS = [
    w2s.SearchPlan.sample(max_new_tokens=20),
    w2s.SearchPlan.bon(5, max_new_tokens=14, top_p=0.9),
    w2s.SearchPlan(3, 2, 4, max_new_tokens=18),
    w2s.SearchPlan.greedy(max_new_tokens=20),
    w2s.SearchPlan.beam(3, max_new_tokens=12),
]


@pytest.mark.parametrize("plan", PLANS, ids=["sample", "bon", "cbs", "greedy", "beam"])
def test_beta_0_is_the_base_token_for_token(plan):
    alone = w2s.search(PROMPTS, w2s.LocalProposer(table(LARGE), plan), None, plan)
    assert w2s.search(PROMPTS, guided(plan, 0.0), None, plan) == alone
    assert w2s.search(PROMPTS, guided(plan, 1.0), None, plan) != alone


@pytest.mark.parametrize("plan", PLANS, ids=["sample", "bon", "cbs", "greedy", "beam"])
def test_a_pair_of_equal_models_is_the_base_token_for_token(plan):
    alone = w2s.search(PROMPTS, w2s.LocalProposer(table(LARGE), plan), None, plan)
    assert w2s.search(PROMPTS, guided(plan, 3.0, untuned=TUNED), None, plan) == alone


@pytest.mark.parametrize("beta", [-0.5, 0.3, 1.0, 2.5])
def test_greedy_guided_text_is_the_arg_max_of_the_guided_law(beta):
    plan = w2s.SearchPlan.greedy(max_new_tokens=20)
    for prompt, result in zip(
        PROMPTS, w2s.search(PROMPTS, guided(plan, beta), None, plan), strict=True
    ):
        written = []
        while len(written) < 20 and EOS not in written:
            logs = law([*prompt, *written], beta, 1.0)
            written.append(max(range(VOCAB), key=logs.__getitem__))
        assert result.best.tokens == written


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_the_reported_log_prob_is_that_of_the_guided_law(temperature):
    plan = w2s.SearchPlan.bon(6, max_new_tokens=9, temperature=temperature, top_k=0)
    for prompt, result in zip(
        PROMPTS, w2s.search(PROMPTS, guided(plan, 0.8), None, plan), strict=True
    ):
        for candidate in result.candidates:
            expected = math.fsum(
                law([*prompt, *candidate.tokens[:i]], 0.8, temperature)[token]
                for i, token in enumerate(candidate.tokens)
            )
            assert candidate.score == pytest.approx(expected, abs=2e-5)


def test_draws_follow_the_guided_law():
    """The first token's frequencies over many prompts' draws, by a chi-square bound."""
    plan = w2s.SearchPlan.bon(64, max_new_tokens=1, temperature=1.0, top_k=0)
    prompts = [[5, 6, 7]] * 64
    found = w2s.search(prompts, guided(plan, 1.0), None, plan)
    counts = torch.zeros(VOCAB, dtype=torch.float64)
    for result in found:
        for candidate in result.candidates:
            counts[candidate.tokens[0]] += 1
    expected = torch.tensor(law([5, 6, 7], 1.0, 1.0), dtype=torch.float64).exp() * counts.sum()
    likely = expected > 5
    chi = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
    degrees = int(likely.sum())
    assert float(chi) < degrees + 5 * math.sqrt(2 * degrees)


def test_a_search_over_guided_chunks_is_the_same_alone_and_in_a_batch():
    plan = w2s.SearchPlan(3, 2, 4, max_new_tokens=18)
    scorer = w2s.PairScorer(table(TUNED), table(UNTUNED), plan)
    together = w2s.search(PROMPTS, guided(plan, 1.0), scorer, plan)
    for index, prompt in enumerate(PROMPTS):
        alone = w2s.search([prompt], guided(plan, 1.0), scorer, plan, index=[index])
        assert alone == [together[index]]


def test_real_models_with_templates_of_their_own_follow_the_guided_law():
    """Three transformers models that see prompts of different lengths; greedy, past re-orders."""
    large = tiny_model(llama_config(), 0)
    tuned, untuned = (tiny_model(gpt2_config(), seed) for seed in (1, 2))
    plan = w2s.SearchPlan.greedy(max_new_tokens=12)
    proposer = w2s.GuidedProposer((large, None), (tuned, None), (untuned, None), plan, beta=0.5)
    for prompt, result in zip(PROMPTS, w2s.search(PROMPTS, proposer, None, plan), strict=True):
        written = []
        with torch.inference_mode():
            while len(written) < 12 and EOS not in written:
                ids = torch.tensor([[*prompt, *written]])
                z, t, u = (m(input_ids=ids).logits[0, -1].double() for m in (large, tuned, untuned))
                written.append(int((z + 0.5 * (t - u)).argmax()))
        assert result.best.tokens == written


def test_guide_writes_with_the_pair_where_beta_is_given():
    models = [table(which) for which in (LARGE, TUNED, UNTUNED)]
    pair = (models[1], models[2])
    one, many = w2s.SearchPlan.sample(max_new_tokens=9), w2s.SearchPlan(2, 2, 3, max_new_tokens=9)
    found = w2s.guide(PROMPTS, models[0], pair, one, beta=0.7)
    assert found == w2s.search(PROMPTS, guided(one, 0.7), None, one)
    scorer = w2s.PairScorer(*pair, many)
    found = w2s.guide(PROMPTS, models[0], pair, many, beta=0.7)
    assert found == w2s.search(PROMPTS, guided(many, 0.7), scorer, many)
    with pytest.raises(w2s.SearchError, match="give a pair"):
        w2s.guide(PROMPTS, models[0], None, one, beta=0.7)


@pytest.mark.parametrize("beta", [math.nan, math.inf, "1"])
def test_a_beta_that_is_no_number_is_refused(beta):
    with pytest.raises(w2s.SearchError, match="beta must be a finite number"):
        guided(w2s.SearchPlan(), beta)


def test_models_of_other_vocabularies_are_refused():
    small = w2s.load((TableModel(random_table(1, vocab=50)), None))
    with pytest.raises(w2s.VocabularyError, match="has 64 tokens"):
        w2s.GuidedProposer(table(LARGE), small, small, w2s.SearchPlan())
