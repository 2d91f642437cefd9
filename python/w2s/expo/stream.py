"""`stream`: reads, extrapolates and writes at the same time, in memory that does not grow.

    reader thread            calling thread                writer thread
    θ₁, θ₀ piece ─▶ inbox ─▶ extrapolate, sums ─▶ done ─▶ file, write-back, fsync, journal
          ▲                                                   │
          └───────────────── free slots ◀─────────────────────┘

Reading, arithmetic and writing all give up the lock on Python, so two cores do two of them at once.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import torch

from w2s.expo.layout import ShardLayout, out_nbytes
from w2s.expo.pieces import Piece, Slot, make_slots, part, pieces_of
from w2s.expo.recipe import Rounding
from w2s.expo.staging import Staging
from w2s.expo.tasks import FLOATING, TensorSums, TensorTask
from w2s.expo.writer import BLOCK, ShardWriter
from w2s_kernels import extrapolate, key_of

Progress = Callable[[int, int], None]
_TICK = 0.1  # seconds between two calls of `on_progress`


def stream(
    layouts: Sequence[ShardLayout],
    staging: Staging,
    *,
    rounding: Rounding = "nearest",
    seed: int = 0,
    on_progress: Progress | None = None,
) -> None:
    """Writes every shard that `staging` does not have, and tells it of each that is finished.

    on_progress: called with (bytes done, bytes in all), read and written ones added up, about ten
      times a second, from the calling thread; the first call counts an earlier run's shards.

    Raises:
        ExpoError: a tensor cannot be read or a file cannot be written; names it.
        KeyboardInterrupt: after both threads have ended.
    """
    _Stream(layouts, staging, rounding, seed, on_progress or (lambda done, total: None)).run()


def bytes_moved(task: TensorTask) -> int:
    """Bytes that are read and written for a tensor."""
    found = task.aligned.nbytes + out_nbytes(task)
    if task.base is not None:
        found += math.prod(task.aligned.shape) * FLOATING[task.base.code].itemsize
        if task.rows is not None and task.aligned.shape[0]:
            rest = max(0, task.aligned.shape[0] - task.rows)
            row = math.prod(task.aligned.shape[1:]) * FLOATING[task.base.code].itemsize
            found -= rest * row
    return found


@dataclass
class _Running:
    """What is being added up over a tensor."""

    task: TensorTask
    key: int
    sums: torch.Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    converted: torch.Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    elements: int = 0

    def total(self) -> TensorSums:
        theta1, delta, along, overflowed = self.sums.tolist()
        overflowed += self.converted[3].item()
        return TensorSums(
            self.task.aligned.name, self.task.alpha, self.elements, theta1, delta, along,
            int(overflowed),
        )  # fmt: skip


@dataclass(frozen=True)
class _Finished:
    """Follows the last piece of a shard on its way to the writer."""

    sums: list[TensorSums]


@dataclass(frozen=True)
class _Read:
    """A piece whose inputs are in its slot. lead: where in a block its result begins."""

    piece: Piece
    slot: Slot
    lead: int


@dataclass(frozen=True)
class _Result:
    """Bytes of a result, from `lead` on in memory that begins with a block; see `ShardWriter`."""

    data: memoryview
    lead: int
    slot: Slot


class _Stream:
    def __init__(
        self,
        layouts: Sequence[ShardLayout],
        staging: Staging,
        rounding: Rounding,
        seed: int,
        on_progress: Progress,
    ) -> None:
        moved = {each.name: sum(bytes_moved(task) for task in each.tasks) for each in layouts}
        self._layouts = [each for each in layouts if each.name not in staging.finished]
        self._staging, self._rounding, self._seed = staging, rounding, seed
        self._on_progress, self._told = on_progress, -math.inf
        self._total = sum(moved.values())
        self._earlier = self._total - sum(moved[each.name] for each in self._layouts)
        self._read_bytes = self._written_bytes = 0  # each counted by its thread alone
        self._stopped = False
        # What the calling thread waits for: pieces and ends of shards from the reader, an error
        # of either thread, None when the writer is done.
        self._inbox: SimpleQueue[_Read | ShardLayout | BaseException | None]
        self._inbox = SimpleQueue()
        self._free: SimpleQueue[Slot | None] = SimpleQueue()
        self._done: SimpleQueue[_Result | _Finished | None] = SimpleQueue()

    def run(self) -> None:
        threads = [
            threading.Thread(target=self._told_of_errors, args=(work,), name=name, daemon=True)
            for work, name in ((self._read, "expo-reader"), (self._write, "expo-writer"))
        ]
        self._tell()
        for slot in make_slots([task for each in self._layouts for task in each.tasks]):
            self._free.put(slot)
        try:
            for thread in threads:
                thread.start()
            with _kernel_threads():
                self._work_out()
        finally:
            self._stopped = True
            self._free.put(None)
            self._done.put(None)
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        self._told = -math.inf
        self._tell()

    def _told_of_errors(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._inbox.put(error)  # raised in the calling thread

    def _read(self) -> None:
        for layout in self._layouts:
            end = len(layout.header)  # of the file so far
            for task in layout.tasks:
                for piece in pieces_of(task):
                    slot = self._free.get()
                    if slot is None or self._stopped:
                        return
                    self._inbox.put(self._fill(piece, slot, end % BLOCK))
                    end += piece.out[1]
            self._inbox.put(layout)

    def _fill(self, piece: Piece, slot: Slot, lead: int) -> _Read:
        """Reads a piece; bytes that are copied as they are lie where the writer wants them."""
        first, count = piece.one
        begin = 0 if piece.count else lead
        piece.task.aligned.read_into(part(slot.one, begin, begin + count), first)
        self._read_bytes += count
        if piece.base is not None:
            first, count = piece.two
            piece.base.read_into(part(slot.two, 0, count), first)
            self._read_bytes += count
        return _Read(piece, slot, lead)

    def _write(self) -> None:
        for layout in self._layouts:
            with ShardWriter(self._staging.folder, layout) as file:
                item = self._done.get()
                while isinstance(item, _Result):
                    if self._stopped:
                        return
                    file.write(item.data, item.lead)
                    self._written_bytes += len(item.data) - item.lead
                    self._free.put(item.slot)
                    item = self._done.get()
                if item is None or self._stopped:
                    return
                file.finish()
            self._staging.add(layout.name, item.sums)
        self._inbox.put(None)

    def _work_out(self) -> None:
        running: dict[str, _Running] = {}
        while (item := self._next()) is not None:
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, ShardLayout):
                totals = [self._running(running, task).total() for task in item.tasks]
                running.clear()
                self._done.put(_Finished(totals))
                continue
            data = self._data(item, self._running(running, item.piece.task))
            self._done.put(_Result(data, item.lead, item.slot))

    def _next(self) -> _Read | ShardLayout | BaseException | None:
        while True:
            self._tell()
            try:
                return self._inbox.get(timeout=_TICK)
            except Empty:
                continue

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told >= _TICK:
            self._told = now
            done = self._earlier + self._read_bytes + self._written_bytes
            self._on_progress(done, self._total)

    def _running(self, running: dict[str, _Running], task: TensorTask) -> _Running:
        name = task.aligned.name
        if name not in running:
            running[name] = _Running(task, key_of(task.key_name, self._seed))
        return running[name]

    def _data(self, read: _Read, to: _Running) -> memoryview:
        """The result's bytes of a piece, after `lead` others."""
        piece, slot, end = read.piece, read.slot, read.lead + read.piece.out[1]
        if not piece.count:
            return part(slot.one, 0, end)
        task = piece.task
        one = slot.one[: piece.one[1]].view(FLOATING[task.aligned.code])
        out = slot.out[read.lead : end].view(FLOATING[task.out_code])
        two, alpha, sums = one, 0.0, to.converted
        if piece.base is not None:
            two = slot.two[: piece.two[1]].view(FLOATING[piece.base.code])
            alpha, sums = task.alpha, to.sums
            to.elements += piece.count
        extrapolate(
            one, two, alpha, rounding=self._rounding, key=to.key, start=piece.start, out=out,
            sums=sums,
        )  # fmt: skip
        return part(slot.out, 0, end)


@contextmanager
def _kernel_threads() -> Iterator[None]:
    """Leaves a core each to the reader and the writer: with threads on their cores, too, the kernel
    would wait for the slowest of them in every piece. Four sums are as fast as any memory."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(4, max(1, before - 2)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
