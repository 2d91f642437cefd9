"""One way from a pair of checkpoints to a result, in a process of its own.

    python bench/expo/worker.py WAY TASK

It imports what WAY needs, writes "ready", waits for a line on standard input, works, sees that all
of the result is on the disk, and writes {"seconds": …} of the work alone. TASK is a JSON object:
`base`, `aligned` and `out` are folders, `alpha` a number; w2s takes `options`, mergekit `config`, a
YAML file, as well. Whatever the way itself prints goes to standard error.

Needs the standard library and the way's own packages, so mergekit's Python can run it.
"""

import json
import mmap
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BLOCK = 16 << 20  # bytes of a plain read or write

Task = dict[str, Any]
Work = Callable[[Task], None]


def plain(task: Task) -> None:
    """θ₀ read and θ₁ copied, one block of each after the other; no thread but this one."""
    blocks = [mmap.mmap(-1, BLOCK), mmap.mmap(-1, BLOCK)]
    for aligned, base in _shards(task):
        with (
            open(aligned, "rb", 0) as theta1,
            open(base, "rb", 0) as theta0,
            open(Path(task["out"], aligned.name), "wb", 0) as out,
        ):
            while size := theta1.readinto(blocks[1]):
                theta0.readinto(blocks[0])
                _write_all(out.fileno(), memoryview(blocks[1])[:size])
            while theta0.readinto(blocks[0]):
                pass
            os.fsync(out.fileno())


def plain_threads(task: Task) -> None:
    """The same bytes with θ₀ read, θ₁ read and the result written by a thread each."""
    free: queue.Queue[mmap.mmap] = queue.Queue()
    for _ in range(4):
        free.put(mmap.mmap(-1, BLOCK))
    full: queue.Queue[tuple[int, mmap.mmap, int] | int] = queue.Queue()

    def read_base() -> None:
        block = mmap.mmap(-1, BLOCK)
        for _, base in _shards(task):
            with open(base, "rb", 0) as theta0:
                while theta0.readinto(block):
                    pass

    def write() -> None:
        for _ in _shards(task):
            while not isinstance(item := full.get(), int):
                _write_all(item[0], memoryview(item[1])[: item[2]])
                free.put(item[1])
            os.fsync(item)
            os.close(item)

    threads = [threading.Thread(target=read_base), threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    for aligned, _ in _shards(task):
        out = os.open(Path(task["out"], aligned.name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with open(aligned, "rb", 0) as theta1:
            while size := theta1.readinto(block := free.get()):
                full.put((out, block, size))
            free.put(block)
        full.put(out)
    for thread in threads:
        thread.join()


def _shards(task: Task) -> Iterator[tuple[Path, Path]]:
    """Pairs of files of the same name: θ₁'s and θ₀'s."""
    os.makedirs(task["out"], exist_ok=True)
    for file in sorted(Path(task["aligned"]).glob("*.safetensors")):
        yield file, Path(task["base"], file.name)


def _write_all(file: int, data: memoryview) -> None:
    while data:
        data = data[os.write(file, data) :]


def _prepare_w2s() -> Work:
    import w2s.cli
    import w2s.expo.run
    from w2s_kernels import _library

    _library.load()
    w2s.cli.main(["expo", "--help"])  # Typer imports some of itself as it reads a command line

    def work(task: Task) -> None:
        words = ["expo", "--base", task["base"], "--aligned", task["aligned"],
                 "--alpha", str(task["alpha"]), "--out", task["out"], *task["options"]]  # fmt: skip
        code = w2s.cli.main(words)
        if code != 0:
            raise SystemExit(f"w2s {' '.join(words)} ended with exit code {code}")

    return work


def _prepare_mergekit() -> Work:
    from mergekit.scripts.run_yaml import main

    def work(task: Task) -> None:
        words = [task["config"], task["out"], "--quiet", "--no-copy-tokenizer", *task["options"]]
        main.main(words, standalone_mode=False)

    return work


WAYS: dict[str, Callable[[], Work]] = {
    "plain": lambda: plain,
    "plain in threads": lambda: plain_threads,
    "w2s": _prepare_w2s,
    "mergekit": _prepare_mergekit,
}


def flush(folder: Path) -> None:
    """Waits until every file of the folder, and the folder, is on the disk."""
    for path in [*sorted(folder.iterdir()), folder]:
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.close(file)


def main() -> None:
    """Runs one task; a failure is this process' traceback and exit code."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    task = json.loads(sys.argv[2])
    work = WAYS[sys.argv[1]]()
    print("ready", file=answers, flush=True)
    sys.stdin.readline()
    begin = time.perf_counter()
    work(task)
    flush(Path(task["out"]))
    seconds = time.perf_counter() - begin
    print(json.dumps({"seconds": seconds}), file=answers, flush=True)


if __name__ == "__main__":
    main()
