"""How each model sees a prompt: checked with as little loaded as will do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from w2s.cli.errors import BadInput, one_sentence
from w2s.cli.rows import Row
from w2s.errors import PromptError, W2SError
from w2s.prompts import PromptStyle


@dataclass(frozen=True)
class Styles:
    """The large model's way to see a prompt, and the pair's; keywords of `w2s.load`."""

    large: dict[str, Any]
    pair: dict[str, Any]


def build_styles(
    large_template: str | None, pair_template: str | None, chat: bool, system: str
) -> Styles:
    """Raises `BadInput` for a template without {prompt}, by its option's name."""
    made = []
    for name, template in (
        ("--large-template", large_template),
        ("--pair-template", pair_template),
    ):
        style = {"template": template, "chat": chat, "system": system}
        try:
            PromptStyle(**style)  # type: ignore[arg-type]
        except PromptError as error:
            raise BadInput(f"{name}: {one_sentence(error)}") from error
        made.append(style)
    return Styles(*made)


def check_chat(
    large: str, pair: Sequence[str], styles: Styles, rows: Sequence[Row], field: str
) -> None:
    """Renders a prompt through each model's chat template before any weights are loaded.

    Only the tokenizers are read, and only when a chat template is wanted. A .gguf file's is not:
    reading it takes as long as the model.

    Raises:
        BadInput: a tokenizer has no chat template, or cannot be loaded.
    """
    chats = styles.large["chat"] or styles.large["system"]
    row = next((row for row in rows if chats or not isinstance(row.prompt, str)), None)
    if row is None:
        return
    from transformers import AutoTokenizer

    from w2s.checkpoints import lacks_tokenizer

    for name, style in ((large, styles.large), *((member, styles.pair) for member in pair)):
        if name.endswith(".gguf") or lacks_tokenizer(name):  # the latter borrows the large one's
            continue
        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
            PromptStyle(**style).encode(row.prompt, tokenizer, f'{row.place}: field "{field}"')
        except PromptError as error:
            raise BadInput(f"{one_sentence(error)} ({name})") from error
        except (W2SError, OSError, ValueError, ImportError) as error:
            raise BadInput(f"{name} cannot be loaded: {one_sentence(error)}") from error
