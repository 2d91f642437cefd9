"""The loop against the paper's algorithm, and the identities between its settings."""

import random

import pytest
import torch

import w2s
from support.slow_cbs import Row, log_softmax, slow_cbs
from support.tiny import (
    EOS,
    VOCAB,
    TableModel,
    llama_config,
    random_table,
    table_row,
    tiny_model,
    word_tokenizer,
)

PROMPTS = [[5, 6, 7], [9], [4, 4, 8, 10, 12, 30, 2], [11, 12]]
SIZE = 97
TUNED, UNTUNED = random_table(1), random_table(2)


def table_pair(plan):
    return w2s.PairScorer((TableModel(TUNED), None), (TableModel(UNTUNED), None), plan)


_LOGS = [[log_softmax(row) for row in table.tolist()] for table in (TUNED, UNTUNED)]


def log_ratio(prompt, response, token):
    row = table_row([*prompt, *response], SIZE)
    return _LOGS[0][row][token] - _LOGS[1][row][token]


def record(plan, prompts, seed, p_eos):
    """Random rounds [rows, L] with EOS inside, -1 behind it, and rubbish for ended rows."""
    dice = random.Random(seed)
    rounds, left = [], plan.max_new_tokens
    while left:
        length = min(plan.chunk_length, left)
        rounds.append([_record_row(dice, length, p_eos) for _ in range(prompts * plan.pool)])
        left -= length
    return rounds


def _record_row(dice, length, p_eos):
    row = [dice.randrange(4, VOCAB) for _ in range(length)]
    for column in range(length):
        if dice.random() < p_eos:
            return [*row[:column], EOS, *[-1] * (length - column - 1)]
    return row


SETTINGS = [
    # width, samples, chunk, max_new_tokens (not a multiple of chunk: the last chunk is partial)
    (4, 4, 5, 23),
    (2, 2, 3, 10),
    (1, 4, None, 12),
    (3, 2, 4, 9),
    (1, 1, 7, 16),
    (4, 1, 2, 11),
    (2, 8, 1, 6),
    (8, 2, 6, 20),
]


@pytest.mark.parametrize("clones", [False, True])
@pytest.mark.parametrize("p_eos", [0.0, 0.02, 0.15])
@pytest.mark.parametrize(("width", "samples", "chunk", "limit"), SETTINGS)
def test_search_is_the_papers_algorithm(width, samples, chunk, limit, p_eos, clones):
    plan = w2s.SearchPlan(
        width=width, samples=samples, chunk=chunk, max_new_tokens=limit, clones=clones
    )
    rounds = record(plan, len(PROMPTS), seed=width * 100 + samples, p_eos=p_eos)
    found = w2s.search(PROMPTS, w2s.ReplayProposer(rounds, EOS), table_pair(plan), plan)
    expected = slow_cbs(PROMPTS, rounds, width, samples, log_ratio, eos=EOS, clones=clones)
    for result, pool in zip(found, expected, strict=True):
        assert [c.tokens for c in result.candidates] == [row.tokens for row in pool]
        assert [c.finished for c in result.candidates] == [row.finished for row in pool]
        for candidate, row in zip(result.candidates, pool, strict=True):
            assert candidate.score == pytest.approx(row.score, abs=1e-5)
            assert candidate.finish_reason == ("eos" if row.finished else "length")


def test_the_slow_search_keeps_one_clone_of_a_finished_row():
    """The judge itself: four copies of a finished row leave the other places to the others."""
    rounds = [[[7, EOS], [8, 9], [10, 11], [12, 13]], [[5, 5], [6, 6], [14, 15], [16, 17]]]
    scores = {7: 9.0, 8: 5.0}
    pool = slow_cbs(
        [[4]], rounds, 2, 2, lambda prompt, response, token: scores.get(token, -1.0), eos=EOS
    )[0]
    assert [row.tokens for row in pool] == [[7, EOS], [8, 9, 14, 15], [8, 9, 16, 17]]
    assert isinstance(pool[0], Row)


def local(model, plan, prompts, scorer=None, **kwargs):
    return w2s.search(prompts, w2s.LocalProposer(model, plan), scorer, plan, **kwargs)


