"""extrapolate(rounding="stochastic"): unbiased, keyed by name and index, never more than finite."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from support.rounding import DTYPES, any_bits, bits, exact, same_bits
from w2s_kernels import extrapolate, key_of
from w2s_kernels.ops.extrapolate import example_inputs

HALVES = (torch.bfloat16, torch.float16)


def drawn(x: Tensor, dtype: torch.dtype, **settings: object) -> Tensor:
    """float64 x itself, rounded stochastically."""
    return extrapolate(x, x, 0.3, rounding="stochastic", out_dtype=dtype, **settings)


def neighbours(x: float, dtype: torch.dtype) -> tuple[float, float]:
    """The numbers of the format below and above |x|, for an x that is none of them."""
    nearest = torch.tensor(abs(x), dtype=torch.float64).to(dtype)
    step = -1 if float(nearest) > abs(x) else 1
    other = (bits(nearest) + step).view(dtype)
    low, high = sorted((float(nearest), float(other)))
    return low, high


# Normal numbers, the smallest of them, subnormal ones of either format, next to fp16's largest.
NUMBERS = (
    1.2345678, -0.0200031, 3.0e-5, -6.1031e-5, 1.7e-6, -5.1e-8, 1.0e-9, 3e-11, 1e-38, -3.0e-39,
    65501.0,
)  # fmt: skip


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("x", NUMBERS)
def test_a_number_goes_up_as_often_as_its_remainder_says(x, dtype):
    draws = 1 << 20
    found = drawn(torch.full((draws,), x, dtype=torch.float64), dtype, key=11).double()
    low, high = neighbours(x, dtype)
    size = found.abs()
    assert ((size == low) | (size == high)).all()
    assert (found.signbit() == (x < 0)).all()
    share, expected = float((size == high).double().mean()), (abs(x) - low) / (high - low)
    deviation = math.sqrt(expected * (1 - expected) / draws)
    # Four standard deviations, and what the step by fp32 may move (2^-17 of bf16's spacing).
    assert abs(share - expected) < 4 * deviation + 2.0**-14


@pytest.mark.parametrize("dtype", HALVES)
def test_numbers_of_every_remainder_are_unbiased_together(dtype):
    """The remainders' sum is that of the steps up: a z-test over a million numbers."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1 << 20, generator=generator, dtype=torch.float64)
    x = x * 2.0 ** torch.randint(-28, 12, x.shape, generator=generator)
    found = drawn(x, dtype, key=2)
    nearest = x.to(dtype)
    toward = torch.where(nearest.double().abs() > x.abs(), -1, 1)
    other = (bits(nearest) + toward.to(torch.int16)).view(dtype).double()
    up = torch.maximum(nearest.double().abs(), other.abs())
    down = torch.minimum(nearest.double().abs(), other.abs())
    exactly = nearest.double() == x
    assert (found[exactly].double() == x[exactly]).all()
    p = ((x.abs() - down) / (up - down))[~exactly]
    went_up = (found.double().abs() == up)[~exactly]
    z = float((went_up.double() - p).sum() / (p * (1 - p)).sum().sqrt())
    assert abs(z) < 4
    # The same in eight classes of the remainder: a chi-square with 8 degrees of freedom.
    classes = (p * 8).long().clamp(max=7)
    excess = torch.zeros(8, dtype=torch.float64).index_add_(0, classes, went_up.double() - p)
    variance = torch.zeros(8, dtype=torch.float64).index_add_(0, classes, p * (1 - p))
    assert float((excess**2 / variance).sum()) < 35  # p = 3e-5


def effective_alpha(theta1: Tensor, theta0: Tensor, alpha: float, **settings: object) -> float:
    sums = torch.zeros(4, dtype=torch.float64)
    extrapolate(theta1, theta0, alpha, sums=sums, **settings)
    return float(sums[2] / sums[1])


@pytest.mark.parametrize("alpha", [0.1, 0.3])
def test_alpha_is_kept_in_bf16_where_rounding_to_nearest_loses_it(alpha):
    """Weights of std 0.02 moved by 1e-4, as fine-tuning does; both checkpoints are bf16."""
    lost = {0.1: 0.03, 0.3: 0.23}  # of real checkpoints: 0.027 and 0.226
    theta1, theta0 = example_inputs(2000, 1000, dtype=torch.bfloat16)
    kept = effective_alpha(
        theta1, theta0, alpha, rounding="stochastic", key="model.layers.0.weight"
    )
    assert abs(kept / alpha - 1) < 0.01
    assert effective_alpha(theta1, theta0, alpha) < lost[alpha]
    assert abs(effective_alpha(theta1, theta0, alpha, out_dtype=torch.float32) / alpha - 1) < 1e-4


