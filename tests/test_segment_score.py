"""segment_score and segment_score_: exact left-to-right float64 sums on every backend."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import w2s_kernels
from w2s_kernels import segment_score, segment_score_
from w2s_kernels.errors import (
    DeviceError,
    DtypeError,
    LayoutError,
    RangeError,
    ShapeError,
)
from w2s_kernels.ops import segment_score as room

NAN = float("nan")


def slow(diff: Tensor, cu_seqlens: Tensor, score: list[float] | None = None) -> Tensor:
    """Python floats, one addition after the other."""
    bounds, values = cu_seqlens.tolist(), diff.double().tolist()
    sums = list(score) if score is not None else [0.0] * (len(bounds) - 1)
    for row in range(len(sums)):
        for token in range(bounds[row], bounds[row + 1]):
            sums[row] += values[token]
    return torch.tensor(sums, dtype=torch.float64)


def same_bits(found: Tensor, expected: Tensor) -> bool:
    return torch.equal(found.view(torch.int64), expected.view(torch.int64))


def wild(tokens: int, seed: int) -> Tensor:
    """Values over many magnitudes, so that any other order of additions gives other bits."""
    generator = torch.Generator().manual_seed(seed)
    exponent = torch.randint(-12, 12, (tokens,), generator=generator)
    return torch.randn(tokens, generator=generator) * 2.0**exponent


@pytest.mark.parametrize("rows", [1, 2, 16, 63, 1024])
def test_each_segment_is_its_sequential_float64_sum(backend_once, rows):
    _, cu_seqlens = room.example_inputs(rows, 12, seed=rows)
    diff = wild(int(cu_seqlens[-1]), rows)
    assert same_bits(segment_score(diff, cu_seqlens), slow(diff, cu_seqlens))
    assert same_bits(segment_score(diff, cu_seqlens.int(), max_length=12), slow(diff, cu_seqlens))


def test_the_reference_needs_only_a_bound_on_the_lengths(monkeypatch):
    """As on a GPU, where it may not ask for the longest segment."""
    monkeypatch.setattr(room, "_steps", lambda lengths, max_length: max_length)
    diff, cu_seqlens = room.example_inputs(9, 7)
    with w2s_kernels.dispatch.use("reference"):
        assert same_bits(segment_score(diff, cu_seqlens), slow(diff, cu_seqlens))
        assert same_bits(segment_score(diff, cu_seqlens, max_length=8), slow(diff, cu_seqlens))
        assert segment_score(torch.ones(4), torch.tensor([0, 4, 5, 4])).isnan().tolist() == [
            False,
            True,
            True,
        ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_float_dtype_is_added_as_it_is(backend_once, dtype):
    diff, cu_seqlens = room.example_inputs(9, 7, dtype=dtype)
    assert same_bits(segment_score(diff, cu_seqlens), slow(diff, cu_seqlens))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_a_score_does_not_depend_on_how_it_was_chunked(seed, chunks):
    rows, length = 5, sum(chunks)
    diff = wild(rows * length, seed).reshape(rows, length)
    whole = segment_score(diff.flatten(), torch.arange(rows + 1) * length)
    assert same_bits(segment_score(diff), whole)
    for backend in ("reference", "cpu"):
        if backend == "cpu" and w2s_kernels.dispatch.available()["segment_score"]["cpu"]:
            continue
        with w2s_kernels.dispatch.use(backend):
            padded, flat = (torch.zeros(rows, dtype=torch.float64) for _ in range(2))
            for chunk in diff.split(chunks, dim=1):
                segment_score_(padded, chunk, max_length=chunk.shape[1])
                segment_score_(
                    flat, chunk.flatten().contiguous(), torch.arange(rows + 1) * chunk.shape[1]
                )
            assert same_bits(padded, whole)
            assert same_bits(flat, whole)


def test_zeros_behind_a_rows_end_change_no_bit(backend_once):
    lengths = torch.tensor([3, 0, 5, 1])
    diff = wild(20, 3).reshape(4, 5)
    diff[torch.arange(5) >= lengths[:, None]] = 0.0
    ragged = torch.cat([diff[r, :n] for r, n in enumerate(lengths.tolist())])
    cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    assert same_bits(segment_score(diff), segment_score(ragged, cu_seqlens))


def test_the_running_score_is_where_the_sum_starts(backend_once):
    diff, cu_seqlens = room.example_inputs(6, 5, seed=2)
    score = torch.tensor([1e9, -0.0, 3.0, NAN, float("-inf"), -1e-300], dtype=torch.float64)
    expected = slow(diff, cu_seqlens, score.tolist())
    assert segment_score_(score, diff, cu_seqlens) is None
    assert torch.equal(score.isnan(), expected.isnan())
    keep = ~expected.isnan()
    assert same_bits(score[keep], expected[keep])


def test_an_empty_segment_leaves_even_negative_zero_as_it_is(backend_once):
    score = torch.tensor([-0.0, 2.0], dtype=torch.float64)
    segment_score_(score, torch.ones(3), torch.tensor([0, 0, 3]))
    assert same_bits(score, torch.tensor([-0.0, 5.0], dtype=torch.float64))


def test_segments_may_leave_tokens_out(backend_once):
    diff = torch.arange(6.0)
    assert segment_score(diff, torch.tensor([2, 4])).tolist() == [5.0]


def test_nothing_gives_nothing(backend_once):
    assert segment_score(torch.empty(0), torch.tensor([0])).shape == (0,)
    assert segment_score(torch.empty(0), torch.tensor([0, 0, 0])).tolist() == [0.0, 0.0]
    assert segment_score(torch.empty(3, 0)).tolist() == [0.0, 0.0, 0.0]
    assert segment_score(torch.empty(0, 4)).shape == (0,)


def test_rows_may_have_a_stride(backend_once):
    wide = wild(60, 1).reshape(6, 10)
    assert same_bits(segment_score(wide[::2, :7]), segment_score(wide[::2, :7].contiguous()))


def test_a_segment_outside_or_too_long_is_nan_and_no_other(backend_once):
    diff = torch.ones(6)
    bounds = torch.tensor([0, 2, 9, 4, 6])
    found = segment_score(diff, bounds)
    assert found[0] == 2
    assert found[3] == 2
    assert found[1:3].isnan().all()
    assert segment_score(diff, torch.tensor([-1, 3]))[0].isnan()
    assert segment_score(diff, torch.tensor([0, 4, 6]), max_length=2).isnan().tolist() == [
        True,
        False,
    ]
    assert segment_score(torch.ones(2, 3), max_length=2).isnan().all()


def test_a_nan_stays_in_its_segment(backend_once):
    found = segment_score(torch.tensor([1.0, NAN, 2.0]), torch.tensor([0, 1, 2, 3]))
    assert found.isnan().tolist() == [False, True, False]


def test_the_gradient_is_the_segments_own(backend_once):
    diff = torch.randn(7, dtype=torch.float64, requires_grad=True)
    bounds = torch.tensor([1, 3, 3, 6])
    assert torch.autograd.gradcheck(lambda d: segment_score(d, bounds), (diff,))
    wide = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(segment_score, (wide,))
    half = torch.randn(7).bfloat16().requires_grad_()
    segment_score(half, bounds).sum().backward()
    assert half.grad is not None
    assert half.grad.tolist() == [0, 1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("seed", [0, 1])
def test_opcheck(backend_once, seed):
    diff, cu_seqlens = room.example_inputs(4, 5, seed=seed)
    ops = backend_once.namespace
    for arguments in ((diff.requires_grad_(), cu_seqlens, 5), (torch.randn(3, 4), None, 4)):
        torch.library.opcheck(ops.segment_score.default, arguments)
    diff = diff.detach()
    score = torch.zeros(4, dtype=torch.float64)
    torch.library.opcheck(ops.segment_score_.default, (score, diff, cu_seqlens, 5))


def test_it_compiles_without_a_graph_break(backend_once):
    diff, cu_seqlens = room.example_inputs(4, 5)

    def both(score: Tensor, diff: Tensor, cu_seqlens: Tensor) -> Tensor:
        segment_score_(score, diff, cu_seqlens, max_length=5)
        return segment_score(diff, cu_seqlens) + score

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    scores = [torch.ones(4, dtype=torch.float64) for _ in range(2)]
    assert same_bits(compiled(scores[0], diff, cu_seqlens), both(scores[1], diff, cu_seqlens))
    assert same_bits(*scores)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.0], torch.tensor([0, 1])), DtypeError, r"diff must be a torch\.Tensor, got list"),
        ((torch.ones(2).long(), torch.tensor([0, 2])), DtypeError, "diff must have dtype float32"),
        ((torch.ones(2), torch.ones(2)), DtypeError, "cu_seqlens must have dtype int32, int64"),
        ((torch.ones(2), torch.empty(0).long()), ShapeError, r"cu_seqlens must be \[R \+ 1\]"),
        ((torch.ones(2),), ShapeError, r"diff must be \[R, L\] without cu_seqlens, got \[2\]"),
        ((torch.ones(2, 1), torch.tensor([0, 2])), ShapeError, r"diff must be \[N\] with"),
        ((torch.ones(2), torch.empty(2).long().to("meta")), DeviceError, "cu_seqlens is on meta"),
        ((torch.ones(4)[::2], torch.tensor([0, 2])), LayoutError, "diff must be contiguous"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        segment_score(*arguments)


def test_a_bad_score_is_named():
    diff = torch.ones(2, 3)
    with pytest.raises(DtypeError, match="score must have dtype float64, got float32"):
        segment_score_(torch.zeros(2), diff)
    with pytest.raises(ShapeError, match=r"score must have shape \[2\] \(from diff\), got \[3\]"):
        segment_score_(torch.zeros(3, dtype=torch.float64), diff)
    with pytest.raises(RangeError, match="max_length must be >= 0, got -1"):
        segment_score(diff, max_length=-1)


def test_checks_name_the_bad_segment(value_checks):
    with pytest.raises(RangeError, match=r"cu_seqlens\[1:3\] is \[2, 9\]: .* \[0, 6\]"):
        segment_score(torch.ones(6), torch.tensor([0, 2, 9]))
    segment_score(torch.ones(6), torch.tensor([0, 2, 6]))
