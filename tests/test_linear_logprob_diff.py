"""linear_logprob_diff: the pair against float64, its value rules, gradients and errors."""

from dataclasses import replace

import pytest
import torch

from support import float64, linear
from w2s_kernels import Head, explain, linear_logprob, linear_logprob_diff
from w2s_kernels.errors import DtypeError, RangeError, ShapeError
from w2s_kernels.ops.linear_logprob_diff import example_inputs, tolerance

PAIRS = (
    ("fp32", "fp32"), ("bf16", "bf16+bias"),
    ("fp16+softcap", "fp32+scale"), ("bf16+padding", "int8"),
)  # fmt: skip


def expected_diff(hidden_t, head_t, hidden_u, head_u, target, temperature=(1.0, 1.0)):
    return float64.logprob_diff(
        linear.logits(hidden_t, head_t),
        linear.logits(hidden_u, head_u),
        target,
        temperature=temperature,
        softcap=(head_t.softcap, head_u.softcap),
        valid_vocab=(head_t.valid_vocab, head_u.valid_vocab),
    )


def pair_inputs(kinds, rows, vocab=4200, widths=(40, 24)):
    """(hidden_t, head_t, hidden_u, head_u, target); the untuned head is padded by 50 columns."""
    head_t = linear.head(vocab, widths[0], kinds[0])
    head_u = replace(linear.head(vocab + 50, widths[1], kinds[1], seed=7), valid_vocab=vocab)
    hidden_t, target = linear.inputs(rows, head_t)
    hidden_u, _ = linear.inputs(rows, head_u, seed=9)
    return hidden_t, head_t, hidden_u, head_u, target


@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
def test_values_match_float64_for_every_pair(backend, kinds):
    for rows in (3, 40):
        args = pair_inputs(kinds, rows)
        value = linear_logprob_diff(*args, temperature=(0.7, 1.3))
        expected = expected_diff(*args, temperature=(0.7, 1.3))
        assert float64.within(value, expected, tolerance(expected, *args[:4], temperature=0.7))


@pytest.mark.parametrize("width", [192, pytest.param(2048, marks=pytest.mark.slow)])
def test_values_match_float64_over_a_whole_vocabulary(backend_once, width):
    args = pair_inputs(("bf16", "bf16"), 5, vocab=49152, widths=(64, width))
    expected = expected_diff(*args)
    for invariant in (False, backend_once.name == "cpu"):
        value = linear_logprob_diff(*args, invariant=invariant)
        assert float64.within(value, expected, tolerance(expected, *args[:4]))


def test_digits_of_a_small_difference_survive(backend_once):
    # Two nearly equal models under an offset that swallows fp32 digits of each log-prob.
    head_t = linear.head(500, 32, "fp32+bias")
    head_t.bias.add_(1000.0)
    head_u = replace(head_t, weight=head_t.weight * (1 + 1e-6))
    hidden, target = linear.inputs(50, head_t)
    value = linear_logprob_diff(hidden, head_t, hidden, head_u, target)
    expected = expected_diff(hidden, head_t, hidden, head_u, target)
    allowed = tolerance(expected, hidden, head_t, hidden, head_u)
    assert float64.within(value, expected, allowed)
    same = linear_logprob_diff(hidden, head_t, hidden, head_t, target)
    assert (same == 0).all()


def test_it_is_the_difference_of_two_logprobs(backend_once):
    args = hidden_t, head_t, hidden_u, head_u, target = pair_inputs(PAIRS[1], 6)
    tuned = linear_logprob(hidden_t, head_t, target)
    untuned = linear_logprob(hidden_u, head_u, target)
    found = linear_logprob_diff(*args)
    assert torch.allclose(found, tuned - untuned, atol=1e-5, rtol=1e-6)


def test_ignored_invalid_and_masked_targets(backend_once):
    hidden_t, head_t, hidden_u, head_u, _ = pair_inputs(("fp32+bias", "fp32+bias"), 6, vocab=300)
    head_t = replace(head_t, valid_vocab=280)
    head_t.bias[[10, 11]] = float("-inf")
    head_u.bias[[11, 12]] = float("-inf")
    hidden_t[0], hidden_u[0] = float("nan"), float("nan")
    target = torch.tensor([-100, 280, -1, 10, 11, 12])
    value = linear_logprob_diff(hidden_t, head_t, hidden_u, head_u, target)
    assert value[0] == 0
    assert value[[1, 2, 4]].isnan().all()
    assert value[3] == float("-inf")
    assert value[5] == float("inf")


def test_k_targets_and_tensor_temperatures(backend_once):
    hidden_t, head_t, hidden_u, head_u, _ = pair_inputs(PAIRS[0], 4)
    target = torch.randint(4200, (4, 3))
    temperature = (torch.tensor([0.5, 1.0, 2.0, 0.0]), 1.0)
    args = (hidden_t, head_t, hidden_u, head_u, target)
    value = linear_logprob_diff(*args, temperature=temperature)
    expected = expected_diff(*args, temperature=temperature)
    allowed = tolerance(expected, *args[:4], temperature=0.5)
    assert float64.within(value, expected, allowed)
    assert value[3].isnan().all()


