"""Writes results so that an interruption loses nothing and a reader never sees half a file."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from types import TracebackType
from typing import TextIO

from w2s.cli.errors import BadInput


class ResultsFile:
    """JSON Lines under a temporary name, `OUTPUT.partial`, renamed to `OUTPUT` by `complete`.

    Each `write` reaches the file before it returns. A run that ends early leaves the finished rows
    in `OUTPUT.partial`; a later run does not overwrite them. `-` is standard output, written as it
    comes, and so is anything that is not a regular file (a pipe, /dev/null).

    Raises:
        BadInput: on construction, thus before any work, if the output cannot be written.
    """

    def __init__(self, target: str) -> None:
        self.name = "standard output" if target == "-" else target
        self.rows = 0
        self.partial: Path | None = None
        self._final = Path(os.path.realpath(target))  # a link stays, the file it names is replaced
        self._stream = sys.stdout if target == "-" else self._open()

    def _open(self) -> TextIO:
        final = self._final
        try:
            if final.is_dir():
                raise BadInput(f"{self.name}: cannot be written (it is a directory)")
            if final.exists() and not stat.S_ISREG(final.stat().st_mode):
                return final.open("w", encoding="utf-8")
            partial = final.with_name(final.name + ".partial")
            if partial.exists() and partial.stat().st_size > 0:
                raise BadInput(
                    f"{partial}: holds the rows of an interrupted run; move it away or remove it"
                )
            stream = partial.open("w", encoding="utf-8")
        except OSError as error:
            raise BadInput(f"{self.name}: cannot be written ({error.strerror})") from error
        self.partial = partial
        return stream

    def write(self, rows: list[dict[str, object]]) -> None:
        """Appends rows, one JSON object a line, and hands them to the operating system."""
        for row in rows:
            self._stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._stream.flush()
        self.rows += len(rows)

    def complete(self) -> None:
        """Gives the file its name; from here on it is whole."""
        if self.partial is not None:
            os.fsync(self._stream.fileno())
            self._stream.close()
            self.partial.replace(self._final)
            self.partial = None

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._stream is not sys.stdout:
            self._stream.close()
        if self.partial is not None and self.rows == 0:
            self.partial.unlink(missing_ok=True)
