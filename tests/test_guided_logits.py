"""guided_logits: base + β(tuned − untuned) rounded once; masks and bad values by element."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

import w2s_kernels
from support.guided import guided_row
from w2s_kernels import dispatch, errors, guided_logits
from w2s_kernels.ops import guided_logits as op

INF, NAN = float("inf"), float("nan")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def same(a, b):
    return torch.equal(a.nan_to_num(nan=12345.0), b.nan_to_num(nan=12345.0))


def expected(base, tuned, untuned, beta):
    rows = [guided_row(*row, beta) for row in zip(base, tuned, untuned, strict=True)]
    return torch.stack([torch.from_numpy(row) for row in rows])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [1, 2, 7, 127, 128, 1000, 1025, 5000])
def test_it_is_the_float64_value_rounded_once(backend, vocab, dtype):
    inputs = op.example_inputs(3, vocab, dtype=dtype, seed=vocab)
    for beta in (1.0, -0.3, 0.1, 7.0):
        got = guided_logits(*inputs, beta=beta)
        assert got.dtype == torch.float32
        assert torch.equal(got, expected(*inputs, beta))
        exact = inputs[0].double() + beta * (inputs[1].double() - inputs[2].double())
        assert bool(((got - exact).abs() <= op.tolerance(exact)).all())


@pytest.mark.parametrize(
    "vocab", [pytest.param(v, marks=pytest.mark.slow) if v > 5e4 else v
              for v in (32000, 49152, 50257, 128256, 151936, 262144)],
)  # fmt: skip
def test_large_vocabularies(backend_once, vocab):
    inputs = op.example_inputs(1, vocab, seed=vocab)
    assert torch.equal(guided_logits(*inputs, beta=0.7), expected(*inputs, 0.7))


def test_cancellation_between_base_and_pair_costs_no_accuracy(backend):
    base, tuned = torch.full((1, 40), -1e4), torch.full((1, 40), 1e4)
    untuned = torch.linspace(-1, 1, 40)[None]
    got = guided_logits(base, tuned, untuned, beta=1.0)
    exact = base.double() + (tuned.double() - untuned.double())
    assert bool(((got - exact).abs() <= op.tolerance(exact)).all())


SPECIAL = [0.0, -0.0, 1.5, -INF, INF, NAN, 3e38, -3e38]


@pytest.mark.parametrize("beta", [1.0, -1.0, 0.0, 2.0])
def test_masks_and_bad_values_mark_just_their_element(backend, beta):
    grid = torch.cartesian_prod(*[torch.tensor(SPECIAL)] * 3)  # [512, 3]
    plain = torch.ones(1, 37)
    columns = [torch.cat([grid[None, :, i], plain], dim=1) for i in range(3)]
    got = guided_logits(*columns, beta=beta)
    assert same(got, expected(*columns, beta))
    assert bool(got[:, -37:].isfinite().all())


def test_beta_zero_reads_the_base_only(backend):
    base = torch.tensor([[0.5, -0.0, -INF, 2.0]])
    broken = torch.full((1, 2), NAN)
    assert torch.equal(guided_logits(base, broken, broken, beta=0.0), base)
    betas = torch.zeros(1)
    assert torch.equal(guided_logits(base, broken, broken, beta=betas), base)


def test_columns_past_the_smallest_vocabulary_are_masked(backend):
    base, tuned, untuned = torch.randn(3, 2, 60).unbind(0)
    got = guided_logits(base, tuned[:, :50], untuned, beta=1.0)
    assert torch.equal(got[:, :50], guided_logits(base, tuned, untuned, beta=1.0)[:, :50])
    assert bool((got[:, 50:] == -INF).all())
    clipped = guided_logits(base, tuned, untuned, beta=1.0, valid_vocab=(60, None, 41))
    assert bool((clipped[:, 41:] == -INF).all())
    assert bool(clipped[:, :41].isfinite().all())
    assert torch.equal(
        guided_logits(base, tuned, untuned, beta=1.0, valid_vocab=41),
        guided_logits(base, tuned, untuned, beta=1.0, valid_vocab=(41, 41, 41)),
    )


def test_padding_is_never_read(backend):
    base, tuned, untuned = (torch.randn(2, 64) for _ in range(3))
    clean = guided_logits(base, tuned, untuned, beta=1.0, valid_vocab=40)
    for logits in (base, tuned, untuned):
        logits[:, 40:] = NAN
    assert torch.equal(guided_logits(base, tuned, untuned, beta=1.0, valid_vocab=40), clean)


def test_a_row_may_serve_many_results(backend):
    inputs = op.example_inputs(3, 1500)
    row = torch.tensor([2, 0, 0, 2, 1, -1, 3], dtype=torch.int32)
    betas = torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0, 1.0, 1.0])
    got = guided_logits(*inputs, beta=betas, row=row)
    for i in range(5):
        one = [x[int(row[i])][None] for x in inputs]
        assert torch.equal(got[i : i + 1], guided_logits(*one, beta=float(betas[i])))
    assert bool(got[5:].isnan().all()), "a row that does not exist is NaN"


def test_rows_do_not_depend_on_the_batch_nor_on_threads(backend):
    inputs = op.example_inputs(9, 3000)
    whole = guided_logits(*inputs, beta=1.3)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(guided_logits(*inputs, beta=1.3), whole)
    finally:
        torch.set_num_threads(before)
    for i in range(9):
        assert torch.equal(guided_logits(*(x[i : i + 1] for x in inputs), beta=1.3)[0], whole[i])


def test_any_row_stride_and_mixed_dtypes(backend):
    base, tuned, untuned = op.example_inputs(4, 200)
    wide = torch.full((4, 333), NAN)
    wide[:, :200] = base
    got = guided_logits(wide[:, :200], tuned.bfloat16(), untuned.half(), beta=1.0)
    same_values = (base, tuned.bfloat16().float(), untuned.half().float())
    assert torch.equal(got, guided_logits(*same_values, beta=1.0))


def test_empty_batch(backend):
    none = torch.empty(0, 5)
    assert guided_logits(none, none, none, beta=1.0).shape == (0, 5)
    rows = torch.empty(0, dtype=torch.long)
    full = torch.zeros(2, 5)
    assert guided_logits(full, full, full, beta=1.0, row=rows).shape == (0, 5)


def test_backends_and_instruction_sets_give_the_same_bits(isas):
    inputs = op.example_inputs(5, 5000, dtype=torch.bfloat16)
    with dispatch.use("reference"):
        wanted = guided_logits(*inputs, beta=0.7)
    before = torch.ops.w2s_library.isa()
    try:
        for isa in isas:
            torch.ops.w2s_library.set_isa(isa)
            assert torch.equal(guided_logits(*inputs, beta=0.7), wanted)
    finally:
        torch.ops.w2s_library.set_isa(before)


def test_gradients_stop_here(backend_once):
    inputs = [x.requires_grad_() for x in op.example_inputs(2, 9)]
    assert not guided_logits(*inputs, beta=1.0).requires_grad


def test_opcheck(backend_once):
    base, tuned, untuned = op.example_inputs(3, 50)
    row = torch.tensor([0, 2])
    betas = torch.ones(2, dtype=torch.float64)
    check = torch.library.opcheck
    check(backend_once.namespace.guided_logits.default,
          (base, tuned, untuned, row, 0.0, betas, 50, 50))  # fmt: skip
    check(backend_once.namespace.guided_logits.default,
          (base, None, None, None, 1.0, None, 50, 50))  # fmt: skip


def test_it_compiles_without_a_graph_break(backend_once):
    inputs = op.example_inputs(3, 50)

    def steer(base, tuned, untuned, betas):
        return guided_logits(base, tuned, untuned, beta=betas) * 2

    betas = torch.tensor([0.0, 1.0, 2.0])
    compiled = torch.compile(steer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*inputs, betas), steer(*inputs, betas))


def test_fake_tensors_have_the_same_shape_and_dtype(backend_once):
    with FakeTensorMode():
        base, pair = torch.empty(4, 70, dtype=torch.bfloat16), torch.empty(4, 64)
        out = guided_logits(base, pair, pair, beta=1.0, row=torch.empty(9, dtype=torch.int32))
        assert (out.shape, out.dtype) == ((9, 70), torch.float32)


Z = torch.zeros(2, 5)


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "words"),
    [
        ((Z.double(), Z, Z), {"beta": 1.0}, errors.DtypeError, "base must have dtype"),
        ((Z, Z.long(), Z), {"beta": 1.0}, errors.DtypeError, "tuned must have dtype"),
        ((Z, Z, Z[:1]), {"beta": 1.0}, errors.ShapeError, "untuned must be"),
        ((Z[0], Z, Z), {"beta": 1.0}, errors.ShapeError, "base must be"),
        ((Z.t(), Z, Z), {"beta": 1.0}, errors.LayoutError, "base must be contiguous"),
        ((Z, None, Z), {"beta": 1.0}, errors.RangeError, "tuned is None"),
        ((Z, Z, Z), {"beta": INF}, errors.RangeError, "beta must be a finite"),
        ((Z, Z, Z), {"beta": torch.ones(3)}, errors.ShapeError, "beta must have 2"),
        ((Z, Z, Z), {"beta": torch.ones(2).long()}, errors.DtypeError, "beta must have dtype"),
        ((Z, Z, Z), {"beta": 1.0, "row": Z}, errors.DtypeError, "row must have dtype"),
        ((Z, Z, Z), {"beta": 1.0, "valid_vocab": 6}, errors.RangeError, "valid_vocab must lie"),
        ((Z, Z, Z), {"beta": 1.0, "valid_vocab": (5, 5)}, errors.ShapeError, "valid_vocab must"),
        ((Z, Z.to("meta"), Z), {"beta": 1.0}, errors.DeviceError, "tuned is on meta"),
        ((Z[:, :0], Z, Z), {"beta": 1.0}, errors.ShapeError, "at least one column"),
    ],
)  # fmt: skip
def test_bad_input_names_the_argument(arguments, keywords, error, words):
    with pytest.raises(error, match=words):
        guided_logits(*arguments, **keywords)


def test_explain_says_who_takes_the_call():
    said = w2s_kernels.explain("guided_logits", Z)
    assert "guided_logits: reference: " in said
    assert said.count("taken") == 1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), vocab=st.integers(1, 90), beta=st.floats(-4, 4, width=32))
def test_swapping_the_pair_is_negating_beta(seed, vocab, beta):
    base, tuned, untuned = op.example_inputs(2, vocab, seed=seed)
    there = guided_logits(base, tuned, untuned, beta=beta)
    assert torch.equal(there, guided_logits(base, untuned, tuned, beta=-beta))
    assert torch.equal(guided_logits(base, tuned, tuned, beta=beta), base)
