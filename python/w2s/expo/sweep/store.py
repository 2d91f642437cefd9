"""What a sweep has finished, in its folder: settings, rows, and a journal that says which count.

`rows.jsonl` has a line for each response. A batch's rows are on the disk before the journal's line
about them is, and that before the next batch begins: an interruption loses one batch at most, and
what it tore is cut off by the next run.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from w2s.durable import replace_file, sync_folder, write_all
from w2s.errors import ExpoError

SETTINGS_FILE, ROWS_FILE, JOURNAL_FILE = "settings.json", "rows.jsonl", "journal.jsonl"
_LONGEST = 60  # characters of a value in a message
_NAMED = 3  # differences named in a message

Row = dict[str, Any]


class SweepStore:
    """The finished part of one sweep in `folder`; use it in a `with` block.

    settings: all that a row depends on; a folder that was begun with others is refused. resume:
      whether to go on with what the folder has; without it, a begun folder is refused.
    rows: the finished rows of each α, in the order of the prompts. finished: for each α that is
      done, what was written about it (`finish`).

    Raises:
        ExpoError: the folder cannot be used, is in use, was begun already, or by other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.rows: dict[float, list[Row]] = {}
        self.finished: dict[float, dict[str, Any]] = {}
        self.seconds: dict[float, float] = {}
        self._resume = resume

    def __enter__(self) -> Self:
        self._files: list[int] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in (JOURNAL_FILE, ROWS_FILE):
                path = self.folder / name
                self._files.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666))
            self._take_up()
        except OSError as error:
            self.__exit__()
            raise ExpoError(
                f"{self.folder}: {error.strerror}; name another folder for the sweep"
            ) from error
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            os.close(file)

    def add(self, alpha: float, first: int, rows: Sequence[Row], seconds: float) -> None:
        """Keeps the rows of a batch of prompts that begins at place `first`."""
        journal, texts = self._files
        self._append(texts, rows)
        end = os.lseek(texts, 0, os.SEEK_CUR)
        line = {"alpha": alpha, "first": first, "rows": len(rows), "end": end, "seconds": seconds}
        self._append(journal, [line])
        self._count(line, rows)

    def finish(self, alpha: float, found: Mapping[str, Any]) -> None:
        """Keeps what is known of a whole α: its guard perplexity, or how it failed."""
        line = {"alpha": alpha, "finished": dict(found)}
        self._append(self._files[0], [line])
        self._count(line, [])

    def next_prompt(self, alpha: float) -> int:
        """Place of the first prompt that has no rows at this α."""
        rows = self.rows.get(alpha)
        return rows[-1]["place"] + 1 if rows else 0

    def _count(self, line: Mapping[str, Any], rows: Sequence[Row]) -> None:
        alpha = line["alpha"]
        if "finished" in line:
            self.finished[alpha] = line["finished"]
            return
        self.rows.setdefault(alpha, []).extend(rows)
        self.seconds[alpha] = self.seconds.get(alpha, 0.0) + line["seconds"]

    def _append(self, file: int, lines: Sequence[Mapping[str, Any]]) -> None:
        text = "".join(
            json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines
        )
        try:
            write_all(file, text.encode())
        except OSError as error:
            raise ExpoError(
                f"{self.folder}: {error.strerror}; finished batches are kept, and --resume goes on "
                "after them"
            ) from error

    def _take_up(self) -> None:
        journal = self._files[0]
        _lock(journal, self.folder)
        lines = _whole_lines(os.pread(journal, os.fstat(journal).st_size, 0))
        if lines and not self._resume:
            raise _begun(self.folder)
        path = self.folder / SETTINGS_FILE
        if lines:
            _require_same(_read_settings(path), self.settings, self.folder)
        else:
            text = json.dumps(self.settings, indent=1, ensure_ascii=False) + "\n"
            replace_file(path, [text.encode()])
        self._replay(lines)
        sync_folder(self.folder)

    def _replay(self, lines: Sequence[bytes]) -> None:
        """Takes in the journal and the rows it vouches for; cuts off what comes behind."""
        journal, texts = self._files
        data = os.pread(texts, os.fstat(texts).st_size, 0)
        end = 0
        for number, text in enumerate(lines, start=1):
            try:
                line = json.loads(text)
                rows = []
                if "finished" not in line:
                    if line["end"] > len(data):
                        raise ValueError(f"{ROWS_FILE} has {len(data)} bytes, not {line['end']}")
                    rows = [json.loads(row) for row in data[end : line["end"]].splitlines()]
                    end = line["end"]
                self._count(line, rows)
            except (ValueError, KeyError, TypeError) as error:
                raise ExpoError(
                    f"{self.folder / JOURNAL_FILE}, line {number}: does not fit ({error}); the "
                    "folder was changed, so name another one"
                ) from error
        for file, length in ((texts, end), (journal, sum(len(line) for line in lines))):
            os.ftruncate(file, length)
            os.lseek(file, length, os.SEEK_SET)


def begun_with(folder: Path) -> dict[str, Any]:
    """The settings of the sweep that was begun in `folder`; empty where there is none.

    Raises:
        ExpoError: they cannot be read.
    """
    begun = folder / JOURNAL_FILE
    if not begun.exists() or not begun.stat().st_size:
        return {}
    return _read_settings(folder / SETTINGS_FILE)


def require_free(folder: Path, *, resume: bool) -> None:
    """Raises `ExpoError` where `SweepStore` would refuse the folder, before any model is loaded."""
    if folder.exists() and not folder.is_dir():
        raise ExpoError(f"{folder} is no folder; name another one for the sweep")
    if not resume and begun_with(folder):
        raise _begun(folder)


def _begun(folder: Path) -> ExpoError:
    return ExpoError(
        f"{folder} holds a sweep that was begun; go on with it by --resume, or name another folder"
    )


def _lock(file: int, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ExpoError(f"{folder} is being written by another sweep; wait for it") from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise  # else a file system without locks


def _whole_lines(data: bytes) -> list[bytes]:
    return data[: data.rfind(b"\n") + 1].splitlines(keepends=True)


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ExpoError(
            f"{path} cannot be read ({error}), so nobody knows the settings of the rows beside it; "
            "name another folder"
        ) from error
    return value if isinstance(value, dict) else {}


def _require_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    differing = [
        f"{name} was {_short(before.get(name))} and is {_short(now.get(name))} now"
        for name in dict.fromkeys([*before, *now])
        if before.get(name) != now.get(name)
    ]
    if differing:
        more = f"; and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
        raise ExpoError(
            f"--resume: {'; '.join(differing[:_NAMED])}{more}; give the settings that {folder} was "
            "begun with, or name another folder"
        )


def _short(value: object) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    if len(text) <= _LONGEST:
        return text
    half = (_LONGEST - 1) // 2  # both ends: paths differ at their ends
    return f"{text[:half]}…{text[-half:]}"
