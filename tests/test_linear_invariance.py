"""invariant=True: a row's value is the same bits in any batch, order, thread count and ISA."""

import pytest
import torch

from support import linear
from w2s_kernels import Head, linear_logprob, linear_logprob_diff

KINDS = ("fp32", "bf16+bias", "fp16+softcap", "int8+scale")
WIDTH = 83  # not a multiple of 16 lanes


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def value_of(hidden: torch.Tensor, head: Head, target: torch.Tensor) -> torch.Tensor:
    value, entropy = linear_logprob(hidden, head, target, entropy=True, invariant=True)
    return torch.stack([value, entropy])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_depend_on_the_batch(backend, kind):
    head = linear.head(4200, WIDTH, kind)
    rows = 45 if backend.name == "cpu" else 9
    hidden, target = linear.inputs(rows, head)
    whole = value_of(hidden, head, target)
    for size in (1, 2, 3, 5, 8, 33):
        first = value_of(hidden[:size], head, target[:size])
        assert torch.equal(whole[:, :size], first)
        last = value_of(hidden[-size:], head, target[-size:])
        assert torch.equal(whole[:, -size:], last)
    order = torch.randperm(rows, generator=linear.generator(5))
    assert torch.equal(whole[:, order], value_of(hidden[order], head, target[order]))


def test_rows_do_not_depend_on_a_large_batch(backend_once):
    # Across row blocks (256) and hidden-state blocks of the product.
    head = linear.head(200, 700, "bf16")
    hidden, target = linear.inputs(530, head)
    whole = value_of(hidden, head, target)
    for row in (0, 131, 255, 256, 529):
        one = value_of(hidden[row : row + 1], head, target[row : row + 1])
        assert torch.equal(whole[:, row : row + 1], one)


def test_rows_do_not_depend_on_threads_or_strides(backend_once, threads):
    head = linear.head(4200, WIDTH, "bf16")
    hidden, target = linear.inputs(7, head)
    threads(1)
    single = value_of(hidden, head, target)
    threads(2)
    assert torch.equal(single, value_of(hidden, head, target))
    wide = torch.zeros(7, 200, dtype=hidden.dtype)
    wide[:, :WIDTH] = hidden
    assert torch.equal(single, value_of(wide[:, :WIDTH], head, target))


@pytest.mark.parametrize("kind", KINDS)
def test_instruction_sets_give_the_same_bits(isas, kind):
    head = linear.head(4200, WIDTH, kind)
    hidden, target = linear.inputs(6, head)
    before = torch.ops.w2s_library.isa()
    values = []
    try:
        for isa in isas:
            torch.ops.w2s_library.set_isa(isa)
            values.append(value_of(hidden, head, target))
    finally:
        torch.ops.w2s_library.set_isa(before)
    assert all(torch.equal(values[0], value) for value in values)


def test_a_pair_is_antisymmetric_and_zero_with_itself(backend):
    tuned, untuned = linear.head(4200, WIDTH, "bf16"), linear.head(4200, 40, "fp32", seed=2)
    hidden_t, target = linear.inputs(5, tuned)
    hidden_u, _ = linear.inputs(5, untuned)
    there = linear_logprob_diff(hidden_t, tuned, hidden_u, untuned, target, invariant=True)
    back = linear_logprob_diff(hidden_u, untuned, hidden_t, tuned, target, invariant=True)
    assert torch.equal(there, -back)
    same = linear_logprob_diff(hidden_t, tuned, hidden_t, tuned, target, invariant=True)
    assert (same == 0).all()
    for row in range(5):
        at = slice(row, row + 1)
        one = linear_logprob_diff(
            hidden_t[at], tuned, hidden_u[at], untuned, target[at], invariant=True
        )
        assert torch.equal(there[at], one)


def test_appended_masked_columns_change_no_bit(backend):
    head = linear.head(300, WIDTH, "fp32+bias")
    hidden, target = linear.inputs(5, head)
    weight = torch.cat([head.weight, torch.randn(5000, WIDTH)])
    bias = torch.cat([head.bias, torch.full((5000,), float("-inf"))])
    longer = linear_logprob(hidden, Head(weight, bias), target, invariant=True)
    assert torch.equal(longer, linear_logprob(hidden, head, target, invariant=True))
