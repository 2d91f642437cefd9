"""Our logprob beside TRL's selective_log_softmax: the same values and gradients.

TRL works in the logits' dtype; in fp32 both are held to our own tolerance of float64, doubled. In
16 bits TRL rounds its result to 16 bits, and is held to that; ours is held to float64 all the same.
"""

import pytest
import torch
from trl.trainer.utils import selective_log_softmax

from w2s_kernels import logprob
from w2s_kernels.ops.logprob import tolerance

SHAPES = [
    ((2, 3, 50257), (2, 3)),
    ((2, 3, 50257), (2, 3, 4)),
    ((1, 1, 7), (1, 1, 7)),
    ((4, 5, 1000), (4, 5, 1)),
    ((6, 32000), (6,)),
]


def example(logits_shape, index_shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(logits_shape, generator=generator) * 4).to(dtype)
    index = torch.randint(logits_shape[-1], index_shape, generator=generator)
    return logits, index


def exact(logits, index):
    law = logits.double().log_softmax(-1)
    if index.ndim == logits.ndim:
        return law.gather(-1, index)
    return law.gather(-1, index[..., None])[..., 0]


@pytest.mark.parametrize(("logits_shape", "index_shape"), SHAPES)
def test_values_are_those_of_trl(logits_shape, index_shape):
    logits, index = example(logits_shape, index_shape)
    ours, theirs = logprob(logits, index), selective_log_softmax(logits, index)
    reference = exact(logits, index)
    assert ours.shape == theirs.shape == index.shape
    assert ((ours - reference).abs() <= tolerance(reference)).all()
    # Theirs is z − logsumexp in fp32, which loses a few units of the row's largest logit.
    lost = 4 * 2.0**-23 * logits.abs().max()
    assert ((ours - theirs).abs() <= tolerance(reference) + lost).all()


@pytest.mark.parametrize(("logits_shape", "index_shape"), SHAPES)
def test_gradients_are_those_of_trl(logits_shape, index_shape):
    logits, index = example(logits_shape, index_shape)
    upstream = torch.randn(index_shape, generator=torch.Generator().manual_seed(1))
    gradients = []
    for call in (logprob, selective_log_softmax):
        z = logits.clone().requires_grad_()
        (call(z, index) * upstream).sum().backward()
        gradients.append(z.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_temperature_means_the_same(temperature):
    logits, index = example((3, 4, 5000), (3, 4))
    ours = logprob(logits, index, temperature=temperature)
    theirs = selective_log_softmax(logits, index, temperature=temperature)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("index_shape", [(2, 3), (2, 3, 4)])
def test_16_bit_values_are_those_of_trl_to_its_rounding(index_shape, dtype):
    logits, index = example((2, 3, 32000), index_shape, dtype)
    ours, theirs = logprob(logits, index), selective_log_softmax(logits, index)
    reference = exact(logits, index)
    assert ours.dtype == torch.float32
    assert ((ours - reference).abs() <= tolerance(reference)).all()
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(ours, theirs.float(), rtol=2 * rounding, atol=2 * rounding)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_gradients_are_those_of_trl_to_their_rounding(dtype):
    logits, index = example((2, 3, 1000), (2, 3), dtype)
    gradients = []
    for call in (logprob, selective_log_softmax):
        z = logits.clone().requires_grad_()
        call(z, index).float().sum().backward()
        gradients.append(z.grad.float())
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(*gradients, rtol=4 * rounding, atol=rounding)
