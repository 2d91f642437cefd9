"""A warm call replays the launches of an earlier one: the same bits, and only where it may."""

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import BaseTorchFunctionMode

import w2s_kernels as wk
from w2s_kernels import dispatch
from w2s_kernels.ops import _warm
from w2s_kernels.triton_kernels import linear_settings, replay

V, D = 4100, 32


@pytest.fixture(autouse=True)
def _nothing_recorded():
    _warm.forget()
    yield
    _warm.forget()


def inputs(seed, rows=3, per_row=0, dtype=torch.float32):
    """Logits of two models, hidden states and heads of two, and targets."""
    make = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=make).to(dtype)  # noqa: E731
    shape = (rows, per_row) if per_row else (rows,)
    return {
        "tuned": normal(rows, V), "untuned": normal(rows, V + 60),
        "hidden": [normal(rows, D), normal(rows, D)],
        "heads": [
            wk.Head(normal(300, D), valid_vocab=290),
            wk.Head(normal(300, D), bias=torch.randn(300, generator=make), softcap=30.0),
        ],
        "target": torch.randint(290, shape, generator=make),
        "temperature": torch.rand(rows, generator=make) + 0.5,
    }  # fmt: skip


OPS = {
    "logprob": lambda i: wk.logprob(i["tuned"], i["target"]),
    "logprob with everything": lambda i: wk.logprob(
        i["tuned"], i["target"], temperature=i["temperature"], softcap=20.0, entropy=True,
        valid_vocab=V - 5,
    ),
    "logprob_stats": lambda i: wk.logprob_stats(i["tuned"], i["target"], temperature=0.5),
    "logprob_diff": lambda i: wk.logprob_diff(
        i["tuned"], i["untuned"], i["target"], temperature=(0.7, i["temperature"])
    ),
    "linear_logprob": lambda i: wk.linear_logprob(
        i["hidden"][0], i["heads"][1], i["target"], entropy=True
    ),
    "linear_logprob, invariant": lambda i: wk.linear_logprob(
        i["hidden"][0], i["heads"][0], i["target"], invariant=True
    ),
    "linear_logprob_diff": lambda i: wk.linear_logprob_diff(
        i["hidden"][0], i["heads"][0], i["hidden"][1], i["heads"][1], i["target"]
    ),
}  # fmt: skip


def tensors(value):
    return [value] if isinstance(value, torch.Tensor) else list(value)


def same(found, expected):
    return all(
        torch.equal(a, b) and a.dtype == b.dtype and a.shape == b.shape
        for a, b in zip(tensors(found), tensors(expected), strict=True)
    )


def long_way(call):
    """The call without a recording."""
    with BaseTorchFunctionMode():
        return call()


@pytest.fixture
def replays(monkeypatch):
    """Counts replayed calls."""
    seen = []
    found = replay.Replay.__call__
    monkeypatch.setattr(
        replay.Replay, "__call__", lambda self, given: (seen.append(1), found(self, given))[1]
    )
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("per_row", [0, 2])
@pytest.mark.parametrize("name", OPS)
def test_a_warm_call_gives_the_bits_of_a_first_call_on_new_numbers(
    backend, replays, name, per_row, dtype
):
    for seed in range(4):
        given = inputs(seed, per_row=per_row, dtype=dtype)
        assert same(OPS[name](given), long_way(lambda given=given: OPS[name](given)))
    assert len(replays) == 2  # the first call is only seen, the second written down


def test_rows_split_over_programs_are_replayed(backend, replays, split_rows):
    for seed in range(3):
        given = inputs(seed)
        for name in ("logprob with everything", "logprob_diff"):
            assert same(OPS[name](given), long_way(lambda g=given, n=name: OPS[n](g)))
    assert len(replays) == 2


SHAPES = st.tuples(
    st.sampled_from([1, 2]), st.sampled_from([40, 41]), st.sampled_from([0, 1]),
    st.sampled_from([torch.float32, torch.bfloat16]), st.sampled_from([1.0, 0.5]),
    st.sampled_from([torch.int32, torch.int64]), st.booleans(),
)  # fmt: skip


