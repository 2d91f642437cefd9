"""guided_topk: order, ties and log-probs of the guided law."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from support.float64 import within
from w2s_kernels import dispatch, errors, guided_logits, guided_topk
from w2s_kernels.ops import guided_topk as op
from w2s_kernels.ops.guided_logits import example_inputs

INF, NAN = float("inf"), float("nan")


def best(z, k):
    """ids `[B, k]` by (value descending, id ascending), in Python."""
    ids = [sorted(range(len(row)), key=lambda i: (-row[i], i))[:k] for row in z.tolist()]
    return torch.tensor(ids, dtype=torch.int64)


def assert_is_the_top(inputs, k, **keywords):
    temperature = keywords.get("temperature", 1.0)
    z = guided_logits(*inputs, beta=keywords.get("beta", 1.0))
    logprobs, ids = guided_topk(*inputs, k, **keywords)
    assert (logprobs.dtype, ids.dtype) == (torch.float32, torch.int64)
    assert torch.equal(ids, best(z, k))
    # z/T would round; (z − m)/T does not need to, see numerics rule 7.
    shifted = z.double() - z.double().amax(-1, keepdim=True)
    law = (shifted / torch.tensor(temperature, dtype=torch.float32).double()).log_softmax(-1)
    wanted = law.gather(1, ids)
    assert within(logprobs, wanted, op.tolerance(wanted))


@pytest.mark.parametrize("vocab", [1, 2, 7, 127, 128, 1000])
def test_order_and_logprobs_of_the_whole_law(backend, vocab):
    inputs = example_inputs(3, vocab, seed=vocab)
    for k in {1, min(2, vocab), min(50, vocab), vocab}:
        for temperature in (1e-3, 0.7, 1.0, 10.0):
            assert_is_the_top(inputs, k, beta=0.7, temperature=temperature)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_with_many_ties(backend, dtype):
    inputs = example_inputs(3, 2000, dtype=dtype)
    for k in (1, 50, 900, 2000):
        assert_is_the_top(inputs, k, beta=0.0)
        assert_is_the_top(inputs, k, beta=1.0)


@pytest.mark.parametrize(
    "vocab", [pytest.param(v, marks=pytest.mark.slow) if v > 5e4 else v
              for v in (32000, 49152, 50257, 128256, 151936, 262144)],
)  # fmt: skip
def test_large_vocabularies(backend_once, vocab):
    inputs = example_inputs(1, vocab, seed=vocab)
    assert_is_the_top(inputs, 50, beta=1.0)


@pytest.mark.slow
def test_all_columns_of_a_large_vocabulary(backend_once):
    assert_is_the_top(example_inputs(1, 151936), 151936, beta=1.0)


def test_ties_go_to_the_lower_id(backend):
    zero = torch.zeros(1, 5000)
    for k in (1, 50, 4999, 5000):
        assert_is_the_top((zero, zero, zero), k)
    levels = (torch.arange(5000) % 7).float()[None]
    for k in (1, 50, 714, 715, 5000):
        assert_is_the_top((levels, zero, zero), k)


def test_masked_columns_come_last_in_order_of_their_ids(backend):
    base = torch.tensor([[-INF, 1.0, -INF, 2.0, 0.0, 3.0]])
    logprobs, ids = guided_topk(base, None, None, 6, valid_vocab=5)
    assert ids.tolist() == [[3, 1, 4, 0, 2, 5]]
    assert logprobs[0, 3:].tolist() == [-INF] * 3
    assert bool(torch.isclose(logprobs[0, :3].exp().sum(), torch.tensor(1.0)))
    logprobs, ids = guided_topk(base, None, None, 4, valid_vocab=5)
    assert ids.tolist() == [[3, 1, 4, 0]]
    wide = torch.full((1, 3000), -INF)
    wide[0, 2999] = 0.0
    assert guided_topk(wide, None, None, 3)[1].tolist() == [[2999, 0, 1]]


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_row_without_a_law_is_nan_with_the_first_ids(backend, bad):
    base = torch.zeros(2, 40)
    base[0] = -INF
    base[0, 7] = bad
    logprobs, ids = guided_topk(base, None, None, 5)
    assert bool(logprobs[0].isnan().all())
    assert ids.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert bool(logprobs[1].isfinite().all())


def test_temperature_zero_is_a_point_mass(backend):
    base = torch.tensor([[0.0, 3.0, 3.0, 1.0]])
    logprobs, ids = guided_topk(base, None, None, 3, temperature=0)
    assert ids.tolist() == [[1, 2, 3]]
    assert logprobs.tolist() == [[0.0, -INF, -INF]]


def test_settings_and_rows_per_result(backend):
    inputs = example_inputs(3, 1200)
    row = torch.tensor([2, 2, 0, 1, 9], dtype=torch.int32)
    t = torch.tensor([1.0, 0.5, 0.0, -1.0, 1.0])
    betas = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0])
    logprobs, ids = guided_topk(*inputs, 20, beta=betas, temperature=t, row=row)
    for i in range(3):
        one = [x[int(row[i])][None] for x in inputs]
        wanted = guided_topk(*one, 20, beta=float(betas[i]), temperature=float(t[i]))
        assert torch.equal(logprobs[i], wanted[0][0])
        assert torch.equal(ids[i], wanted[1][0])
    assert bool(logprobs[3:].isnan().all()), "a negative temperature, a row that does not exist"


def test_rows_do_not_depend_on_the_batch_nor_on_threads(backend):
    inputs = example_inputs(9, 3000)
    logprobs, ids = guided_topk(*inputs, 30)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
        for part in (order, order[:2], order[4:5]):
            got = guided_topk(*(x[part] for x in inputs), 30)
            assert torch.equal(got[0], logprobs[part])
            assert torch.equal(got[1], ids[part])
    finally:
        torch.set_num_threads(before)


def test_instruction_sets_give_the_same_bits(isas):
    inputs = example_inputs(4, 20000, dtype=torch.bfloat16)
    before = torch.ops.w2s_library.isa()
    results = []
    try:
        for isa in isas:
            torch.ops.w2s_library.set_isa(isa)
            results.append(guided_topk(*inputs, 100))
    finally:
        torch.ops.w2s_library.set_isa(before)
    with dispatch.use("reference"):
        reference = guided_topk(*inputs, 100)
    for other in results:
        assert torch.equal(other[0], results[0][0])
        assert torch.equal(other[1], reference[1])
        assert torch.allclose(other[0], reference[0], rtol=0, atol=2e-6)


def test_the_pair_may_be_padded_differently(backend):
    base, tuned, untuned = example_inputs(2, 700)
    got = guided_topk(base, tuned[:, :650], untuned, 700)
    assert sorted(got[1][0].tolist()) == list(range(700))
    assert got[1][0, -50:].tolist() == list(range(650, 700))
    assert_is_the_top((base, tuned[:, :650], untuned), 640)


def test_strided_rows_and_empty_batches(backend):
    base = torch.full((3, 90), NAN)
    base[:, :60] = torch.randn(3, 60)
    got = guided_topk(base[:, :60], None, None, 4)
    assert all(map(torch.equal, got, guided_topk(base[:, :60].clone(), None, None, 4)))
    logprobs, ids = guided_topk(base[:0], None, None, 4)
    assert (logprobs.shape, ids.shape) == ((0, 4), (0, 4))


def test_opcheck(backend_once):
    base, tuned, untuned = example_inputs(3, 40)
    arguments = (base, tuned, untuned, torch.tensor([0, 2]), 4, 1.0, None, 1.0, torch.ones(2),
                 40, 40)  # fmt: skip
    torch.library.opcheck(backend_once.namespace.guided_topk.default, arguments)


def test_it_compiles_without_a_graph_break(backend_once):
    inputs = example_inputs(3, 50)

    def top(base, tuned, untuned):
        logprobs, ids = guided_topk(base, tuned, untuned, 5, beta=0.5)
        return logprobs * 2, ids + 1

    compiled = torch.compile(top, fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, compiled(*inputs), top(*inputs)))


def test_fake_tensors_have_the_same_shapes_and_dtypes(backend_once):
    with FakeTensorMode():
        base = torch.empty(4, 70, dtype=torch.float16)
        logprobs, ids = guided_topk(base, None, None, 6, row=torch.empty(9, dtype=torch.int32))
        assert (logprobs.shape, logprobs.dtype) == ((9, 6), torch.float32)
        assert (ids.shape, ids.dtype) == ((9, 6), torch.int64)


Z = torch.zeros(2, 5)


@pytest.mark.parametrize(
    ("k", "keywords", "error", "words"),
    [
        (6, {}, ValueError, r"k must lie in \[1, 5\]"),
        (0, {}, errors.RangeError, r"k must lie in \[1, 5\]"),
        (2.0, {}, errors.DtypeError, "k must be an integer"),
        (2, {"temperature": -0.5}, errors.RangeError, "temperature must be"),
        (2, {"temperature": torch.ones(3)}, errors.ShapeError, "temperature must have 2"),
        (2, {"row": torch.zeros(2)}, errors.DtypeError, "row must have dtype"),
        (2, {"row": torch.zeros(2).long().to("meta")}, errors.DeviceError, "row is on meta"),
        (2, {"valid_vocab": 0}, errors.RangeError, "valid_vocab must lie"),
    ],
)
def test_bad_input_names_the_argument(k, keywords, error, words):
    with pytest.raises(error, match=words):
        guided_topk(Z, None, None, k, **keywords)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    vocab=st.integers(1, 70),
    levels=st.integers(1, 30),
    shift=st.integers(-64, 64),
)
def test_shifts_change_nothing_and_k_only_cuts(seed, vocab, levels, shift):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randint(levels, (1, vocab), generator=generator) / 8
    logprobs, ids = guided_topk(z, None, None, vocab)
    assert torch.equal(ids, best(z, vocab))
    assert bool((logprobs <= 0).all())
    assert bool((logprobs[:, :-1] >= logprobs[:, 1:]).all())
    for k in {1, (vocab + 1) // 2}:
        got = guided_topk(z + shift, None, None, k)
        assert torch.equal(got[0], logprobs[:, :k])
        assert torch.equal(got[1], ids[:, :k])
