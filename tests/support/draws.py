"""Calls of guided_sample that its tests share: keys of many draws, one row drawn many times."""

import torch

from support import guided as rules
from w2s_kernels import guided_sample

INF, NAN = float("inf"), float("nan")

SETTINGS = [
    {},
    {"temperature": 0.7},
    {"top_k": 1},
    {"top_k": 50},
    {"top_k": 50, "top_p": 0.9},
    {"top_p": 0.9},
    {"top_p": 0.5, "min_p": 0.05, "temperature": 10.0},
    {"min_p": 0.1},
    {"temperature": 1e-3},
    {"top_k": 700, "top_p": 0.95, "min_p": 1e-4, "temperature": 1.3},
]


def exp_of(backend):
    return rules.exact_exp if backend.isa is None else rules.polynomial_exp


def keys(draws, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    low, high = -(2**63), 2**63 - 1
    return {
        "seed": torch.randint(low, high, (draws,), generator=generator),
        "position": torch.arange(draws),
        "candidate": torch.randint(0, 2**31 - 1, (draws,), generator=generator),
    }


def sample_one_row(z, draws, **keywords):
    """`draws` draws from one row of logits `[V]`."""
    row = torch.zeros(draws, dtype=torch.long)
    return guided_sample(z[None], row=row, **(keys(draws) | keywords))
