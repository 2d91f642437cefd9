"""The tests of `logprob`, on the interpreter: its promises, with fewer rows."""

import test_logprob
import torch
from test_logprob import *  # noqa: F403

import w2s_kernels
from support import float64, rows

test_logprob.ROWS = (0, 1, 3)

# Of instruction sets and threads, which there are none of here; and of thousands of rows.
del test_every_instruction_set_gives_the_same_bits, test_thread_counts_change_no_bits  # noqa: F821
del test_large_shapes_are_as_close_to_float64_as_promised  # noqa: F821


def test_never_less_exact_than_torch_s_log_softmax(backend):
    logits = rows.random_rows(40, 1000, scale=20.0, seed=3)
    logits[::4] += 1e3
    target = rows.random_targets(40, 1000, per_row=25, seed=3)
    expected = float64.logprob(logits, target)
    theirs = torch.log_softmax(logits, -1).gather(1, target)
    ours = w2s_kernels.logprob(logits, target)
    assert float64.largest_error(ours, expected) <= float64.largest_error(theirs, expected)
