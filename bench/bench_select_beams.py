"""select_beams: one selection of a search.

pytest bench/bench_select_beams.py
"""

import pytest

from w2s_kernels import dispatch, select_beams
from w2s_kernels.ops.select_beams import example_inputs


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(("prompts", "rows"), [(1, 16), (8, 16), (32, 16), (8, 64), (8, 1024)])
def test_the_best_quarter_of_each_pool(benchmark, prompts, rows, backend):
    score, clone_of = example_inputs(prompts, rows)
    with dispatch.use(backend):
        benchmark(select_beams, score, rows // 4, repeat=4, clone_of=clone_of)
