"""How rows are cut, aligned and launched changes no bits; and who takes a call."""

from itertools import pairwise

import pytest
import torch

import w2s_kernels
from support import rows
from w2s_kernels import dispatch
from w2s_kernels.triton_kernels import launch as launching
from w2s_kernels.triton_kernels.rows import leaves_per_program

V = 2 * rows.LEAF + 100
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def everything(logits, untuned, target):
    """Results of every op and both gradients."""
    options = {"temperature": torch.tensor([0.7, 1.0, 2.0]), "softcap": 30.0}
    logits, untuned = logits.detach().requires_grad_(), untuned.detach().requires_grad_()
    value, entropy = w2s_kernels.logprob(logits, target, entropy=True, **options)
    (gradient,) = torch.autograd.grad(value.sum() + entropy.sum(), logits)
    stats = w2s_kernels.logprob_stats(logits, target, **options)
    diff = w2s_kernels.logprob_diff(logits, untuned, target)
    gradients = torch.autograd.grad(diff.sum(), (logits, untuned))
    return [value, entropy, gradient, *stats, diff, *gradients]


def same(found, expected):
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per_row", [1, 3])
def test_rows_split_over_programs_have_the_bits_of_whole_ones(backend, request, dtype, per_row):
    logits = rows.random_rows(3, V, dtype=dtype)
    untuned = rows.random_rows(3, V + rows.LEAF, dtype=dtype, seed=1)
    target = rows.random_targets(3, V, per_row=per_row)
    target[0, 0] = rows.LEAF
    expected = everything(logits, untuned, target)
    request.getfixturevalue("split_rows")
    assert same(everything(logits, untuned, target), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_unaligned_rows_have_the_bits_of_aligned_ones(backend, dtype):
    store = rows.random_rows(3, V + 9, dtype=dtype)
    target = rows.random_targets(3, V, per_row=2)
    shifted = store[:, 1 : V + 1]
    copied = shifted.clone()
    assert launching.aligned(copied) == (V * copied.itemsize % 16 == 0)
    assert not launching.aligned(shifted)
    assert same(everything(shifted, shifted, target), everything(copied, copied, target))


def test_few_rows_fill_the_device_and_many_are_left_whole():
    for count, leaves in ((1, 32), (3, 32), (64, 12), (300, 64)):
        per_program = leaves_per_program(count, leaves, 528)
        assert 1 <= per_program <= leaves
        assert count * -(-leaves // per_program) >= min(528, count * leaves)
    assert leaves_per_program(528, 32, 528) == 32
    assert [leaves_per_program(n, 32, 528) for n in (1, 16, 17, 264)] == [1, 1, 1, 16]
    assert all(a <= b for a, b in pairwise(leaves_per_program(n, 32, 528) for n in range(1, 600)))


def test_the_interpreter_runs_only_when_it_is_forced():
    logits = torch.zeros(1, 3)
    with dispatch.use(None):
        assert dispatch.resolve("logprob", logits.device).namespace != "w2s_triton"
        assert "triton: refused: the interpreter" in w2s_kernels.explain("logprob", logits)
    with dispatch.use("triton"):
        assert "logprob: triton: taken" in w2s_kernels.explain("logprob", logits)


def test_more_targets_than_a_block_of_them(backend):
    logits = rows.random_rows(2, 50).requires_grad_()
    target = torch.arange(40).flip(0).expand(2, 40).clone()
    target[0, 20:] = target[0, :20]  # in another block, and still the same columns
    target[1, 30] = -100
    weight = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    (ours,) = torch.autograd.grad(w2s_kernels.logprob(logits, target), logits, weight)
    with dispatch.use("reference"):
        value = w2s_kernels.logprob(logits, target)
    (theirs,) = torch.autograd.grad(value, logits, weight)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6 * weight.abs().sum().item())


def test_a_changed_table_is_read_again_when_settings_are_forgotten(backend, monkeypatch):
    from w2s_kernels.triton_kernels import rows as cut
    from w2s_kernels.triton_kernels import settings

    logits = torch.randn(2, V)
    before = cut.plan(logits, V, 0.0, False)
    name = min(settings._TABLE, key=int)
    changed = {**settings._TABLE[name], "warps": {"16": 16, "32": 16}}
    monkeypatch.setitem(settings._TABLE, name, changed)
    cut.forget_settings()
    after = cut.plan(logits, V, 0.0, False)
    monkeypatch.undo()
    cut.forget_settings()
    assert before.warps != 16
    assert after.warps == 16
    assert cut.plan(logits, V, 0.0, False) == before
