"""Cases on hidden states: linear_logprob and linear_logprob_diff, against their bare products."""

import functools
from typing import Any

import torch
from torch import Tensor

from ..head import Head
from ..ops import linear_logprob as _linear
from ..ops import linear_logprob_diff as _diff
from . import peers
from .case import Case, Inputs, Provider, Size, worst
from .logit_cases import backends, plain


def _eager(hidden: Tensor, head: Head, target: Tensor) -> Tensor:
    q = torch.log_softmax((hidden @ head.weight.T).float(), dim=-1)
    return q.gather(-1, target[:, None])[:, 0]


def _eager_diff(h_t: Tensor, head_t: Head, h_u: Tensor, head_u: Head, target: Tensor) -> Tensor:
    return _eager(h_t, head_t, target) - _eager(h_u, head_u, target)


def _torch_linear(hidden: Tensor, head: Head, target: Tensor) -> Tensor:
    """torch's own fused linear cross entropy (torch 2.13)."""
    loss: Tensor = torch.nn.functional.linear_cross_entropy(
        hidden, head.weight, target, reduction="none"
    )
    return -loss


def _torch_linear_diff(
    h_t: Tensor, head_t: Head, h_u: Tensor, head_u: Head, target: Tensor
) -> Tensor:
    return _torch_linear(h_t, head_t, target) - _torch_linear(h_u, head_u, target)


def _no_torch_linear(size: Size) -> str | None:
    if hasattr(torch.nn.functional, "linear_cross_entropy"):
        return None
    return f"torch {torch.__version__} has no F.linear_cross_entropy"


def _slow_half(size: Size) -> str | None:
    """A 16-bit product of many rows takes seconds on a CPU that has no instructions for it."""
    if size.device != "cpu" or size.dtype == torch.float32 or size.rows <= 16:
        return None
    known = ["_is_amx_tile_supported"]
    if size.dtype == torch.bfloat16:
        known.append("_is_avx512_bf16_supported")
    if any(getattr(torch.cpu, name, bool)() for name in known):
        return None
    return "a 16-bit product of more than 16 rows takes seconds on a CPU without AMX or AVX512_BF16"


def _widened(inputs: Inputs) -> Inputs:
    """Hidden states and weights in fp32, with room for the logits, made before the clock runs."""
    made: list[Any] = []
    for hidden, head in zip(inputs[::2], inputs[1::2], strict=False):
        rows, vocab = hidden.shape[0], head.weight.shape[0]
        out = torch.empty(rows, vocab, device=hidden.device)
        made += [hidden.float(), head.weight.float(), out]
    return tuple(made)


def _native(inputs: Inputs) -> Inputs:
    made: list[Any] = []
    for hidden, head in zip(inputs[::2], inputs[1::2], strict=False):
        out = hidden.new_empty(hidden.shape[0], head.weight.shape[0])
        made += [hidden, head.weight, out]
    return tuple(made)


def _products(*sides: Tensor) -> None:
    for hidden, weight, out in zip(sides[::3], sides[1::3], sides[2::3], strict=True):
        torch.mm(hidden, weight.T, out=out)


def _providers(name: str, call: Any, eager: Any, torch_linear: Any) -> dict[str, Provider]:
    found = backends(name, call) | {
        "invariant": Provider(functools.partial(call, invariant=True), strict=True)
    }
    found |= {
        key: Provider(p.call, absent=_first(p.absent, _slow_half))
        for key, p in plain(eager).items()
    }
    found["F.linear_cross_entropy"] = Provider(
        torch_linear, absent=_first(_no_torch_linear, _slow_half)
    )
    found["products fp32"] = Provider(_products, prepare=_widened, judged=False)
    found["products native"] = Provider(_products, prepare=_native, absent=_slow_half, judged=False)
    return found


def _first(*asked: Any) -> Any:
    return lambda size: next((why for ask in asked if (why := ask(size)) is not None), None)


def _exact(hidden: Tensor, head: Head, target: Tensor) -> Tensor:
    weight = head.weight.double()
    parts = [
        torch.log_softmax(h.double() @ weight.T, -1).gather(-1, t[:, None])[:, 0]
        for h, t in zip(hidden.split(32), target.split(32), strict=True)
    ]
    return torch.cat(parts)


def _error(found: Tensor, inputs: Inputs) -> tuple[float, float]:
    exact = _exact(*inputs)
    return worst(found, exact, _linear.tolerance(exact, inputs[0], inputs[1]))


def _diff_error(found: Tensor, inputs: Inputs) -> tuple[float, float]:
    h_t, head_t, h_u, head_u, target = inputs
    exact = _exact(h_t, head_t, target) - _exact(h_u, head_u, target)
    return worst(found, exact, _diff.tolerance(exact, h_t, head_t, h_u, head_u))


def _bytes(models: int) -> Any:
    return lambda size: models * size.dtype.itemsize * size.dim * (size.vocab + size.rows)


def _flops(models: int) -> Any:
    return lambda size: 2 * models * size.rows * size.vocab * size.dim


_USES = frozenset({"rows", "vocab", "dim", "dtype"})

CASES = [
    Case(
        "linear_logprob",
        lambda size, seed: _linear.example_inputs(
            size.rows, size.dim, size.vocab, dtype=size.dtype, seed=seed
        ),
        _providers("linear_logprob", _linear.linear_logprob, _eager, _torch_linear)
        | peers.on_hidden(),
        _bytes(1),
        _error,
        exps=lambda size: size.rows * size.vocab,
        flops=_flops(1),
        size=Size(rows=64),
        uses=_USES,
    ),
    Case(
        "linear_logprob_diff",
        lambda size, seed: _diff.example_inputs(
            size.rows, size.dim, size.vocab, dtype=size.dtype, seed=seed
        ),
        _providers(
            "linear_logprob_diff", _diff.linear_logprob_diff, _eager_diff, _torch_linear_diff
        )
        | peers.on_hidden(pair=True),
        _bytes(2),
        _diff_error,
        exps=lambda size: 2 * size.rows * size.vocab,
        flops=_flops(2),
        size=Size(rows=64),
        uses=_USES,
    ),
]
