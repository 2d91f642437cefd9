"""Writes results so that an interruption loses nothing and a reader never sees half a file."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TextIO

from w2s.cli import resume as earlier
from w2s.cli.errors import BadInput, Stopped
from w2s.cli.json_line import json_line
from w2s.durable import replace_file, sync_folder, write_all

Fields = Mapping[str, object]


class ResultsFile:
    """JSON Lines under a temporary name, `OUTPUT.partial`, that become `OUTPUT` by `complete`.

    Each `write` is on the disk before it returns. A run that ends early, in whatever way, leaves
    the finished rows in `OUTPUT.partial`; a later run goes on with them (`resume`, then `take_up`)
    or refuses to overwrite them. `begin` puts the run's settings beside them, in
    `OUTPUT.partial.json`, so that only the same run goes on. `-` is standard output, written as it
    comes, and so is anything that is not a regular file (a pipe, /dev/null).

    as_list: what comes out in the end is one JSON list instead of JSON Lines.
    rows: how many are finished, those of the earlier run included. expected: how many there will
    be, where that is known. was_complete: the earlier run had finished all of them.

    Raises:
        BadInput: on construction, thus before any work, if the output cannot be written.
    """

    def __init__(self, target: str, *, resume: bool = False, as_list: bool = False) -> None:
        self.name = "standard output" if target == "-" else target
        self.rows = 0
        self.expected: int | None = None
        self.was_complete = False
        self.partial: Path | None = None
        self._final = Path(os.path.realpath(target))  # a link stays, the file it names is replaced
        self._record = self._final.with_name(self._final.name + ".partial.json")
        self._resume, self._as_list = resume, as_list
        self._stream: TextIO | None = None
        self._file = -1
        self._begun = not resume  # until `take_up` has looked, what lies there is not touched
        if target != "-":
            self._open()
        elif resume:
            raise BadInput("--resume needs a file to go on with; name one with --output")
        else:
            self._stream = sys.stdout

    def _open(self) -> None:
        final = self._final
        try:
            if final.is_dir():
                raise BadInput(f"{self.name}: cannot be written (it is a directory)")
            if final.exists() and not stat.S_ISREG(final.stat().st_mode):
                if self._resume:
                    raise BadInput(f"--resume: {self.name} is no regular file and keeps no rows")
                self._stream = final.open("w", encoding="utf-8")
                return
            partial = final.with_name(final.name + ".partial")
            if self._resume and final.exists() and not partial.exists():
                self.was_complete = True  # `take_up` sees whether it is what was asked for
                return
            self._file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._lock(partial)
            if os.fstat(self._file).st_size > 0 and not self._resume:
                known = self._record.exists()
                raise BadInput(
                    f"{partial}: holds the rows of an interrupted run; "
                    f"{'go on with --resume, or ' if known else ''}move it away or remove it"
                )
            self.partial = partial
        except OSError as error:
            raise BadInput(f"{self.name}: cannot be written ({error.strerror})") from error
        finally:
            if self.partial is None:
                self._close()

    def _lock(self, partial: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"{partial}: is being written by another run; wait for it") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
                raise  # else a file system without locks

    def take_up(
        self, settings: earlier.Settings, inputs: Sequence[Fields], added: Collection[str]
    ) -> None:
        """Finds the rows that an earlier run has finished, and cuts off a torn last line.

        settings: this run's. inputs: the fields of every input row. added: the fields that are
        added to them, or overwritten.

        Raises:
            BadInput: the settings differ, or a line is not the result of its input row.
        """
        self.expected = len(inputs)
        if not self._resume:
            return
        if self.was_complete:
            earlier.check_complete(
                self._final, self._as_list, self._record, settings, inputs, added
            )
            self._record.unlink(missing_ok=True)
            self.rows = len(inputs)
            return
        assert self.partial is not None
        lines, length = earlier.whole_lines(self.partial.read_bytes())
        if lines:
            before = earlier.read_record(self._record, self.partial)
            earlier.require_same(before.settings, settings, self.partial)
            earlier.check_lines(lines, inputs, added, str(self.partial))
        self._cut(length)
        self.rows, self._begun = len(lines), True

    def begin(self, settings: earlier.Settings, at_once: int = 1) -> int:
        """Puts the settings beside the rows to come; those of rows that are there must be equal.

        at_once: the size of this run's batches. Returns that of the rows that are there, if any.

        Raises:
            BadInput: the settings differ from those of the rows that `take_up` found.
            Stopped: they cannot be written.
        """
        if self.partial is None:
            return at_once
        if self.rows:
            before = earlier.read_record(self._record, self.partial)
            earlier.require_same(before.settings, settings, self.partial)
            return before.at_once
        with self._stops():
            replace_file(self._record, [earlier.Record(settings, at_once).text()])
        return at_once

    def write(self, rows: Sequence[Fields]) -> None:
        """Appends rows; the disk has them when this returns.

        Raises:
            Stopped: it has not (it is full); the rows it has got whole are kept.
        """
        lines = [json_line(row) for row in rows]
        with self._stops():
            if self._stream is None:
                write_all(self._file, "".join(line + "\n" for line in lines).encode())
                self.rows += len(lines)
                return
            for number, line in enumerate(lines, start=self.rows):
                self._stream.write(_framed(line, number) if self._as_list else line + "\n")
            self._stream.flush()
            self.rows += len(lines)

    def complete(self) -> None:
        """Gives the file its name; from here on it is whole.

        Raises:
            Stopped: there is no room for the JSON list; all rows are kept.
        """
        if self.was_complete:
            return
        with self._stops():
            if self._stream is not None:
                self._stream.write(_list_end(self.rows) if self._as_list else "")
                self._stream.flush()
                return
            assert self.partial is not None
            if self._as_list:
                replace_file(self._final, self._list())
                self.partial.unlink()
            else:
                os.fsync(self._file)
                self.partial.replace(self._final)
            sync_folder(self._final.parent)
            self._record.unlink(missing_ok=True)
            self.partial = None

    def _list(self) -> Iterator[bytes]:
        assert self.partial is not None
        with self.partial.open("rb") as lines:
            for number, line in enumerate(lines):
                yield _framed(line.decode().rstrip("\n"), number).encode()
        yield _list_end(self.rows).encode()

    def state(self) -> str:
        """One clause for messages: how many rows are finished, where, and how to go on."""
        if not self._begun:
            return f"what is in {self.partial or self.name} was left as it is"
        self._settle()
        of = "" if self.expected is None else f" of {self.expected}"
        sentence = f"{self.rows}{of} rows are finished"
        if not self.rows:
            return sentence
        if self._stream is not None:
            return sentence + f" and written to {self.name}"
        sentence += f" and kept in {self.partial or self.name}"
        if self.partial is not None and self._record.exists():
            sentence += "; the same command with --resume goes on"
        return sentence

    def _settle(self) -> None:
        """Counts what is really there and cuts off a line that was torn while it was written."""
        if self.partial is None or not self._begun or self._file < 0:
            return
        lines, length = earlier.whole_lines(self.partial.read_bytes())
        self._cut(length)
        self.rows = len(lines)

    def _cut(self, length: int) -> None:
        os.ftruncate(self._file, length)
        os.lseek(self._file, length, os.SEEK_SET)

    @contextmanager
    def _stops(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, BrokenPipeError) and self._stream is sys.stdout:
                _drop_stdout()
            raise Stopped(
                f"{self.name}: cannot be written ({error.strerror}); {self.state()}"
            ) from error

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._stream is not None and self._stream is not sys.stdout:
            try:
                self._stream.close()
            except OSError:
                if error is None:
                    raise
        self._settle()
        if self.partial is not None and os.fstat(self._file).st_size == 0:
            self.partial.unlink(missing_ok=True)
            self._record.unlink(missing_ok=True)
        self._close()


def _framed(line: str, number: int) -> str:
    """A line as the element `number` of a JSON list, one element a line."""
    return ("[\n" if number == 0 else ",\n") + line


def _list_end(rows: int) -> str:
    return "\n]\n" if rows else "[]\n"


def _drop_stdout() -> None:
    """Nobody reads standard output any more; keeps the interpreter's last flush from failing."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
