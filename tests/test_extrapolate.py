"""extrapolate: rounded correctly and once; alpha 0 and -1; threads, pieces and backends agree."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from support.rounding import (
    DTYPES,
    FLOATS,
    any_bits,
    around_ties,
    bits,
    exact,
    misrounded,
    same_bits,
    sums_of,
)
from w2s_kernels import dispatch, extrapolate, extrapolate_
from w2s_kernels.ops.extrapolate import LEAF, example_inputs

ROUNDINGS = ("nearest", "stochastic")


@pytest.mark.parametrize("out_dtype", DTYPES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_numbers_of_any_bits_are_correctly_rounded(backend, dtype, out_dtype):
    for alpha in (0.3, -1.0, 0.5, 1e300, 5e-324):
        theta1, theta0 = any_bits(3000, dtype, 1), any_bits(3000, dtype, 2)
        found = extrapolate(theta1, theta0, alpha, out_dtype=out_dtype)
        assert found.dtype == out_dtype
        assert len(misrounded(exact(theta1, theta0, alpha), found)) == 0


@pytest.mark.parametrize("out_dtype", DTYPES)
def test_ties_and_their_neighbours_are_correctly_rounded(backend, out_dtype):
    theta1, theta0 = around_ties(10000, out_dtype, 3), any_bits(10000, out_dtype, 4).double()
    for alpha in (0.0, 1.0, -0.5):
        other = torch.zeros_like(theta1) if alpha else theta0
        found = extrapolate(theta1, other, alpha, out_dtype=out_dtype)
        assert len(misrounded(exact(theta1, other, alpha), found)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("out_dtype", DTYPES)
def test_ten_million_elements_are_correctly_rounded(out_dtype):
    """Random bits, weights, ties with their neighbours, the ends of the range: 10⁷ in all."""
    count = 1 << 20
    weights = example_inputs(1, count, dtype=out_dtype)
    zero, most = torch.zeros(count, dtype=torch.float64), torch.finfo(out_dtype).max
    half = most * (1 - 0.5 * torch.rand(count, dtype=torch.float64))
    tiny = torch.finfo(out_dtype).smallest_normal * torch.randn(count, dtype=torch.float64)
    cases = [
        (any_bits(count, out_dtype, 5), any_bits(count, out_dtype, 6), 0.7),
        (any_bits(count, torch.float64, 7), zero, 1.0),
        (any_bits(count, torch.float32, 8), any_bits(count, torch.bfloat16, 9), -0.3),
        (*(w[0] for w in weights), 0.3),
        (weights[0][0].float(), weights[1][0].double(), 25.0),
        (around_ties(count, out_dtype, 10), zero, -0.5),
        (around_ties(count, out_dtype, 11), zero, 0.0),
        (half, half * 0.5, 1.0),
        (tiny, tiny.flip(0), 0.1),
        (tiny * 1e-2, zero, 0.5),
    ]
    for theta1, theta0, alpha in cases:
        found = extrapolate(theta1, theta0, alpha, out_dtype=out_dtype)
        assert len(misrounded(exact(theta1, theta0, alpha), found)) == 0
    assert len(cases) * count >= 10**7


def test_the_judge_of_rounding_finds_a_number_that_was_rounded_twice():
    tie = torch.tensor([1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-7], dtype=torch.float64)
    by_fp32 = tie.to(torch.float32).to(torch.bfloat16)
    assert by_fp32[0] == 1.0  # rounded to the tie, then to even; the number lies above the tie
    assert misrounded(tie.numpy(), by_fp32).tolist() == [0]
    assert extrapolate(tie, tie, 0.3, out_dtype=torch.bfloat16)[0] == 1 + 2.0**-7
    one = torch.tensor([1.0, -0.0, 65504.0, 2.0**-24], dtype=torch.float64)
    wrong = torch.tensor([1 + 2.0**-10, 0.0, float("inf"), 0.0], dtype=torch.float16)
    assert misrounded(one.numpy(), wrong).tolist() == [0, 1, 2, 3]
    assert misrounded(one.numpy(), one.half()).tolist() == []


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_alpha_zero_is_theta1_bit_for_bit(backend, dtype, rounding):
    theta1, theta0 = any_bits(4000, dtype, 1), any_bits(4000, torch.float16, 2)
    for other in (theta0, theta0.to(dtype)):
        for alpha in (0, -0.0, torch.zeros(4000, dtype=torch.float64)):
            found = extrapolate(theta1, other, alpha, rounding=rounding)
            assert same_bits(found, theta1)
    rows = torch.tensor([0.0, 0.5] * 2000, dtype=torch.float64)
    found = extrapolate(theta1, theta0, rows, rounding=rounding)
    assert same_bits(found[::2], theta1[::2])
    assert same_bits(found[1::2], extrapolate(theta1, theta0, 0.5, rounding=rounding)[1::2])


def test_alpha_zero_in_another_dtype_is_theta1_rounded_once(backend):
    theta1 = any_bits(4000, torch.float64, 3)
    infinite = torch.full_like(theta1, float("inf"))
    for out_dtype in DTYPES:
        found = extrapolate(theta1, infinite, 0.0, out_dtype=out_dtype)
        assert len(misrounded(theta1.numpy(), found)) == 0


def test_alpha_minus_one_is_theta0_within_the_last_place(backend):
    generator = torch.Generator().manual_seed(0)
    theta1, theta0 = (
        torch.randn(100_000, generator=generator) * 10.0 ** torch.randint(-6, 6, (100_000,))
        for _ in range(2)
    )
    found = extrapolate(theta1, theta0, -1.0).double()
    one, two = theta1.double(), theta0.double()
    assert ((found - two).abs() <= 2.0**-24 * ((one - two).abs() + two.abs())).all()


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_what_the_inputs_are_stored_as_changes_nothing(backend, rounding):
    theta1, theta0 = example_inputs(30, 70, dtype=torch.bfloat16)
    expected = extrapolate(theta1, theta0, 0.3, rounding=rounding, key=3)
    for one, two in itertools.product((torch.bfloat16, torch.float32, torch.float64), repeat=2):
        found = extrapolate(
            theta1.to(one), theta0.to(two), 0.3, rounding=rounding, key=3, out_dtype=torch.bfloat16
        )
        assert same_bits(found, expected)


def test_a_nan_is_the_plain_one_on_every_backend(backend):
    theta1 = torch.tensor([float("inf"), -float("nan"), 1.0])
    theta0 = torch.tensor([float("inf"), 1.0, float("nan")])
    plain = {torch.float64: 0x7FF8 << 48, torch.float32: 0x7FC00000, torch.bfloat16: 0x7FC0,
             torch.float16: 0x7E00}  # fmt: skip
    for dtype, rounding in itertools.product(FLOATS, ROUNDINGS):
        found = extrapolate(theta1, theta0, 0.3, out_dtype=dtype, rounding=rounding)
        assert bits(found).tolist() == [plain[dtype]] * 3


def wild(count: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Weights, in the middle of them anything."""
    found = example_inputs(1, count, dtype=dtype, seed=seed)[seed % 2][0]
    found[count // 3 : count // 2] = any_bits(count // 2 - count // 3, dtype, seed)
    return found


@pytest.mark.parametrize("out_dtype", FLOATS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_backend_gives_the_same_bits_and_sums(backends, dtype, out_dtype):
    shapes = [(2 * LEAF + 77,), (7, 300), (600, 1), (1,)]
    for (i, shape), rounding in itertools.product(enumerate(shapes), ROUNDINGS):
        count = int(np.prod(shape))
        theta1 = wild(count, dtype, i).view(shape)
        theta0 = wild(count, DTYPES[i % 3] if i % 2 else dtype, i + 1).view(shape)
        rows = torch.arange(shape[0], dtype=torch.float64) % 5 - 2
        for alpha in (0.3, 0.0, rows):
            found = []
            for each in backends:
                sums = torch.zeros(4, dtype=torch.float64)
                with each.forced():
                    value = extrapolate(
                        theta1, theta0, alpha, rounding=rounding, key=2**64 - 3,
                        out_dtype=out_dtype, start=i * 1001, sums=sums,
                    )  # fmt: skip
                found.append((value, sums))
            assert all(same_bits(value, found[0][0]) for value, _ in found)
            assert all(torch.equal(s.nan_to_num(), found[0][1].nan_to_num()) for _, s in found)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pieces_give_the_bits_of_the_whole(data):
    count = data.draw(st.integers(1, 3 * LEAF))
    cuts = data.draw(st.lists(st.integers(0, count), max_size=4))
    dtype, out_dtype = (data.draw(st.sampled_from(FLOATS)) for _ in range(2))
    rounding = data.draw(st.sampled_from(ROUNDINGS))
    first = data.draw(st.sampled_from([0, 5, LEAF, 2**33 + 1]))
    theta1, theta0 = wild(count, dtype, 1), wild(count, dtype, 2)
    backend = data.draw(st.sampled_from(["cpu", "reference"]))
    if dispatch.available()["extrapolate"][backend] is not None:
        backend = "reference"
    with dispatch.use(backend):
        whole = extrapolate(
            theta1, theta0, 0.3, rounding=rounding, key="w", out_dtype=out_dtype, start=first
        )
        ends = [0, *sorted(cuts), count]
        for begin, end in itertools.pairwise(ends):
            piece = extrapolate(
                theta1[begin:end], theta0[begin:end], 0.3, rounding=rounding, key="w",
                out_dtype=out_dtype, start=first + begin,
            )  # fmt: skip
            assert same_bits(piece, whole[begin:end])


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 300), cut=st.integers(0, 40))
def test_pieces_of_rows_take_their_rows_alphas(rows, columns, cut):
    cut = min(cut, rows)
    theta1, theta0 = example_inputs(rows, columns, dtype=torch.float16)
    alpha = torch.linspace(-1, 1, rows, dtype=torch.float64).round(decimals=1)
    for rounding in ROUNDINGS:
        whole = extrapolate(theta1, theta0, alpha, rounding=rounding, key=9)
        by_row = [
            extrapolate(
                theta1[r], theta0[r], float(alpha[r]), rounding=rounding, key=9, start=r * columns
            )
            for r in range(rows)
        ]
        assert same_bits(torch.stack(by_row), whole)
        for part, start in ((slice(0, cut), 0), (slice(cut, rows), cut * columns)):
            piece = extrapolate(
                theta1[part], theta0[part], alpha[part], rounding=rounding, key=9, start=start
            )
            assert same_bits(piece, whole[part])


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_thread_counts_change_nothing(backend_once, rounding):
    theta1, theta0 = example_inputs(300, 1000, dtype=torch.bfloat16)
    theta1[100, 5] = float("nan")
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            sums = torch.zeros(4, dtype=torch.float64)
            found.append((extrapolate(theta1, theta0, 0.3, rounding=rounding, sums=sums), sums))
    finally:
        torch.set_num_threads(threads)
    for value, sums in found:
        assert same_bits(value, found[0][0])
        assert torch.equal(sums, found[0][1])


