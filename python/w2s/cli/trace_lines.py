"""The file a trace is written to: line by line under a temporary name, its own name at the end."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from w2s.cli.errors import BadInput, Stopped
from w2s.cli.json_line import json_line
from w2s.cli.resume import whole_lines
from w2s.durable import sync_folder


class TraceLines:
    """JSON Lines in `TARGET.partial`, which becomes `TARGET` by `complete`.

    What `write` was given is with the operating system when it returns, so a killed run leaves all
    of it but perhaps a torn last line. Anything that is not a regular file is written as it comes.

    header: the first line. resume: go on after the lines of an interrupted run with this header.

    Raises:
        BadInput: on construction, thus before any work, if the file cannot be written, or holds an
            interrupted run that is not gone on with or has another header.
    """

    def __init__(self, target: str, header: Mapping[str, object], *, resume: bool = False) -> None:
        if target == "-":
            raise BadInput("--trace is -; it needs the name of a file")
        self.name = target
        self._header = header
        self._final = Path(os.path.realpath(target))
        self._partial: Path | None = None
        self._file = -1
        self._empty = True
        try:
            self._open(resume)
        except OSError as error:
            self._close()
            raise BadInput(f"{target}: cannot be written ({error.strerror})") from error
        except BadInput:
            self._close()
            raise

    def _open(self, resume: bool) -> None:
        if self._final.is_dir():
            raise BadInput(f"{self.name}: cannot be written (it is a directory)")
        if self._final.exists() and not stat.S_ISREG(self._final.stat().st_mode):
            self._file = os.open(self._final, os.O_WRONLY | os.O_CLOEXEC)
            return
        partial = self._final.with_name(self._final.name + ".partial")
        self._file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if os.fstat(self._file).st_size:
            if not resume:
                raise BadInput(
                    f"{partial}: holds the trace of an interrupted run; go on with --resume, or "
                    "move it away or remove it"
                )
            self._go_on(partial)
        self._partial = partial

    def _go_on(self, partial: Path) -> None:
        lines, length = whole_lines(partial.read_bytes())
        if lines and _search_of(lines[0]) != _search_of(json.dumps(self._header)):
            raise BadInput(
                f"{partial}, line 1: is the trace of another search (method, plan or models "
                "differ); give --trace another name, or move it away"
            )
        os.ftruncate(self._file, length)
        os.lseek(self._file, 0, os.SEEK_END)
        self._empty = not lines

    def write(self, lines: Sequence[Mapping[str, object]]) -> None:
        """Appends lines, the header before the first ones.

        Raises:
            Stopped: the disk is full, or whatever else keeps them from being written.
        """
        begin = [self._header] if self._empty else []
        text = "".join(json_line(line) + "\n" for line in (*begin, *lines))
        with self._stops():
            rest = memoryview(text.encode())
            while rest:
                rest = rest[os.write(self._file, rest) :]
        self._empty = False

    def complete(self) -> None:
        """Gives the file its name; from here on it is whole.

        A run that had nothing left to search leaves the name to the file that has it.

        Raises:
            Stopped: the disk does not take it.
        """
        if self._partial is None or self._empty:
            return
        with self._stops():
            os.fsync(self._file)
            self._partial.replace(self._final)
            sync_folder(self._final.parent)
        self._partial = None

    @contextmanager
    def _stops(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Stopped(f"{self.name}: cannot be written ({error.strerror})") from error

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> TraceLines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._partial is not None and self._empty:
            self._partial.unlink(missing_ok=True)
        self._close()


def _search_of(header: str | bytes) -> object:
    """What a header says of the search, without who wrote it; None for a line that is no header."""
    try:
        fields = json.loads(header)
    except ValueError:
        return None
    return {k: v for k, v in fields.items() if k != "w2s"} if isinstance(fields, dict) else None
