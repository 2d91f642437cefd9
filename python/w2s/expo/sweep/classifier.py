"""A transformers sequence classifier as the reward: `hf:MODEL` or `hf:MODEL#LABEL`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from w2s.errors import ExpoError
from w2s.expo.sweep.rewards import checked
from w2s.fingerprint import identity

if TYPE_CHECKING:
    from w2s.prompts import Prompt

_ROWS = 16  # of a forward


class ClassifierReward:
    """The only output of a reward model, or with LABEL (an index or a name) P(LABEL).

    It reads prompt and response: as a chat where its tokenizer has a chat template, else as one
    text. A text that is longer than the model can read is refused, not cut.
    """

    def __init__(self, name: str, entry: str, device: str) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.name = name
        source, _, label = entry.partition("#")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(source)
            self._model = AutoModelForSequenceClassification.from_pretrained(source)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise ExpoError(
                f"the reward {name!r} cannot be loaded: {' '.join(str(error).split())}"
            ) from error
        self._model.to(device).eval()
        self._label = _column(self._model.config, label, name)
        self.label = f"{source.rstrip('/').rpartition('/')[2]}" + (f": P({label})" if label else "")
        self.depends_on = {"classifier": identity(source)[1]}
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        if self._model.config.pad_token_id is None:
            self._model.config.pad_token_id = self._tokenizer.pad_token_id

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> dict[str, list[float]]:
        rows = [self._ids(*row) for row in zip(prompts, responses, strict=True)]
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))  # little padding
        values = [0.0] * len(rows)
        for first in range(0, len(order), _ROWS):
            part = order[first : first + _ROWS]
            found = self._values([rows[row] for row in part])
            for row, value in zip(part, found, strict=True):
                values[row] = value
        return {"reward": checked(values, len(responses), self.name)}

    def _ids(self, prompt: Any, response: str) -> list[int]:
        if getattr(self._tokenizer, "chat_template", None):
            chat = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [*prompt]
            chat.append({"role": "assistant", "content": response})
            text = self._tokenizer.apply_chat_template(chat, tokenize=False)
            ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            before = prompt if isinstance(prompt, str) else prompt[-1]["content"]
            ids = self._tokenizer(before + response)["input_ids"]
        limit = getattr(self._model.config, "max_position_embeddings", None)
        if limit is not None and len(ids) > limit:
            raise ExpoError(
                f"the reward {self.name!r} reads {limit} tokens at most, and a prompt with its "
                f"response has {len(ids)}; lower --max-new-tokens or shorten the prompts"
            )
        return list(ids)

    def _values(self, rows: Sequence[list[int]]) -> list[float]:
        batch = self._tokenizer.pad({"input_ids": list(rows)}, return_tensors="pt")
        with torch.inference_mode():
            logits = self._model(**batch.to(self._model.device)).logits.double()  # [R, labels]
        chosen = logits[:, 0] if self._label is None else logits.softmax(-1)[:, self._label]
        found: list[float] = chosen.tolist()
        return found


def _column(config: Any, label: str, name: str) -> int | None:
    """The label's column; None for the only output of a model with one."""
    names = {str(text): int(column) for column, text in config.id2label.items()}
    listed = ", ".join(f"{column} ({text})" for text, column in names.items())
    if not label:
        if config.num_labels == 1:
            return None
        raise ExpoError(f"the reward {name!r} has {config.num_labels} labels; add #LABEL: {listed}")
    column = names.get(label, int(label) if label.isdecimal() else -1)
    if not 0 <= column < config.num_labels:
        raise ExpoError(f"the reward {name!r} has no label {label!r}; its labels are {listed}")
    return column
