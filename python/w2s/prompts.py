"""From a prompt to token ids, each model its own way (arXiv 2405.19262, section 5: every model may
see the prompt through its own template)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2s.errors import ChatTemplateError, PromptError, SpecialTokenError

# A string, a list of chat messages ({"role", "content"}), or token ids already made.
Prompt = str | Sequence[Mapping[str, str]] | Sequence[int]

_PLACE = "{prompt}"


@dataclass(frozen=True)
class PromptStyle:
    """How one model sees a prompt.

    template: text around the prompt, holding `{prompt}`; None leaves strings as they are.
    chat: send strings through the tokenizer's chat template as a user message.
    system: a system message put first (implies `chat`).
    chat_template: a Jinja template, or a file of one, instead of the tokenizer's (implies `chat`).

    Special tokens are written once. A plain string gets those of the tokenizer's defaults; a chat
    template writes its own, and what it rendered is tokenized without any more, exactly as
    transformers' `apply_chat_template(tokenize=True)` does: a chat template that writes no BOS
    gives a prompt without one. A prompt that would begin with two BOS tokens is refused.
    """

    template: str | None = None
    chat: bool = False
    system: str = ""
    chat_template: str | None = None

    def __post_init__(self) -> None:
        if self.template is not None and _PLACE not in self.template:
            raise PromptError(
                f"the template {self.template!r} does not contain {_PLACE}; "
                f"write {_PLACE} where the prompt belongs"
            )
        if self.chat_template is not None:
            object.__setattr__(self, "chat_template", _read_chat_template(self.chat_template))
        if self.system or self.chat_template is not None:
            object.__setattr__(self, "chat", True)

    def encode(self, prompt: Prompt, tokenizer: Any, where: str = "the prompt") -> list[int]:
        """Token ids of one prompt.

        Raw strings use the tokenizer's own defaults; a chat template brings its own special tokens,
        so none are added a second time. Raises `PromptError` naming `where` for an empty prompt, a
        model without tokenizer or chat template, a chat template that refuses the messages, a
        special token that would stand there twice, or something that is no prompt.
        """
        if _is_ids(prompt):
            return [int(token) for token in prompt]  # type: ignore[arg-type]
        if not isinstance(prompt, str) and not _is_messages(prompt):
            raise PromptError(
                f"{where} is {type(prompt).__name__} ({prompt!r:.60}); a prompt is a string, "
                'a list of {"role", "content"} messages or a list of token ids'
            )
        if not prompt:
            raise PromptError(f"{where} is empty; give it at least one character")
        if tokenizer is None:
            raise PromptError(
                f"{where} is text, but the model was given without a tokenizer; "
                "load it as (model, tokenizer) or pass token ids"
            )
        ids: list[int]
        if isinstance(prompt, str) and not self.chat:
            text = self._framed(prompt)
            ids = tokenizer(text)["input_ids"]
            _refuse_added_twice(ids, text, tokenizer, where)
        else:
            text = self._chat_text(prompt, tokenizer, where)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            self._refuse_written_twice(ids, text, tokenizer, where)
        if not ids:
            raise PromptError(f"{where} has no tokens; give it at least one character")
        return list(ids)

    def _framed(self, prompt: str) -> str:
        return prompt if self.template is None else self.template.replace(_PLACE, prompt)

    def _chat_text(self, prompt: Any, tokenizer: Any, where: str) -> str:
        from jinja2 import TemplateError

        messages = list(prompt) if not isinstance(prompt, str) else None
        if messages is None:
            messages = [{"role": "user", "content": self._framed(prompt)}]
        if self.system and messages[0].get("role") != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        chat_template = self.chat_template or getattr(tokenizer, "chat_template", None)
        if chat_template is None:
            raise ChatTemplateError(
                f"{where} needs a chat template and the tokenizer has none; "
                "pass chat_template=FILE, or give a plain string without chat=True"
            )
        try:
            rendered: str = tokenizer.apply_chat_template(
                messages,
                chat_template=self.chat_template,
                tokenize=False,
                add_generation_prompt=True,
            )
        except (TemplateError, TypeError) as error:  # a TypeError: a template that adds None
            raise ChatTemplateError(
                f"the chat template cannot render {where}: {error}; give other messages (some "
                "templates take no system message) or another template with chat_template=FILE"
            ) from error
        return rendered

    def _refuse_written_twice(
        self, ids: Sequence[int], text: str, tokenizer: Any, where: str
    ) -> None:
        """A chat prompt has the BOS once: not from two places, nor twice from the template."""
        bos, bos_id = getattr(tokenizer, "bos_token", None), tokenizer.bos_token_id
        if bos is None or list(ids[:1]) != [bos_id]:
            return
        if self.template is not None and bos in self.template:
            raise SpecialTokenError(
                f"{where} would hold {bos!r} twice: the template {self.template!r} writes it, and "
                f"so does the chat template; leave {bos!r} out of the template"
            )
        if list(ids[1:2]) != [bos_id]:
            return
        if text.lstrip().removeprefix(bos).lstrip().startswith(bos):
            raise SpecialTokenError(
                f"{where} would begin with {bos!r} twice: the chat template writes it twice, or "
                f"the first message begins with it; write {bos!r} once in the chat template "
                "(chat_template=FILE gives another one), and not in the messages"
            )
        raise SpecialTokenError(
            f"{where} would begin with {bos!r} twice: the chat template writes it, and the "
            f"tokenizer adds it even to text that is to get no special tokens; take {bos!r} out of "
            "the chat template (chat_template=FILE gives another one)"
        )


def _refuse_added_twice(ids: Sequence[int], text: str, tokenizer: Any, where: str) -> None:
    """A plain string does not write the token that the tokenizer puts first by itself."""
    if len(ids) < 2 or ids[0] != ids[1]:
        return
    bare = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(bare) < len(ids) and list(ids[1 : len(bare) + 1]) == list(bare):
        token = tokenizer.convert_ids_to_tokens(ids[0])
        raise SpecialTokenError(
            f"{where} would begin with {token!r} twice: the text writes it, and the tokenizer adds "
            f"it by itself; leave {token!r} out of the template or the prompt"
        )


def _is_messages(prompt: Any) -> bool:
    return isinstance(prompt, Sequence) and all(
        isinstance(m, Mapping) and isinstance(m.get("role"), str) and "content" in m for m in prompt
    )


def _is_ids(prompt: Any) -> bool:
    return (
        isinstance(prompt, Sequence)
        and not isinstance(prompt, str)
        and len(prompt) > 0
        and all(isinstance(token, int) and not isinstance(token, bool) for token in prompt)
    )


def _read_chat_template(source: str) -> str:
    if "{" in source:
        return source
    try:
        return Path(source).read_text(encoding="utf-8")
    except OSError as error:
        raise PromptError(f"the chat template {source!r} cannot be read: {error}") from error
