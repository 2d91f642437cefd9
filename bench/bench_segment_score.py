"""segment_score_: adding a chunk's differences to the running scores.

pytest bench/bench_segment_score.py
"""

import pytest
import torch

from w2s_kernels import dispatch, segment_score_


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("rows", [16, 128, 1024])
def test_a_chunk_of_five_tokens(benchmark, rows, backend):
    diff = torch.randn(rows, 5)
    score = torch.zeros(rows, dtype=torch.float64)
    with dispatch.use(backend):
        benchmark(segment_score_, score, diff)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_ragged_responses_of_up_to_2048_tokens(benchmark, backend):
    lengths = torch.randint(2049, (16,), generator=torch.Generator().manual_seed(0))
    cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    diff = torch.randn(int(cu_seqlens[-1]))
    score = torch.zeros(16, dtype=torch.float64)
    with dispatch.use(backend):
        benchmark(segment_score_, score, diff, cu_seqlens)
