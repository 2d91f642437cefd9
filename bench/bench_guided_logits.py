"""guided_logits against reading its three inputs once and against plain torch.

pytest bench/bench_guided_logits.py
"""

import pytest
import torch

from support.timing import medians, read, rotated
from w2s_kernels import guided_logits
from w2s_kernels.ops.guided_logits import example_inputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("rows", "vocab"), [(1, 49152), (16, 49152), (16, 262144)])
def test_steered_logits(benchmark, rows, vocab, dtype):
    inputs = rotated(lambda seed: example_inputs(rows, vocab, dtype=dtype, seed=seed))
    calls = {
        "ours": lambda *x: guided_logits(*x, beta=0.7),
        "read": read,
        "torch": lambda b, t, u: b.float() + 0.7 * (t.float() - u.float()),
    }
    benchmark(calls["ours"], *inputs[0])
    found = medians(calls, inputs, 20)
    benchmark.extra_info["over read"] = round(found["ours"] / found["read"], 2)
    benchmark.extra_info["torch over ours"] = round(found["torch"] / found["ours"], 2)
