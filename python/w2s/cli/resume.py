"""What `--resume` must know of the earlier run: its settings, and which rows it finished."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2s.cli.errors import BadInput
from w2s.fingerprint import UNKNOWN

# Label -> value as JSON holds it.
Settings = Mapping[str, Any]

_VERSION = 1  # of the record's layout and of how draws follow from the settings
_LONGEST = 40  # characters of a value in a message
_NAMED = 3  # differences named in a message


@dataclass(frozen=True)
class Record:
    """What lies beside the rows of a run that has not ended.

    settings: all that the rows depend on. at_once: the size of its batches, which is no setting,
    but a model's last bits depend on what it reads at once.
    """

    settings: Settings
    at_once: int

    def text(self) -> bytes:
        """As the file holds it."""
        record = {
            "w2s search": _VERSION, "settings": dict(self.settings), "prompts at once": self.at_once
        }  # fmt: skip
        return (json.dumps(record, indent=1, ensure_ascii=True) + "\n").encode()


def read_record(record: Path, partial: Path) -> Record:
    """The record of the rows in `partial`.

    Raises:
        BadInput: there is no record, or it is of another version or damaged.
    """
    try:
        value = json.loads(record.read_bytes())
    except FileNotFoundError:
        raise BadInput(
            f"--resume: {record} is missing, so nobody knows the settings of the rows in "
            f"{partial.name}; move them away to start from the beginning"
        ) from None
    except (OSError, ValueError) as error:
        raise BadInput(
            f"--resume: {record} cannot be read ({error}); move it and {partial.name} away to "
            "start from the beginning"
        ) from error
    fields = value if isinstance(value, dict) else {}
    version, settings = fields.get("w2s search"), fields.get("settings")
    at_once = fields.get("prompts at once")
    if version != _VERSION or not isinstance(settings, dict) or not isinstance(at_once, int):
        raise BadInput(
            f"--resume: {record} was written by another version of w2s (layout {version}, this one "
            f"reads {_VERSION}); finish with that version, or move it and {partial.name} away"
        )
    return Record(settings, at_once)


def require_same(before: Settings, now: Settings, partial: Path) -> None:
    """Raises `BadInput` that names each setting with another value than in the earlier run."""
    differing = [
        f"{label} was {_short(before.get(label))} and is {_short(now.get(label))} now"
        for label in dict.fromkeys([*before, *now])
        if before.get(label) != now.get(label)
        and UNKNOWN not in (before.get(label), now.get(label))
    ]
    if not differing:
        return
    named = "; ".join(differing[:_NAMED])
    more = f"; and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
    raise BadInput(
        f"--resume: {named}{more}; give the settings of the interrupted run, or move {partial} "
        "away to start from the beginning"
    )


def _short(value: object) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    if len(text) <= _LONGEST:
        return text
    half = (_LONGEST - 1) // 2  # both ends: paths differ at their ends, templates at their starts
    return f"{text[:half]}…{text[-half:]}"


def whole_lines(data: bytes) -> tuple[list[bytes], int]:
    """The lines that end in a newline, and their length together; what follows was torn off."""
    length = data.rfind(b"\n") + 1
    return data[:length].split(b"\n")[:-1], length


def check_lines(
    lines: Sequence[bytes],
    inputs: Sequence[Mapping[str, object]],
    added: Collection[str],
    name: str,
) -> None:
    """Checks that line i is the result of input row i.

    added: the fields a search adds or overwrites; all others must have come through unchanged.

    Raises:
        BadInput: names the line that is no JSON object or belongs to another row.
    """
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise BadInput(
                f"--resume: {name}, line {number}: is not valid JSON ({error}); mend it, or remove "
                "this line and all after it to have their prompts searched again"
            ) from error
        check_row(value, number, inputs, added, f"{name}, line {number}")


def check_row(
    value: object,
    number: int,
    inputs: Sequence[Mapping[str, object]],
    added: Collection[str],
    place: str,
) -> None:
    """Checks that `value` is the result of input row `number`, counted from 1."""
    if number > len(inputs):
        raise BadInput(
            f"--resume: {place}: is one row more than the {len(inputs)} rows of the input"
        )
    if not isinstance(value, dict) or _carried(value, added) != _carried(inputs[number - 1], added):
        raise BadInput(
            f"--resume: {place}: is not the result of row {number} of the input; mend it, or "
            "remove this row and all after it to have their prompts searched again"
        )


def check_complete(
    final: Path,
    as_list: bool,
    record: Path,
    settings: Settings,
    inputs: Sequence[Mapping[str, object]],
    added: Collection[str],
) -> None:
    """Checks that a file which is there under its name holds the result of every input row.

    Its settings are known only when the earlier run was killed just before it removed them.

    Raises:
        BadInput: it holds something else.
    """
    if record.exists():
        require_same(read_record(record, final).settings, settings, final)
    anew = "leave out --resume to write it anew"
    try:
        if as_list:
            rows = json.loads(final.read_bytes())
            if not isinstance(rows, list):
                raise BadInput(f"--resume: {final} is there but holds no JSON list; {anew}")
            for number, row in enumerate(rows, start=1):
                check_row(row, number, inputs, added, f"{final}, entry {number}")
        else:
            rows, _ = whole_lines(final.read_bytes())
            check_lines(rows, inputs, added, str(final))
    except (OSError, ValueError) as error:
        raise BadInput(f"--resume: {final} cannot be read ({error}); {anew}") from error
    if len(rows) != len(inputs):
        raise BadInput(
            f"--resume: {final} is there with {len(rows)} rows, and the input has {len(inputs)}; "
            f"{anew}"
        )


def _carried(fields: Mapping[str, object], added: Collection[str]) -> str:
    """As text, since NaN does not equal itself."""
    kept = {name: value for name, value in fields.items() if name not in added}
    return json.dumps(kept, sort_keys=True)
