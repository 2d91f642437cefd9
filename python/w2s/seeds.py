"""A prompt's seed, from the plan's seed and the prompt's place in the input."""

from collections.abc import Iterable

_MASK = 2**64 - 1


def prompt_seeds(seed: int, index: Iterable[int]) -> list[int]:
    """One signed 64-bit seed a prompt: SplitMix64 of (seed, index), so neighbours are unlike."""
    return [_signed(_mix(_mix(seed & _MASK) + i)) for i in index]


def _mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
