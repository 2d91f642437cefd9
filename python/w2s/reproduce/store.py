"""What a run has finished, in a folder: a manifest, and a line for every batch.

A line is on the disk before the next batch begins, so an interrupted run loses one batch at most.
The manifest says what the lines were made with; lines made with anything else are refused.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from w2s.cli.errors import BadInput, Stopped
from w2s.durable import replace_file, sync_folder, write_all

Record = dict[str, Any]
Key = tuple[str, int, int]  # run, seed, first opening

_MANIFEST = "manifest.json"
_BATCHES = "batches.jsonl"
_LONGEST = 60  # characters of a value in a message
_NAMED = 3  # differences named in a message


class Store:
    """The finished batches of one experiment in `folder`; use it in a `with` block.

    Raises:
        BadInput: the folder holds another experiment's batches (the message names what differs),
            cannot be used, or is in use.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads(json.dumps(manifest))
        self.records: dict[Key, Record] = {}

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / _BATCHES
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise BadInput(
                f"--work {self.folder}: {error.strerror}; name another folder"
            ) from error
        try:
            self._take_up(path)
        except BaseException:
            os.close(self._file)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def _take_up(self, path: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(
                f"--work {self.folder} is being written by another run; wait for it"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
                raise  # else a file system without locks
        data = path.read_bytes()
        if data:
            _require_same(read_manifest(self.folder), self.manifest, self.folder)
        else:
            text = json.dumps(self.manifest, indent=1, ensure_ascii=False) + "\n"
            replace_file(self.folder / _MANIFEST, [text.encode()])
        whole = data.rfind(b"\n") + 1  # what follows was torn off while it was written
        os.ftruncate(self._file, whole)
        os.lseek(self._file, whole, os.SEEK_SET)
        sync_folder(self.folder)
        self.records = _records(data[:whole], path)

    def add(self, record: Record) -> None:
        """Keeps one finished batch; returns when the disk has it.

        Raises:
            Stopped: it has not (it is full); the batches before are kept.
        """
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            write_all(self._file, line.encode())
        except OSError as error:
            raise Stopped(
                f"{self.folder / _BATCHES}: {error.strerror}; {len(self.records)} earlier batches "
                "are kept, and the same command goes on after them"
            ) from error
        self.records[_key(record)] = record


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the batches in `folder` were made with.

    Raises:
        BadInput: there is no manifest, or it cannot be read.
    """
    path = folder / _MANIFEST
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{path} cannot be read ({error}); name a folder that `w2s reproduce sentiment` has "
            "worked in, or move this one away to start from the beginning"
        ) from error
    if not isinstance(value, dict):
        raise BadInput(f"{path} holds no JSON object; move {folder} away to start anew")
    return value


def read_records(folder: Path) -> dict[Key, Record]:
    """The finished batches in `folder`; a torn last line does not count.

    Raises:
        BadInput: a line is not valid.
    """
    path = folder / _BATCHES
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
    return _records(data[: data.rfind(b"\n") + 1], path)


def _records(data: bytes, path: Path) -> dict[Key, Record]:
    found = {}
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            record = json.loads(line)
            found[_key(record)] = record
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f"{path}, line {number}: is not a finished batch ({error!r}); remove this line to "
                "have it drawn again"
            ) from error
    return found


def _key(record: Record) -> Key:
    return record["run"], record["seed"], record["first"]


def _require_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    old, new = _flat(before), _flat(now)
    differing = [
        f"{name} was {_short(old.get(name))} and is {_short(new.get(name))} now"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]
    if not differing:
        return
    more = f"; and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
    raise BadInput(
        f"--work {folder} holds batches of another run: {'; '.join(differing[:_NAMED])}{more}; "
        "give the settings of that run, or another --work folder"
    )


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a b": 1}; lists of objects by their names."""
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        value = {str(one.get("name", place)): one for place, one in enumerate(value)}
    if not isinstance(value, Mapping):
        return {name: value}
    found = {}
    for key, inner in value.items():
        found.update(_flat(inner, f"{name} {key}".strip()))
    return found


def _short(value: object) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
