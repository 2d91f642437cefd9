"""Cases on logits: logprob, logprob_stats, logprob_diff."""

import functools
import importlib.util
from typing import Any

import torch
from torch import Tensor

from .. import dispatch
from ..ops import logprob as _logprob
from ..ops import logprob_diff as _diff
from ..ops import logprob_stats as _stats
from . import peers
from .case import Case, Inputs, Provider, Size, nbytes, worst


def backends(name: str, call: Any) -> dict[str, Provider]:
    """`ours` (what dispatch takes) and each backend by name."""

    def forced(backend: str) -> Provider:
        def run(*inputs: Any) -> Any:
            with dispatch.use(backend):
                return call(*inputs)

        def absent(size: Size) -> str | None:
            there = dispatch.available()[name][backend]
            if there is not None:
                return there
            runs = backend == "reference" or size.device.startswith(
                {"cpu": "cpu", "triton": "cuda", "cuda": "cuda"}[backend]
            )
            return None if runs else f"does not run on {size.device}"

        return Provider(run, absent=absent, strict=True)

    return {"ours": Provider(call, strict=True)} | {b: forced(b) for b in dispatch.BACKENDS}


@functools.cache
def compiled(function: Any) -> Any:
    """torch.compile of it, made once (fixed shapes, as a benchmark has)."""
    return torch.compile(function, dynamic=False)


def no_compiler(size: Size) -> str | None:
    """Why torch.compile cannot run here."""
    if size.device.startswith("cuda") and importlib.util.find_spec("triton") is None:
        return "torch.compile needs triton on this device"
    return None


def _eager(logits: Tensor, target: Tensor) -> Tensor:
    q = torch.log_softmax(logits.float(), dim=-1)
    return q.gather(-1, target[:, None])[:, 0]


def _eager_diff(tuned: Tensor, untuned: Tensor, target: Tensor) -> Tensor:
    return _eager(tuned, target) - _eager(untuned, target)


def plain(function: Any) -> dict[str, Provider]:
    """Plain torch, and torch.compile of it."""
    return {
        "eager": Provider(function),
        "compile": Provider(lambda *inputs: compiled(function)(*inputs), absent=no_compiler),
    }


def exact_logprob(logits: Tensor, target: Tensor, rows: int = 16) -> Tensor:
    """float64 log softmax(z)[target], a few rows at a time."""
    parts = [
        torch.log_softmax(z.double(), -1).gather(-1, t[:, None])[:, 0]
        for z, t in zip(logits.split(rows), target.split(rows), strict=True)
    ]
    return torch.cat(parts)


def _logprob_error(found: Tensor, inputs: Inputs) -> tuple[float, float]:
    exact = exact_logprob(*inputs)
    return worst(found, exact, _logprob.tolerance(exact))


def _diff_error(found: Tensor, inputs: Inputs) -> tuple[float, float]:
    tuned, untuned, target = inputs
    exact = exact_logprob(tuned, target) - exact_logprob(untuned, target)
    return worst(found, exact, _diff.tolerance(exact))


def _stats_error(found: tuple[Tensor, ...], inputs: Inputs) -> tuple[float, float]:
    m, s, z_target = found
    value = (z_target.double() - m.double()) - s.double().log()
    exact = exact_logprob(*inputs)
    return worst(value, exact, _logprob.tolerance(exact))


def _stats_call(logits: Tensor, target: Tensor) -> Any:
    return _stats.logprob_stats(logits, target)


def _eager_stats(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    z = logits.float()
    m = z.amax(-1)
    s = (z - m[:, None]).exp().sum(-1, dtype=torch.float64)
    return m, s, z.gather(-1, target[:, None])[:, 0]


def _bytes(models: int) -> Any:
    return lambda size: models * size.rows * size.vocab * size.dtype.itemsize


CASES = [
    Case(
        "logprob",
        lambda size, seed: _logprob.example_inputs(
            size.rows, size.vocab, dtype=size.dtype, seed=seed
        ),
        backends("logprob", _logprob.logprob) | plain(_eager) | peers.on_logits(),
        _bytes(1),
        _logprob_error,
        exps=lambda size: size.rows * size.vocab,
    ),
    Case(
        "logprob_stats",
        lambda size, seed: _logprob.example_inputs(
            size.rows, size.vocab, dtype=size.dtype, seed=seed
        ),
        backends("logprob_stats", _stats_call) | plain(_eager_stats),
        _bytes(1),
        _stats_error,
        exps=lambda size: size.rows * size.vocab,
    ),
    Case(
        "logprob_diff",
        lambda size, seed: _diff.example_inputs(size.rows, size.vocab, dtype=size.dtype, seed=seed),
        backends("logprob_diff", _diff.logprob_diff)
        | plain(_eager_diff)
        | peers.on_logits(pair=True),
        _bytes(2),
        _diff_error,
        exps=lambda size: 2 * size.rows * size.vocab,
    ),
]

__all__ = ["CASES", "backends", "compiled", "exact_logprob", "nbytes", "no_compiler", "plain"]
