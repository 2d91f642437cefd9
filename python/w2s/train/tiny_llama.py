"""The tiny model before any training: a llama whose embeddings come from a larger model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

CONTEXT = 1024
_HIDDEN = 128
_FINAL_NORM = 0.3  # keeps the first logits small, though every embedding row is already long


def write_tiny_llama(large: Path, out: Path, seed: int) -> None:
    """Writes an untrained llama (7.1 M parameters, 6.3 M of them embeddings) in float32 to `out`.

    Embeddings are tied to the output head and start as `large`'s own, projected on their leading
    principal directions, so tokens of like meaning start close together; the small data then has
    only the layers to teach. Everything else is drawn with `seed`.
    """
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    source = AutoModelForCausalLM.from_pretrained(str(large), dtype=torch.float32)
    weight = source.get_input_embeddings().weight.detach()  # [V, D]
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=weight.shape[0],
            hidden_size=_HIDDEN,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=source.config.bos_token_id,
            eos_token_id=source.config.eos_token_id,
            pad_token_id=source.config.pad_token_id,
        )
    )
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(principal(weight, _HIDDEN))
        model.model.norm.weight.fill_(_FINAL_NORM)
    model.save_pretrained(out)


def principal(weight: Tensor, width: int) -> Tensor:
    """Coordinates of the rows of weight [V, D] along its `width` leading right singular vectors.

    From the eigenvectors of the [D, D] Gram matrix in float64, each with its largest entry made
    positive, so the result does not hang on a solver's choice of sign.
    """
    gram = weight.double().T @ weight.double()  # [D, D]
    vectors = torch.linalg.eigh(gram).eigenvectors[:, -width:].flip(1)  # ascending → leading first
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    coordinates: Tensor = weight.double() @ (vectors * largest.sign())
    return coordinates.to(weight.dtype)
