"""Device functions of every kernel on logits: one leaf, one combination, one set of value rules.

A row is cut into leaves of 4096 columns, whatever V is. A leaf gives fp32 (m, s, u) about its own
maximum; leaves combine about the row maximum in fp64, and the result is rounded once.

Every sum is an explicit tree over column numbers, so its bits depend neither on how a tile lies
in registers (rows that are not aligned to 16 bytes load differently) nor on columns of −inf behind
the row. What is left to `tl.sum` is one value a thread, in thread order. The kernels are compiled
without FP fusion: a multiply-add happens where `tl.fma` says so.
"""

import triton
import triton.language as tl

LEAF = tl.constexpr(4096)
IGNORE_INDEX = tl.constexpr(-100)
LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
INF = tl.constexpr(float("inf"))


@triton.jit
def pairs(v, LEVELS: tl.constexpr):
    """Adds neighbours, LEVELS times: `[n]` → `[n / 2^LEVELS]`. In registers after a wide load."""
    for _ in tl.static_range(LEVELS):
        left, right = tl.split(tl.reshape(v, [v.shape[0] // 2, 2]))
        v = left + right
    return v


@triton.jit
def halves(v, LEVELS: tl.constexpr):
    """Adds the second half to the first, LEVELS times: `[n]` → `[n / 2^LEVELS]`."""
    for _ in tl.static_range(LEVELS):
        low, high = tl.split(tl.trans(tl.reshape(v, [2, v.shape[0] // 2])))
        v = low + high
    return v


@triton.jit
def leaf_sum(v, VECTOR: tl.constexpr, THREADS: tl.constexpr):
    """Sum of a leaf `[LEAF]` fp32, in an order that VECTOR and THREADS fix.

    VECTOR is the number of elements in 16 bytes of the logits' dtype, THREADS the program's.
    """
    PAIRS: tl.constexpr = _log2(VECTOR)
    HALVES: tl.constexpr = _log2(LEAF // VECTOR // THREADS)
    return tl.sum(halves(pairs(v, PAIRS), HALVES), axis=0)


@triton.constexpr_function
def _log2(n):
    return int(n).bit_length() - 1


@triton.jit
def tree_sum(v):
    """Sum of `[n]` (a power of two) by pairs of neighbours; zeros at the end change no bits.

    A sum of two has one order, so `tl.sum` may form it between threads: `pairs` would copy all of
    v into every thread's registers.
    """
    for _ in tl.static_range(_log2(v.shape[0])):
        v = tl.sum(tl.reshape(v, [v.shape[0] // 2, 2]), axis=1)
    return tl.sum(v, axis=0)  # of one element


@triton.jit
def tanh(x):
    """tanh of fp32 within about 2⁻²³: an odd polynomial near 0, where 1 − 2/(e²ˣ+1) cancels."""
    x2 = x * x
    p = tl.fma(x2, -5.70498872745e-3, 2.06390887954e-2)  # Cephes, tanhf
    p = tl.fma(p, x2, -5.37397155531e-2)
    p = tl.fma(p, x2, 1.33314422036e-1)
    p = tl.fma(p, x2, -3.33332819422e-1)
    near = tl.fma(p * x2, x, x)
    size = tl.abs(x)
    far = 1.0 - 2.0 / (tl.exp2(size * (2.0 * LOG2E)) + 1.0)
    return tl.where(size < 0.625, near, tl.where(x < 0.0, -far, far))


@triton.jit
def effective(z, softcap, SOFTCAP: tl.constexpr):
    """Raw fp32 logits → those the model means. −inf stays −inf, +inf becomes NaN (SOFTCAP only).

    Without a softcap +inf is left alone: z − m makes NaN of it in `leaf_stats`.
    """
    if SOFTCAP:
        capped = softcap * tanh(z / softcap)
        capped = tl.where(z == -INF, z, capped)
        z = tl.where(z == INF, float("nan"), capped)
    return z


@triton.jit
def exponent_scale(temperature):
    """log₂e / T of an fp64 temperature, as fp32: exp((z − m)/T) = exp2((z − m)·scale)."""
    return (1.0 / temperature * LOG2E).to(tl.float32)


@triton.jit
def row_temperature(temperature, temperature_rows, row):
    """The row's temperature as fp64, from fp32 as every backend reads it."""
    if temperature_rows is not None:
        return tl.load(temperature_rows + row).to(tl.float64)
    return tl.cast(temperature, tl.float32).to(tl.float64)


@triton.jit
def leaf_stats(z, scale, ENTROPY: tl.constexpr, VECTOR: tl.constexpr, THREADS: tl.constexpr):
    """(m, s, u) fp32 of effective logits z `[LEAF]`; columns that are not there hold −inf.

    s = Σ exp2(y), u = Σ exp2(y)·y (0 without ENTROPY), y = (z − m)·scale. A leaf of −inf gives
    (−inf, 0, 0); one with NaN or +inf has s = NaN, which is how `combine` knows it.
    """
    m = tl.max(z, axis=0)
    about = tl.where(m == -INF, 0.0, m)  # −inf − −inf is NaN
    y = (z - about) * scale
    e = tl.exp2(y)
    s = leaf_sum(e, VECTOR, THREADS)
    u = 0.0
    if ENTROPY:
        u = leaf_sum(e * tl.maximum(y, -200.0), VECTOR, THREADS)  # 0·−inf is NaN
    return m, s, u


@triton.jit
def combine(m, s, u, temperature):
    """Leaves `[LEAVES]` fp32 → the row's (m fp32, s fp64, u fp64), about the row's maximum in fp64.

    u comes back in nats: Σ exp(x)·x with x = (z − m)/T. All NaN when a leaf is, or when the
    temperature (fp64) is not a finite number above 0; (−inf, 0, 0) when every column is masked.
    """
    bad = tl.max((s != s).to(tl.int32), axis=0)
    return combine_about(m, s.to(tl.float64), u.to(tl.float64) * LN2, bad, temperature)


@triton.jit
def combine_about(m, s, u, bad, temperature):
    """`combine` from fp64 (s, u), u in nats, and `bad` ≠ 0 where a leaf was."""
    top = tl.max(m, axis=0)
    d = (m.to(tl.float64) - top.to(tl.float64)) / temperature
    scale = tl.where(m > -INF, tl.exp(d), 0.0)
    dead = scale == 0.0  # 0·d may be 0·−inf
    total = tree_sum(tl.where(dead, 0.0, scale * s))
    total_u = tree_sum(tl.where(dead, 0.0, scale * (u + d * s)))
    usable = (temperature > 0.0) & (temperature < INF) & (bad == 0)
    return (
        tl.where(usable, top, float("nan")),
        tl.where(usable, total, float("nan")),
        tl.where(usable, total_u, float("nan")),
    )


@triton.jit
def entropy_of(s, u):
    """Entropy in nats, fp64; NaN on a row without a finite logit (0/0)."""
    return tl.log(s) - u / s


@triton.jit
def log_ratio(z_target, m, temperature):
    """(z_target − m)/T in fp64, from fp32: T divides after the subtraction."""
    return (z_target.to(tl.float64) - m.to(tl.float64)) / temperature


@triton.jit
def log_sum(m, s):
    """log s in fp64, or NaN on a row that has no log-prob: no finite logit, NaN or +inf."""
    return tl.where(m > -INF, tl.log(s), float("nan"))


@triton.jit
def mark(value, target, vocab):
    """fp64 values → fp32 under the target rules: −100 gives 0, any other id outside [0, vocab) NaN.

    A row without a log-prob must come with NaN values: `log_sum` sees to that.
    """
    value = tl.where((target >= 0) & (target < vocab), value.to(tl.float32), float("nan"))
    return tl.where(target == IGNORE_INDEX, 0.0, value)


@triton.jit
def target_logits(base, column, valid, softcap, SOFTCAP: tl.constexpr):
    """Effective logits of a row at int64 columns; −inf outside [0, valid), NaN for +inf."""
    inside = (column >= 0) & (column < valid)
    z = tl.load(base + column, mask=inside, other=-INF).to(tl.float32)
    z = effective(z, softcap, SOFTCAP)
    return tl.where(z == INF, float("nan"), z)