@given(st.lists(SHAPES, min_size=2, max_size=12))
@settings(max_examples=15, deadline=None)
def test_calls_of_other_shapes_strides_and_alignments_are_never_mixed_up(calls):
    with dispatch.use("triton"):
        for turn, (rows, columns, shift, dtype, temperature, integers, wide) in enumerate(calls):
            make = torch.Generator().manual_seed(turn)
            store = torch.randn(rows, columns + 24, generator=make).to(dtype)
            logits = store[:, shift : shift + columns]
            logits = logits if wide else logits.contiguous()
            target = torch.randint(columns, (rows,), generator=make).to(integers)
            found = wk.logprob(logits, target, temperature=temperature)
            expected = long_way(
                lambda z=logits, t=target, u=temperature: wk.logprob(z, t, temperature=u)
            )
            assert same(found, expected)


def test_leading_dimensions_come_back_as_they_were(backend, replays):
    for seed in range(3):
        make = torch.Generator().manual_seed(seed)
        logits, target = torch.randn(2, 3, 50, generator=make), torch.randint(50, (2, 3, 4))
        value, entropy = wk.logprob(logits, target, entropy=True)
        assert value.shape == (2, 3, 4)
        assert entropy.shape == (2, 3)
    assert len(replays) == 1


def test_an_empty_batch_is_fine_however_often(backend):
    for _ in range(4):
        assert wk.logprob(torch.randn(0, 50), torch.empty(0, dtype=torch.long)).shape == (0,)


def test_inputs_that_share_memory_are_told_apart(backend, replays):
    both = torch.randn(2, 3, 50)
    target = torch.randint(50, (3,))
    for _ in range(3):  # nothing to learn from: whose is the pointer?
        assert torch.equal(wk.logprob_diff(both[0], both[0], target), torch.zeros(3))
    assert not replays
    for _ in range(3):  # two rows of one tensor do not overlap
        expected = long_way(lambda: wk.logprob_diff(both[0], both[1], target))
        assert torch.equal(wk.logprob_diff(both[0], both[1], target), expected)
    assert replays
    assert torch.equal(wk.logprob_diff(both[1], both[1], target), torch.zeros(3))


def test_a_bad_call_still_says_what_is_wrong(backend):
    logits, target = torch.randn(2, 50), torch.randint(50, (2,))
    for _ in range(3):
        wk.logprob(logits, target)
    with pytest.raises(ValueError, match="target must have shape"):
        wk.logprob(logits, target[:1])
    with pytest.raises(ValueError, match="temperature"):
        wk.logprob(logits, target, temperature=0.0)


def test_gradients_go_the_long_way(backend, replays):
    logits, target = torch.randn(2, 50), torch.randint(50, (2,))
    for _ in range(3):
        wk.logprob(logits, target)
    leaf = logits.clone().requires_grad_()
    wk.logprob(leaf, target).sum().backward()
    assert leaf.grad is not None
    assert len(replays) == 1
    with torch.no_grad():
        wk.logprob(leaf, target)
    assert len(replays) == 2


class Sub(torch.Tensor):
    """A subclass: its `__torch_function__` may want to see the call."""


@pytest.mark.parametrize("listener", ["fake", "function mode", "subclass", "checks", "profiler"])
def test_whoever_listens_sees_the_op(backend, replays, listener):
    logits, target = torch.randn(2, 50), torch.randint(50, (2,))
    for _ in range(2):
        wk.logprob(logits, target)
    if listener == "fake":
        with FakeTensorMode() as mode:
            fakes = mode.from_tensor(logits), mode.from_tensor(target)
            assert wk.logprob(*fakes).shape == (2,)
    elif listener == "function mode":
        long_way(lambda: wk.logprob(logits, target))
    elif listener == "subclass":
        wk.logprob(logits.as_subclass(Sub), target)
    elif listener == "checks":
        dispatch.checks(True)
        try:
            with pytest.raises(ValueError, match="target"):
                wk.logprob(logits, target + 100)
        finally:
            dispatch.checks(False)
    else:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
            wk.logprob(logits, target)
        assert any("w2s_triton::logprob" in event.key for event in found.key_averages())
    assert not replays
    wk.logprob(logits, target)
    assert len(replays) == 1