@pytest.mark.parametrize("dtype", HALVES)
def test_a_finite_value_never_becomes_infinite(backend, dtype):
    most = torch.finfo(dtype).max
    above = [most * (1 - 2.0**-10), most, most * (1 + 2.0**-12), most * 2, 3e38, 3.5e38, 1e300]
    x = torch.tensor([s * a for a in above for s in (1, -1)], dtype=torch.float64).repeat(200)
    found = drawn(x, dtype, key=1)
    assert found.isfinite().all()
    beyond = x.abs() >= most
    assert (found[beyond].double() == torch.copysign(torch.full_like(x, most), x)[beyond]).all()
    ends = torch.tensor([float("inf"), -float("inf"), float("nan")], dtype=torch.float64)
    assert str(extrapolate(ends, torch.zeros(3), 1.0, rounding="stochastic", out_dtype=dtype)) == (
        str(ends.to(dtype))
    )


@pytest.mark.parametrize("dtype", HALVES)
def test_a_representable_number_stays(backend, dtype):
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    every = every[every.isfinite() & (bits(every) != -(2**15))]  # −0 + 0.3 · 0 is 0
    for key in range(3):
        assert same_bits(drawn(every.double(), dtype, key=key), every)
        assert same_bits(drawn(every, dtype, key=key), every)


def test_wide_results_are_rounded_to_nearest(backend):
    theta1, theta0 = any_bits(1000, torch.float32, 1), any_bits(1000, torch.bfloat16, 2)
    for dtype in (torch.float32, torch.float64):
        stochastic, nearest = (
            extrapolate(theta1, theta0, 0.3, rounding=rounding, out_dtype=dtype, key=5)
            for rounding in ("stochastic", "nearest")
        )
        assert same_bits(stochastic, nearest)


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox-4x32-10 as its paper writes it (Salmon et al. 2011)."""
    c, k, mask = list(counter), list(key), 2**32 - 1
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & mask, (p0 >> 32) ^ c[3] ^ k[1], p0 & mask]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return c


def by_the_docstring(x: float, dtype: torch.dtype, key: int, index: int) -> float:
    """The rule for a finite x within the range, in Python's integers."""
    counter = index // 8
    word = philox([counter % 2**32, counter >> 32, 0, 0], [key % 2**32, key >> 32])[index % 8 // 2]
    low, high = word & 0xFFFF, word >> 16
    random = low << 16 | high if index % 2 == 0 else high << 16 | low
    single = float(np.float32(x))
    if single == 0:
        return single
    if dtype == torch.float16 and abs(single) < 2.0**-14:
        steps = (round(abs(single) * 2.0**56) + random) >> 32  # round(): ties to even
        return math.copysign(steps * 2.0**-24, x)
    bits32 = int(np.float32(abs(x)).view(np.uint32))
    dropped = 16 if dtype == torch.bfloat16 else 13
    cut = (bits32 + (random >> 32 - dropped)) >> dropped << dropped
    return math.copysign(float(np.uint32(cut).view(np.float32)), x)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("key", "start"), [(0, 0), (2**63 + 12345, 3), (7, 2**35 + 5)])
def test_the_bits_are_those_that_the_docstring_says(backend, dtype, key, start):
    theta1, theta0 = example_inputs(1, 300, dtype=dtype)
    theta1[0, ::7] *= 1e-4
    found = extrapolate(theta1, theta0, 0.3, rounding="stochastic", key=key, start=start)
    for i, x in enumerate(exact(theta1, theta0, 0.3)[0].tolist()):
        assert float(found[0, i]) == by_the_docstring(x, dtype, key, start + i)


def test_philox_is_the_published_one():
    assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_keys_and_indices_give_draws_of_their_own(backend_once):
    x = torch.full((4096,), 1 + 2.0**-8, dtype=torch.float64)
    draws = [
        drawn(x, torch.bfloat16, key=key, start=start)
        for key, start in itertools.product((1, 2, "a"), (0, 9))
    ]
    for i, one in enumerate(draws):
        for other in draws[:i]:
            assert 0.4 < float((one == other).double().mean()) < 0.6
    assert same_bits(drawn(x, torch.bfloat16, key="a"), drawn(x, torch.bfloat16, key=key_of("a")))


def test_a_names_key_never_changes():
    """Published checkpoints depend on it."""
    assert key_of("a") == 0x2A2AD578AF9EB97B
    assert key_of("a", 1) == 0x80489184ECF46FB8
    assert key_of("model.embed_tokens.weight", 2**64 - 1) == 0x3DC518E472053999
    assert key_of("a") != key_of("b")


def test_every_dtype_of_input_may_be_rounded_stochastically(backend):
    for stored in (torch.float64, *DTYPES):
        theta1, theta0 = example_inputs(3, 50, dtype=stored)
        for dtype in HALVES:
            found = extrapolate(theta1, theta0, 0.3, rounding="stochastic", out_dtype=dtype)
            x = exact(theta1, theta0, 0.3)
            spacing = 2.0 ** (-7 if dtype == torch.bfloat16 else -10)
            assert (np.abs(found.double().numpy() - x) <= np.abs(x) * spacing + 2.0**-24).all()
