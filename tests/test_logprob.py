"""logprob against float64: values, targets, options, shapes, and the bits of a row."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import w2s_kernels
from support import float64, rows
from w2s_kernels.ops.logprob import tolerance

V = rows.LEAF + 100  # more than one leaf, and a ragged last one
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
VOCABULARIES = (1, 2, 7, 127, 128, 1000, 32000, 49152, 50257, 128256, 151936, 262144)
ROWS = (0, 1, 3, 33, 4096)
WITHIN_TEST = 64 << 20  # elements


def hard(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """The hard rows `[n, V]` and four targets a row, the first and the last column among them."""
    logits = torch.stack(list(rows.hard_rows(V, dtype).values()))
    target = rows.random_targets(len(logits), V, per_row=4)
    target[:, 0], target[:, 1], target[:, 2] = 0, V - 1, rows.LEAF + 1
    return logits, target


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "temperature", [1e-3, 0.7, *(pytest.param(t, marks=pytest.mark.slow) for t in (1.0, 10.0))]
)
@pytest.mark.parametrize("softcap", [0.0, 30.0, pytest.param(50.0, marks=pytest.mark.slow)])
def test_hard_rows_are_as_close_to_float64_as_promised(backends, dtype, temperature, softcap):
    logits, target = hard(dtype)
    q = float64.log_softmax(logits, temperature=temperature, softcap=softcap)
    expected = float64.pick(q, target)
    entropy = float64.entropy_of(q)
    for backend in backends:
        if backend.isa == "generic" and (softcap == 50.0 or dtype == torch.float16):
            continue  # same bits as the others: test_every_instruction_set_gives_the_same_bits
        with backend.forced():
            value, h = w2s_kernels.logprob(
                logits, target, temperature=temperature, softcap=softcap, entropy=True
            )
        limit = tolerance(expected, softcap=softcap, temperature=temperature)
        assert float64.within(value, expected, limit), backend
        assert float64.within(
            h, entropy, tolerance(entropy, softcap=softcap, temperature=temperature)
        ), backend


@pytest.mark.parametrize(
    "vocab", [pytest.param(v, marks=pytest.mark.slow if v > 50257 else ()) for v in VOCABULARIES]
)
def test_every_shape_is_as_close_to_float64_as_promised(backends, vocab):
    for n in ROWS:
        if n * vocab > WITHIN_TEST:
            continue
        base = rows.random_rows(n, vocab, seed=n)
        target = rows.random_targets(n, vocab, seed=n)
        for dtype in DTYPES:
            logits = base.to(dtype)
            expected = float64.logprob(logits, target)
            for backend in backends:
                with backend.forced():
                    value = w2s_kernels.logprob(logits, target)
                assert value.dtype == torch.float32
                assert value.shape == target.shape
                assert float64.within(value, expected, tolerance(expected)), (backend, n, dtype)


@pytest.mark.full
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [v for v in VOCABULARIES if v * ROWS[-1] > WITHIN_TEST])
def test_large_shapes_are_as_close_to_float64_as_promised(backend, vocab, dtype):
    step = 16 if backend.isa in (None, "generic") else 256
    for first in range(0, ROWS[-1] if step == 256 else 64, step):
        logits = rows.random_rows(step, vocab, seed=first, dtype=dtype)
        target = rows.random_targets(step, vocab, seed=first)
        expected = float64.logprob(logits, target)
        assert float64.within(w2s_kernels.logprob(logits, target), expected, tolerance(expected))


def test_first_leaf_all_masked_is_not_nan(backend):
    logits = rows.random_rows(3, 2 * rows.LEAF + 5)
    logits[:, : rows.LEAF] = -rows.INF
    target = torch.tensor([rows.LEAF, 2 * rows.LEAF, 2 * rows.LEAF + 4])
    expected = float64.logprob(logits, target)
    assert float64.within(w2s_kernels.logprob(logits, target), expected, tolerance(expected))


def test_a_masked_target_is_minus_infinity(backend):
    logits = rows.random_rows(1, V)
    logits[0, 17] = -rows.INF
    target = torch.tensor([17])
    for softcap in (0.0, 30.0):  # masked stays masked through the softcap
        assert w2s_kernels.logprob(logits, target, softcap=softcap).item() == -rows.INF


def test_masked_columns_have_no_mass_through_softcap(backend):
    logits = rows.random_rows(2, V)
    target = torch.tensor([5, 6])
    expected = w2s_kernels.logprob(logits[:, :900].clone(), target, softcap=30.0)
    logits[:, 900:] = -rows.INF
    assert torch.equal(w2s_kernels.logprob(logits, target, softcap=30.0), expected)


def test_rows_without_a_log_prob_are_nan_and_leave_others_alone(backend):
    bad = rows.rows_without_logprob(V)
    good = rows.random_rows(1, V)
    target = torch.full((len(bad) + 1,), 3)
    for dtype in DTYPES:
        for softcap in (0.0, 30.0):
            logits = torch.cat([torch.stack(list(bad.values())), good]).to(dtype)
            value, h = w2s_kernels.logprob(logits, target, softcap=softcap, entropy=True)
            assert value[:-1].isnan().all(), list(bad)
            assert h[:-1].isnan().all()
            alone = w2s_kernels.logprob(good.to(dtype), target[:1], softcap=softcap)
            assert torch.equal(value[-1:], alone)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_targets_outside_the_vocabulary_are_nan_and_ignored_ones_zero(backend, dtype):
    target = torch.tensor([0, V - 1, -100, -1, V, V + 7, -101], dtype=dtype)
    logits = rows.random_rows(len(target), V)
    value = w2s_kernels.logprob(logits, target)
    assert value[:2].isfinite().all()
    assert value[2].item() == 0.0
    assert value[3:].isnan().all()


def test_an_ignored_target_is_zero_on_a_nan_row_and_its_entropy_its_row_s_own(backend):
    logits = rows.random_rows(2, V)
    logits[1, 5] = float("nan")
    value, h = w2s_kernels.logprob(logits, torch.tensor([-100, -100]), entropy=True)
    assert value.tolist() == [0.0, 0.0]
    expected = float64.entropy(logits)
    assert float64.within(h, expected, tolerance(expected))
    assert h[0] > 0
    assert h[1].isnan()


def test_a_target_in_the_padding_is_nan_and_the_padding_is_not_read(backend):
    logits = rows.random_rows(3, V)
    logits[:, 4150:] = float("nan")
    target = torch.tensor([4149, 4150, V - 1])
    value = w2s_kernels.logprob(logits, target, valid_vocab=4150)
    expected = float64.logprob(logits, target, valid_vocab=4150)
    assert float64.within(value, expected, tolerance(expected))
    assert value[1:].isnan().all()


def test_k_targets_share_a_read_and_equal_single_targets(backend):
    logits = rows.random_rows(3, V)
    target = torch.tensor([[1, 1, -100, V], [0, V - 1, 2, -1], [4096, 4095, 4097, 7]])
    value = w2s_kernels.logprob(logits, target)
    one_by_one = torch.stack([w2s_kernels.logprob(logits, t) for t in target.T.contiguous()], -1)
    torch.testing.assert_close(value, one_by_one, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("leading", [(), (2,), (2, 3), (0,), (2, 0), (0, 4)])
def test_any_leading_dimensions(backend, leading):
    logits = torch.randn(*leading, 11)
    target = torch.zeros(leading, dtype=torch.int64)
    expected = float64.logprob(logits, target)
    value, h = w2s_kernels.logprob(logits, target, entropy=True)
    assert h.shape == value.shape == torch.Size(leading)
    assert float64.within(value, expected, tolerance(expected))
    several = w2s_kernels.logprob(logits, target.unsqueeze(-1).expand(*leading, 3))
    assert several.shape == (*leading, 3)
    assert w2s_kernels.logprob(logits, target.new_empty(*leading, 0)).shape == (*leading, 0)


def test_a_temperature_a_row(backend):
    logits = rows.random_rows(5, V)
    target = rows.random_targets(5, V)
    temperature = torch.tensor([1e-3, 0.7, 1.0, 10.0, 3.0])
    expected = float64.logprob(logits, target, temperature=temperature)
    value = w2s_kernels.logprob(logits, target, temperature=temperature)
    assert float64.within(value, expected, tolerance(expected))
    rows_alone = [
        w2s_kernels.logprob(logits[i], target[i], temperature=float(temperature[i]))
        for i in range(5)
    ]
    assert torch.equal(value, torch.stack(rows_alone))


def test_temperature_zero_raises_for_a_number_and_is_nan_for_a_row(backend):
    logits, target = rows.random_rows(4, V), rows.random_targets(4, V)
    with pytest.raises(ValueError, match="temperature must be a finite number > 0, got 0"):
        w2s_kernels.logprob(logits, target, temperature=0)
    temperature = torch.tensor([0.0, 1.0, -1.0, float("nan")])
    value, h = w2s_kernels.logprob(logits, target, temperature=temperature, entropy=True)
    assert value.isnan().tolist() == h.isnan().tolist() == [True, False, True, True]
    assert torch.equal(value[1], w2s_kernels.logprob(logits[1], target[1]))


def test_temperature_divides_after_the_subtraction(backend):
    logits = rows.random_rows(3, V) + 1e4
    target = logits.argmax(-1)
    expected = float64.logprob(logits, target, temperature=1e-3)
    value = w2s_kernels.logprob(logits, target, temperature=1e-3)
    assert float64.within(value, expected, tolerance(expected))


def test_results_are_fp32_even_for_bf16_logits(backend):
    logits, target = rows.random_rows(2, V, dtype=torch.bfloat16), torch.tensor([1, 2])
    value, h = w2s_kernels.logprob(logits, target, entropy=True)
    assert value.dtype == h.dtype == torch.float32
    assert not torch.equal(value, value.bfloat16().float())


@pytest.mark.parametrize("scale", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("vocab", [1000, pytest.param(32000, marks=pytest.mark.slow)])
def test_never_less_exact_than_torch_s_log_softmax(backends, vocab, scale):
    n = 1000
    logits = rows.random_rows(n, vocab, scale=scale, seed=3)
    logits[::4] += 1e3
    target = rows.random_targets(n, vocab, seed=3)
    expected = float64.logprob(logits, target)
    theirs = torch.log_softmax(logits.float(), -1).gather(1, target[:, None])[:, 0]
    for backend in backends:
        if backend.isa == "generic" or (backend.isa is None and vocab > 1000):
            continue  # the same bits as avx2; the reference is float64 throughout
        with backend.forced():
            ours = w2s_kernels.logprob(logits, target)
        assert float64.largest_error(ours, expected) <= float64.largest_error(theirs, expected)


def test_strided_rows_and_views(backend):
    store = rows.random_rows(6, 2 * V)
    target = rows.random_targets(3, V)
    for view in (store[::2, :V], store[:3, V:], store[:3, 1 : V + 1], store.flip(0)[:3, :V]):
        expected = w2s_kernels.logprob(view.clone().contiguous(), target)
        assert torch.equal(w2s_kernels.logprob(view, target), expected)
    expanded = store[:1, :V].expand(3, V)  # row stride 0
    assert torch.equal(
        w2s_kernels.logprob(expanded, target), w2s_kernels.logprob(expanded.contiguous(), target)
    )


def test_rows_beyond_two_to_the_31_elements(backend_once):
    # 4 GiB of address space; only the pages of three rows are ever touched.
    stride = (1 << 30) + 8
    store = torch.empty(2 * stride + V, dtype=torch.bfloat16)
    logits = store.as_strided((3, V), (stride, 1)).requires_grad_()
    with torch.no_grad():
        logits.copy_(rows.random_rows(3, V))
    target = torch.tensor([0, 17, V - 1])
    copied = logits.detach().clone().requires_grad_()
    value, expected = w2s_kernels.logprob(logits, target), w2s_kernels.logprob(copied, target)
    assert torch.equal(value, expected)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), copied)
    assert torch.equal(gradient, expected_gradient)


def test_rows_do_not_depend_on_the_batch(backend):
    logits, target = hard()
    logits = torch.cat([logits, torch.stack(list(rows.rows_without_logprob(V).values()))])
    target = torch.cat([target, target[: len(logits) - len(target)]])
    together, entropies = w2s_kernels.logprob(logits, target, temperature=0.7, entropy=True)
    for i in range(0, len(logits), 3):
        alone, h = w2s_kernels.logprob(logits[i], target[i], temperature=0.7, entropy=True)
        torch.testing.assert_close(together[i], alone, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(entropies[i], h, rtol=0, atol=0, equal_nan=True)


def test_permuting_rows_permutes_results(backend):
    logits, target = hard()
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(1))
    value = w2s_kernels.logprob(logits, target)
    assert torch.equal(w2s_kernels.logprob(logits[order], target[order]), value[order])


def test_a_second_run_gives_the_same_bits(backend):
    logits, target = hard()
    assert torch.equal(w2s_kernels.logprob(logits, target), w2s_kernels.logprob(logits, target))


def test_thread_counts_change_no_bits(backend):
    logits, target = hard(torch.bfloat16)
    logits.requires_grad_()
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            value, h = w2s_kernels.logprob(logits, target, entropy=True)
            weight = torch.where(value.isinf(), 0.0, 1.0)
            (gradient,) = torch.autograd.grad((weight * value).nansum() + h.sum(), logits)
            found.append((value, h, gradient))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_appended_masked_columns_change_no_bits(backend):
    logits, target = hard()
    value, h = w2s_kernels.logprob(logits, target, entropy=True)
    for more in (1, 100, 3 * rows.LEAF):
        longer = torch.nn.functional.pad(logits, (0, more), value=-rows.INF)
        again, entropies = w2s_kernels.logprob(longer, target, entropy=True)
        assert torch.equal(value, again)
        assert torch.equal(h, entropies)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("softcap", [0.0, 30.0])
def test_every_instruction_set_gives_the_same_bits(backends, dtype, softcap):
    logits, target = hard(dtype)
    logits.requires_grad_()
    weight = torch.randn(target.shape, generator=torch.Generator().manual_seed(2))
    found = []
    for backend in [b for b in backends if b.isa is not None]:
        with backend.forced():
            value, h = w2s_kernels.logprob(
                logits, target, softcap=softcap, temperature=0.7, entropy=True
            )
            (gradient,) = torch.autograd.grad([value, h], logits, [weight, weight[:, 0]])
        found.append((value, h, gradient))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


LOGIT = st.integers(-2048, 2048).map(lambda n: n / 64)  # exact in fp32 with an integer added
ROW = st.lists(LOGIT, min_size=1, max_size=300)


@settings(max_examples=30, deadline=None)
@given(row=ROW, shift=st.integers(-4096, 4096), data=st.data())
def test_shifting_all_logits_changes_nothing(backends, row, shift, data):
    logits = torch.tensor([row])
    target = torch.tensor([data.draw(st.integers(0, len(row) - 1))])
    for backend in backends:
        with backend.forced():
            value = w2s_kernels.logprob(logits, target)
            assert torch.equal(w2s_kernels.logprob(logits + shift, target), value)


@settings(max_examples=30, deadline=None)
@given(
    row=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=300),
    temperature=st.sampled_from([1e-3, 0.7, 1.0, 10.0]),
    softcap=st.sampled_from([0.0, 30.0]),
)
def test_log_probs_are_never_positive_and_entropies_never_negative(
    backends, row, temperature, softcap
):
    logits = torch.tensor([row])
    target = torch.arange(len(row))[None]
    for backend in backends:
        with backend.forced():
            value, h = w2s_kernels.logprob(
                logits, target, temperature=temperature, softcap=softcap, entropy=True
            )
        assert (value <= 0).all()
        assert h.item() >= -tolerance(h.double(), softcap=softcap, temperature=temperature).item()


@settings(max_examples=20, deadline=None)
@given(row=ROW, seed=st.integers(0, 2**31))
def test_permuting_the_vocabulary_permutes_the_log_probs(backends, row, seed):
    logits = torch.tensor([row])
    order = torch.randperm(len(row), generator=torch.Generator().manual_seed(seed))
    target = torch.arange(len(row))[None]
    expected = float64.logprob(logits, target)
    for backend in backends:
        with backend.forced():
            value = w2s_kernels.logprob(logits[:, order], target)
        assert float64.within(value, expected[:, order], tolerance(expected[:, order]))
