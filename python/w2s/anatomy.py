"""What a transformers model says about itself: vocabulary, ends, positions, attention windows."""

from typing import Any

from w2s.errors import ModelError, VocabularyError

_FULL, _SLIDING = "full_attention", "sliding_attention"


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
    """Positions the model has, or None when it does not say."""
    positions = getattr(config, "max_position_embeddings", None)
    return int(positions) if positions else None


def layer_windows(module: Any, config: Any) -> dict[str, int | None]:
    """The attention window of each kind of layer (None: full attention).

    Raises `ModelError` for kinds of layers without a plain key-value cache.
    """
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    unknown = kinds - {_FULL, _SLIDING}
    if unknown or getattr(module, "_is_stateful", False):
        raise ModelError(
            f"{type(module).__name__} has layers ({', '.join(sorted(unknown)) or 'stateful'}) that "
            "keep no plain key-value cache; the decoder runs full and sliding-window attention"
        )
    if not kinds:
        kinds = {_SLIDING if window is not None else _FULL}
    return {kind: window if kind == _SLIDING else None for kind in sorted(kinds)}
