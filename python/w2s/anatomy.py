"""What a transformers model says about itself: vocabulary, ends, positions, attention windows."""

import re
from typing import Any

from w2s.errors import ModelError, VocabularyError

_FULL, _SLIDING = "full_attention", "sliding_attention"
_KNOWN = ("sliding_window", "use_sliding_window")
# Other config fields by which model families keep attention from seeing all that was written.
_LIMITS_ATTENTION = re.compile(
    r"(window|windows|window_size|attention_chunk_size|local_attention|index_topk)$"
)


def text_config(module: Any) -> Any:
    """The config of the language part (multimodal models nest it)."""
    return module.config.get_text_config(decoder=True)


def valid_vocab(module: Any, columns: int, tokenizer: Any) -> int:
    """Columns that stand for a token: the rest is padding, which must get no probability."""
    if tokenizer is None:
        return columns
    used: int = max(tokenizer.get_vocab().values()) + 1
    if used > columns:
        raise VocabularyError(
            f"the tokenizer has ids up to {used - 1}, but {type(module).__name__} has only "
            f"{columns} columns of logits; they do not belong together"
        )
    return used


def eos_tokens(module: Any, config: Any, tokenizer: Any) -> frozenset[int]:
    """What ends a response: by the generation config (else the config), and by the tokenizer."""
    found: set[int] = set()
    generation = getattr(module, "generation_config", None)
    own = getattr(generation, "eos_token_id", None)
    if own is None:
        own = getattr(config, "eos_token_id", None)
    for value in (own, getattr(tokenizer, "eos_token_id", None)):
        if value is not None:
            found.update([value] if isinstance(value, int) else value)
    return frozenset(found)


def context_length(config: Any) -> int | None:
    """Positions a search may use, or None when the model does not say.

    Long-range rotary embeddings ("longrope") turn all positions another way in texts longer than
    those of the first training; keys cached before would be wrong, so their reach ends there.
    """
    positions = [
        getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    ]
    rope = getattr(config, "rope_parameters", None) or {}
    for settings in (rope, *rope.values()):  # one for all layers, or one for each kind of layer
        if isinstance(settings, dict) and settings.get("rope_type") == "longrope":
            positions.append(settings.get("original_max_position_embeddings"))
    return min((int(limit) for limit in positions if limit), default=None)


def layer_windows(module: Any, config: Any) -> dict[str, int | None]:
    """The attention window of each kind of layer (None: full attention).

    Raises `ModelError` for layers without a plain key-value cache, and for attention that is
    limited in a way that is not known here: a short probe would not notice it.
    """
    kinds = set(getattr(config, "layer_types", None) or ())
    unknown = kinds - {_FULL, _SLIDING}
    if unknown or getattr(module, "_is_stateful", False):
        raise ModelError(
            f"{type(module).__name__} has layers ({', '.join(sorted(unknown)) or 'stateful'}) that "
            "the decoder cannot run: it runs full and sliding-window attention, each with a plain "
            "key-value cache"
        )
    window = getattr(config, "sliding_window", None)
    limits = {
        name: value
        for name, value in vars(config).items()
        if value and name not in _KNOWN and _LIMITS_ATTENTION.search(name)
    }
    if isinstance(window, bool) or not isinstance(window, int | None):
        limits["sliding_window"] = window
    if limits:
        fields = ", ".join(f"{name}={value!r}" for name, value in sorted(limits.items()))
        raise ModelError(
            f"{type(module).__name__} limits its attention by {fields}, which the decoder does not "
            "know; it runs full attention and one sliding window (config.sliding_window)"
        )
    if not kinds:
        kinds = {_SLIDING if window is not None else _FULL}
    return {kind: window if kind == _SLIDING else None for kind in sorted(kinds)}
