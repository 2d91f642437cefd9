"""Findings about one model: can it be run, does it end, may it be one of a pair."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch

from w2s.anatomy import eos_tokens, layer_windows, valid_vocab
from w2s.errors import HeadError, ModelError, VocabularyError
from w2s.heads import extract_head
from w2s.plan import SearchPlan
from w2s.preflight.card import Card
from w2s.preflight.finding import Finding, error, note, warning
from w2s.preflight.weights import StoredTensor

# The packages that transformers needs to run a quantized checkpoint.
_RUNTIMES = {
    "gptq": ("optimum", "gptqmodel"),
    "awq": ("gptqmodel", "accelerate"),
    "bitsandbytes": ("bitsandbytes", "accelerate"),
    "compressed-tensors": ("compressed_tensors",),
    "torchao": ("torchao",),
    "fp8": ("accelerate",),
}
_NEEDS_CUDA = {"fp8", "fbgemm_fp8"}


def model_findings(card: Card, plan: SearchPlan | None, device: torch.device) -> Iterator[Finding]:
    """Everything about one model that needs no other model and no prompt."""
    yield from card.findings
    if card.weights is not None:
        yield from card.weights.findings
    if card.module is None:
        return
    yield from _kind(card)
    if card.columns is None:
        return
    yield from _tokens(card)
    yield from _end(card)
    yield from _shapes(card)
    if card.quantization is not None:
        yield from _runtime(card, device)
    if plan is not None and card.context is not None and plan.max_new_tokens >= card.context:
        yield error(
            "context",
            f"max_new_tokens={plan.max_new_tokens} leaves no room for a prompt in the "
            f"{card.context} positions of {card.who}",
            f"lower max_new_tokens below {card.context}, or take a model with a longer context",
        )


def _kind(card: Card) -> Iterator[Finding]:
    module = card.module
    get_decoder = getattr(module, "get_decoder", None)
    backbone = get_decoder() if get_decoder is not None else module.base_model
    if backbone is module or module.get_output_embeddings() is None:
        yield error(
            "model-class",
            f"{card.who} is a {type(module).__name__}, which has no head apart from its body",
            "take a causal language model such as AutoModelForCausalLM gives",
        )
    try:
        layer_windows(module, card.config)
    except ModelError as reason:
        yield error(
            "no-kv-cache",
            f"{card.who} cannot be searched with: {str(reason).partition(';')[0]}",
            "take a model whose layers are all full or sliding-window attention",
        )
    implementation = getattr(module.config, "_attn_implementation", None)
    if implementation not in (None, "sdpa", "eager"):
        yield error(
            "attention",
            f"{card.who} uses attn_implementation={implementation!r}, which takes no 4-D mask",
            "load it with attn_implementation='sdpa'",
        )


def _tokens(card: Card) -> Iterator[Finding]:
    try:
        valid_vocab(card.module, card.columns or 0, card.tokenizer)
    except VocabularyError:
        used = max(card.tokenizer.get_vocab().values())
        yield error(
            "tokenizer-ids",
            f"the tokenizer of {card.who} has ids up to {used}, but the model has only "
            f"{card.columns} columns of logits",
            "use the tokenizer the model was trained with, or resize its embeddings",
        )


def _end(card: Card) -> Iterator[Finding]:
    if card.eos_token_ids:
        return
    beyond = sorted(eos_tokens(card.module, card.config, card.tokenizer))
    yield warning(
        "no-eos",
        f"{card.who} has no end token: "
        + (
            f"its eos_token_id {beyond} lies outside the vocabulary"
            if beyond
            else "neither its generation config nor its config nor its tokenizer names one"
        )
        + ", so its responses end only at max_new_tokens or at a stop string",
        "set eos_token_id in generation_config.json, or give stop strings",
    )


def _shapes(card: Card) -> Iterator[Finding]:
    """The stored embedding has the rows that the config says."""
    if card.weights is None:
        return
    embedding = card.module.get_input_embeddings()
    stored, rows = _stored(card, embedding), int(embedding.weight.shape[0])
    if stored is not None and stored.floating and stored.shape and stored.shape[0] != rows:
        yield error(
            "weights-shape",
            f"the config of {card.who} says {rows} tokens, its stored embedding has "
            f"{stored.shape[0]} rows",
            "correct vocab_size in config.json, or take config and weights from one checkpoint",
        )


def _stored(card: Card, layer: Any) -> StoredTensor | None:
    """The file's tensor that is the weight of `layer`."""
    if card.weights is None:
        return None
    name = next((name for name, module in card.module.named_modules() if module is layer), None)
    return None if name is None else card.weights.find(f"{name}.weight")


def _runtime(card: Card, device: torch.device) -> Iterator[Finding]:
    method = quantization_method(card.quantization)
    missing = [name for name in _RUNTIMES.get(method, ()) if find_spec(name) is None]
    if missing and not card.loaded:
        yield error(
            "quantization-runtime",
            f"{card.who} is quantized ({method}) and needs packages that are not installed: "
            f"{', '.join(missing)}",
            f"pip install {' '.join(missing)}, or take the unquantized checkpoint",
        )
    elif method in _NEEDS_CUDA and device.type != "cuda" and not card.loaded:
        yield error(
            "quantization-runtime",
            f"{card.who} is quantized ({method}), which runs on CUDA devices only, and the device "
            f"is {device.type}",
            "take the unquantized checkpoint, or run on a GPU",
        )


def quantization_method(config: Any) -> str:
    """The method's name of a quantization config, in either of its forms."""
    if isinstance(config, dict):
        method = config.get("quant_method")
        if method is None and ("load_in_4bit" in config or "load_in_8bit" in config):
            method = "bitsandbytes"
    else:
        method = getattr(config, "quant_method", None)
    return str(getattr(method, "value", method) or "unknown method")


def pair_member_findings(card: Card) -> Iterator[Finding]:
    """What is allowed for the large model and not for one of the pair: a quantized head."""
    if card.module is None or card.columns is None:
        return
    head = _quantized_head(card)
    if head:
        yield error(
            "quantized-head",
            f"the output head of {card.who} is quantized ({head}); a pair's score is the "
            "difference of two log-probs and needs the head itself",
            "take the unquantized checkpoint for the pair (the large model may be quantized), or "
            "quantize it again without its head (lm_head)",
        )
    elif card.quantization is not None:
        yield note(
            "quantized-pair",
            f"{card.who} is quantized ({quantization_method(card.quantization)}): its rounding "
            "goes into every score",
            "take the unquantized checkpoint if memory allows; the pair is small",
        )


def _quantized_head(card: Card) -> str:
    """How the head is stored when it is no plain floating-point tensor; else empty."""
    if card.loaded:
        try:
            extract_head(card.module, None)
        except HeadError:
            return type(card.module.get_output_embeddings()).__name__
        return ""
    if card.weights is None or not card.weights.tensors:
        asked = card.quantization if isinstance(card.quantization, dict) else {}
        return "lm_head is true in its quantization config" if asked.get("lm_head") else ""
    output = card.module.get_output_embeddings()
    name = next((name for name, module in card.module.named_modules() if module is output), "")
    stored = _stored(card, output)
    if stored is not None:
        return "" if stored.floating else f"{name}.weight is {stored.dtype}"
    packed = [key for key in card.weights.tensors if key.startswith(f"{name}.")]
    return f"stored as {', '.join(sorted(packed))}" if packed and not _biased(packed) else ""


def _biased(names: list[str]) -> bool:
    return all(name.endswith(".bias") for name in names)