@pytest.mark.parametrize("dtype", FLOATS)
def test_sums_are_those_of_the_finite_elements(backend, dtype):
    # Squares of any float64 are not finite; those of any fp32 are.
    stored = torch.float32 if dtype == torch.float64 else dtype
    theta1, theta0 = (wild(3 * LEAF - 5, stored, seed).to(dtype) for seed in (1, 2))
    before = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    for out_dtype, alpha in itertools.product(FLOATS, (0.3, 0.0)):
        sums = before.clone()
        out = extrapolate(theta1, theta0, alpha, out_dtype=out_dtype, sums=sums)
        expected, overflowed = sums_of(theta1, theta0, out)
        assert sums[3] - 4 == overflowed
        found = sums[:3].numpy() - [1, 2, 3]
        size = np.abs(expected).max(initial=1.0)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * size)


def test_overflow_is_counted_and_nothing_else(backend):
    theta1 = torch.tensor([60000.0, 1.0, float("inf"), float("nan"), -60000.0]).half()
    theta0 = torch.tensor([0.0, 0.5, 0.0, 1.0, 0.0]).half()
    sums = torch.zeros(4, dtype=torch.float64)
    out = extrapolate(theta1, theta0, 1.0, sums=sums)
    assert out.isinf().tolist() == [True, False, True, False, True]
    assert sums.tolist() == [1.0, 0.25, 0.25, 2.0]


