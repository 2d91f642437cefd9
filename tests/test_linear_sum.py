"""linear_logprob_sum: the value and the gradients of the expression that it stands for."""

import pytest
import torch

from support import linear
from w2s_kernels import Head, dispatch, linear_logprob
from w2s_kernels.errors import ShapeError
from w2s_kernels.ops import _linear_sum as module
from w2s_kernels.ops._linear_sum import linear_logprob_sum

KINDS = ("fp32", "fp32+bias+softcap+scale", "fp32+padding", "bf16", "fp32+bias+padding")


def leaves(head: Head, hidden: torch.Tensor) -> list[torch.Tensor]:
    tensors = [hidden, head.weight, *([head.bias] if head.bias is not None else [])]
    return [t.requires_grad_() for t in tensors]


def both_ways(head, hidden, target, weight, outer=1.0):
    tensors = leaves(head, hidden)
    found = linear_logprob_sum(hidden, head, target, weight)
    expected = (linear_logprob(hidden, head, target) * weight).sum()
    return [(value, torch.autograd.grad(value * outer, tensors)) for value in (found, expected)]


@pytest.mark.parametrize("outer", [1.0, -0.3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 40])
def test_value_and_gradients_are_those_of_the_expression(backend, kind, rows, outer):
    head = linear.head(4200, 40, kind)
    hidden, target = linear.inputs(rows, head)
    target[rows // 2] = -100
    weight = torch.randn(rows, generator=linear.generator(3))
    (found, mine), (expected, theirs) = both_ways(head, hidden, target, weight, outer)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(mine, theirs, strict=True):
        error = (a.double() - b.double()).abs().max()
        eps = torch.finfo(a.dtype).eps if a.dtype != torch.float32 else 0.0
        assert error <= (1e-5 + eps) * b.double().abs().max()


@pytest.mark.parametrize("buffer", [1 << 25, 4500 * 100])
def test_it_is_the_same_over_several_blocks(backend_once, monkeypatch, buffer):
    monkeypatch.setattr(module, "_BUFFER", buffer)
    head = linear.head(4500, 8, "fp32+bias")
    hidden, target = linear.inputs(530, head)
    (found, mine), (expected, theirs) = both_ways(head, hidden, target, torch.rand(530))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_forward_makes_the_gradient_only_where_one_is_wanted(monkeypatch):
    head, (hidden, target) = (made := linear.head(50, 8)), linear.inputs(3, made)
    called = []
    monkeypatch.setattr(
        module, "value_and_gradients", lambda *a: called.append(a) or (hidden.sum(), None, None)
    )
    weight = torch.ones(3)
    plain = linear_logprob_sum(hidden, head, target, weight)
    with torch.no_grad():
        linear_logprob_sum(hidden.clone().requires_grad_(), head, target, weight)
    with dispatch.use("reference"):
        linear_logprob_sum(hidden.clone().requires_grad_(), head, target, weight)
    assert not called
    assert float(plain) == float(linear_logprob(hidden, head, target).sum())


def test_only_the_wanted_gradients_are_made_and_inputs_stay_as_they_were(backend_once):
    head = linear.head(300, 8, "fp32+bias")
    hidden, target = linear.inputs(5, head)
    before = hidden.clone(), head.weight.clone()
    hidden.requires_grad_()
    value = linear_logprob_sum(hidden, head, target, torch.ones(5))
    value.backward(retain_graph=True)
    first = hidden.grad.clone()
    value.backward()
    assert torch.equal(hidden.grad, 2 * first)
    assert head.weight.grad is None
    assert torch.equal(hidden.detach(), before[0])
    assert torch.equal(head.weight, before[1])


def test_ignored_rows_count_for_nothing_even_when_they_are_nan_or_all(backend_once):
    head = linear.head(300, 8)
    hidden, target = linear.inputs(4, head)
    hidden[1], target[1] = float("nan"), -100
    hidden.requires_grad_()
    linear_logprob_sum(hidden, head, target, torch.ones(4)).backward()
    assert torch.isfinite(hidden.grad).all()
    assert (hidden.grad[1] == 0).all()
    value = linear_logprob_sum(hidden, head, torch.full((4,), -100), torch.ones(4))
    (gradient,) = torch.autograd.grad(value, hidden)
    assert float(value.detach()) == 0.0
    assert (gradient == 0).all()


def test_an_invalid_target_makes_the_sum_nan(backend_once):
    head = linear.head(300, 8)
    hidden, target = linear.inputs(4, head)
    target[2] = 300
    assert linear_logprob_sum(hidden.requires_grad_(), head, target, torch.ones(4)).isnan()


def test_a_hidden_state_of_another_width_is_refused():
    head = linear.head(300, 8)
    hidden = torch.zeros(4, 9, requires_grad=True)
    with pytest.raises(ShapeError, match=r"hidden must be \[…, 8\]"):
        linear_logprob_sum(hidden, head, torch.zeros(4, dtype=torch.long), torch.ones(4))
