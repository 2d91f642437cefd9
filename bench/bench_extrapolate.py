"""extrapolate against a torch.add of the same tensors, which reads and writes as much.

    pytest bench/bench_extrapolate.py

`over add` is the time as a multiple of torch.add's, taken by turns; GB/s are those of the two
tensors read and the one written. Buffers are larger than the caches.
"""

import pytest
import torch

from support.timing import medians
from w2s_kernels import extrapolate
from w2s_kernels.ops.extrapolate import example_inputs

ELEMENTS = 32 << 20  # a piece of a checkpoint


@pytest.mark.parametrize("sums", [False, True], ids=["", "sums"])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_piece_of_a_checkpoint(benchmark, dtype, rounding, sums):
    theta1, theta0 = example_inputs(1, ELEMENTS, dtype=dtype)
    out, total = torch.zeros_like(theta1), torch.zeros(4, dtype=torch.float64)
    settings = {"rounding": rounding, "key": 1, "out": out, "sums": total if sums else None}
    calls = {
        "ours": lambda: extrapolate(theta1, theta0, 0.3, **settings),
        "add": lambda: torch.add(theta1, theta0, out=out),
    }
    benchmark(calls["ours"])
    found = medians(calls, [()], 10)
    for name, seconds in found.items():
        benchmark.extra_info[f"{name} GB/s"] = round(3 * out.nbytes / seconds / 1e9, 1)
    benchmark.extra_info["over add"] = round(found["ours"] / found["add"], 2)