@pytest.fixture(scope="module")
def writer():
    return w2s.load((TableModel(random_table(3)), None))


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_prompts_result_is_the_same_bits_alone_and_in_a_batch_of_8(writer, temperature):
    plan = w2s.SearchPlan(3, 2, 4, max_new_tokens=18, temperature=temperature)
    prompts = [[5 + i, *range(10, 10 + (i * 3) % 7)] for i in range(8)]
    together = local(writer, plan, prompts, table_pair(plan))
    for index, prompt in enumerate(prompts):
        alone = local(writer, plan, [prompt], table_pair(plan), index=[index])
        assert alone == [together[index]]


def test_the_order_of_the_prompts_is_the_order_of_the_results(writer):
    plan = w2s.SearchPlan(2, 2, 4, max_new_tokens=9)
    index = [3, 0, 2, 1]
    forwards = local(writer, plan, PROMPTS, table_pair(plan))
    shuffled = local(writer, plan, [PROMPTS[i] for i in index], table_pair(plan), index=index)
    assert [forwards[i] for i in index] == shuffled


def test_another_seed_draws_other_tokens(writer):
    pools = [
        local(writer, w2s.SearchPlan(2, 2, 5, max_new_tokens=10, seed=seed), [[5, 6]])
        for seed in (0, 0, 1)
    ]
    assert pools[0] == pools[1] != pools[2]


def test_best_of_n_is_cbs_of_width_1_and_one_chunk(writer):
    bon = w2s.SearchPlan.bon(6, max_new_tokens=15)
    cbs = w2s.SearchPlan.cbs(1, 6, chunk=15, max_new_tokens=15)
    found = local(writer, bon, PROMPTS, table_pair(bon))
    assert found == local(writer, cbs, PROMPTS, table_pair(cbs))
    assert all(len(result.candidates) == 6 for result in found)
    scores = [[c.score for c in result.candidates] for result in found]
    assert scores == [sorted(pool, reverse=True) for pool in scores]


def test_scoring_does_not_depend_on_the_chunk_length(writer):
    """One running float64 a row: the same responses score the same bits in chunks of any length."""
    plan = w2s.SearchPlan.bon(4, max_new_tokens=12)
    pool = local(writer, plan, PROMPTS, table_pair(plan))
    kept = {tuple(c.tokens): c.score for result in pool for c in result.candidates}
    for length in (1, 5):
        step = w2s.SearchPlan(4, 1, length, max_new_tokens=12, clones=True)
        rows = [
            c.tokens + [-1] * (12 - len(c.tokens)) for result in pool for c in result.candidates
        ]
        scorer = table_pair(step)
        scorer.start(PROMPTS, 4)
        proposer = w2s.ReplayProposer(
            [[r[i : i + length] for r in rows] for i in range(0, 12, length)]
        )
        proposer.start(PROMPTS, 4)
        for _ in range(0, 12, length):
            score = scorer.score(proposer.extend(length))
        assert score.tolist() == [kept[tuple(t for t in row if t >= 0)] for row in rows]


def test_equal_models_score_exactly_0(writer):
    plan = w2s.SearchPlan(2, 3, 4, max_new_tokens=10)
    model = tiny_model(llama_config(), 1)
    scorer = w2s.PairScorer((model, None), (model, None), plan)
    for result in local(writer, plan, PROMPTS, scorer):
        assert {c.score for c in result.candidates} == {0.0}


def test_greedy_is_transformers_arg_max_decoding():
    model = tiny_model(llama_config(), 0)
    plan = w2s.SearchPlan.greedy(max_new_tokens=25)
    found = local((model, None), plan, PROMPTS)
    for prompt, result in zip(PROMPTS, found, strict=True):
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=25, do_sample=False)
        assert result.best.tokens == expected[0, len(prompt) :].tolist()
        assert result.best.finished == (result.best.tokens[-1] == EOS)


def test_without_a_scorer_the_proposers_own_log_prob_ranks(writer):
    plan = w2s.SearchPlan.bon(5, max_new_tokens=8, temperature=1.0, top_k=0)
    logs = [log_softmax(row) for row in random_table(3).tolist()]
    for prompt, result in zip(PROMPTS, local(writer, plan, PROMPTS), strict=True):
        for candidate in result.candidates:
            expected = sum(
                logs[table_row([*prompt, *candidate.tokens[:i]], SIZE)][token]
                for i, token in enumerate(candidate.tokens)
            )
            assert candidate.score == pytest.approx(expected, abs=1e-5)


