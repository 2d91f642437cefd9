"""The text that a writer's tokens stand for, as far as it is settled.

A token may end inside a character: half an emoji decodes to U+FFFD, and the next token makes it
something else. Such an end is held back until more tokens follow or the response is over. So the
text is a function of the tokens alone, whatever chunks they came in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from w2s.errors import SearchError

Decode = Callable[[Sequence[int]], str]

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# A UTF-8 character has at most 4 bytes, so an unfinished one at most 3, in at most 3 tokens.
_LONGEST_UNFINISHED = 3


@dataclass(frozen=True)
class Writer:
    """What writes: how its tokens decode, and which of them end a response."""

    decode: Decode
    eos_token_ids: frozenset[int]

    def text(self, tokens: Sequence[int], over: bool) -> tuple[str, bool]:
        """(settled text of a response, whether it ended by an EOS). over: nothing will follow.

        All tokens are decoded together: decoders look at their neighbours (a leading blank, a run
        of byte tokens, WordPiece's `##`), so the parts' texts need not add up to the whole.
        """
        by_eos = over and bool(tokens) and tokens[-1] in self.eos_token_ids
        if by_eos:
            return self.decode(tokens[:-1]), True
        text = self.decode(tokens)
        return (text if over else self._settled(text, tokens)), False

    def _settled(self, text: str, tokens: Sequence[int]) -> str:
        """The longest text that further tokens leave alone, of an unfinished response."""
        if not text.endswith(_REPLACEMENT):
            return text
        found = text.rstrip(_REPLACEMENT)
        # A byte-fallback decoder spoils the whole run of bytes before an unfinished character.
        for held in range(1, min(_LONGEST_UNFINISHED, len(tokens)) + 1):
            shorter = self.decode(tokens[:-held])
            if not shorter.endswith(_REPLACEMENT):
                return max(found, shorter, key=len)
        return found


def writer_of(source: Any) -> Writer:
    """A `Model`, a proposer or a tokenizer as a `Writer`.

    Raises `SearchError` for one that has no tokenizer to turn tokens into text.
    """
    if hasattr(source, "convert_ids_to_tokens"):
        return _tokenizer_writer(source)
    # A model or a recording decodes by itself; another proposer has a model that does.
    owner = source if callable(getattr(source, "decode", None)) else getattr(source, "model", None)
    decode = getattr(owner, "decode", None)
    # Models and recordings without a tokenizer decode everything to the empty text.
    if not callable(decode) or getattr(owner, "tokenizer", source) is None:
        raise SearchError(
            f"a pair with another tokenizer scores text, and {type(source).__name__} has no "
            "tokenizer to decode its tokens with; load the large model as (model, tokenizer), or "
            "give TextBridgeScorer(source=tokenizer)"
        )
    return Writer(decode, frozenset(getattr(source, "eos_token_ids", ())))


def _tokenizer_writer(tokenizer: Any) -> Writer:
    def decode(tokens: Sequence[int]) -> str:
        text: str = tokenizer.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    end = getattr(tokenizer, "eos_token_id", None)
    return Writer(decode, frozenset([] if end is None else [end]))
