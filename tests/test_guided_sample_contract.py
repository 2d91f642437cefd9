"""guided_sample: layouts, fake tensors, compilation and bad input."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from support.draws import NAN, keys
from w2s_kernels import errors, guided_sample
from w2s_kernels.ops.guided_logits import example_inputs


def test_the_pair_may_be_padded_differently(backend):
    base, tuned, untuned = example_inputs(1, 49280)
    key = keys(1)
    clipped = [x[:, :49152].contiguous() for x in (base, tuned, untuned)]
    wanted = guided_sample(*clipped, **key)
    assert all(map(torch.equal, guided_sample(base, tuned, clipped[2], **key), wanted))
    got = guided_sample(base, tuned, untuned, valid_vocab=(None, 49152, None), **key)
    assert all(map(torch.equal, got, wanted))


def test_rows_of_any_stride_and_beyond_two_to_the_31_elements(backend_once):
    vocab, rows = 262144, 8194
    large = torch.empty(rows, vocab, dtype=torch.float16)  # never written but for one row
    z = torch.randn(vocab, generator=torch.Generator().manual_seed(0)).half()
    large[rows - 1] = z
    row = torch.tensor([rows - 1])
    far = guided_sample(large, row=row, top_k=50, **keys(1))
    assert all(map(torch.equal, far, guided_sample(z[None], top_k=50, **keys(1))))
    wide = torch.full((3, 500), NAN)
    wide[:, :300] = z[:300].float()
    strided = guided_sample(wide[:, :300], **keys(3))
    assert all(map(torch.equal, strided, guided_sample(wide[:, :300].clone(), **keys(3))))


def test_empty_batch(backend):
    none = torch.empty(0, 5)
    empty = torch.empty(0, dtype=torch.long)
    token, logprob = guided_sample(none, seed=empty, position=empty)
    assert (token.shape, logprob.shape) == ((0,), (0,))
    token, _ = guided_sample(torch.zeros(2, 5), seed=empty, position=empty, row=empty)
    assert token.shape == (0,)


def test_opcheck(backend_once):
    base, tuned, untuned = example_inputs(3, 40)
    key = keys(3)
    arguments = (
        base, tuned, untuned, torch.tensor([0, 2, 2]), *key.values(), torch.zeros(3).bool(),
        1.0, None, 1.0, torch.ones(3), 5, None, 0.9, None, 0.0, None, 0, 40, 40,
    )  # fmt: skip
    torch.library.opcheck(backend_once.namespace.guided_sample.default, arguments)


def test_it_compiles_without_a_graph_break(backend_once):
    inputs, key = example_inputs(3, 40), keys(3)

    def step(base, tuned, untuned, temperature, key):
        token, logprob = guided_sample(
            base, tuned, untuned, temperature=temperature, top_k=5, **key
        )
        return token + 1, logprob * 2

    temperature = torch.tensor([0.0, 1.0, 2.0])
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    got, wanted = compiled(*inputs, temperature, key), step(*inputs, temperature, key)
    assert all(map(torch.equal, got, wanted))


def test_fake_tensors_have_the_same_shapes_and_dtypes(backend_once):
    with FakeTensorMode():
        index = torch.empty(9, dtype=torch.long)
        token, logprob = guided_sample(
            torch.empty(4, 70, dtype=torch.bfloat16), seed=index, position=index, row=index
        )
        assert (token.shape, token.dtype) == ((9,), torch.int64)
        assert (logprob.shape, logprob.dtype) == ((9,), torch.float32)


Z, INDEX = torch.zeros(2, 5), torch.zeros(2, dtype=torch.long)


@pytest.mark.parametrize(
    ("keywords", "error", "words"),
    [
        ({"temperature": -1.0}, errors.RangeError, "temperature must be a finite"),
        ({"temperature": NAN}, errors.RangeError, "temperature must be a finite"),
        ({"temperature": torch.ones(3)}, errors.ShapeError, "temperature must have 2"),
        ({"top_p": 0.0}, errors.RangeError, r"top_p must lie in \(0, 1\]"),
        ({"top_p": 1.01}, errors.RangeError, r"top_p must lie in \(0, 1\]"),
        ({"top_p": NAN}, errors.RangeError, r"top_p must lie in \(0, 1\]"),
        ({"min_p": -0.1}, errors.RangeError, "min_p must lie"),
        ({"min_p": 1.1}, errors.RangeError, "min_p must lie"),
        ({"top_k": -1}, errors.RangeError, "top_k must be >= 0"),
        ({"top_k": 2.5}, errors.DtypeError, "top_k must be an integer"),
        ({"top_k": torch.ones(2)}, errors.DtypeError, "top_k must have dtype"),
        ({"seed": INDEX.int()}, errors.DtypeError, "seed must have dtype int64"),
        ({"seed": INDEX[:1]}, errors.ShapeError, "seed must have 2 entries"),
        ({"seed": 7}, errors.DtypeError, "seed must be a torch.Tensor"),
        ({"position": torch.zeros(2)}, errors.DtypeError, "position must have dtype"),
        ({"candidate": INDEX[None]}, errors.ShapeError, "candidate must be one-dim"),
        ({"finished": INDEX}, errors.DtypeError, "finished must have dtype bool"),
        ({"pad_id": 0.5}, errors.DtypeError, "pad_id must be an integer"),
        ({"row": torch.zeros(2)}, errors.DtypeError, "row must have dtype"),
        ({"tuned": Z}, errors.RangeError, "untuned is None"),
        ({"position": INDEX.to("meta")}, errors.DeviceError, "position is on meta"),
        ({"base": torch.zeros(5, 2).t()}, errors.LayoutError, "base must be contiguous"),
        ({"base": Z.double()}, errors.DtypeError, "base must have dtype"),
        ({"base": torch.empty(2, 2**19)}, errors.ShapeError, "at most 524287"),
    ],
)
def test_bad_input_names_the_argument(keywords, error, words):
    arguments = {"base": Z, "seed": INDEX, "position": INDEX} | keywords
    with pytest.raises(error, match=words):
        guided_sample(**arguments)
