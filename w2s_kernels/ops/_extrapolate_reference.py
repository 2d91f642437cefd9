"""extrapolate in plain torch, on any device: in float64, rounded once, piece by piece.

Elementwise and integer arithmetic in one fixed order, so that the compiled kernel and every device
give the same bits. Nothing here asks the device anything.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from . import _philox

LEAF = 4096  # elements, from a multiple of it on, whose sums are made together
LANES = 8  # element j of a leaf is added to lane j % LANES
_PIECE = 1 << 20  # elements worked on at a time: what bounds the memory, to some 140 bytes each
_PIECE_ON_A_DEVICE = 1 << 21

# Significant bits of a format, and the exponent below which its numbers lie evenly.
_DIGITS = {torch.bfloat16: 8, torch.float16: 11}
_LEAST = {torch.bfloat16: -126, torch.float16: -14}
_EXPONENT = 0x7FF0000000000000  # of a float64
_FIXED = 0x4330000000000000  # the bits of 2.0 ** 52
_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_NAN = {
    torch.float64: 0x7FF8000000000000, torch.float32: 0x7FC00000, torch.bfloat16: 0x7FC0,
    torch.float16: 0x7E00,
}  # fmt: skip


def extrapolate_into(
    theta1: Tensor,  # contiguous; theta0 and out too, all of one shape
    theta0: Tensor,
    out: Tensor,
    sums: Tensor | None,  # [4] float64
    alpha: float,
    alpha_rows: Tensor | None,  # [rows] float64
    stochastic: bool,
    key: int,
    start: int,
) -> None:
    """out = theta1 + alpha (theta1 − theta0); `out` may be one of the inputs."""
    device, count = theta1.device, theta1.numel()
    flat1, flat0, flat_out = theta1.view(-1), theta0.view(-1), out.view(-1)
    alphas = torch.full((), alpha, dtype=torch.float64, device=device)
    for begin, end in _pieces(count, start, device):
        if alpha_rows is not None:
            row = torch.arange(begin, end, device=device) // (count // theta1.shape[0])
            alphas = alpha_rows[row]
        x, y = flat1[begin:end].double(), flat0[begin:end].double()
        delta = x - y
        keeps = alphas == 0
        value = torch.where(keeps, x, x + alphas * delta)
        if stochastic and out.dtype in _DIGITS:
            rounded = _dithered(value, out.dtype, _random(key, start + begin, end - begin, device))
        else:
            rounded = nearest(value, out.dtype)
        if out.dtype == theta1.dtype:  # bit for bit, a NaN's payload too
            rounded = _where_bits(keeps, flat1[begin:end], rounded)
        if sums is not None:
            _add_sums(sums, x, y, delta, rounded.double())
        flat_out[begin:end] = rounded


def _pieces(count: int, start: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """[0, count) in pieces; each but the first begins where start + i is a multiple of LEAF."""
    step = _PIECE if device.type == "cpu" else _PIECE_ON_A_DEVICE
    begin = 0
    while begin < count:
        inside = (start + begin) % LEAF
        end = min(count, begin + (LEAF - inside if inside else step))
        yield begin, end
        begin = end


def _where_bits(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    integer = _INTEGER[a.dtype.itemsize]
    return torch.where(condition, a.view(integer), b.view(integer)).view(a.dtype)


def _plain_nan(nan: Tensor, value: Tensor) -> Tensor:
    """`value` with the one NaN, whose bits do not depend on the device, where `nan` is true."""
    integer = _INTEGER[value.dtype.itemsize]
    bits = torch.full((), _NAN[value.dtype], dtype=integer, device=value.device)
    return _where_bits(nan, bits.view(value.dtype), value)


def nearest(value: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 to `dtype`, to nearest with ties to even, in one rounding.

    torch's own conversion to 16 bits goes by way of fp32 and so rounds twice. Here the value is
    added to 1.5 · 2^k whose last place is the result's: the addition rounds, the subtraction is
    exact, and so are the conversions that follow (or they overflow).
    """
    rounded = value
    if dtype in _DIGITS:
        power = (value.view(torch.int64) & _EXPONENT).view(torch.float64)  # 2 ** exponent
        shift = power.clamp(2.0 ** _LEAST[dtype], 2.0**200) * (1.5 * 2.0 ** (53 - _DIGITS[dtype]))
        rounded = torch.copysign((value + shift) - shift, value).float()
    return _plain_nan(value.isnan(), rounded.to(dtype))


def _dithered(value: Tensor, dtype: torch.dtype, random: Tensor) -> Tensor:
    """Stochastic rounding of float64 by 32 random bits an element; the rule is `extrapolate`'s."""
    single = value.float()
    bits = single.view(torch.int32).long()
    negative, magnitude = bits < 0, bits & 0x7FFFFFFF
    if dtype == torch.bfloat16:
        found = (magnitude + (random >> 16)).clamp(max=0x7F7FFFFF) >> 16
    else:
        found = ((magnitude + (random >> 19)).clamp(max=0x477FFFFF) - 0x38000000) >> 13
        # Below 2 ** -14 numbers lie 2 ** -24 apart: in units of 2 ** -56, to the nearest.
        fixed = (single.double().abs() * 2.0**56 + 2.0**52).view(torch.int64) - _FIXED
        found = torch.where(magnitude < 0x38800000, (fixed + random) >> 32, found)
    signed = torch.where(negative, found - 0x8000, found).to(torch.int16)
    return _where_bits(value.isfinite(), signed.view(dtype), nearest(value, dtype))


def _random(key: int, first: int, count: int, device: torch.device) -> Tensor:
    """32 random bits of each of the elements first … first + count − 1, int64 `[count]`."""
    counter = torch.arange(first // 8, (first + count - 1) // 8 + 1, device=device)
    zero = torch.zeros_like(counter)
    words = _philox.philox4x32(
        (_philox.low_word(counter), _philox.high_word(counter), zero, zero),
        (zero + (key & 0xFFFFFFFF), zero + (key >> 32 & 0xFFFFFFFF)),
    )
    odd = torch.stack(words, dim=-1)  # [counters, 4]; an odd element's own half is the upper one
    even = (odd << 16 & 0xFFFFFFFF) | odd >> 16
    return torch.stack((even, odd), dim=-1).view(-1)[first % 8 : first % 8 + count]


def _add_sums(sums: Tensor, x: Tensor, y: Tensor, delta: Tensor, out: Tensor) -> None:
    """Adds a piece's leaves to `sums`, one after the other."""
    finite = delta.isfinite() & out.isfinite()
    terms = torch.stack((x * x, delta * delta, (out - x) * delta)).masked_fill(~finite, 0.0)
    leaves = -(-x.shape[0] // LEAF)
    steps = LEAF // LANES if leaves > 1 else -(-x.shape[0] // LANES)
    padded = terms.new_zeros(3, leaves * steps * LANES)
    padded[:, : x.shape[0]] = terms
    by_step = padded.view(3, leaves, steps, LANES)
    lanes = terms.new_zeros(3, leaves, LANES)
    for step in range(steps):
        lanes = lanes + by_step[:, :, step]
    while lanes.shape[-1] > 1:  # l + (l + 4), l + (l + 2), l + (l + 1)
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    for leaf in range(leaves):
        sums[:3] += lanes[:, leaf, 0]
    sums[3] += (x.isfinite() & y.isfinite() & ~out.isfinite()).sum()
