"""Children of one hypothesis are read as one row until they part, and nothing else changes."""

import contextlib
import dataclasses

import pytest
import torch

import w2s
from support.families import PROMISED
from support.tiny import EOS, TableModel, random_table, tiny_model, word_tokenizer
from w2s.kv import KVCache, RowMap, Twins

PROMPTS = [[5, 6, 7], [9], [4, 4, 8, 10, 12, 30, 2], [11, 12]]
CPU = torch.device("cpu")


def table(seed, ends=0.0, tokenizer=None):
    logits = random_table(seed)
    logits[:, EOS] += ends
    return w2s.load((TableModel(logits), tokenizer))


class Apart:
    """Any proposer, made to read every child for itself."""

    def reorder(self, parent, share):
        super().reorder(parent, share)
        self._parted = True


class ApartLocal(Apart, w2s.LocalProposer):
    pass


class ApartGuided(Apart, w2s.GuidedProposer):
    pass


@contextlib.contextmanager
def rows_seen(model):
    """The rows of each forward of the model, in a list."""
    seen = []

    def note(module, args, kwargs):
        seen.append(kwargs["input_ids"].shape[0])

    handle = model.backbone.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def chunks_of(first, then, columns, rounds):
    """Forwards of a search: its prompts, a chunk without its first token, chunks with it."""
    return [len(PROMPTS), *[then] * (columns - 1), *([first] + [then] * (columns - 1)) * rounds]


def test_a_chunks_first_forward_has_one_row_a_kept_hypothesis():
    plan, large = w2s.SearchPlan(3, 4, 5, max_new_tokens=15), table(3, ends=-99.0)
    pair = w2s.PairScorer(table(1), table(2), plan)
    with rows_seen(large) as seen:
        w2s.search(PROMPTS, w2s.LocalProposer(large, plan), pair, plan)
    assert seen == chunks_of(first=4 * 3, then=4 * 12, columns=5, rounds=2)


def test_every_model_of_a_guided_proposer_reads_one_row_a_hypothesis():
    plan, models = w2s.SearchPlan(2, 3, 4, max_new_tokens=12), [table(i, -99.0) for i in (3, 1, 2)]
    with contextlib.ExitStack() as stack:
        seen = [stack.enter_context(rows_seen(model)) for model in models]
        w2s.search(PROMPTS, w2s.GuidedProposer(*models, plan), None, plan)
    assert seen == [chunks_of(first=4 * 2, then=4 * 6, columns=4, rounds=2)] * 3


@pytest.mark.parametrize(
    ("plan", "rows"),
    [
        (w2s.SearchPlan.bon(6, max_new_tokens=5), 6),  # never selected from before its end
        (w2s.SearchPlan(4, 1, 1, max_new_tokens=5), 4),  # one child each
        (w2s.SearchPlan.beam(3, max_new_tokens=5), 3),  # the children never had rows of their own
    ],
    ids=["best-of-n", "one sample", "beam"],
)
def test_what_has_no_twins_is_read_as_ever(plan, rows):
    large = table(3, ends=-99.0)
    with rows_seen(large) as seen:
        w2s.search(PROMPTS, w2s.LocalProposer(large, plan), None, plan)
    assert seen == [4, *[4 * rows] * 4]


def test_children_that_have_parted_are_read_apart_in_a_second_chunk():
    """Without a selection in between nobody is anybody's twin."""
    plan, large = w2s.SearchPlan(2, 2, 3, max_new_tokens=9), table(3, ends=-99.0)
    chunks = []
    for kind in (w2s.LocalProposer, ApartLocal):
        proposer = kind(large, plan)
        with torch.inference_mode(), rows_seen(large) as seen:
            proposer.start(PROMPTS, plan.pool)
            chunks.append([proposer.extend(3).tokens.tolist() for _ in range(3)])
        assert seen == [4, *[16] * 8]
    assert chunks[0] == chunks[1]


CASES = {
    "cbs": w2s.SearchPlan(4, 4, 5, max_new_tokens=33),
    "clones": w2s.SearchPlan(3, 2, 2, max_new_tokens=20, clones=True),
    "every token": w2s.SearchPlan(3, 3, 1, max_new_tokens=12),
    "width 1": w2s.SearchPlan(1, 8, 4, max_new_tokens=22),
    "filters": w2s.SearchPlan(2, 3, 3, max_new_tokens=14, top_p=0.8, min_p=0.05, top_k=0),
    "stop": w2s.SearchPlan(2, 3, 3, max_new_tokens=20, stop=("w7", "w12w4")),
    "best-of-n": w2s.SearchPlan.bon(5, max_new_tokens=12),
    "beam": w2s.SearchPlan.beam(3, max_new_tokens=9),
}


