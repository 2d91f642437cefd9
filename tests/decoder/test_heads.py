"""The product with a model's head, by oneDNN where that is faster, is the head's own."""

import pytest
import torch
from torch import nn

from w2s import heads


def calls_of(layer, hidden):
    """The product, and how often the layer itself was called."""
    count = 0
    plain = layer.forward

    def forward(states):
        nonlocal count
        count += 1
        return plain(states)

    layer.forward = forward
    with torch.inference_mode():
        return heads.head_product(layer, hidden), count


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 16, 33])
@pytest.mark.parametrize("vocab", [1, 63, 257])
def test_the_product_is_the_heads_own(monkeypatch, vocab, rows, bias, onednn):
    if onednn and not heads.can_pack(torch.float32):
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(heads, "can_pack", lambda dtype: onednn)
    torch.manual_seed(0)
    layer, hidden = nn.Linear(24, vocab, bias=bias), torch.randn(rows, 3, 24)[:, -1]
    with torch.inference_mode():
        torch.testing.assert_close(heads.head_product(layer, hidden), layer(hidden))


def test_a_layer_with_a_hook_or_another_forward_is_called():
    layer, hidden = nn.Linear(24, 100), torch.randn(2, 24)
    product, count = calls_of(layer, hidden)
    assert count == 1
    hooked = nn.Linear(24, 100)
    hooked.register_forward_hook(lambda module, inputs, output: output + 1.0)
    with torch.inference_mode():
        torch.testing.assert_close(heads.head_product(hooked, hidden), hooked(hidden))
        torch.testing.assert_close(product, layer(hidden))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_head_in_16_bits_keeps_its_dtype(dtype):
    layer, hidden = nn.Linear(24, 100).to(dtype), torch.randn(2, 24, dtype=dtype)
    with torch.inference_mode():
        assert torch.equal(heads.head_product(layer, hidden), layer(hidden))


def test_a_gradient_goes_through_the_head():
    layer, hidden = nn.Linear(24, 100), torch.randn(2, 24)
    heads.head_product(layer, hidden).sum().backward()
    assert layer.weight.grad is not None
