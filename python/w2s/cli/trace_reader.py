"""Reads a trace file and checks every line of it; the format is described in `trace_file`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from w2s.cli.errors import BadInput
from w2s.cli.trace_file import FORMAT, VERSION

_STDIN = "-"


@dataclass
class PromptTrace:
    """The lines of one prompt; `rounds_of` makes sense of them. result: None until it ended."""

    place: int
    text: str
    chunks: list[Mapping[str, Any]] = field(default_factory=list)
    result: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Trace:
    """A trace file. notes: sentences on what is missing, such as the end of an interrupted run."""

    name: str
    header: Mapping[str, Any]
    prompts: tuple[PromptTrace, ...]
    notes: tuple[str, ...]

    @property
    def plan(self) -> Mapping[str, Any]:
        """The settings of the search by name."""
        plan: Mapping[str, Any] = self.header["plan"]
        return plan


def read_trace(source: str) -> Trace:
    """The trace in the file `source` (`-`: standard input).

    A last line that was cut off is left out, with a note.

    Raises:
        BadInput: the file cannot be read, is no trace, is one of another version, or has a line
            that does not fit; the message names the line.
    """
    lines = _read(source).split("\n")
    source = "standard input" if source == _STDIN else source
    notes: list[str] = []
    if lines[-1] and _parsed(lines[-1]) is None:
        notes.append(f"line {len(lines)} is cut off: the run was interrupted while writing it")
        lines[-1] = ""
    records = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not records:
        raise BadInput(f"{source}: is empty; w2s search --trace FILE writes a trace")
    header = _header(source, records[0][1])
    prompts: dict[int, PromptTrace] = {}
    for number, line in records[1:]:
        _take(f"{source}, line {number}", _parsed(line), header["plan"], prompts)
    unfinished = sum(prompt.result is None for prompt in prompts.values())
    if unfinished:
        notes.append(
            f"{unfinished} of {len(prompts)} prompts have no result: their search did not end"
        )
    ordered = tuple(prompts[place] for place in sorted(prompts))
    return Trace(source, header, ordered, tuple(notes))


def _read(source: str) -> str:
    try:
        data = sys.stdin.buffer.read() if source == _STDIN else Path(source).read_bytes()
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        hint = f"; {source}.partial is there" if Path(source + ".partial").exists() else ""
        raise BadInput(f"{source}: there is no such file{hint}") from None
    except OSError as error:
        raise BadInput(f"{source}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        # A run killed in the middle of a character leaves half of it at the very end.
        if b"\n" not in data[error.start :] and error.end >= len(data) - 3:
            return data[: error.start].decode("utf-8-sig")
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{source}, line {line}: is not UTF-8 text") from error


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return None


def _header(source: str, line: str) -> Mapping[str, Any]:
    header = _parsed(line)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise BadInput(
            f'{source}, line 1: is not the header of a trace ("format": "{FORMAT}"); '
            "w2s search --trace FILE writes one"
        )
    if header.get("version") != VERSION:
        raise BadInput(
            f"{source}, line 1: the trace has format version {header.get('version')!r:.20}, this "
            f"w2s reads version {VERSION}; draw it with the w2s that wrote it"
        )
    plan = header.get("plan")
    sizes = [plan.get(name) for name in ("width", "samples")] if isinstance(plan, dict) else []
    if not sizes or not all(_is_index(size) and size > 0 for size in sizes):
        raise BadInput(f'{source}, line 1: "plan" must have width and samples, whole numbers >= 1')
    return header


def _take(
    place: str, record: Any, plan: Mapping[str, Any], prompts: dict[int, PromptTrace]
) -> None:
    """Adds a line's record to its prompt."""
    if not isinstance(record, dict):
        raise BadInput(f"{place}: is not a JSON object")
    kind, prompt = record.get("kind"), record.get("prompt")
    if kind not in ("prompt", "chunk", "result"):
        raise BadInput(f'{place}: "kind" is {kind!r:.40}; it must be prompt, chunk or result')
    if not _is_index(prompt):
        raise BadInput(f'{place}: "prompt" is {prompt!r:.40}; it must be a whole number >= 0')
    if kind == "prompt":
        if not isinstance(record.get("text"), str):
            raise BadInput(f'{place}: "text" must be a string')
        prompts[prompt] = PromptTrace(prompt, record["text"])
        return
    if prompt not in prompts:
        raise BadInput(f'{place}: there is no "prompt" line for prompt {prompt} before it')
    one = prompts[prompt]
    if kind == "result":
        size = plan["width"] * plan["samples"]
        row = record.get("row")
        if row is not None and not (_is_index(row) and row < size):
            raise BadInput(f'{place}: "row" is {row!r:.40}; it must be null or in [0, {size})')
        one.result = record
        return
    _check_chunk(place, record, plan, len(one.chunks))
    one.chunks.append(record)


def _check_chunk(place: str, record: Any, plan: Mapping[str, Any], expected: int) -> None:
    width, size = plan["width"], plan["width"] * plan["samples"]
    if record.get("chunk") != expected or isinstance(record.get("chunk"), bool):
        raise BadInput(f'{place}: "chunk" is {record.get("chunk")!r:.40}; it must be {expected}')
    checks: dict[str, tuple[int, Any, str]] = {
        "tokens": (size, lambda x: isinstance(x, list) and all(map(_is_index, x)), "lists of ids"),
        "texts": (size, lambda x: isinstance(x, str), "strings"),
        "scores": (size, _is_score, 'numbers, null, "inf" or "-inf"'),
        "finished": (size, lambda x: isinstance(x, bool), "true or false"),
        "parents": (size, lambda x: _is_index(x) and x < size, f"whole numbers in [0, {size})"),
        "valid": (width, lambda x: isinstance(x, bool), "true or false"),
    }
    for name, (count, fits, what) in checks.items():
        value = record.get(name)
        if not isinstance(value, list) or len(value) != count or not all(map(fits, value)):
            raise BadInput(f'{place}: "{name}" must be a list of {count} {what}')
    if not _is_index(record.get("written")) or not isinstance(record.get("frozen"), bool):
        raise BadInput(f'{place}: needs "written" (tokens so far) and "frozen" (true or false)')
    rewrites = record.get("rewrites", {})
    if not isinstance(rewrites, dict) or not all(isinstance(x, str) for x in rewrites.values()):
        raise BadInput(f'{place}: "rewrites" must map rows to texts')


def _is_index(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_score(value: Any) -> bool:
    if isinstance(value, str):
        return value in ("inf", "-inf")
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
