"""`Staging`: the folder `OUT.partial` in which a result grows, and its journal of finished shards.

Nothing stands under the name OUT before all of it is on the disk. What an interruption leaves, by
Ctrl-C or kill −9 at any moment, is `OUT.partial`; the same run with `resume` goes on with it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from w2s.durable import replace_file, sync_folder
from w2s.errors import ExpoError
from w2s.expo.tasks import TensorSums
from w2s.expo.writer import SCRATCH, unwritable

JOURNAL = ".expo_journal.json"
REPORT = "expo_report.json"


def places(out: str | Path) -> tuple[Path, Path]:
    """OUT, with links followed, and OUT.partial beside it."""
    final = Path(os.path.realpath(out))
    return final, final.with_name(final.name + ".partial")


def require_free(out: str | Path, *, resume: bool) -> None:
    """Refuses a result that is there already, and an interrupted one unless it is gone on with.

    Raises:
        ExpoError: OUT is there and no empty folder; or OUT.partial is there and not `resume`, or
            is being written.
    """
    final, partial = places(out)
    try:
        taken = os.path.lexists(final) and not (final.is_dir() and not any(final.iterdir()))
    except OSError as error:
        raise unwritable(final, error) from error
    if taken:
        raise ExpoError(f"{final} is there already; remove it, or choose another output folder")
    if os.path.lexists(partial):
        os.close(_lock(partial))  # raises if another run has it
        if not resume:
            raise ExpoError(
                f"{partial} is what an interrupted run has left; go on with it by --resume, or "
                "remove the folder"
            )


class Staging:
    """`OUT.partial`, locked while it is open; a context.

    plan: everything that decides the result's bytes, as JSON; an earlier run must have had the
      same. folder: `OUT.partial`. finished: the shards that are on the disk, with their sums.

    On leaving after an error the folder is removed, but with `resume` the finished shards stay;
    after KeyboardInterrupt everything stays.

    Raises:
        ExpoError: as `require_free`; what is there is not of a run with this `plan` (names what
            differs); or the folder cannot be made.
    """

    def __init__(self, out: str | Path, plan: Mapping[str, object], *, resume: bool) -> None:
        require_free(out, resume=resume)
        self._final, self.folder = places(out)
        self._plan = json.loads(json.dumps(plan))
        self._resume = resume
        self.finished: dict[str, list[TensorSums]] = {}
        self._sizes: dict[str, int] = {}
        self._parents: list[Path] = []
        try:
            fresh = self._make_folder()
        except OSError as error:
            self._remove_parents()
            raise unwritable(self.folder, error) from error
        self._handle = _lock(self.folder)
        try:
            if not fresh:
                self._take_up()
            self._keep_journal()
        except BaseException as error:
            if fresh and isinstance(error, Exception):
                self._discard()
            os.close(self._handle)
            raise

    def _make_folder(self) -> bool:
        """Whether it was not there."""
        for parent in reversed(self.folder.parents):
            if not os.path.lexists(parent):
                parent.mkdir()
                self._parents.append(parent)
        try:
            self.folder.mkdir()
        except FileExistsError:
            if not self._resume:
                raise
            return False
        try:
            sync_folder(self.folder.parent)
        except OSError:
            self.folder.rmdir()
            raise
        return True

    def _take_up(self) -> None:
        """Finds the shards that an earlier run has finished, and removes what it has not."""
        journal = self._read_journal()
        if journal is not None:
            before, shards = journal
            _require_same(before, self._plan, self.folder)
            for name, (size, sums) in shards.items():
                path = self.folder / name
                if path.is_file() and path.stat().st_size == size:
                    self._sizes[name], self.finished[name] = size, sums
        try:
            self._remove_unfinished()
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def _remove_unfinished(self) -> None:
        for path in self.folder.iterdir():
            if path.name != JOURNAL and path.name not in self.finished:
                path.unlink()

    def _read_journal(self) -> _Journal | None:
        """The earlier run's plan and its finished shards; None where it had got to none of them."""
        path = self.folder / JOURNAL
        try:
            found = json.loads(path.read_bytes())
            shards = {
                name: (int(entry["size"]), [TensorSums(**sums) for sums in entry["sums"]])
                for name, entry in found["shards"].items()
            }
            return found["plan"], shards
        except FileNotFoundError:
            # Killed at its very first moment, or at its last one, when all was done but for the
            # name: the work is done again.
            names = {entry.name for entry in self.folder.iterdir()}
            if names <= {JOURNAL + SCRATCH} or REPORT in names:
                return None
            raise ExpoError(
                f"{self.folder} has no journal of an interrupted run; move it away or remove it"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ExpoError(
                f"{path} cannot be read ({error}); remove {self.folder} and start again"
            ) from error

    def add(self, name: str, sums: Sequence[TensorSums]) -> None:
        """Notes that a shard is finished and on the disk."""
        self._sizes[name] = (self.folder / name).stat().st_size
        self.finished[name] = list(sums)
        self._keep_journal()

    def _keep_journal(self) -> None:
        shards = {
            name: {"size": self._sizes[name], "sums": [asdict(each) for each in sums]}
            for name, sums in self.finished.items()
        }
        self._put(JOURNAL, json.dumps({"plan": self._plan, "shards": shards}).encode())

    def _put(self, name: str, data: bytes) -> None:
        try:
            replace_file(self.folder / name, [data])
        except OSError as error:
            raise unwritable(self.folder / name, error) from error

    def complete(self, files: Mapping[str, bytes]) -> None:
        """Adds the files beside the weights, the report last, and gives the folder its name."""
        for name in sorted(files, key=lambda name: name == REPORT):
            self._put(name, files[name])
        try:
            (self.folder / JOURNAL).unlink()
            self.folder.rename(self._final)
            try:
                sync_folder(self._final)
                sync_folder(self._final.parent)
            except OSError:
                self._final.rename(self.folder)  # a name that the disk may not keep is not given
                raise
        except OSError as error:
            raise unwritable(self._final, error) from error

    def _discard(self) -> None:
        """After an error, which is what is told: not that something could not be removed either."""
        with suppress(OSError):
            if self._resume and self.finished:
                self._remove_unfinished()
            else:
                shutil.rmtree(self.folder)
                self._remove_parents()

    def _remove_parents(self) -> None:
        for parent in reversed(self._parents):
            parent.rmdir()

    def __enter__(self) -> Staging:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if isinstance(error, Exception) and self.folder.exists():
                self._discard()
        finally:
            os.close(self._handle)


_Journal = tuple[dict[str, Any], dict[str, tuple[int, list[TensorSums]]]]


def _lock(folder: Path) -> int:
    """A handle of the folder that no other run has; given up by closing it."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The run that had it may have finished meanwhile, and given it its name.
        mine, there = os.fstat(handle), os.stat(folder)
        if (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino):
            raise BlockingIOError
    except (BlockingIOError, FileNotFoundError):
        os.close(handle)
        raise ExpoError(f"{folder} is being written by another run; wait for it") from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL):
            os.close(handle)
            raise unwritable(folder, error) from error  # else a file system without locks
    return handle


def _require_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Refuses another plan than the interrupted run's, naming the first thing that differs."""
    for name in [*before, *(name for name in now if name not in before)]:
        one, two = before.get(name), now.get(name)
        if one == two:
            continue
        if isinstance(one, dict) and isinstance(two, dict):
            _require_same(
                {f"{name} {key}": value for key, value in one.items()},
                {f"{name} {key}": value for key, value in two.items()},
                folder,
            )
        raise ExpoError(
            f"--resume: {name} was {_short(one)} in the run that {folder} is of, and is "
            f"{_short(two)} now; give it as it was, or remove the folder"
        )


def _short(value: object) -> str:
    text = "not there" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
