"""Training rows from JSON lines. Every refusal names the file, the line and the field."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from w2s.errors import W2SError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE = -100  # a target that counts for nothing, as in `w2s_kernels.linear_logprob`


class RowError(W2SError, ValueError):
    """A row of a training file cannot be used; the message says which file, line and field."""


def read_rows(path: str | Path, *forms: Collection[str]) -> list[tuple[int, dict[str, str]]]:
    """All rows of a JSONL file as (line number, the fields of the first form that fits).

    A form is a set of field names that must all be there and be strings; other fields are passed
    over. Blank lines are skipped. No training row may be wholly empty.

    Raises:
        RowError: unreadable or empty file, broken JSON, a missing, non-string or empty row.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise RowError(f"{path}: cannot be read: {reason}") from error
    rows = [
        (number, _fields(path, number, line, forms))
        # Not splitlines: that also cuts at U+2028 and its like, which JSON strings may contain.
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]
    if not rows:
        raise RowError(f"{path}: has no rows; each line must be {_alternatives(forms)}")
    return rows


def _fields(path: Path, number: int, line: str, forms: Sequence[Collection[str]]) -> dict[str, str]:
    where = f"{path}, line {number}"
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise RowError(f"{where}: not valid JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(row, dict):
        raise RowError(f"{where}: not a JSON object; a row is {_alternatives(forms)}")
    form = next((form for form in forms if all(name in row for name in form)), None)
    if form is None:
        closest = max(forms, key=lambda form: sum(name in row for name in form))
        missing = next(name for name in closest if name not in row)
        raise RowError(f'{where}: field "{missing}" is missing; a row is {_alternatives(forms)}')
    for name in form:
        if not isinstance(row[name], str):
            raise RowError(
                f'{where}: field "{name}" must be a string, not {json.dumps(row[name])[:40]}'
            )
        if not row[name] and name != "prompt":
            raise RowError(f'{where}: field "{name}" is empty')
    return {name: row[name] for name in form}


def _alternatives(forms: Sequence[Collection[str]]) -> str:
    return " or ".join("{" + ", ".join(f'"{name}"' for name in form) + "}" for form in forms)


def encode(
    tokenizer: PreTrainedTokenizerBase, prompt: str, response: str, *, end: bool
) -> tuple[list[int], list[int]]:
    """Token ids of prompt + response and, position by position, the target that follows it.

    Prompt and response are tokenized apart, as at search time, where the response's tokens are
    made after the prompt's are fixed. Only response tokens (and the end token, when `end`) are
    targets; all others are `IGNORE`. With an empty prompt the first response token has nothing
    before it and is not a target.
    """
    before: list[int] = list(tokenizer(prompt)["input_ids"]) if prompt else []
    after: list[int] = list(tokenizer(response, add_special_tokens=False)["input_ids"])
    if end and tokenizer.eos_token_id is not None:
        after.append(tokenizer.eos_token_id)
    ids = before + after
    targets = [IGNORE] * max(len(before) - 1, 0) + ids[max(len(before), 1) :] + [IGNORE]
    return ids, targets


def epoch_batches(rows: int, batch: int, seed: int) -> Iterator[list[int]]:
    """Row numbers, `batch` at a time, in a fresh seeded order every epoch, without end.

    A last batch that is not full is filled from the next epoch, so every step weighs the same.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < batch:
            waiting += torch.randperm(rows, generator=generator).tolist()
        yield waiting[:batch]
        waiting = waiting[batch:]
