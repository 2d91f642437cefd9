"""guided_topk against reading its three inputs once and against plain torch.

pytest bench/bench_guided_topk.py
"""

import pytest
from torch import Tensor

from support.timing import medians, read, rotated
from w2s_kernels import guided_topk
from w2s_kernels.ops.guided_logits import example_inputs


@pytest.mark.parametrize("k", [4, 50, 1000])
@pytest.mark.parametrize(("rows", "vocab"), [(1, 49152), (16, 49152)])
def test_best_tokens(benchmark, rows, vocab, k):
    inputs = rotated(lambda seed: example_inputs(rows, vocab, seed=seed))

    def plain(base: Tensor, tuned: Tensor, untuned: Tensor) -> None:
        (base + (tuned - untuned)).log_softmax(-1).topk(k)

    calls = {"ours": lambda *x: guided_topk(*x, k), "read": read, "torch": plain}
    benchmark(calls["ours"], *inputs[0])
    found = medians(calls, inputs, 20)
    benchmark.extra_info["over read"] = round(found["ours"] / found["read"], 2)
    benchmark.extra_info["torch over ours"] = round(found["torch"] / found["ours"], 2)
