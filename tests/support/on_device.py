"""Inputs on a device, their float64 answers, and tiny random models: what tests/gpu shares."""

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import w2s

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def random(device, *shape, dtype=torch.float32, scale=4.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator) * scale).to(dtype).to(device)


def ids(device, rows, vocab, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab, (rows,), generator=generator).to(device)


def exact(logits, target, temperature=1.0):
    rows = F.log_softmax(logits.double() / temperature, dim=-1)
    return rows.gather(-1, target[:, None])[:, 0]


def assert_right(value, reference, extra=0.0):
    """numerics.md's judgement: 2e-6 + 2e-7 of the value, and what a linear op adds to it."""
    error = (value.double() - reference).abs()
    assert (error <= 2e-6 + 2e-7 * reference.abs() + extra).all(), error.max()


def linear_slack(hidden, weight):
    norm = hidden.double().norm(dim=-1) * weight.double().norm(dim=-1).max()
    return 8 * 2.0**-24 * norm


PROMPTS = [[5, 9, 31], [7], [2, 4, 8, 16, 32, 64]]


def tiny(device, seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
        initializer_range=0.3, bos_token_id=1, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return w2s.load((LlamaForCausalLM(config).to(device), None))
