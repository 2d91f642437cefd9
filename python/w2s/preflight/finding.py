"""`Finding`: what is wrong with three models, or worth knowing, and what to do about it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from w2s.errors import ModelError, PromptError, VocabularyError, W2SError

Level = Literal["error", "warning", "note"]

_ORDER: dict[Level, int] = {"error": 0, "warning": 1, "note": 2}

# What a search would raise for an error of this code; every other is a `ModelError`.
_RAISED: dict[str, type[W2SError]] = {
    "vocabulary": VocabularyError,
    "pair-vocabulary": VocabularyError,
    "tokenizer-ids": VocabularyError,
    "template": PromptError,
    "chat-template": PromptError,
    "chat-template-missing": PromptError,
    "special-token-twice": PromptError,
    "prompt": PromptError,
    "context": PromptError,
}


@dataclass(frozen=True)
class Finding:
    """One result of `w2s.check`.

    level: "error" (the search refuses, or fails while loading), "warning" (it runs, and the result
      is probably not what was wanted), "note" (worth knowing).
    what, what_to_do: a sentence each, without a full stop.
    code: a short name that stays the same between versions.
    """

    level: Level
    what: str
    what_to_do: str
    code: str

    @property
    def sentence(self) -> str:
        """Both sentences as one, as the errors of this package are worded."""
        return f"{self.what}; {self.what_to_do}"

    def error(self) -> W2SError:
        """The exception that a search would raise for it."""
        return _RAISED.get(self.code, ModelError)(self.sentence)


def error(code: str, what: str, what_to_do: str) -> Finding:
    return Finding("error", what, what_to_do, code)


def warning(code: str, what: str, what_to_do: str) -> Finding:
    return Finding("warning", what, what_to_do, code)


def note(code: str, what: str, what_to_do: str) -> Finding:
    return Finding("note", what, what_to_do, code)


def worst_first(findings: Iterator[Finding]) -> list[Finding]:
    """Errors, then warnings, then notes; otherwise in the order they were found."""
    return sorted(findings, key=lambda finding: _ORDER[finding.level])
