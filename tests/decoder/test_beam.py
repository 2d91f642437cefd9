"""Beam search: a setting of the one loop, against plain Python and against transformers."""

import pytest
import torch

import w2s
from support.slow_cbs import log_softmax
from support.tiny import EOS, VOCAB, TableModel, llama_config, random_table, table_row, tiny_model

PROMPTS = [[5, 6, 7], [9], [4, 4, 8, 10, 12, 30, 2], [11, 12]]
SIZE = 97


def search(model, plan, prompts=PROMPTS, **settings):
    return w2s.search(prompts, w2s.LocalProposer(model, plan), None, plan, **settings)


def slow_beam(table, prompt, width, limit, temperature=1.0):
    """Keeps the `width` likeliest of all one-token extensions; ended ones stay as they are."""
    logs = [log_softmax([z / temperature for z in row]) for row in table.double().tolist()]
    kept = [((), 0.0)]
    for _ in range(limit):
        pool = []
        for tokens, score in kept:
            if EOS in tokens:
                pool.append((tokens, score))
                continue
            row = logs[table_row([*prompt, *tokens], SIZE)]
            pool += [((*tokens, token), score + row[token]) for token in range(VOCAB)]
        kept = sorted(pool, key=lambda item: -item[1])[:width]
        if all(EOS in tokens for tokens, _ in kept):
            break
    return kept


@pytest.mark.parametrize("eos_bonus", [0.0, 2.5])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("width", [1, 2, 4, 7])
def test_beam_search_keeps_the_likeliest_extensions(width, temperature, eos_bonus):
    table = random_table(3)
    table[:, EOS] += eos_bonus
    plan = w2s.SearchPlan.beam(width, max_new_tokens=9, temperature=temperature)
    found = search((TableModel(table), None), plan)
    ended = 0
    for prompt, result in zip(PROMPTS, found, strict=True):
        expected = slow_beam(table, prompt, width, 9, temperature)
        kept = result.candidates[:width]
        assert [tuple(c.tokens) for c in kept] == [tokens for tokens, _ in expected]
        for candidate, (tokens, score) in zip(kept, expected, strict=True):
            assert candidate.score == pytest.approx(score, abs=2e-5)
            assert candidate.finished == (EOS in tokens)
            ended += candidate.finished
    assert ended or not eos_bonus  # the bonus makes rows end, so that the rule for them is tried


def test_width_1_is_greedy():
    model = tiny_model(llama_config(), 0)
    beam = search((model, None), w2s.SearchPlan.beam(1, max_new_tokens=15))
    greedy = search((model, None), w2s.SearchPlan.greedy(max_new_tokens=15))
    assert [r.best.tokens for r in beam] == [r.best.tokens for r in greedy]


@pytest.mark.parametrize("width", [2, 5])
def test_beam_search_is_that_of_transformers_where_nothing_ends(width):
    model = tiny_model(llama_config(eos_token_id=None), 0)
    model.generation_config.eos_token_id = None
    plan = w2s.SearchPlan.beam(width, max_new_tokens=15)
    for prompt, result in zip(PROMPTS, search((model, None), plan), strict=True):
        theirs = model.generate(
            torch.tensor([prompt]), max_new_tokens=15, num_beams=width, do_sample=False,
            num_return_sequences=width, length_penalty=0.0, return_dict_in_generate=True,
            output_scores=True,
        )  # fmt: skip
        ours = result.candidates[:width]
        assert [c.tokens for c in ours] == theirs.sequences[:, len(prompt) :].tolist()
        for candidate, score in zip(ours, theirs.sequences_scores.tolist(), strict=True):
            assert candidate.score == pytest.approx(score, abs=1e-4)


def test_a_hypothesis_occupies_one_cache_row():
    plan = w2s.SearchPlan.beam(3, max_new_tokens=5)
    proposer = w2s.LocalProposer((TableModel(random_table(3)), None), plan)
    w2s.search(PROMPTS, proposer, None, plan)
    assert {cache.shape[0] for r in proposer._readers for cache in r._cache.caches} == {4 * 3}


def test_beams_are_the_same_alone_and_in_a_batch():
    plan = w2s.SearchPlan.beam(4, max_new_tokens=12)
    model = w2s.load((TableModel(random_table(3)), None))
    together = search(model, plan)
    for index, prompt in enumerate(PROMPTS):
        assert search(model, plan, [prompt], index=[index]) == [together[index]]


def test_the_seed_changes_nothing():
    model = (TableModel(random_table(3)), None)
    plans = [w2s.SearchPlan.beam(3, max_new_tokens=8, seed=seed) for seed in (0, 1)]
    assert search(model, plans[0]) == search(model, plans[1])


def test_more_beams_than_tokens_are_refused():
    with pytest.raises(w2s.SearchError, match="takes the 81 likeliest tokens and the vocabulary"):
        search((TableModel(random_table(3)), None), w2s.SearchPlan.beam(9))


@pytest.mark.parametrize(
    ("field", "value"), [("chunk", 2), ("top_k", 5), ("top_p", 0.9), ("min_p", 0.1), ("beams", 1)]
)
def test_settings_that_mean_nothing_to_beams_are_refused(field, value):
    with pytest.raises(w2s.PlanError, match=field):
        w2s.SearchPlan.beam(2, **{field: value})


def test_a_proposer_made_for_another_kind_of_plan_is_refused():
    beam = w2s.SearchPlan.beam(2, max_new_tokens=4)
    plain = w2s.SearchPlan(2, 2, 1, max_new_tokens=4)
    proposer = w2s.LocalProposer((TableModel(random_table(3)), None), plain)
    with pytest.raises(w2s.SearchError, match="beams=False and the search asks for beams=True"):
        w2s.search(PROMPTS, proposer, None, beam)