def test_another_backend_is_not_replayed(backend, replays):
    logits, target = torch.randn(2, 50), torch.randint(50, (2,))
    for _ in range(3):
        wk.logprob(logits, target)
    with dispatch.use("reference"):
        wk.logprob(logits, target)
    assert len(replays) == 1


def test_a_vendor_product_among_the_launches_is_not_replayed(backend, replays):
    given = inputs(0)
    expected = long_way(lambda: OPS["linear_logprob_diff"](given))
    with linear_settings.use_path("chunked"):
        for _ in range(4):
            found = OPS["linear_logprob_diff"](given)
            assert torch.allclose(found, expected, atol=1e-5)
    assert not replays


def test_another_path_is_not_answered_with_the_recording_of_the_first(backend, replays):
    given = inputs(0)
    for _ in range(3):
        OPS["linear_logprob"](given)
    before = len(replays)
    with linear_settings.use_path("chunked"):
        OPS["linear_logprob"](given)
    assert len(replays) == before


def test_recordings_hold_no_tensor(backend):
    given = inputs(0)
    for _ in range(3):
        for call in OPS.values():
            call(given)
    assert len(_warm.recordings()) == len(OPS)
    seen = [
        weakref.ref(given["tuned"]),
        weakref.ref(given["hidden"][0]),
        weakref.ref(given["target"]),
    ]
    del given
    gc.collect()
    assert [found() for found in seen] == [None] * 3


def test_recordings_have_a_bound(backend, monkeypatch):
    monkeypatch.setattr(_warm, "_MOST", 4)
    target = torch.zeros(1, dtype=torch.long)
    for columns in range(20, 40):
        wk.logprob(torch.randn(1, columns), target)
    assert len(_warm._calls) <= 4


def test_compiled_kernels_get_the_addresses_of_this_call(backend, monkeypatch):
    """On a device pointers are numbers: those of the inputs, the results and one scratch buffer."""
    given = inputs(0)
    for _ in range(2):
        OPS["linear_logprob_diff"](given)
    (recording,) = _warm.recordings()
    launched = []

    class Compiled:
        def __getitem__(self, grid):
            return lambda *arguments, stream: launched.append((grid, arguments, stream))

    stand_ins = tuple(launch._replace(kernel=Compiled()) for launch in recording.launches)
    monkeypatch.setattr(replay, "INTERPRETED", False)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 7, raising=False)
    allocated = []
    empty = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *a, **k: (allocated.append(empty(*a, **k)), allocated[-1])[1]
    )
    new = inputs(1)
    hidden, heads = new["hidden"], new["heads"]
    passed = [hidden[0], heads[0].weight, hidden[1], heads[1].weight, heads[1].bias, new["target"]]
    result = recording._replace(launches=stand_ins)(passed)
    assert [entry[0] for entry in launched] == [entry.grid for entry in recording.launches]
    assert all(entry[2] == 7 for entry in launched)
    values = {value for entry in launched for value in entry[1] if isinstance(value, int)}
    assert {tensor.data_ptr() for tensor in passed} <= values
    assert result.data_ptr() in values
    scratch = next(tensor for tensor in allocated if tensor is not result)
    spans = [
        (t.data_ptr(), t.data_ptr() + t.numel() * t.itemsize) for t in [*passed, result, scratch]
    ]
    for entry, launch in zip(launched, recording.launches, strict=True):
        for pointer in launch.pointers:
            address = entry[1][pointer.number]
            assert any(begin <= address < end for begin, end in spans)
    assert scratch.numel() == recording.scratch
