"""Do two models read the same tokens? A comparison of their vocabularies, entry by entry."""

from typing import Any

from w2s.errors import VocabularyError
from w2s.models import Model

# How many differing entries a message names.
_NAMED = 3


def require_same_tokens(one: Model, other: Model) -> None:
    """Raises `VocabularyError` unless every token id means the same to both models.

    The tokenizers' mappings are compared, not their names. Heads may be padded to different widths.
    Models without tokenizers are compared by the width of their heads.
    """
    found = difference(one.name, one.tokenizer, one.vocab, other.name, other.tokenizer, other.vocab)
    if found:
        raise VocabularyError(f"{found}; the models must share one vocabulary")


def difference(
    name: str, tokenizer: Any, vocab: int, other: str, other_tokenizer: Any, other_vocab: int
) -> str:
    """How the vocabularies of two models differ, as a sentence; empty when they do not.

    `vocab` is the number of a head's columns that stand for a token; it decides only where a
    tokenizer is missing.
    """
    if tokenizer is None or other_tokenizer is None:
        if vocab == other_vocab:
            return ""
        return f"{name} has {vocab} tokens, {other} has {other_vocab}"
    if tokenizer is other_tokenizer:
        return ""
    mine, theirs = tokenizer.get_vocab(), other_tokenizer.get_vocab()
    if mine == theirs:
        return ""
    differing = sorted(
        token for token in mine.keys() | theirs.keys() if mine.get(token) != theirs.get(token)
    )
    entries = ", ".join(
        f"{token!r}: id {mine.get(token)} against {theirs.get(token)}"
        for token in differing[:_NAMED]
    )
    return (
        f"the tokenizers of {name} ({len(mine)} tokens) and {other} ({len(theirs)} tokens) differ "
        f"in {len(differing)} entries, the first {entries}"
    )
