"""Reads prompts: JSON Lines or plain text, from a file or from standard input."""

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


@dataclass(frozen=True)
class Row:
    """One prompt, the fields it came with (they go through to the output) and its place."""

    prompt: str
    fields: dict[str, object]
    place: str  # "prompts.jsonl, line 3", for messages


def read_rows(source: str, field: str, layout: Format = Format.auto) -> list[Row]:
    """All prompts of the file `source` (`-` is standard input), read and checked before any work.

    JSON Lines: one object a line, the prompt under `field`. Plain text: one prompt a line. `auto`
    goes by the file's suffix, else by whether the first line opens an object. Blank lines are
    passed over.

    Raises:
        BadInput: the file is missing, unreadable, not UTF-8 or empty; a line is no JSON object;
            its field is missing, not a string or empty.
    """
    name = "standard input" if source == "-" else source
    lines = [
        (number, line)
        for number, line in enumerate(_read_text(source, name).split("\n"), start=1)
        if line.strip()
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
    return [_json_row(line, field, f"{name}, line {number}") for number, line in lines]


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


def _json_row(line: str, field: str, place: str) -> Row:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadInput(
            f"{place}: is not valid JSON ({error.msg} at column {error.colno})"
        ) from error
    if not isinstance(value, dict):
        raise BadInput(f'{place}: must be a JSON object such as {{"{field}": "…"}}')
    fields = cast(dict[str, object], value)
    if field not in fields:
        raise BadInput(f'{place}: has no field "{field}"; --field names another one')
    prompt = fields[field]
    if not isinstance(prompt, str):
        raise BadInput(f'{place}: field "{field}" must be a string, it is {_json_type(prompt)}')
    if not prompt:
        raise BadInput(f'{place}: field "{field}" is an empty string; a prompt is needed')
    return Row(prompt, fields, place)


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "a list" if isinstance(value, list) else "an object"