@pytest.mark.parametrize(
    "kinds", [PAIRS[0], ("fp32+bias+softcap", "fp32+scale+padding")], ids="-".join
)
def test_gradients_match_float64_autograd(backend, kinds):
    hidden_t, head_t, hidden_u, head_u, target = pair_inputs(kinds, 20)
    target[3] = -100
    hidden_t[3], hidden_u[3] = float("nan"), float("inf")
    tensors = [hidden_t, head_t.weight, hidden_u, head_u.weight]
    tensors += [b for b in (head_t.bias, head_u.bias) if b is not None]
    for tensor in tensors:
        tensor.requires_grad_()
    args = (hidden_t, head_t, hidden_u, head_u, target)
    weight = torch.randn(20, generator=linear.generator(4))
    value = linear_logprob_diff(*args, temperature=(0.8, 1.2))
    found = torch.autograd.grad((value * weight).sum(), tensors)

    kept = torch.arange(20) != 3  # float64 autograd knows no ignored NaN rows
    args = (hidden_t[kept], head_t, hidden_u[kept], head_u, target[kept])
    value = expected_diff(*args, temperature=(0.8, 1.2))
    expected = torch.autograd.grad((value * weight[kept]).sum(), tensors)
    for a, b in zip(found, expected, strict=True):
        assert ((a - b).abs() <= 1e-5 * b.abs().max()).all()
    assert (found[0][3] == 0).all()
    assert (found[2][3] == 0).all()


def test_a_frozen_side_gets_no_gradient(backend_once):
    hidden_t, head_t, hidden_u, head_u, target = pair_inputs(PAIRS[0], 5)
    hidden_t.requires_grad_()
    value = linear_logprob_diff(hidden_t, head_t, hidden_u, head_u, target)
    value.sum().backward()
    alone = torch.autograd.grad(linear_logprob(hidden_t, head_t, target).sum(), hidden_t)
    assert torch.allclose(hidden_t.grad, alone[0], atol=1e-6)
    assert head_t.weight.grad is None


def test_a_target_that_one_head_lacks_has_a_nan_gradient(backend_once):
    hidden_t, head_t, hidden_u, head_u, target = pair_inputs(PAIRS[0], 4, vocab=300)
    target[2] = 290
    head_u = replace(head_u, valid_vocab=290)
    hidden_t.requires_grad_()
    value = linear_logprob_diff(hidden_t, head_t, hidden_u, head_u, target % 291)
    (found,) = torch.autograd.grad(value.nansum() + value[2], hidden_t)
    assert found[2].isnan().all()
    assert found[[0, 1, 3]].isfinite().all()


def test_empty_batches(backend_once):
    hidden_t, head_t, hidden_u, head_u, target = pair_inputs(PAIRS[0], 3)
    value = linear_logprob_diff(hidden_t[:0], head_t, hidden_u[:0], head_u, target[:0])
    assert value.shape == (0,)
    batched = linear_logprob_diff(
        hidden_t.view(1, 3, -1), head_t, hidden_u.view(1, 3, -1), head_u, target.view(1, 3)
    )
    assert batched.shape == (1, 3)


def test_bad_arguments_name_themselves():
    hidden_t, head_t, hidden_u, head_u, target = pair_inputs(PAIRS[0], 4, vocab=100)
    cases = [
        (DtypeError, "hidden_u", (hidden_t, head_t, hidden_u.double(), head_u, target)),
        (DtypeError, "head_u", (hidden_t, head_t, hidden_u, head_u.weight, target)),
        (ShapeError, "hidden_t", (hidden_u, head_t, hidden_u, head_u, target)),
        (ShapeError, "hidden_u", (hidden_t, head_t, hidden_u[:3], head_u, target)),
        (ShapeError, "target", (hidden_t, head_t, hidden_u, head_u, target[:2])),
    ]
    for error, name, args in cases:
        with pytest.raises(error, match=name):
            linear_logprob_diff(*args)
    args = (hidden_t, head_t, hidden_u, head_u, target)
    with pytest.raises(RangeError, match="temperature"):
        linear_logprob_diff(*args, temperature=(1.0, 0.0))
    with pytest.raises(RangeError, match="temperature"):
        linear_logprob_diff(*args, temperature=(1.0, 1.0, 1.0))


def test_explain_names_every_backend():
    lines = explain("linear_logprob_diff", *example_inputs(2, 8, 30)).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["cuda", "triton", "cpu", "reference"]
    assert sum(line.endswith(": taken") for line in lines) == 1


def test_the_op_passes_opcheck(backend_once):
    hidden_t, head_t, hidden_u, head_u, target = example_inputs(4, 16, 300)
    sides = [
        (h.requires_grad_(), head.weight.requires_grad_(), None, None, 0.0, 1.0, head.vocab)
        for h, head in ((hidden_t, head_t), (hidden_u, head_u))
    ]
    args = (*sides[0], *sides[1], target[:, None], 1.0, None, 0.8, None, False)
    torch.library.opcheck(backend_once.namespace.linear_logprob_diff.default, args)


def test_compiled_without_a_graph_break_forward_and_backward(backend_once):
    hidden_t, head_t, hidden_u, head_u, target = example_inputs(4, 16, 300)
    tensors = [t.requires_grad_() for t in (hidden_t, head_t.weight, hidden_u, head_u.weight)]

    def loss(hidden_t, weight_t, hidden_u, weight_u, target):
        return linear_logprob_diff(hidden_t, Head(weight_t), hidden_u, Head(weight_u), target).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*tensors, target), loss(*tensors, target))
    expected = torch.autograd.grad(loss(*tensors, target), tensors)
    found = torch.autograd.grad(compiled(*tensors, target), tensors)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