@pytest.mark.parametrize("ends", [-9.0, 0.0, 2.0])
@pytest.mark.parametrize("case", CASES)
def test_a_search_is_the_same_bits_as_when_every_child_is_read(case, ends):
    """Rows that end at all times, prompts that freeze while others run, all rounds compared."""
    plan, large = CASES[case], table(3, ends, word_tokenizer())
    scorer = None if plan.beams else w2s.PairScorer(table(1), table(2), plan)
    assert told(w2s.LocalProposer(large, plan), scorer, plan) == told(
        ApartLocal(large, plan), scorer, plan
    )


@pytest.mark.parametrize("case", ["cbs", "width 1", "beam"])
def test_a_guided_search_is_the_same_bits_as_when_every_child_is_read(case):
    plan, models = CASES[case], [table(i, 1.0) for i in (3, 1, 2)]
    found = [
        told(kind(*models, plan, 0.7), None, plan) for kind in (w2s.GuidedProposer, ApartGuided)
    ]
    assert found[0] == found[1]


def told(proposer, scorer, plan):
    """The results, and what `on_chunk` was told of every round but its time."""
    rounds = []
    found = w2s.search(PROMPTS, proposer, scorer, plan, on_chunk=rounds.append)
    return found, [dataclasses.replace(chunk, seconds=0.0) for chunk in rounds]


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_a_transformers_model_writes_the_same_and_scores_as_near(name):
    """Prompts of one length and of several, caches that grow, windows that are left behind."""
    plan = w2s.SearchPlan(3, 4, 5, max_new_tokens=33, temperature=0.7)
    large, tuned, untuned = (w2s.load((tiny_model(PROMISED[name], i), None)) for i in (0, 1, 2))
    scorer = w2s.PairScorer(tuned, untuned, plan)
    for prompts in (PROMPTS, [[5, 6, 7], [9, 4, 4]]):
        shared, apart = (
            w2s.search(prompts, kind(large, plan), scorer, plan)
            for kind in (w2s.LocalProposer, ApartLocal)
        )
        for ours, theirs in zip(shared, apart, strict=True):
            assert [c.tokens for c in ours.candidates] == [c.tokens for c in theirs.candidates]
            for one, other in zip(ours.candidates, theirs.candidates, strict=True):
                assert one.score == pytest.approx(other.score, abs=1e-4)


@pytest.mark.parametrize("lengths", [[4, 4], [2, 5]], ids=["one length", "two lengths"])
def test_the_cache_shows_one_row_a_group_and_writes_to_all(lengths):
    cache = KVCache(lengths, 4, 20, CPU, {"full_attention": None}, None)
    begin = torch.tensor(lengths).repeat_interleave(4)[:, None]  # [R, 1]
    first = torch.randn(8, 2, 5, 3)
    cache.advance(torch.arange(5).repeat(8, 1), 5)
    cache.update(first, -first, 0)
    twins = Twins(torch.tensor([2, 0, 7, 5]), torch.tensor([1, 0, 0, 1, 2, 3, 3, 2]))
    cache.read_as(twins)
    states = torch.randn(4, 2, 1, 3)
    mask = cache.advance(begin[twins.first], max(lengths) + 1)
    keys, values = cache.update(states, -states, 0)
    cache.read_as(None)
    assert mask.shape == (4, 1, 1, max(lengths) + 1)
    wanted = torch.cat((first, torch.zeros(8, 2, 15, 3)), 2)
    for row, group in enumerate(twins.group.tolist()):
        wanted[row, :, int(begin[row])] = states[group, :, 0]
    assert torch.equal(cache.caches[0], wanted)
    assert torch.equal(cache.caches[1], -wanted)
    assert torch.equal(keys, wanted[twins.first, :, : max(lengths) + 1])
    assert torch.equal(values, -keys)


def test_twins_are_the_runs_of_the_search_rows_wherever_those_lie():
    dice, rows = torch.Generator().manual_seed(1), RowMap(2, 6, CPU)
    parent = torch.randint(6, (2, 6), generator=dice)
    rows.reorder(parent, torch.zeros(2, 6, 6).long(), torch.full((2, 6), 9))
    twins = rows.twins(3)
    runs = rows.physical.view(4, 3)
    assert torch.equal(twins.first, runs[:, 0])
    assert all((twins.group[run] == group).all() for group, run in enumerate(runs))
