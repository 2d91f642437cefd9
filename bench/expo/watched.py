"""A worker from outside: how long it takes and how much memory it holds above its imports."""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")
_PERIOD = 0.002  # seconds between two looks at a worker's memory


class WorkerFailed(Exception):
    """A worker ended early; the message has the last lines that it wrote."""


@dataclass(frozen=True)
class Taken:
    """What a run took.

    call: seconds of the work alone. process: of the whole process, imports and exit included.
    anonymous: most bytes of anonymous and shared memory above those after the imports, looked at
    every 2 ms; None when nobody looked. resident: the same with mapped files, None likewise.
    """

    call: float
    process: float
    anonymous: int | None = None
    resident: int | None = None


def run(
    python: str, way: str, task: dict[str, Any], before: Callable[[], None], *, watch: bool
) -> Taken:
    """Runs one task; `before` is called between the worker's imports and its work, untimed.

    Raises:
        WorkerFailed: the worker's exit code is not 0.
    """
    with tempfile.TemporaryFile() as said:
        begin = time.perf_counter()
        with subprocess.Popen(
            [python, str(WORKER), way, json.dumps(task)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True,
            env=_environment(python),
        ) as worker:  # fmt: skip
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdout.readline()
            imports = time.perf_counter() - begin
            anonymous = resident = None
            if worker.poll() is None:
                before()
                begin = time.perf_counter()
                worker.stdin.write("go\n")
                worker.stdin.flush()
                if watch:
                    anonymous, resident = _peaks(worker.pid, worker.stdout.fileno())
                answer = worker.stdout.readline()
            worker.wait()
            end = time.perf_counter()
        if worker.returncode != 0:
            said.seek(0)
            last = said.read().decode(errors="replace").strip().splitlines()[-15:]
            raise WorkerFailed(f"{way} ended with {worker.returncode}:\n" + "\n".join(last))
    return Taken(json.loads(answer)["seconds"], imports + end - begin, anonymous, resident)


def _environment(python: str) -> dict[str, str]:
    """This process' own; another Python gets none of what leads to this one's packages."""
    left_out = () if python == sys.executable else ("PYTHONPATH", "PYTHONHOME")
    return {name: value for name, value in os.environ.items() if name not in left_out}


def _peaks(pid: int, answers: int) -> tuple[int, int]:
    """Anonymous and resident bytes at their highest, less those at the beginning."""
    first = _status(pid)
    anonymous, resident = first
    while not select.select([answers], [], [], _PERIOD)[0]:
        now = _status(pid)
        anonymous, resident = max(anonymous, now[0]), max(resident, now[1])
    return anonymous - first[0], resident - first[1]


def _status(pid: int) -> tuple[int, int]:
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    if "RssAnon" not in fields:  # it is ending
        return 0, 0
    kib = {name: int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem", "VmRSS")}
    return 1024 * (kib["RssAnon"] + kib["RssShmem"]), 1024 * kib["VmRSS"]
