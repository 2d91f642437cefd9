"""A search asks the host nothing within its rounds, and keeps its buffers where they are.

Three ways to look, as none sees everything: fake tensors, which have no values to give; real ones
with every method patched by which a value could leave; the addresses of all buffers after each
round. Each kind of fault is planted, and must be caught.
"""

import contextlib
import functools
import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

import w2s
from support.host_free import Allocation, HostQuestion, buffers, watched
from support.tiny import EOS, TableModel, random_table, word_tokenizer
from w2s.flags import DeferredFlag
from w2s.loop import _run
from w2s.pool import Pool
from w2s.scorers.own import OwnScorer
from w2s_kernels import dispatch

PROMPTS = [[5, 6, 7], [9], [4, 4, 8, 10, 12, 30, 2]]
CAUGHT = (HostQuestion, DataDependentOutputException, DynamicOutputShapeException)
# What a round makes anew: the logits are a forward's output, the next two are told to the next
# forward, and the flag is (on a CPU) the answer itself.
PASSING = frozenset({"_logits", "_logits_row", "_position", "_flag"})


@functools.cache
def model(seed, tokenizer=None, eos=EOS):
    table = random_table(seed)
    table[:, EOS] += 1.0
    return w2s.load((TableModel(table, eos), tokenizer))


def cbs(plan):
    return w2s.LocalProposer(model(3), plan), w2s.PairScorer(model(1), model(2), plan)


def eft(plan):
    large, tuned, untuned = model(3), model(1), model(2)
    guided = w2s.GuidedProposer(large, tuned, untuned, plan, beta=0.7)
    return guided, w2s.PairScorer(tuned, untuned, plan)


def own(plan):
    return w2s.LocalProposer(model(3), plan), OwnScorer()


def stopping(plan):
    words = word_tokenizer()
    return w2s.LocalProposer(model(3, words), plan), OwnScorer()


def ensemble(plan):
    pairs = [w2s.PairScorer(model(i), model(i + 1), plan) for i in (1, 4)]
    return w2s.LocalProposer(model(3), plan), w2s.EnsembleScorer(pairs, [0.3, 0.7])


def endless(plan):
    pair = w2s.PairScorer(model(1, eos=None), model(2, eos=None), plan)
    return w2s.LocalProposer(model(3, eos=None), plan), pair


CASES = {
    "cbs": (cbs, w2s.SearchPlan(4, 4, 5, max_new_tokens=23)),
    "clones": (cbs, w2s.SearchPlan(3, 2, 2, max_new_tokens=14, clones=True)),
    "best-of-n": (cbs, w2s.SearchPlan.bon(5, max_new_tokens=12)),
    "filters": (cbs, w2s.SearchPlan(2, 2, 3, max_new_tokens=9, top_p=0.8, min_p=0.1)),
    "greedy": (own, w2s.SearchPlan.greedy(max_new_tokens=9)),
    "eft": (eft, w2s.SearchPlan(2, 3, 4, max_new_tokens=13)),
    "beam": (own, w2s.SearchPlan.beam(3, max_new_tokens=9)),
    "stop": (stopping, w2s.SearchPlan(2, 2, 3, max_new_tokens=9, stop=("w7", "w12w4"))),
    "ensemble": (ensemble, w2s.SearchPlan(2, 2, 3, max_new_tokens=9)),
    "growth": (endless, w2s.SearchPlan(2, 2, 60, max_new_tokens=300)),
}


def models_of(*owners):
    found = []
    for owner in owners:
        for inner in (owner, *getattr(owner, "scorers", ())):
            found += getattr(inner, "models", None) or ([inner.model] if _has_model(inner) else [])
    return found


def _has_model(owner):
    return getattr(owner, "model", None) is not None


def watch_rounds(case, mode, fault=None, after_round=None, flag=None):
    """Runs the rounds of a search, watched; `fault(pool)` happens in each selection.

    mode: "fake" or "real" tensors. flag stands for `DeferredFlag.read`.
    """
    build, plan = CASES[case]
    prompts = PROMPTS
    proposer, scorer = build(plan)
    tensors, read = MODES[mode]
    with torch.inference_mode(), tensors():
        proposer.start(prompts, plan.pool)
        scorer.start(prompts, plan.pool)
        pool = Pool(len(prompts), plan, proposer.device)
        rounds = itertools.count(1)
        extend, select = proposer.extend, pool.select
        with watched(models_of(proposer, scorer), flag=flag or read) as watch:

            def watched_extend(max_new):
                # Whoever allocates in the first round may keep it; from the second on, nobody.
                watch.strict = next(rounds) > 1
                if after_round is not None:
                    after_round(proposer, scorer, pool)
                return extend(max_new)

            def watched_select():
                if fault is not None:
                    fault(pool)
                return select()

            proposer.extend, pool.select = watched_extend, watched_select
            _run(pool, proposer, scorer, plan, None)
    return pool


REAL_BOOL = torch.Tensor.__bool__