@settings(max_examples=20, deadline=None)
@given(leaves=st.lists(st.integers(0, 3), min_size=1, max_size=4), rest=st.integers(0, LEAF - 1))
def test_pieces_cut_at_leaves_give_the_sums_of_the_whole(leaves, rest):
    sizes = [n * LEAF for n in leaves] + [rest]
    theta1, theta0 = example_inputs(1, sum(sizes))
    theta1, theta0 = theta1[0], theta0[0]
    for backend, refused in dispatch.available()["extrapolate"].items():
        if refused is not None:
            continue
        with dispatch.use(backend):
            whole, pieces = torch.zeros(2, 4, dtype=torch.float64)
            extrapolate(theta1, theta0, 0.3, sums=whole)
            start = 0
            for size in sizes:
                piece = slice(start, start + size)
                extrapolate(theta1[piece], theta0[piece], 0.3, start=start, sums=pieces)
                start += size
            assert torch.equal(whole, pieces)


def test_in_place_gives_the_same_and_returns_nothing(backend):
    for dtype, rounding in itertools.product(FLOATS, ROUNDINGS):
        theta1, theta0 = wild(9000, dtype, 1), wild(9000, DTYPES[1], 2)
        expected_sums, sums = torch.zeros(2, 4, dtype=torch.float64)
        expected = extrapolate(
            theta1, theta0, 0.4, rounding=rounding, key=1, start=3, sums=expected_sums
        )
        for out in (theta1.clone(), theta1.clone().view(90, 100)):
            sums.zero_()
            result = extrapolate_(
                out, theta0.view(out.shape), 0.4, rounding=rounding, key=1, start=3, sums=sums
            )
            assert result is None
            assert same_bits(out.view(-1), expected)
            assert torch.equal(sums, expected_sums)


