"""The case of extrapolate: two checkpoints' tensors read, one written."""

import functools
from typing import Any

import torch
from torch import Tensor

from .. import dispatch
from ..ops import extrapolate as _expo
from .case import Case, Inputs, Provider, Size, worst
from .logit_cases import backends

_ALPHA = 0.3


def _weights(size: Size, seed: int) -> Inputs:
    """theta1, theta0 and a place for the result: fresh memory would be timed with the op."""
    theta1, theta0 = _expo.example_inputs(size.rows, size.vocab, dtype=size.dtype, seed=seed)
    return theta1, theta0, torch.zeros_like(theta1)


def _run(theta1: Tensor, theta0: Tensor, out: Tensor, **settings: Any) -> Tensor:
    return _expo.extrapolate(theta1, theta0, _ALPHA, out=out, **settings)


def _summed(theta1: Tensor, theta0: Tensor, out: Tensor) -> Tensor:
    sums = torch.zeros(4, dtype=torch.float64, device=theta1.device)
    return _run(theta1, theta0, out, sums=sums)


def _eager(theta1: Tensor, theta0: Tensor, out: Tensor) -> Tensor:
    """The same arithmetic in plain torch; to 16 bits it rounds twice."""
    wide = theta1.double()
    return out.copy_(wide + _ALPHA * (wide - theta0.double()))


def _add(theta1: Tensor, theta0: Tensor, out: Tensor) -> Tensor:
    """What torch takes to read as much and write as much."""
    return torch.add(theta1, theta0, out=out)


def _error(found: Tensor, inputs: Inputs) -> tuple[float, float]:
    theta1, theta0 = (t.cpu() for t in inputs[:2])
    with dispatch.use("reference"):
        expected = _expo.extrapolate(theta1, theta0, _ALPHA).double()
    return worst(found, expected, expected.abs() * 2.0**-53)  # nothing but equality


CASES = [
    Case(
        "extrapolate",
        _weights,
        backends("extrapolate", _run)
        | {
            "with sums": Provider(_summed),
            "stochastic": Provider(
                functools.partial(_run, rounding="stochastic", key=1), judged=False
            ),
            "eager": Provider(_eager),
            "torch.add": Provider(_add, judged=False),
        },
        lambda size: 3 * size.rows * size.vocab * size.dtype.itemsize,
        _error,
        size=Size(rows=4096, vocab=4096),
    )
]