def test_a_prompt_whose_kept_rows_ended_is_frozen_while_others_run():
    """Prompt 0 ends in round 0; what is recorded for its rows later must not touch its pool."""
    plan = w2s.SearchPlan(1, 2, 2, max_new_tokens=6)
    table = {7: 3.0}
    rounds = [
        [[7, EOS], [8, 9], [10, 11], [12, 13]],
        [[20, 21], [22, 23], [24, 25], [26, 27]],
        [[30, 31], [32, 33], [34, 35], [36, 37]],
    ]
    expected = slow_cbs([[4], [5]], rounds, 1, 2, lambda p, r, t: table.get(t, -float(t)), eos=EOS)

    class Table:
        def start(self, prompts, rows_per_prompt):
            self.total = torch.zeros(4, dtype=torch.float64)

        def score(self, chunk):
            worth = torch.full((VOCAB,), 0.0, dtype=torch.float64) - torch.arange(VOCAB)
            worth[7] = 3.0
            own = torch.arange(chunk.tokens.shape[1]) < chunk.lengths[:, None]
            self.total += (worth[chunk.tokens] * own).sum(1)
            return self.total

        def reorder(self, parent, share):
            self.total = self.total.view(2, 2).gather(1, parent).flatten()

    found = w2s.search([[4], [5]], w2s.ReplayProposer(rounds, EOS), Table(), plan)
    for result, pool in zip(found, expected, strict=True):
        assert [c.tokens for c in result.candidates] == [row.tokens for row in pool]
    assert [c.tokens for c in found[0].candidates] == [[7, EOS], [8, 9]]


@pytest.mark.parametrize("clones", [False, True])
@pytest.mark.parametrize(
    ("width", "samples", "chunk", "limit"), [(4, 4, 5, 23), (2, 3, 2, 15), (1, 6, None, 20)]
)
def test_stop_strings_end_rows_as_in_the_papers_algorithm(width, samples, chunk, limit, clones):
    """Drawn text with strings that end inside tokens and span them; prompts end at unlike times.

    The slow search decides from the decoded text; it gets the drawn tokens, not where rows end.
    """
    words = word_tokenizer()
    stop = ("7w1", "w9", "5</s>", "2w3")
    plan = w2s.SearchPlan(width, samples, chunk, max_new_tokens=limit, stop=stop, clones=clones)
    proposer = w2s.LocalProposer((TableModel(random_table(3)), words), plan)
    rounds, drawn = [], proposer.extend

    def extend(max_new):
        found = drawn(max_new)
        rounds.append(found.tokens.tolist())
        return found

    proposer.extend = extend
    found = w2s.search(PROMPTS, proposer, table_pair(plan), plan)

    def stops(tokens):
        return any(s in words.decode(tokens, skip_special_tokens=True) for s in stop)

    expected = slow_cbs(
        PROMPTS, rounds, width, samples, log_ratio, eos=EOS, clones=clones, stops=stops
    )
    reasons = set()
    for result, pool in zip(found, expected, strict=True):
        assert [c.tokens for c in result.candidates] == [row.tokens for row in pool]
        assert [c.finished for c in result.candidates] == [row.finished for row in pool]
        for candidate, row in zip(result.candidates, pool, strict=True):
            assert candidate.score == pytest.approx(row.score, abs=1e-5)
            by_stop = row.finished and row.tokens[-1] != EOS
            assert (candidate.finish_reason == "stop") == by_stop
            assert not any(s in candidate.text for s in stop)
            reasons.add(candidate.finish_reason)
    assert {"eos", "stop"} <= reasons


def test_a_search_ends_when_all_prompts_have_ended():
    plan = w2s.SearchPlan(1, 1, 1, max_new_tokens=50)
    table = torch.full((97, VOCAB), -1.0)
    table[:, EOS] = 9.0
    calls = []
    found = local((TableModel(table), None), plan, PROMPTS, on_chunk=calls.append)
    assert len(calls) == 1
    assert [r.best.tokens for r in found] == [[EOS]] * len(PROMPTS)


