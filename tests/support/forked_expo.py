"""A warm parent that forks extrapolations of a checkpoint and ends them at a chosen moment.

A process of its own for the reason that forked_search.py is one. Read one JSON object a line on
standard input: `recipe` (arguments of `Recipe`), `out`, `resume`, `log` (a file for standard
error), and to end the run either `step`, after which of the calls that change the disk it is killed
(kill −9 by itself, before that call), or `signal` and `after` (seconds). Answers with one JSON
line: `code` (2 for an ExpoError, 130 for KeyboardInterrupt, negative for a signal), `steps` made,
`seconds`, and `late`, those between the signal and the end.
"""

import json
import os
import signal
import sys
import time
import traceback

import torch

from w2s.errors import ExpoError
from w2s.expo import pieces, writer
from w2s.expo.recipe import Recipe
from w2s.expo.run import extrapolate_checkpoint

PIECE, HELD = 1 << 14, 1 << 13
CHANGES = ("mkdir", "posix_fallocate", "pwrite", "fsync", "replace", "rename", "unlink", "rmdir")


class Steps:
    """Counts the calls that change the disk, and kills the process before one of them."""

    def __init__(self, last):
        self.made, self._last = 0, last
        for name in CHANGES:
            setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, call):
        def counted(*arguments, **options):
            if self.made == self._last:
                os.kill(os.getpid(), signal.SIGKILL)
            self.made += 1
            return call(*arguments, **options)

        return counted


def child(order, tells):
    """Runs the extrapolation; never returns."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        pieces.PIECE, writer.HELD = PIECE, HELD
        steps = Steps(order.get("step"))
        try:
            extrapolate_checkpoint(Recipe(**order["recipe"]), order["out"], resume=order["resume"])
            code = 0
        except ExpoError as error:
            print(error, file=sys.stderr)
            code = 2
        except KeyboardInterrupt:
            code = 130
        os.write(tells, str(steps.made).encode())
    except KeyboardInterrupt:  # before or after the extrapolation
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def serve():
    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        began = time.monotonic()
        hears, tells = os.pipe()
        number = os.fork()
        if number == 0:
            child(order, tells)
        os.close(tells)
        if order.get("signal"):
            time.sleep(order["after"])
            os.kill(number, order["signal"])
        sent = time.monotonic()
        _, status = os.waitpid(number, 0)
        with os.fdopen(hears) as told:
            steps = int(told.read() or 0)
        now = time.monotonic()
        code = os.waitstatus_to_exitcode(status)
        answer = {"code": code, "steps": steps, "seconds": now - began, "late": now - sent}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
