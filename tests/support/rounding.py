"""Correct rounding of float64, judged by itself: integers and exact float64 neighbours only.

Nothing here converts float64 to 16 bits. A format's finite numbers are decoded from their bits into
float64 (exactly), and a result is held to the midpoints between it and its two neighbours.
"""

import math

import numpy as np
import torch
from torch import Tensor

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
FLOATS = (torch.float64, *DTYPES)
INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_MANTISSA = {torch.bfloat16: 7, torch.float16: 10, torch.float32: 23}
_BIAS = {torch.bfloat16: 127, torch.float16: 15, torch.float32: 127}


def bits(value: Tensor) -> Tensor:
    return value.view(INTEGER[value.dtype.itemsize])


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(bits(a), bits(b))


def any_bits(count: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Numbers of every exponent, infinities, NaNs, zeros and subnormals."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(-(2**15), 2**15, (count, dtype.itemsize // 2), generator=generator)
    return raw.to(torch.int16).view(dtype).view(-1)


def around_ties(count: int, dtype: torch.dtype, seed: int) -> Tensor:
    """float64 midpoints between neighbours of the format (of its largest number and the next power
    of two too): exact ones, the float64 next to them, and some a little farther."""
    generator = torch.Generator().manual_seed(seed)
    magnitude = torch.randint(0, _infinity(dtype), (count,), generator=generator).numpy()
    middle = (_decoded(magnitude, dtype) + _decoded(magnitude + 1, dtype)) / 2
    hair = np.array([0.0, 0.0, 2.0**-52, -(2.0**-52), 1e-12, -1e-9, 2.0**-30])
    pick = torch.randint(len(hair), (count,), generator=generator).numpy()
    sign = torch.randint(2, (count,), generator=generator).numpy() * 2 - 1
    return torch.from_numpy(sign * (middle * (1 + hair[pick])))


def _infinity(dtype: torch.dtype) -> int:
    return ((1 << (8 * dtype.itemsize - 1 - _MANTISSA[dtype])) - 1) << _MANTISSA[dtype]


def _decoded(magnitude: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """float64 of the numbers with these bits (no sign); inf's bits give the next power of two, so
    that rounding to inf is rounding to the nearer of two numbers."""
    m, bias = _MANTISSA[dtype], _BIAS[dtype]
    exponent, fraction = magnitude >> m, magnitude & ((1 << m) - 1)
    normal = exponent > 0
    return np.ldexp(
        np.where(normal, fraction + (1 << m), fraction).astype(np.float64),
        np.where(normal, exponent, 1) - bias - m,
    )


def misrounded(x: np.ndarray, found: Tensor) -> np.ndarray:
    """Indices where `found` is not float64 `x` rounded to nearest, ties to even.

    x must lie between the midpoints to the numbers next to `found`, on one only where the last bit
    of `found` is 0. Midpoints need one bit more than the format has: in float64 they are exact.
    """
    dtype, width = found.dtype, 8 * found.dtype.itemsize
    raw = bits(found).numpy().astype(np.int64) & ((1 << width) - 1)
    negative, magnitude = raw >> (width - 1) == 1, raw & ((1 << (width - 1)) - 1)
    infinity = _infinity(dtype)
    number = np.minimum(magnitude, infinity)
    value, below = _decoded(number, dtype), _decoded(np.maximum(number - 1, 0), dtype)
    above = _decoded(np.minimum(number + 1, infinity), dtype)
    low, high, size = (below + value) / 2, (value + above) / 2, np.abs(x)
    inside = (size > low) & (size < high) | (number % 2 == 0) & ((size == low) | (size == high))
    inside = np.where(number == 0, size <= high, inside)
    inside = np.where(number == infinity, size >= low, inside)
    right = np.where(
        np.isnan(x), magnitude > infinity,
        (magnitude <= infinity) & inside & (negative == np.signbit(x)),
    )  # fmt: skip
    return np.nonzero(~right)[0]


def exact(theta1: Tensor, theta0: Tensor, alpha: float) -> np.ndarray:
    """θ₁ + α(θ₁ − θ₀) by NumPy's float64, one rounding an operation; θ₁ where α = 0."""
    a, b = theta1.double().numpy(), theta0.double().numpy()
    with np.errstate(all="ignore"):
        return a if alpha == 0 else a + alpha * (a - b)


def sums_of(theta1: Tensor, theta0: Tensor, out: Tensor) -> tuple[np.ndarray, int]:
    """(Σθ₁², ΣΔ², Σ(out − θ₁)Δ) rounded once, and how many results are not finite."""
    a, b, c = (t.double().numpy() for t in (theta1, theta0, out))
    with np.errstate(all="ignore"):
        delta = a - b
        keep = np.isfinite(delta) & np.isfinite(c)
        a, delta, c_ = a[keep], delta[keep], c[keep]
        terms = [a * a, delta * delta, (c_ - a) * delta]
    finite = np.isfinite(theta1.double().numpy()) & np.isfinite(b)
    return np.array([_sum(t) for t in terms]), int((finite & ~np.isfinite(c)).sum())


def _sum(terms: np.ndarray) -> float:
    return math.fsum(terms) if np.isfinite(terms).all() else float(terms.sum())
