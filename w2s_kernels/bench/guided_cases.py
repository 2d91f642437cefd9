"""Cases on a guided law: guided_logits, guided_sample, guided_topk."""

import functools
from typing import Any

import torch
from torch import Tensor

from ..ops import guided_logits as _logits
from ..ops import guided_sample as _sample
from ..ops import guided_topk as _topk
from . import peers
from .case import Case, Inputs, Provider, Size, worst
from .logit_cases import backends, plain

BETA = 1.0
TOP_P = 0.9


def _inputs(size: Size, seed: int) -> Inputs:
    return _logits.example_inputs(size.rows, size.vocab, dtype=size.dtype, seed=seed)


def _exact(base: Tensor, tuned: Tensor, untuned: Tensor) -> Tensor:
    return base.double() + BETA * (tuned.double() - untuned.double())


def _bytes(size: Size) -> int:
    return 3 * size.rows * size.vocab * size.dtype.itemsize


def _guide(base: Tensor, tuned: Tensor, untuned: Tensor) -> Tensor:
    return _logits.guided_logits(base, tuned, untuned, beta=BETA)


def _eager_guide(base: Tensor, tuned: Tensor, untuned: Tensor) -> Tensor:
    return base.float() + BETA * (tuned.float() - untuned.float())


def _guide_error(found: Tensor, inputs: Inputs) -> tuple[float, float]:
    exact = _exact(*inputs)
    return worst(found, exact, _logits.tolerance(exact))


def _with_words(size: Size, seed: int) -> Inputs:
    """Logits, then the draw's seeds and positions, then k as a number that each call reads."""
    generator = torch.Generator().manual_seed(seed)
    seeds = torch.randint(2**62, (size.rows,), generator=generator)
    return (*_inputs(size, seed), seeds, torch.arange(size.rows), size.k)


def _top_p(k: int) -> float:
    """k = 0 stands for no filter at all."""
    return TOP_P if k else 1.0


def _draw(
    base: Tensor, tuned: Tensor, untuned: Tensor, seed: Tensor, position: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    return _sample.guided_sample(
        base, tuned, untuned, beta=BETA, top_k=k, top_p=_top_p(k), seed=seed, position=position
    )


def _processors(
    base: Tensor, tuned: Tensor, untuned: Tensor, seed: Tensor, position: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The same filters as a chain of logits processors, as transformers applies them."""
    scores = _eager_guide(base, tuned, untuned)
    if k:
        scores = scores.masked_fill(scores < scores.topk(k).values[:, -1:], float("-inf"))
        ordered, order = scores.sort(dim=-1)
        drop = ordered.softmax(-1).cumsum(-1) <= 1 - TOP_P
        drop[:, -1:] = False
        scores = scores.masked_fill(drop.scatter(1, order, drop), float("-inf"))
    token = torch.multinomial(scores.softmax(-1), 1)
    return token[:, 0], scores.log_softmax(-1).gather(1, token)[:, 0]


def _draw_error(found: tuple[Tensor, Tensor], inputs: Inputs) -> tuple[float, float]:
    """Of the log-prob of whatever was drawn, under the filtered law in float64."""
    token, logprob = (t.cpu() for t in found)
    z, k = _exact(*inputs[:3]).cpu(), inputs[5]
    ordered, order = z.sort(dim=-1, descending=True, stable=True)
    p = torch.softmax(ordered[:, : k or None], -1)
    kept = p.masked_fill(p.cumsum(-1) - p >= _top_p(k), 0.0)
    log_kept = (kept / kept.sum(-1, keepdim=True)).log()
    place = (order[:, : k or None] == token[:, None]).double().argmax(-1, keepdim=True)
    exact = log_kept.gather(1, place)[:, 0]
    return worst(logprob, exact, _sample.tolerance(exact))


def _best(
    base: Tensor, tuned: Tensor, untuned: Tensor, seed: Tensor, position: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    return _topk.guided_topk(base, tuned, untuned, k, beta=BETA)


def _eager_best(
    base: Tensor, tuned: Tensor, untuned: Tensor, seed: Tensor, position: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    found = _eager_guide(base, tuned, untuned).log_softmax(-1).topk(k)
    return found.values, found.indices


def _best_error(found: tuple[Tensor, Tensor], inputs: Inputs) -> tuple[float, float]:
    exact = torch.log_softmax(_exact(*inputs[:3]), -1).topk(inputs[5]).values
    return worst(found[0], exact, _topk.tolerance(exact))


def _read(*inputs: Any) -> None:
    for tensor in inputs[:3]:
        tensor.sum()


def _case(op: str, inputs: Any, call: Any, eager: Any, error: Any, *, k: bool, name: str) -> Case:
    others = plain(eager) if name == "eager" else {name: Provider(eager)}
    if op == "guided_sample":
        sampler = functools.partial(peers.flashinfer_sample, beta=BETA, top_p=TOP_P)
        others["flashinfer"] = Provider(sampler, absent=peers.flashinfer_absent, judged=False)
    return Case(
        op,
        inputs,
        backends(op, call) | others | {"sum of the inputs": Provider(_read, judged=False)},
        _bytes,
        error,
        exps=lambda size: size.rows * size.vocab if k else 0,
        size=Size(rows=16),
        uses=frozenset({"rows", "vocab", "dtype"} | ({"k"} if k else set())),
    )


CASES = [
    _case("guided_logits", _inputs, _guide, _eager_guide, _guide_error, k=False, name="eager"),
    _case("guided_sample", _with_words, _draw, _processors, _draw_error, k=True, name="processors"),
    _case("guided_topk", _with_words, _best, _eager_best, _best_error, k=True, name="eager"),
]
