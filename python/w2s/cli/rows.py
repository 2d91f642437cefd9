"""Reads prompts: JSON Lines, plain text or AlpacaEval's list, from a file or standard input."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import cast

from w2s.cli.errors import BadInput


class Format(StrEnum):
    """How prompts are written down."""

    auto = "auto"
    jsonl = "jsonl"
    text = "text"
    alpaca_eval = "alpaca-eval"

    @property
    def field(self) -> str:
        """Where a row has its prompt unless another field is named."""
        return "instruction" if self is Format.alpaca_eval else "prompt"


Messages = list[dict[str, str]]  # of a chat: {"role": …, "content": …}


@dataclass(frozen=True)
class Row:
    """One prompt, the fields it came with (they go through to the output) and its place."""

    prompt: str | Messages
    fields: dict[str, object]
    place: str  # "prompts.jsonl, line 3", for messages


def read_rows(source: str, field: str | None = None, layout: Format = Format.auto) -> list[Row]:
    """All prompts of the file `source` (`-` is standard input), read and checked before any work.

    JSON Lines: one object a line, the prompt under `field`: a string, or a list of chat messages.
    Plain text: one prompt a line. AlpacaEval: a JSON list of objects, or JSON Lines. `auto` goes by
    the file's suffix, else by whether the first line opens an object. Blank lines are passed over.

    Raises:
        BadInput: the file is missing, unreadable, not UTF-8 or empty; a line is no JSON object;
            its field is missing, empty or no prompt.
    """
    name = "standard input" if source == "-" else source
    text = _read_text(source, name)
    field = layout.field if field is None else field
    if layout is Format.alpaca_eval and text.lstrip().startswith("["):
        return _json_list(text, field, name)
    lines = [
        (number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()
    ]
    if not lines:
        raise BadInput(f"{name}: is empty; one prompt a line is needed")
    if layout is Format.auto:
        layout = _guess(source, lines[0][1])
    if layout is Format.text:
        return [
            Row(line.rstrip("\r"), {"prompt": line.rstrip("\r")}, f"{name}, line {number}")
            for number, line in lines
        ]
    return [_json_line(line, field, f"{name}, line {number}") for number, line in lines]


def _read_text(source: str, name: str) -> str:
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except FileNotFoundError:
        raise BadInput(f"{name}: there is no such file") from None
    except OSError as error:
        raise BadInput(f"{name}: cannot be read ({error.strerror})") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{name}, line {line}: is not UTF-8 text (byte {error.start})") from error


def _guess(source: str, first_line: str) -> Format:
    suffix = Path(source).suffix.lower()
    if suffix in {".jsonl", ".ndjson", ".json"}:
        return Format.jsonl
    if suffix == ".txt":
        return Format.text
    return Format.jsonl if first_line.lstrip().startswith("{") else Format.text


def _json_list(text: str, field: str, name: str) -> list[Row]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(
            f"{name}, line {error.lineno}: is not valid JSON ({error.msg} at column {error.colno})"
        ) from error
    if not values:
        raise BadInput(f"{name}: is an empty list; one prompt is needed at least")
    return [_row(value, field, f"{name}, entry {n}") for n, value in enumerate(values, start=1)]


def _json_line(line: str, field: str, place: str) -> Row:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        hint = "; --format alpaca-eval reads a list" if line.lstrip().startswith("[") else ""
        raise BadInput(
            f"{place}: is not valid JSON ({error.msg} at column {error.colno}){hint}"
        ) from error
    return _row(value, field, place)


def _row(value: object, field: str, place: str) -> Row:
    if not isinstance(value, dict):
        raise BadInput(f'{place}: must be a JSON object such as {{"{field}": "…"}}')
    fields = cast(dict[str, object], value)
    if field not in fields:
        raise BadInput(f'{place}: has no field "{field}"; --field names another one')
    prompt = fields[field]
    where = f'{place}: field "{field}"'
    if isinstance(prompt, list):
        return Row(_messages(prompt, where), fields, place)
    if not isinstance(prompt, str):
        raise BadInput(
            f"{where} must be a string or a list of chat messages, it is {_json_type(prompt)}"
        )
    if not prompt:
        raise BadInput(f"{where} is an empty string; a prompt is needed")
    return Row(_unicode(prompt, where), fields, place)


def _messages(prompt: list[object], where: str) -> Messages:
    if not prompt:
        raise BadInput(f"{where} is an empty list; one chat message is needed at least")
    for number, message in enumerate(prompt, start=1):
        here = f"{where}, message {number}"
        if not isinstance(message, dict):
            raise BadInput(
                f'{here} must be an object {{"role": "…", "content": "…"}}, it is '
                f"{_json_type(message)}"
            )
        for key in ("role", "content"):
            if key not in message:
                raise BadInput(f'{here} has no "{key}"')
            if not isinstance(message[key], str):
                raise BadInput(
                    f'{here}: "{key}" must be a string, it is {_json_type(message[key])}'
                )
            _unicode(message[key], here)
        if not message["role"]:
            raise BadInput(f'{here}: "role" is an empty string, not "user", say')
    return cast(Messages, prompt)


def _unicode(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadInput(
            f"{where} has half of a surrogate pair at character {error.start}, which is no text"
        ) from error
    return text


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list) else "an object"