def read_flag(flag):
    """The one value that may be read, as `DeferredFlag.read` does on a CPU."""
    with torch.utils._python_dispatch._disable_current_modes():
        return flag._flag is not None and REAL_BOOL(flag._flag)


MODES = {
    "fake": (lambda: FakeTensorMode(allow_non_fake_inputs=True), lambda flag: False),
    "real": (contextlib.nullcontext, read_flag),
}


@pytest.fixture(autouse=True)
def _free_choice():
    with dispatch.use(None):
        yield


@pytest.mark.parametrize("case", CASES)
def test_fake_tensors_give_no_value_and_none_is_missed(case):
    pool = watch_rounds(case, "fake")
    assert pool.written == CASES[case][1].max_new_tokens


@pytest.mark.parametrize("case", CASES)
def test_no_tensor_method_takes_a_value_out_and_no_buffer_moves(case):
    plan = CASES[case][1]
    places, capacities = {}, {}

    def compare(proposer, scorer, pool):
        now = buffers(proposer, scorer, pool, leave_out=PASSING)
        if pool.written == plan.chunk_length:  # after the first chunk
            places.update({path: t.data_ptr() for path, t in now.items()})
        elif pool.written:
            assert now.keys() == places.keys()
            for path, tensor in now.items():
                grown = tensor.shape != capacities[path]
                if tensor.data_ptr() != places[path] and not (grown and "_cache" in path):
                    raise Allocation(f"{path} has moved")
                places[path] = tensor.data_ptr()
        capacities.update({path: t.shape for path, t in now.items()})

    watch_rounds(case, "real", after_round=compare)
    assert places or plan.chunk_length == plan.max_new_tokens


FAULTS = {
    "item": lambda pool: pool.score[0].item(),
    "tolist": lambda pool: pool.length.tolist(),
    "cpu": lambda pool: pool.score.cpu(),
    "numpy": lambda pool: pool.length.numpy(),
    "to the host": lambda pool: pool.score.to("cpu"),
    "to the host by device": lambda pool: pool.score.to(device=torch.device("cpu")),
    "truth": lambda pool: bool(pool.finished.all()),
    "if": lambda pool: 1 if pool.finished.any() else 0,
    "float": lambda pool: float(pool.score[0]),
    "int": lambda pool: int(pool.length[0]),
    "index of a list": lambda pool: [1, 2, 3, 4, 5][pool.length[0] * 0],
    "dlpack": lambda pool: torch.utils.dlpack.to_dlpack(pool.score),
    "dlpack by protocol": lambda pool: pool.score.__dlpack__(),
    "array protocol": lambda pool: pool.score.__array__(),
    "in": lambda pool: 3 in pool.length,
    "print": lambda pool: f"{pool.score}",
    "nonzero": lambda pool: pool.finished.nonzero(),
    "mask": lambda pool: pool.score[pool.finished],
    "masked_select": lambda pool: pool.score.masked_select(pool.finished),
    "unique": lambda pool: pool.length.unique(),
    "equal": lambda pool: torch.equal(pool.length, pool.length),
    "repeats": lambda pool: pool.length.repeat_interleave(pool.length),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_question_is_caught(fault, mode):
    with pytest.raises(CAUGHT):
        watch_rounds("cbs", mode, FAULTS[fault])


ALLOCATIONS = {
    "zeros": lambda pool: torch.zeros(3),
    "arange": lambda pool: torch.arange(3),
    "tensor": lambda pool: torch.tensor([1, 2]),
    "like": lambda pool: torch.zeros_like(pool.score),
    "new": lambda pool: pool.score.new_empty(2),
    "where with a number": lambda pool: torch.where(pool.finished, pool.score, 0.0),
    "full": lambda pool: torch.full((2,), 3.0),
    "random": lambda pool: torch.rand(2),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", ALLOCATIONS)
def test_a_planted_allocation_is_caught(fault, mode):
    with pytest.raises(Allocation):
        watch_rounds("cbs", mode, ALLOCATIONS[fault])


@pytest.mark.parametrize("name", ["score", "length", "tokens", "finished", "share", "frozen"])
def test_a_buffer_that_is_made_anew_is_caught(name):
    """Out-of-place state is a plain operator's output, which only its address betrays."""

    def rebind(pool):
        setattr(pool, name, getattr(pool, name).clone())

    last = {}

    def compare(proposer, scorer, pool):
        place = getattr(pool, name).data_ptr()
        if last.setdefault("place", place) != place:
            raise Allocation(name)

    with pytest.raises(Allocation):
        watch_rounds("cbs", "real", rebind, compare)


def test_the_deferred_flag_is_the_only_question():
    """Without leave to read it, the search is caught at the flag and nowhere before."""
    asked = []
    original = DeferredFlag.read

    def read(flag):
        asked.append(flag)
        return original(flag)

    with pytest.raises(HostQuestion):
        watch_rounds("cbs", "real", flag=read)
    assert asked
