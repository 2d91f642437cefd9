"""logprob_diff against float64, its value rules, its exact symmetries and its gradients."""

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import w2s_kernels
from support import float64, rows
from w2s_kernels.ops.logprob_diff import example_inputs, tolerance

V = rows.LEAF + 100
WITHIN_TEST = 64 << 20  # elements
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def hard_pair(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Hard rows against each other, shifted by one so that no row meets itself."""
    tuned = torch.stack(list(rows.hard_rows(V, dtype).values()))
    target = rows.random_targets(len(tuned), V, per_row=4)
    target[:, 0], target[:, 1], target[:, 2] = 0, V - 1, rows.LEAF + 1
    return tuned, tuned.roll(1, 0), target


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "temperature",
    [
        1e-3,
        0.7,
        pytest.param(1.0, marks=pytest.mark.slow),
        pytest.param(10.0, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("softcap", [0.0, 30.0])
def test_hard_rows_are_as_close_to_float64_as_promised(backends, dtype, temperature, softcap):
    tuned, untuned, target = hard_pair(dtype)
    expected = float64.logprob_diff(
        tuned, untuned, target, temperature=(temperature,) * 2, softcap=(softcap,) * 2
    )
    limit = tolerance(expected, softcap=(softcap,) * 2, temperature=(temperature,) * 2)
    for backend in backends:
        with backend.forced():
            value = w2s_kernels.logprob_diff(
                tuned, untuned, target, temperature=temperature, softcap=softcap
            )
        assert value.dtype == torch.float32
        assert float64.within(value, expected, limit), backend


@pytest.mark.parametrize(
    "vocab",
    [1, 2, 7, 127, 128, 1000,
     *(pytest.param(v, marks=pytest.mark.slow)
       for v in (32000, 49152, 50257, 128256, 151936, 262144))],
)  # fmt: skip
def test_every_shape_is_as_close_to_float64_as_promised(backends, vocab):
    for n in (0, 1, 3, 33, 4096):
        if n * vocab > WITHIN_TEST:
            continue
        for dtype in DTYPES:
            tuned, untuned, target = example_inputs(n, vocab, dtype=dtype)
            expected = float64.logprob_diff(tuned, untuned, target)
            for backend in backends:
                with backend.forced():
                    value = w2s_kernels.logprob_diff(tuned, untuned, target)
                assert value.shape == (n,)
                assert float64.within(value, expected, tolerance(expected)), (backend, n, dtype)


def test_vocabularies_padded_differently(backend):
    tuned, untuned = rows.random_rows(4, 49152), rows.random_rows(4, 49280, seed=1)
    untuned[:, 49152:] = float("nan")
    target = torch.tensor([0, 49151, 49152, 49279])
    for valid in ((None, 49152), 49152):
        value = w2s_kernels.logprob_diff(tuned, untuned, target, valid_vocab=valid)
        expected = float64.logprob_diff(tuned, untuned, target, valid_vocab=(None, 49152))
        assert float64.within(value, expected, tolerance(expected))
        assert value[2:].isnan().all()


def test_each_model_has_its_own_options(backend):
    tuned, untuned, target = example_inputs(5, V)
    options = {
        "temperature": (0.7, torch.linspace(0.5, 2, 5)),
        "softcap": (0.0, 30.0),
        "valid_vocab": (4190, 4100),
    }
    expected = float64.logprob_diff(tuned, untuned.bfloat16(), target, **options)
    value = w2s_kernels.logprob_diff(tuned, untuned.bfloat16(), target, **options)
    limit = tolerance(expected, softcap=(0.0, 30.0), temperature=(0.7, 0.5))
    assert float64.within(value, expected, limit)


def test_a_masked_target_follows_the_value_rules(backend):
    tuned, untuned, _ = example_inputs(3, V)
    target = torch.full((3,), 9)
    tuned[[0, 1], 9] = -rows.INF
    untuned[[0, 2], 9] = -rows.INF
    value = w2s_kernels.logprob_diff(tuned, untuned, target, softcap=(0.0, 30.0))
    assert value[0].isnan()  # masked in both
    assert value[1].item() == -rows.INF
    assert value[2].item() == rows.INF


def test_invalid_targets_are_nan_and_ignored_ones_zero_even_on_nan_rows(backend):
    target = torch.tensor([-100, -100, -1, V, V + 7, 3])
    tuned, untuned, _ = example_inputs(len(target), V)
    tuned[1, 0] = float("nan")
    value = w2s_kernels.logprob_diff(tuned, untuned, target)
    assert value[:2].tolist() == [0.0, 0.0]
    assert value[2:5].isnan().all()
    assert value[5].isfinite()


def test_a_row_without_a_log_prob_in_either_model_is_nan(backend):
    bad = torch.stack(list(rows.rows_without_logprob(V).values()))
    good = rows.random_rows(len(bad), V)
    target = torch.full((len(bad),), 3)
    assert w2s_kernels.logprob_diff(bad, good, target).isnan().all()
    assert w2s_kernels.logprob_diff(good, bad, target).isnan().all()
    assert w2s_kernels.logprob_diff(bad, bad, target).isnan().all()


def test_a_pair_is_closer_than_two_rounded_log_probs(backend):
    # Two fp32 log-probs of about -11 differ by about 1e-3: subtracting them keeps their roundings.
    tuned = rows.random_rows(64, V, scale=0.5)
    untuned = tuned + rows.random_rows(64, V, scale=1e-3, seed=1)
    target = rows.random_targets(64, V)
    expected = float64.logprob_diff(tuned, untuned, target)
    ours = w2s_kernels.logprob_diff(tuned, untuned, target)
    rounded = w2s_kernels.logprob(tuned, target) - w2s_kernels.logprob(untuned, target)
    assert float64.largest_error(ours, expected) < float64.largest_error(rounded, expected)
    assert float64.largest_error(ours, expected) < 3e-7


@pytest.mark.parametrize("dtype", DTYPES)
def test_swapping_the_models_changes_the_sign_and_nothing_else(backend, dtype):
    tuned, untuned, target = hard_pair(dtype)
    forward = w2s_kernels.logprob_diff(tuned, untuned, target, temperature=(0.7, 1.3))
    swapped = w2s_kernels.logprob_diff(untuned, tuned, target, temperature=(1.3, 0.7))
    torch.testing.assert_close(forward, -swapped, rtol=0, atol=0, equal_nan=True)


def test_a_model_against_itself_is_exactly_zero(backend):
    logits = rows.random_rows(33, V, scale=20)
    target = rows.random_targets(33, V)
    assert (w2s_kernels.logprob_diff(logits, logits.clone(), target, temperature=0.7) == 0).all()


def test_rows_do_not_depend_on_the_batch_or_their_order(backend):
    tuned, untuned, target = hard_pair()
    together = w2s_kernels.logprob_diff(tuned, untuned, target)
    order = torch.randperm(len(tuned), generator=torch.Generator().manual_seed(0))
    shuffled = w2s_kernels.logprob_diff(tuned[order], untuned[order], target[order])
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=0, equal_nan=True)
    for i in range(0, len(tuned), 4):
        alone = w2s_kernels.logprob_diff(tuned[i], untuned[i], target[i])
        torch.testing.assert_close(alone, together[i], rtol=0, atol=0, equal_nan=True)


def test_threads_and_appended_masked_columns_change_no_bits(backend):
    tuned, untuned, target = hard_pair()
    expected = w2s_kernels.logprob_diff(tuned, untuned, target)
    longer = torch.nn.functional.pad(untuned, (0, rows.LEAF + 9), value=-rows.INF)
    threads = torch.get_num_threads()
    try:
        for count, other in itertools.product((1, 2), (untuned, longer)):
            torch.set_num_threads(count)
            value = w2s_kernels.logprob_diff(tuned, other, target)
            torch.testing.assert_close(value, expected, rtol=0, atol=0, equal_nan=True)
    finally:
        torch.set_num_threads(threads)


def test_every_instruction_set_gives_the_same_bits(backends):
    tuned, untuned, target = hard_pair(torch.bfloat16)
    found = []
    for backend in [b for b in backends if b.isa is not None]:
        with backend.forced():
            found.append(w2s_kernels.logprob_diff(tuned, untuned, target, softcap=(0.0, 30.0)))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0, equal_nan=True)


def test_rows_beyond_two_to_the_31_elements(backend_once):
    stride = (1 << 30) + 8
    store = torch.empty(2 * stride + V, dtype=torch.bfloat16)  # only three rows are ever touched
    tuned = store.as_strided((3, V), (stride, 1))
    tuned.copy_(rows.random_rows(3, V))
    _, untuned, target = example_inputs(3, V)
    expected = w2s_kernels.logprob_diff(tuned.contiguous(), untuned, target)
    assert torch.equal(w2s_kernels.logprob_diff(tuned, untuned, target), expected)
    assert torch.equal(w2s_kernels.logprob_diff(untuned, tuned, target), -expected)


@pytest.mark.parametrize("leading", [(), (2, 3), (0,), (2, 0)])
def test_any_leading_dimensions(backend, leading):
    tuned, untuned = torch.randn(*leading, 11), torch.randn(*leading, 13)
    target = torch.zeros(*leading, 2, dtype=torch.int32)
    expected = float64.logprob_diff(tuned, untuned, target)
    value = w2s_kernels.logprob_diff(tuned, untuned, target)
    assert float64.within(value, expected, tolerance(expected))


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("softcap", [pytest.param((0.0, 0.0), marks=pytest.mark.slow), (30.0, 0.0)])
def test_gradients_equal_float64_autograd(backends, needs, softcap):
    tuned, untuned, _ = hard_pair()
    n = len(tuned)
    target = rows.random_targets(n, V, per_row=3)
    target[:, 2] = target[:, 0]
    target[0, 1] = -100
    temperature = (0.7, torch.linspace(0.5, 2, n))
    weight = torch.randn(n, 3, generator=torch.Generator().manual_seed(1))

    def gradients(dtype: torch.dtype, diff: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        a, b = (z.to(dtype).requires_grad_(f) for z, f in zip((tuned, untuned), needs, strict=True))
        value = diff(a, b, target, temperature=temperature, softcap=softcap)
        return torch.autograd.grad(value, [z for z in (a, b) if z.requires_grad], weight.to(dtype))

    exact = gradients(torch.float64, float64.logprob_diff)
    limit = (2e-6 + 4 * 2.0**-23 * softcap[0] / 0.7) * weight.abs().sum(1, keepdim=True) / 0.5
    for backend in backends:
        with backend.forced():
            ours = gradients(torch.float32, w2s_kernels.logprob_diff)
        for got, wanted in zip(ours, exact, strict=True):
            assert float64.within(got, wanted, limit.expand_as(wanted)), backend


def test_ignored_rows_have_zero_gradient_and_invalid_ones_nan_in_both_models(backend):
    tuned, untuned, _ = example_inputs(3, V)
    tuned[0, 3] = float("nan")
    tuned.requires_grad_()
    untuned = torch.nn.functional.pad(untuned, (0, 8)).requires_grad_()
    # V is a column of untuned, but not of both.
    value = w2s_kernels.logprob_diff(tuned, untuned, torch.tensor([-100, V, 5]))
    for gradient in torch.autograd.grad(value.sum(), (tuned, untuned)):
        assert (gradient[0] == 0).all()
        assert gradient[1].isnan().all()
        assert gradient[2].isfinite().all()


@settings(max_examples=20, deadline=None)
@given(
    row=st.lists(st.integers(-1024, 1024).map(lambda n: n / 64), min_size=1, max_size=200),
    shifts=st.tuples(st.integers(-999, 999), st.integers(-999, 999)),
    seed=st.integers(0, 1 << 31),
)
def test_shifting_either_model_changes_nothing(backends, row, shifts, seed):
    tuned = torch.tensor([row])
    order = torch.randperm(len(row), generator=torch.Generator().manual_seed(seed))
    untuned, target = tuned[:, order], torch.arange(len(row))[None]
    for backend in backends:
        with backend.forced():
            value = w2s_kernels.logprob_diff(tuned, untuned, target)
            again = w2s_kernels.logprob_diff(tuned + shifts[0], untuned + shifts[1], target)
        assert torch.equal(value, again)
