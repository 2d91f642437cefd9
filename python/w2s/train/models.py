"""Loads a model and its tokenizer for training, seeded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_for_training(
    model: str | Path, tokenizer: str | Path | None, device: str, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in float32 and training mode on `device`, with its (or the given) tokenizer.

    Sets torch's global seed, which any dropout in the model draws from.

    Raises:
        ValueError: the tokenizer has ids that the model has no embedding for.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    tok = AutoTokenizer.from_pretrained(str(tokenizer or model))
    net = AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32).to(device).train()
    if len(tok) > net.config.vocab_size:
        raise ValueError(
            f"The tokenizer has {len(tok)} tokens but the model {model} only {net.config.vocab_size}; "
            "give the tokenizer the model was made for"
        )
    return net, tok
