"""A warm parent that forks runs of the command line and ends them at a chosen moment.

It is a process of its own, which has imported torch and never run an op: a fork of a process with
running threads would inherit their locks. Read one JSON object a line on standard input:
`arguments` (of `w2s`), `log` (a file for standard error), `pause` (seconds that every batch takes
longer) and, to end the run, `signal`, `after` (seconds) and `searching` (counted from the first
batch on, else from the fork). Answers with one JSON line: `code`, negative for a signal,
`seconds`, and `begun`, the place in the input of each batch's first prompt.
"""

import json
import os
import select
import signal
import sys
import time
import traceback

import torch
import transformers.models.llama.modeling_llama  # noqa: F401  (what the children will need)

import w2s.loop
import w2s.proposers.guided  # noqa: F401
from w2s.cli import main
from w2s.cli.models import Models, quiet_transformers


def child(order, begun):
    """Runs the command line; never returns."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        search = Models.search

        def slow(models, prompts, plan, on_chunk, first):
            os.write(begun, f"{first} ".encode())
            time.sleep(order["pause"])
            return search(models, prompts, plan, on_chunk, first)

        Models.search = slow
        code = main(order["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def serve():
    torch.set_num_threads(1)
    quiet_transformers()
    for line in sys.stdin:
        order = json.loads(line)
        began = time.monotonic()
        hears, tells = os.pipe()
        number = os.fork()
        if number == 0:
            child(order, tells)
        os.close(tells)
        if order.get("signal"):
            if order["searching"]:
                select.select([hears], [], [])  # returns, too, when the child has ended
            time.sleep(order["after"])
            os.kill(number, order["signal"])
        _, status = os.waitpid(number, 0)
        with os.fdopen(hears) as told:
            begun = [int(first) for first in told.read().split()]
        answer = {
            "begun": begun,
            "code": os.waitstatus_to_exitcode(status),
            "seconds": time.monotonic() - began,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
