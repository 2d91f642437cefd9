"""Philox-4x32-10 and exact 64 × 64-bit products in torch integer arithmetic, on any device.

torch has no unsigned 64-bit arithmetic, so words live in int64 tensors: 32-bit values as they are,
64-bit products in two's complement, shifted right logically. Nothing here reads the device.
Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)  # golden ratio, sqrt(3) − 1
_ROUNDS = 10


def low_word(value: Tensor) -> Tensor:
    """Bits 0 … 31 as an int64 in [0, 2³²)."""
    return value.long() & _MASK


def high_word(value: Tensor) -> Tensor:
    """Bits 32 … 63 as an int64 in [0, 2³²) (a logical shift)."""
    return (value.long() >> 32) & _MASK


def philox4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds on 32-bit words held in int64 tensors; returns four such words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # The product's low 64 bits wrap in two's complement, which is the unsigned product.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            high_word(p1) ^ c1 ^ k0,
            low_word(p1),
            high_word(p0) ^ c3 ^ k1,
            low_word(p0),
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def draw(seed: Tensor, position: Tensor, candidate: Tensor | None) -> tuple[Tensor, Tensor]:
    """The 64-bit draw of (seed, position, candidate) as its (high, low) 32-bit words.

    key = (seed low, seed high), counter = (position, candidate, 0, 0), draw = out[1]·2³² + out[0].
    """
    zero = torch.zeros_like(seed)
    c1 = zero if candidate is None else low_word(candidate)
    out = philox4x32((low_word(position), c1, zero, zero), (low_word(seed), high_word(seed)))
    return out[1], out[0]


def product_words(
    a_high: Tensor, a_low: Tensor, b_high: Tensor, b_low: Tensor
) -> tuple[Tensor, Tensor]:
    """(high 64 bits, low 64 bits) of an unsigned product of two 64-bit numbers given as words.

    The high half must be below 2⁶³ for the result to read as a plain int64.
    """
    p0, p1, p2 = a_low * b_low, a_low * b_high, a_high * b_low
    middle = high_word(p0) + low_word(p1) + low_word(p2)
    high = a_high * b_high + high_word(p1) + high_word(p2) + (middle >> 32)
    return high, (middle << 32) | low_word(p0)


def mulhi(draw_words: tuple[Tensor, Tensor], total: Tensor) -> Tensor:
    """floor(draw · total / 2⁶⁴) for a 64-bit draw and 0 ≤ total < 2⁶³."""
    high, _ = product_words(*draw_words, high_word(total), low_word(total))
    return high


def ceil_share(p: Tensor, total: Tensor) -> Tensor:
    """ceil(p · total), exact, for float64 p in (0, 1) read as the rational it is, total < 2⁶³."""
    mantissa, exponent = torch.frexp(p)
    integer = (mantissa * 2.0**53).long()  # p = integer · 2^(exponent − 53), integer < 2⁵³
    shift = 53 - exponent.long()  # ≥ 53
    high, low = product_words(
        high_word(integer), low_word(integer), high_word(total), low_word(total)
    )
    # p · total < 2⁶³ · 2⁵³, so from a shift of 116 on only the ceiling's 1 is left.
    near = shift.clamp(max=63)  # < 64: both words take part; high < 2⁵² leaves room for the shift
    quotient_near = (high << (64 - near)) | ((low >> near) & ((1 << (64 - near)) - 1))
    rest_near = low & ((1 << near) - 1)
    far = (shift - 64).clamp(min=0, max=62)
    quotient_far = high >> far
    rest_far = low | (high & ((1 << far) - 1))
    is_near = shift < 64
    quotient = torch.where(is_near, quotient_near, quotient_far)
    rest = torch.where(is_near, rest_near, rest_far)
    return quotient + (rest != 0).long()
