"""Do two models read the same tokens? A comparison of their vocabularies, entry by entry."""

from w2s.errors import VocabularyError
from w2s.models import Model


def require_same_tokens(one: Model, other: Model) -> None:
    """Raises `VocabularyError` unless every token id means the same to both models.

    The tokenizers' mappings are compared, not their names. Heads may be padded to different widths.
    Models without tokenizers are compared by the width of their heads.
    """
    if one.tokenizer is None or other.tokenizer is None:
        if one.vocab != other.vocab:
            raise VocabularyError(
                f"{one.name} has {one.vocab} tokens, {other.name} has {other.vocab}; "
                "the models must share one vocabulary"
            )
        return
    if one.tokenizer is other.tokenizer:
        return
    mine, theirs = one.tokenizer.get_vocab(), other.tokenizer.get_vocab()
    differing = sorted(
        token for token in mine.keys() | theirs.keys() if mine.get(token) != theirs.get(token)
    )
    if not differing:
        return
    token = differing[0]
    raise VocabularyError(
        f"the tokenizers of {one.name} ({len(mine)} tokens) and {other.name} "
        f"({len(theirs)} tokens) differ in {len(differing)} entries, the first {token!r}: "
        f"id {mine.get(token)} against {theirs.get(token)}; the models must share one vocabulary"
    )
