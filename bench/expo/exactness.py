"""How far a bf16 result is from θ₁ + α(θ₁ − θ₀), in units in the last place.

The unit is that of the largest of |θ₀|, |θ₁| and the exact value: where these cancel, whoever
computes in bf16 is hundreds of the result's own units away, which says little about a weight.
"""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

_ELEMENTS = 4096  # looked at, at each end of a tensor
_BITS = 8  # of a bf16's significand


def units_away(base: Path, aligned: Path, result: Path, alpha: float) -> float:
    """The largest distance over both ends of every tensor of three bf16 checkpoints; base and
    aligned have the same files.

    Rounding to nearest allows 0.5, stochastic rounding less than 1.

    Raises:
        ValueError: the result lacks a tensor, or has one of another dtype or shape.
    """
    here = _files(result)
    farthest = 0.0
    for name, file in _files(aligned).items():
        if name not in here:
            raise ValueError(f"{result} has no {name}")
        theta0, theta1 = (_ends(folder / file, name) for folder in (base, aligned))
        out = _ends(result / here[name], name)
        if out.dtype != theta1.dtype or out.shape != theta1.shape:
            raise ValueError(f"{name} of {result} is {out.dtype} {tuple(out.shape)}")
        exact = theta1.double() + alpha * (theta1.double() - theta0.double())
        largest = torch.stack([theta0.double(), theta1.double(), exact]).abs().amax(0)
        unit = torch.ldexp(torch.ones_like(exact), torch.frexp(largest).exponent - _BITS)
        farthest = max(farthest, float(((out.double() - exact).abs() / unit).max()))
    return farthest


def _files(folder: Path) -> dict[str, str]:
    """Tensor name → the name of the file it lies in."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= dict.fromkeys(file.keys(), path.name)
    return found


def _ends(path: Path, name: str) -> Tensor:
    """The first and the last elements of a tensor, as whole rows of them."""
    with safe_open(path, "pt") as file:
        stored = file.get_slice(name)
        shape = stored.get_shape()
        rows = max(1, _ELEMENTS // (shape[1] if len(shape) > 1 else 1))
        first, last = stored[:rows], stored[max(0, shape[0] - rows) :]
    return torch.cat([first, last])