def test_out_may_be_either_input_or_something_else(backend):
    theta1, theta0 = example_inputs(50, 200, dtype=torch.bfloat16)
    expected = extrapolate(theta1, theta0, 0.3)
    assert same_bits(extrapolate(theta1, theta0, 0.3, out=torch.empty_like(theta1)), expected)
    one, two = theta1.clone(), theta0.clone()
    assert extrapolate(one, two, 0.3, out=one) is one
    assert same_bits(one, expected)
    assert extrapolate(theta1, two, 0.3, out=two) is two
    assert same_bits(two, expected)
    wide = torch.empty(50, 200)
    assert extrapolate(theta1, theta0, 0.3, out=wide) is wide
    assert same_bits(wide, extrapolate(theta1, theta0, 0.3, out_dtype=torch.float32))


@pytest.mark.slow
def test_a_result_larger_than_the_processors_caches_is_written_past_them(backends):
    count = (2 << 20) + 1003
    theta1, theta0 = (t[0] for t in example_inputs(1, count, dtype=torch.bfloat16))
    with backends[-1].forced():
        expected = extrapolate(theta1, theta0, 0.3)
        assert len(misrounded(exact(theta1, theta0, 0.3), expected)) == 0
        for offset in (0, 1, 13):  # where the result begins in a cache line
            storage = torch.zeros(count + 64, dtype=torch.bfloat16)
            out = storage[offset : offset + count]
            extrapolate(theta1, theta0, 0.3, out=out)
            assert same_bits(out, expected)
            assert not storage[:offset].any()
            assert not storage[offset + count :].any()
