"""The tests of `logprob_stats`, on the interpreter."""

import torch
from test_logprob_stats import *  # noqa: F403
from test_logprob_stats import LEAF, V, hard, shards_of

import w2s_kernels

# Of instruction sets, which there are none of here; and of arguments that no kernel sees.
del test_every_instruction_set_gives_the_same_bits, test_bad_statistics_are_refused_by_name  # noqa: F821


def test_shards_of_one_leaf_merge_to_the_very_statistics_of_the_row(backend):
    logits, target = hard()
    m, s, z_target = w2s_kernels.logprob_stats(logits, target, temperature=0.7)
    parts = shards_of(logits, target, list(range(LEAF, V, LEAF)), temperature=0.7)
    merged = w2s_kernels.merge_stats(parts, temperature=0.7)
    assert all(torch.equal(a, b) for a, b in zip(merged, (m, s, z_target), strict=True))
