"""guided_sample: one step of a search, against reading its logits once and against processors.

    pytest bench/bench_guided_sample.py

`over read` is the time over that of reading the three logit rows (target at B = 16, V = 49152,
top-k 50 + top-p 0.9: at most 2); `processors over ours` compares with the same filters as a chain
of logits processors in plain torch, the way transformers does it, from the same three inputs.
"""

import pytest
import torch
from torch import Tensor

from support.timing import medians, read, rotated
from w2s_kernels import guided_sample
from w2s_kernels.ops.guided_logits import example_inputs

FILTERS = {
    "unfiltered": {},
    "greedy": {"temperature": 0.0},
    "top-k 50": {"top_k": 50},
    "top-k 50, top-p 0.9": {"top_k": 50, "top_p": 0.9},
    "top-p 0.9": {"top_p": 0.9},
    "min-p 0.05": {"min_p": 0.05},
}


def processors(
    base: Tensor,
    tuned: Tensor,
    untuned: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Tensor:
    """Sampling as a chain of processors on `[B, V]`: warp, mask, softmax, multinomial."""
    scores = base + (tuned - untuned)
    if temperature == 0:
        return scores.argmax(-1)
    scores = scores / temperature
    if top_k:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[:, -1:], float("-inf"))
    if top_p < 1:
        ordered, order = scores.sort(dim=-1)
        drop = ordered.softmax(-1).cumsum(-1) <= 1 - top_p
        drop[:, -1] = False
        scores = scores.masked_fill(drop.scatter(1, order, drop), float("-inf"))
    if min_p:
        p = scores.softmax(-1)
        scores = scores.masked_fill(p < min_p * p.amax(-1, keepdim=True), float("-inf"))
    return torch.multinomial(scores.softmax(-1), 1)


@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize(("rows", "vocab"), [(16, 49152), (1, 49152), (16, 262144)])
def test_a_draw(benchmark, rows, vocab, filters):
    inputs = rotated(lambda seed: example_inputs(rows, vocab, seed=seed))
    seed, position = torch.arange(rows), torch.zeros(rows, dtype=torch.long)
    chosen = FILTERS[filters]

    def ours(*logits: Tensor) -> None:
        guided_sample(*logits, seed=seed, position=position, **chosen)

    benchmark(ours, *inputs[0])
    found = medians(
        {"ours": ours, "read": read, "processors": lambda *x: processors(*x, **chosen)}, inputs, 20
    )
    benchmark.extra_info["over read"] = round(found["ours"] / found["read"], 2)
    benchmark.extra_info["processors over ours"] = round(found["processors"] / found["ours"], 2)


def test_many_draws_on_one_row(benchmark):
    """Sixteen draws through `row` share what one draw costs."""
    inputs = rotated(lambda seed: example_inputs(1, 49152, seed=seed))
    row, seed = torch.zeros(16, dtype=torch.long), torch.arange(16)

    def draws(*logits: Tensor) -> None:
        guided_sample(*logits, row=row, seed=seed, position=seed, top_k=50)

    def one(*logits: Tensor) -> None:
        guided_sample(*logits, seed=seed[:1], position=seed[:1], top_k=50)

    benchmark(draws, *inputs[0])
    found = medians({"draws": draws, "one": one}, inputs)
    benchmark.extra_info["sixteen over one"] = round(found["draws"] / found["one"], 2)
