"""Gradients of linear_logprob on the interpreter (`tests/test_linear_logprob_gradient.py`)."""

import pytest
import torch
from test_linear_logprob_gradient import (  # noqa: F401
    assert_close,
    leaves,
    test_a_backward_repeats_its_bits_and_writes_no_input,
    test_a_frozen_head_costs_no_weight_gradient,
    test_a_scaled_weight_gets_its_gradient,
    test_a_second_derivative_is_refused,
    test_an_invalid_target_makes_its_gradient_nan,
    test_empty_batches_have_zero_gradients,
    test_gradients_match_float64_autograd,
    test_ignored_rows_have_exactly_no_gradient_even_where_they_are_nan,
)

from support import linear
from w2s_kernels import Head, linear_logprob
from w2s_kernels.triton_kernels import linear_plan, linear_product
from w2s_kernels.triton_kernels.linear_settings import use_path


@pytest.mark.parametrize("kind", ["bf16", "fp32+bias"])
def test_gradients_match_over_several_groups_and_chunks(backend, monkeypatch, kind):
    head = linear.head(2500, 24, kind)
    hidden, target = linear.inputs(40, head)
    tensors = leaves(head, hidden)
    monkeypatch.setattr(linear_plan, "_WIDE", 24 * 4 * 1024 // 2)  # a chunk is 1024 columns
    monkeypatch.setattr(linear_plan, "_BUFFER", 4 * 1024 * 16)  # a group is 16 rows
    with use_path("chunked"):
        found = torch.autograd.grad(linear_logprob(hidden, head, target).mean(), tensors)
    expected = torch.autograd.grad(linear.logprob(hidden, head, target).mean(), tensors)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


def test_a_quantized_head_passes_its_gradient_to_the_hidden_states(backend):
    for kind in ("int8", "fp8+scale"):
        head = linear.head(600, 24, kind)
        hidden, target = linear.inputs(5, head)
        hidden = hidden.bfloat16().requires_grad_()
        (found,) = torch.autograd.grad(linear_logprob(hidden, head, target).sum(), hidden)
        (expected,) = torch.autograd.grad(linear.logprob(hidden, head, target).sum(), hidden)
        assert_close(found, expected)


@pytest.mark.slow
def test_16_bit_gradients_are_rounded_once(backend):
    # 520 rows that all want the same column: a bf16 accumulator would stop growing at 256.
    weight = torch.zeros(8, 4, dtype=torch.bfloat16, requires_grad=True)
    hidden = torch.ones(520, 4, dtype=torch.bfloat16)
    value = linear_logprob(hidden, Head(weight), torch.zeros(520, dtype=torch.long))
    (found,) = torch.autograd.grad(value.sum(), weight)
    assert (found[0] == 456).all()  # 520·7/8 = 455, rounded to eight bits
    assert (found[1:] == -65).all()


def test_a_bf16_gradient_keeps_16_bits_until_it_is_summed(backend):
    # One bf16 number a logit would be off by 2⁻⁹ of the largest entry.
    weight = torch.randn(300, 24).bfloat16()
    hidden, target = linear.inputs(70, Head(weight))
    hidden.requires_grad_()
    (found,) = torch.autograd.grad(linear_logprob(hidden, Head(weight), target).sum(), hidden)
    (expected,) = torch.autograd.grad(linear.logprob(hidden, Head(weight), target).sum(), hidden)
    assert_close(found, expected)


def test_products_are_fp32_where_tf32_is_allowed_elsewhere():
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        with linear_product.exact_fp32():
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before
