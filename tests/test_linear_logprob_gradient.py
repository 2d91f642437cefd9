"""Gradients of linear_logprob against float64 autograd, and what a backward must never do."""

from dataclasses import replace

import pytest
import torch

from support import linear
from w2s_kernels import Head, linear_logprob

KINDS = (
    "fp32", "bf16", "fp16+bias", "fp32+bias+softcap+scale", "bf16+bias+padding",
    "fp32+scale+padding",
)  # fmt: skip


def leaves(head: Head, hidden: torch.Tensor) -> list[torch.Tensor]:
    tensors = [hidden, head.weight, *([head.bias] if head.bias is not None else [])]
    return [t.requires_grad_() for t in tensors]


def in_float64(head: Head, hidden: torch.Tensor) -> tuple[Head, torch.Tensor]:
    """The same values as float64 leaves, so that autograd rounds nothing on the way."""
    bias = None if head.bias is None else head.bias.detach().double()
    exact = replace(head, weight=head.weight.detach().float(), bias=bias)
    object.__setattr__(exact, "weight", head.weight.detach().double())
    return exact, hidden.detach().double()


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Within 1e-5 of the largest entry, and one rounding to a 16-bit dtype."""
    rounding = torch.finfo(found.dtype).eps if found.dtype != torch.float32 else 0.0
    error = (found.double() - expected.double()).abs()
    assert (error <= 1e-5 * expected.double().abs().max() + rounding * expected.abs()).all(), (
        float(error.max()),
        float(expected.abs().max()),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 40])
def test_gradients_match_float64_autograd(backend, kind, rows):
    head = linear.head(4200, 40, kind)
    hidden, target = linear.inputs(rows, head, targets=2)
    target[rows // 2] = -100
    target[0, 1] = -100
    tensors = leaves(head, hidden)
    temperature = torch.linspace(0.5, 2.0, rows)
    g = linear.generator(3)
    weight_value = torch.randn(rows, 2, generator=g)
    weight_entropy = torch.randn(rows, generator=g)

    value, entropy = linear_logprob(hidden, head, target, temperature=temperature, entropy=True)
    found = torch.autograd.grad(
        (value * weight_value).sum() + (entropy * weight_entropy).sum(), tensors
    )
    exact, hidden = in_float64(head, hidden)
    tensors = leaves(exact, hidden)
    value = linear.logprob(hidden, exact, target, temperature=temperature)
    entropy = linear.entropy(hidden, exact, temperature=temperature)
    expected = torch.autograd.grad(
        (value * weight_value).sum() + (entropy * weight_entropy).sum(), tensors
    )
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("kind", ["bf16", "fp32+bias"])
def test_gradients_match_over_several_blocks_and_chunks(backend_once, kind):
    head = linear.head(4500, 8, kind)
    hidden, target = linear.inputs(530, head)
    tensors = leaves(head, hidden)
    found = torch.autograd.grad(linear_logprob(hidden, head, target).mean(), tensors)
    expected = torch.autograd.grad(linear.logprob(hidden, head, target).mean(), tensors)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


def test_a_scaled_weight_gets_its_gradient(backend_once):
    head = Head(torch.randn(50, 8), weight_scale=torch.rand(50) + 0.5)
    hidden, target = linear.inputs(4, head)
    tensors = leaves(head, hidden)
    found = torch.autograd.grad(linear_logprob(hidden, head, target).sum(), tensors)
    expected = torch.autograd.grad(linear.logprob(hidden, head, target).sum(), tensors)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


def test_ignored_rows_have_exactly_no_gradient_even_where_they_are_nan(backend):
    head = linear.head(300, 16, "fp32+bias")
    hidden, target = linear.inputs(6, head)
    hidden[1], hidden[4, 3] = float("nan"), float("inf")
    target[1] = target[4] = -100
    kept = torch.tensor([0, 2, 3, 5])
    tensors = leaves(head, hidden)
    found = torch.autograd.grad(linear_logprob(hidden, head, target).sum(), tensors)
    assert (found[0][[1, 4]] == 0).all()
    alone = torch.autograd.grad(linear_logprob(hidden[kept], head, target[kept]).sum(), tensors)
    for a, b in zip(found, alone, strict=True):
        assert_close(a, b)
    nothing = linear_logprob(hidden, head, torch.full((6,), -100)).sum()
    assert all((g == 0).all() for g in torch.autograd.grad(nothing, tensors))


def test_an_invalid_target_makes_its_gradient_nan(backend_once):
    head = linear.head(300, 16, "fp32+padding")
    hidden, target = linear.inputs(3, head)
    target[1] = 299
    tensors = leaves(head, hidden)
    d_hidden, d_weight = torch.autograd.grad(linear_logprob(hidden, head, target).sum(), tensors)
    assert d_hidden.isnan().all(dim=1).tolist() == [False, True, False]
    assert d_weight[:293].isnan().all()
    assert (d_weight[293:] == 0).all()


def test_tied_embeddings_add_both_gradients(backend_once):
    weight = torch.randn(200, 16, requires_grad=True)
    ids, target = torch.randint(200, (9,)), torch.randint(200, (9,))
    found = torch.autograd.grad(linear_logprob(weight[ids], Head(weight), target).sum(), weight)
    expected = torch.autograd.grad(linear.logprob(weight[ids], Head(weight), target).sum(), weight)
    assert_close(found[0], expected[0])


def test_a_frozen_head_costs_no_weight_gradient(backend_once):
    head = linear.head(300, 16, "fp32+bias")
    hidden, target = linear.inputs(5, head)
    hidden.requires_grad_()
    value = linear_logprob(hidden, head, target)
    (found,) = torch.autograd.grad(value.sum(), hidden)
    (expected,) = torch.autograd.grad(linear.logprob(hidden, head, target).sum(), hidden)
    assert_close(found, expected)
    op = backend_once.namespace.linear_logprob_backward
    rows = torch.zeros(5), torch.ones(5, dtype=torch.float64)
    d_hidden, d_weight, d_bias = op(
        torch.ones(5, 1), None, hidden.detach(), head.weight, head.bias, None, 0.0, 1.0, 300,
        target[:, None], *rows, None, 1.0, None, [True, False, False],
    )  # fmt: skip
    assert (d_hidden.shape, d_weight.shape, d_bias.shape) == ((5, 16), (0,), (0,))


def test_a_backward_repeats_its_bits_and_writes_no_input(backend_once):
    head = linear.head(5000, 32, "fp32+bias+softcap")
    hidden, target = linear.inputs(50, head)
    target[3] = -100
    before = [t.clone() for t in (hidden, head.weight, head.bias, target)]
    tensors = leaves(head, hidden)
    grad = torch.randn(50)
    kept = grad.clone()

    def run() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(linear_logprob(hidden, head, target), tensors, grad)

    first, second = run(), run()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    after = (hidden, head.weight, head.bias, target)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(kept, grad)


def test_a_second_derivative_is_refused(backend_once):
    head = linear.head(50, 8)
    hidden, target = linear.inputs(3, head)
    hidden.requires_grad_()
    value = linear_logprob(hidden, head, target).sum()
    (first,) = torch.autograd.grad(value, hidden, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(first.sum(), hidden)


def test_empty_batches_have_zero_gradients(backend_once):
    head = linear.head(50, 8, "bf16+bias")
    hidden = torch.empty(0, 8, dtype=torch.bfloat16)
    tensors = leaves(head, hidden)
    value = linear_logprob(hidden, head, torch.empty(0, dtype=torch.long)).sum()
    found = torch.autograd.grad(value, tensors)
    assert found[0].shape == (0, 8)
    assert all((g == 0).all() for g in found[1:])


def test_16_bit_gradients_are_rounded_once(backend_once):
    # 4096 rows that all want the same column: a bf16 accumulator would stop growing at 256.
    weight = torch.zeros(8, 4, dtype=torch.bfloat16, requires_grad=True)
    hidden = torch.ones(4096, 4, dtype=torch.bfloat16)
    value = linear_logprob(hidden, Head(weight), torch.zeros(4096, dtype=torch.long))
    (found,) = torch.autograd.grad(value.sum(), weight)
    assert (found[0] == 4096 * 7 / 8).all()
    assert (found[1:] == -512).all()
