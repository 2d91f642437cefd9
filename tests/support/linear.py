"""Heads and hidden states for the linear ops' tests, and a head's logits in float64.

`logits` is written from the formula in design.md; with `support.float64` on top of it, a linear op
has a reference that shares no code with it.
"""

from dataclasses import replace

import torch
from torch import Tensor

from support import float64
from w2s_kernels import Head

_PIECE = 1 << 24  # elements of a head that are made or multiplied at once


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def head(vocab: int, width: int, kind: str = "fp32", *, seed: int = 0) -> Head:
    """A random head. `kind` is a dtype and what it adds, for example "bf16+bias+softcap"."""
    name, *extras = kind.split("+")
    g = generator(seed)
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    weight = torch.empty(vocab, width, dtype=dtypes.get(name, torch.float32))
    for rows in weight.split(_PIECE // width):  # a large 16-bit head never exists in fp32
        rows.copy_(torch.randn(rows.shape, generator=g) * (3.0 / width**0.5))
    if name == "int8":
        scale = weight.abs().amax(dim=1) / 127
        made = Head((weight / scale[:, None]).round().to(torch.int8), weight_scale=scale)
    elif name == "fp8":
        scale = weight.abs().amax(dim=1) / 448
        made = Head((weight / scale[:, None]).to(torch.float8_e4m3fn), weight_scale=scale)
    else:
        made = Head(weight)
    for extra in extras:
        if extra == "bias":
            made = replace(made, bias=torch.randn(vocab, generator=g))
        elif extra == "softcap":
            made = replace(made, softcap=30.0)
        elif extra == "scale":
            made = replace(made, logit_scale=0.5)
        elif extra == "padding":
            made = replace(made, valid_vocab=max(1, vocab - 7))
        else:
            raise ValueError(extra)
    return made


def inputs(rows: int, of: Head, *, seed: int = 1, targets: int = 0) -> tuple[Tensor, Tensor]:
    """Hidden states [rows, D] in the head's dtype (fp32 for a quantized one) and valid targets."""
    g = generator(seed)
    dtype = of.weight.dtype if of.weight_scale is None else torch.float32
    hidden = torch.randn(rows, of.weight.shape[1], generator=g).to(dtype)
    shape = (rows, targets) if targets else (rows,)
    return hidden, torch.randint(of.vocab, shape, generator=g)


def logits(hidden: Tensor, of: Head) -> Tensor:
    """logit_scale·(h·Wᵀ·weight_scale + b) of every column, float64, before the softcap."""
    pieces = []
    for rows in torch.arange(len(of.weight)).split(_PIECE // of.weight.shape[1]):
        weight = of.weight[rows[0] : rows[-1] + 1].double()
        if of.weight_scale is not None:
            weight = weight * of.weight_scale[rows[0] : rows[-1] + 1].double()[:, None]
        pieces.append(hidden.double() @ weight.T)
    z = torch.cat(pieces, dim=-1)
    if of.bias is not None:
        z = z + of.bias.double()
    return z * of.logit_scale


def logprob(
    hidden: Tensor, of: Head, target: Tensor, *, temperature: float | Tensor = 1.0
) -> Tensor:
    """float64 log-probs at the targets."""
    return float64.logprob(
        logits(hidden, of),
        target,
        temperature=temperature,
        softcap=of.softcap,
        valid_vocab=of.valid_vocab,
    )


def entropy(hidden: Tensor, of: Head, *, temperature: float | Tensor = 1.0) -> Tensor:
    """float64 entropies in nats."""
    z = logits(hidden, of)
    return float64.entropy(
        z, temperature=temperature, softcap=of.softcap, valid_vocab=of.valid_vocab
    )
