"""Every kernel asks memory for little more than the least there is to read."""

import pytest

from w2s_kernels.aot.traffic import counted


@pytest.mark.slow
def test_a_forward_reads_its_inputs_once():
    found = counted()
    assert {traffic.op for traffic in found} >= {"logprob", "logprob_diff", "linear_logprob_diff"}
    for traffic in found:
        # On logits: targets and results; on heads: parts of rows, or products of a chunk, as well.
        most = 1.3 if traffic.op.startswith("linear") else 1.01
        assert 1.0 <= traffic.asked / traffic.least <= most, traffic
