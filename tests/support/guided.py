"""The guided law by the rules, in Python integers and fractions: slow, and written on its own.

Works on one row at a time. The only floating-point steps are the guided logit (float64, rounded
once), x = (z − m)·(1/T) in fp32, and fp32 exp: `exact_exp` is correctly rounded, `polynomial_exp`
is the CPU kernels' documented polynomial, operation by operation.
"""

import bisect
import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from torch import Tensor

MASK = 0xFFFFFFFF
FLT_MAX = np.float32(np.finfo(np.float32).max)
Exp = Callable[[np.ndarray], np.ndarray]


def philox4x32(counter: list[int], key: list[int]) -> list[int]:
    """Philox-4x32-10 on Python integers (Salmon et al. 2011, section 3.3)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK, (p0 >> 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return [c0, c1, c2, c3]


def draw_of(seed: int, position: int, candidate: int = 0) -> int:
    """The 64-bit draw."""
    key = seed % 2**64
    out = philox4x32([position & MASK, candidate & MASK, 0, 0], [key & MASK, key >> 32])
    return (out[1] << 32) | out[0]


def exact_exp(x: np.ndarray) -> np.ndarray:
    """exp of fp32, correctly rounded to fp32 (float64 exp, rounded)."""
    return np.exp(x.astype(np.float64)).astype(np.float32)


def polynomial_exp(x: np.ndarray) -> np.ndarray:
    """Cephes' expf polynomial with fused multiply-adds; exactly 0 below −87."""
    f = np.float32

    def fma(a: np.ndarray, b: object, c: object) -> np.ndarray:
        return (a.astype(np.float64) * np.float64(b) + np.float64(c)).astype(f)

    clamped = np.maximum(x, f(-87.0))
    n = np.rint(clamped * f(1.44269504088896341))
    r = fma(n, f(-0.693359375), clamped)
    r = fma(n, f(2.12194440e-4), r)
    p = np.full_like(r, f(1.9875691500e-4))
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = fma(p, r, f(c))
    p = fma(p, r * r, r + f(1.0))
    return np.where(x < f(-87.0), f(0.0), np.ldexp(p, n.astype(np.int32))).astype(f)


def guided_row(
    base: Tensor, tuned: Tensor | None = None, untuned: Tensor | None = None, beta: float = 1.0
) -> np.ndarray:
    """Guided logits fp32 `[V]` of one row by numerics rule 8; the shortest input sets the law."""
    b = base.double().numpy()
    with np.errstate(all="ignore"):
        if tuned is None or untuned is None or beta == 0:
            z = b.astype(np.float32)
            z[np.isnan(b) | (b == np.inf)] = np.nan
            return z
        columns = min(base.shape[0], tuned.shape[0], untuned.shape[0])
        b, t, u = b[:columns], tuned.double().numpy()[:columns], untuned.double().numpy()[:columns]
        z = (b + beta * (t - u)).astype(np.float32)
    z[z == np.inf] = np.nan
    z[u == -np.inf] = np.nan
    z[(b == -np.inf) | (t == -np.inf)] = -np.inf
    for x in (b, t, u):
        z[np.isnan(x) | (x == np.inf)] = np.nan
    return np.concatenate([z, np.full(base.shape[0] - columns, -np.inf, np.float32)])


def integer_weights(z: np.ndarray, temperature: float, exp: Exp) -> list[int]:
    """floor(exp((z − m)/T)·2⁴⁴) of a row with a finite maximum."""
    with np.errstate(over="ignore", divide="ignore"):
        inverse = min(np.float32(1.0) / np.float32(temperature), FLT_MAX)
        x = (z - z.max()) * inverse
    return [math.floor(float(e) * 2**44) for e in exp(x.astype(np.float32))]


class Law(NamedTuple):
    """A filtered law: weight per id, in the order of ids; dropped ids weigh 0."""

    weight: list[int]
    kept: list[int]

    def logprob(self, token: int) -> float:
        """log of the token's share."""
        return math.log(Fraction(self.weight[token], sum(self.weight)))

    def token(self, draw: int) -> int:
        """The first id whose inclusive sum exceeds floor(draw·Σw / 2⁶⁴)."""
        inclusive = list(itertools.accumulate(self.weight))
        return bisect.bisect_right(inclusive, draw * inclusive[-1] >> 64)


def filtered_law(
    z: np.ndarray,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    exp: Exp = exact_exp,
) -> Law:
    """Temperature, top-k, top-p, min-p, in that order, on integers (numerics rule 9)."""
    weight = integer_weights(z, temperature, exp)
    order = sorted(range(len(z)), key=lambda i: (-z[i], i))
    kept = order[:top_k] if 0 < top_k < len(z) else order
    if top_p < 1:
        limit = math.ceil(Fraction(top_p) * sum(weight[i] for i in kept))
        before, share = 0, []
        for i in kept:
            if before >= limit:
                break
            share.append(i)
            before += weight[i]
        kept = share
    least = math.ceil(Fraction(min_p) * weight[kept[0]])
    kept = [i for i in kept if weight[i] >= least]
    inside = set(kept)
    return Law([w if i in inside else 0 for i, w in enumerate(weight)], kept)
