"""The exceptions of the decoder. Each message says what was wrong, where, and what to do next."""

from typing import Any


class W2SError(Exception):
    """Base of every error that `w2s` raises on purpose."""


class PlanError(W2SError, ValueError):
    """A field of a `SearchPlan` lies outside its range.

    Attributes: `field` (its name), `value` (what it was), `allowed` (the range, in words).
    """

    def __init__(self, field: str, value: Any, allowed: str) -> None:
        super().__init__(f"SearchPlan.{field} is {value!r}; it must be {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed


class PromptError(W2SError, ValueError):
    """A prompt or a prompt template cannot be used."""


class SpecialTokenError(PromptError):
    """A prompt would hold a special token twice: written in its text and added by the tokenizer."""


class ChatTemplateError(PromptError):
    """A chat template is missing, or cannot render the messages."""


class VocabularyError(W2SError, ValueError):
    """Models that must read the same tokens have different vocabularies or tokenizers."""


class HeadError(W2SError, ValueError):
    """A model's output head cannot be taken out of it, or does not give the model's own logits."""


class ModelError(W2SError, ValueError):
    """A model cannot be loaded, or is of a kind the decoder cannot run."""


class SearchError(W2SError, RuntimeError):
    """A search was asked for something it cannot give."""


class ExpoError(W2SError, ValueError):
    """Two checkpoints cannot be extrapolated, or a recipe for it has a field out of its range."""