def test_on_chunk_tells_what_was_selected(writer):
    plan = w2s.SearchPlan(2, 2, 4, max_new_tokens=10)
    traces = []
    found = local(writer, plan, PROMPTS, table_pair(plan), on_chunk=traces.append)
    assert [t.written for t in traces] == [4, 8, 10]
    assert [t.chunk for t in traces] == [0, 1, 2]
    assert [max(t) for t in traces[-1].scores] == traces[-1].best
    assert traces[-1].best == [result.best.score for result in found]
    assert all(len(row) <= 4 for t in traces for row in t.tokens)
    assert traces[0].new_tokens == sum(map(len, traces[0].tokens))
    # Row p·W·K + w·K + k continues the w-th best: parents come in runs of K.
    for parents in traces[0].parents:
        assert parents[0] == parents[1]
        assert parents[2] == parents[3]


def test_a_row_with_nan_scores_is_never_returned():
    """A proposer may write what a model of the pair calls impossible in both: the row is lost."""
    plan = w2s.SearchPlan(2, 2, 2, max_new_tokens=4)
    tuned, untuned = TUNED.clone(), UNTUNED.clone()
    tuned[:, 40] = untuned[:, 40] = float("-inf")

    class Masked(TableModel):
        """Looks the logits up: a product with the one-hot row would spoil them all with 0 * inf."""

        def __init__(self, table):
            super().__init__(table.nan_to_num(neginf=0.0))
            self.bias = torch.zeros(VOCAB)
            self.bias[40] = float("-inf")
            self.lm_head.bias = torch.nn.Parameter(self.bias)

    scorer = w2s.PairScorer((Masked(tuned), None), (Masked(untuned), None), plan)
    rounds = [[[7, 8], [9, 40], [10, 11], [12, 13]], [[40, 5], [14, 15], [16, 40], [17, 18]]]
    found = w2s.search([[5, 6]], w2s.ReplayProposer(rounds, EOS), scorer, plan)[0]
    assert len(found.candidates) == 2
    assert all(40 not in c.tokens and c.score == c.score for c in found.candidates)


def test_a_pool_of_nan_scores_says_so_when_its_best_is_asked_for():
    plan = w2s.SearchPlan(1, 2, 2, max_new_tokens=2)

    class Broken:
        def start(self, prompts, rows_per_prompt):
            pass

        def score(self, chunk):
            return torch.full((2,), float("nan"), dtype=torch.float64)

        def reorder(self, parent, share):
            pass

    found = w2s.search([[5]], w2s.ReplayProposer([[[7, 8], [9, 9]]]), Broken(), plan)[0]
    assert found.candidates == []
    with pytest.raises(w2s.SearchError, match="all are NaN"):
        _ = found.best


def test_no_prompts_give_no_results(writer):
    plan = w2s.SearchPlan()
    assert local(writer, plan, [], table_pair(plan)) == []


def test_a_proposer_or_scorer_made_for_fewer_tokens_is_refused(writer):
    short, long = w2s.SearchPlan(max_new_tokens=5), w2s.SearchPlan(max_new_tokens=6)
    with pytest.raises(w2s.SearchError, match="LocalProposer was made for 5 new tokens"):
        w2s.search(PROMPTS, w2s.LocalProposer(writer, short), table_pair(long), long)
    with pytest.raises(w2s.SearchError, match="PairScorer was made for 5 new tokens"):
        w2s.search(PROMPTS, w2s.LocalProposer(writer, long), table_pair(short), long)


@pytest.mark.parametrize(
    ("rounds", "message"),
    [
        ([[[5, 6]]], "round 0 of the recording has 1 rows; 2 prompts of 2 rows need 4"),
        ([[5, 6]], r"must be \[rows, L\], got \[2\]"),
        ([[[5] * 9] * 4], "has 9 tokens a row; the plan asks for at most 3"),
    ],
)
def test_a_recording_that_does_not_fit_is_refused(rounds, message):
    plan = w2s.SearchPlan(width=1, samples=2, chunk=3)
    with pytest.raises(w2s.SearchError, match=message):
        w2s.search([[4], [5]], w2s.ReplayProposer(rounds), None, plan)


def test_an_index_of_another_length_is_refused(writer):
    with pytest.raises(w2s.SearchError, match="index has 1 entries for 4 prompts"):
        local(writer, w2s.SearchPlan(), PROMPTS, index=[0])
