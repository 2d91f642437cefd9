"""A model's output head as a `w2s_kernels.Head`, checked against the model's own logits.

The scorer multiplies hidden states by the head itself, so that `[tokens, vocab]` is never stored.
Whatever a model does between its last hidden state and its logits must therefore be known: weight,
tie, bias, a LoRA on the head, soft cap, logit scale. It is read from the model, then verified.
"""

from typing import Any

import torch
from torch import Tensor, nn

from w2s.adapters import merged_layer
from w2s.anatomy import text_config
from w2s.errors import HeadError
from w2s.packing import can_pack, onednn_product
from w2s_kernels import Head

# The config fields by which model families scale or cap their logits.
_FIELDS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "tie_word_embeddings")
# Relative to the largest logit. Half precisions round the model's own logits.
_TOLERANCE, _TOLERANCE_HALF = 1e-4, 3e-2
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Rows of the weight that are widened at once.
_ROWS = 16384


def extract_head(module: Any, valid_vocab: int | None) -> Head:
    """The head of a transformers causal LM; columns from `valid_vocab` on are padding.

    Raises `HeadError` when the model has no linear output layer.
    """
    layer = module.get_output_embeddings()
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.dtype not in _DTYPES:
        raise HeadError(
            f"{type(module).__name__} has no linear output layer with a floating-point weight "
            f"(found {type(layer).__name__}); a pair's models must be causal language models whose "
            "head is not quantized"
        )
    layer = merged_layer(layer)
    weight = layer.weight.detach()
    bias = getattr(layer, "bias", None)
    softcap, scale = logit_transform(module)
    return Head(
        weight,
        bias=None if bias is None else bias.detach(),
        softcap=softcap,
        logit_scale=scale,
        valid_vocab=None if valid_vocab is None or valid_vocab >= weight.shape[0] else valid_vocab,
    )


def logit_transform(module: Any) -> tuple[float, float]:
    """(softcap, scale) of `softcap·tanh(scale·(h·Wᵀ + b)/softcap)`; softcap 0 is none."""
    config = text_config(module)
    softcap = float(getattr(config, "final_logit_softcapping", None) or 0.0)
    scale = getattr(config, "logit_scale", None)
    divide = getattr(config, "logits_scaling", None)
    return softcap, (1.0 if scale is None else float(scale)) / (
        1.0 if divide is None else float(divide)
    )


def head_product(layer: nn.Module, hidden: Tensor) -> Tensor:
    """`layer(hidden)` for hidden [N, D]; on a CPU in float32 by oneDNN, the weight as it is.

    A search multiplies few rows by a very wide weight. torch leaves that to a BLAS which takes
    twice as long at 16 rows, and 1.8 times at 128 (Zen 4, D 576, V 49152).
    """
    if (
        type(layer) is not nn.Linear
        or layer.weight.dtype != torch.float32
        or hidden.dtype != torch.float32
        or hidden.device.type != "cpu"
        or torch.is_grad_enabled()
        or "forward" in vars(layer)  # how accelerate hooks a module
        or layer._forward_hooks
        or layer._forward_pre_hooks
        or not can_pack(torch.float32)
    ):
        logits: Tensor = layer(hidden)
        return logits
    return onednn_product(hidden, layer.weight, layer.bias)


def head_logits(hidden: Tensor, head: Head) -> Tensor:
    """Logits [N, V] in float32 from hidden [N, D]: the rule of `Head`, stored in full."""
    hidden = hidden.float()
    logits = torch.cat([hidden @ rows.float().T for rows in head.weight.split(_ROWS)], dim=1)
    if head.bias is not None:
        logits = logits + head.bias.float()
    logits = logits * head.logit_scale
    if head.softcap:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return logits


def verify_logits(module: Any, ours: Tensor, theirs: Tensor, token: int) -> None:
    """Compares logits [V] of one token, ours and the model's own; `HeadError` when they differ."""
    ours, theirs = ours.float(), theirs.float()
    if ours.shape != theirs.shape:
        raise HeadError(
            f"the head of {type(module).__name__} gives {ours.shape[0]} logits, the model itself "
            f"{theirs.shape[0]}; this model family is not supported"
        )
    tolerance = _TOLERANCE if module.dtype == torch.float32 else _TOLERANCE_HALF
    error = (ours - theirs).abs().nan_to_num(torch.inf)
    worst = int(error.argmax())
    if float(error[worst]) > tolerance * max(float(theirs.abs().max()), 1e-6):
        config = text_config(module)
        fields = ", ".join(f"{name}={getattr(config, name, None)!r}" for name in _FIELDS)
        raise HeadError(
            f"the output head of {type(module).__name__} does not give the model's own logits: for "
            f"token {token}, column {worst} is {float(ours[worst]):.6g} by our head and "
            f"{float(theirs[worst]):.6g} by the model (config: {fields}); the model does something "
            "to its logits that is not known here, so it cannot be used"
        )
