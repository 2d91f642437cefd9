"""Commands of this repository, run within what is left of a part's time."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_TAIL = 4000  # characters of output that are kept


@dataclass(frozen=True)
class Done:
    """code: the exit status, None for a command that was stopped when its time was over."""

    code: int | None
    seconds: float
    tail: str


def run(command: Sequence[str], seconds: float, **environment: str) -> Done:
    """Runs in the repository, with what this process imports from; output on the terminal too."""
    began, lines = time.monotonic(), []
    process = subprocess.Popen(
        list(command),
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        os.killpg(process.pid, signal.SIGKILL)

    clock = threading.Timer(max(1.0, seconds), stop)
    clock.start()
    try:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
        code = process.wait()
    finally:
        clock.cancel()
    took = time.monotonic() - began
    return Done(None if stopped.is_set() else code, took, "".join(lines)[-_TAIL:])


def pytest(*arguments: str) -> list[str]:
    """pytest with this Python, without the plugins' caches."""
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", *arguments]
