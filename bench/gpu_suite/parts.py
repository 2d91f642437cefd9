"""The parts of `make gpu`, each at most ten minutes; what they find goes to the store at once."""

import functools
import json
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import commands
from .store import Store

LIMIT = 600.0  # seconds of a part
_SPARE = 20.0  # of those, for ending in good order
_SANITIZER = ("compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer")


@dataclass
class Run:
    """What a part is told: where to put its findings, on what to run, how long.

    tiny: sizes that any machine does in a moment, to try the suite itself.
    """

    store: Store
    device: str
    tiny: bool
    ends: float

    @property
    def left(self) -> float:
        """Seconds until this part must have ended."""
        return self.ends - time.monotonic() - _SPARE

    def enough(self, seconds: float, what: str) -> bool:
        """Whether there is time for one more step; what is left out is written down."""
        if self.left >= seconds:
            return True
        self.store.add("left out", what=what, why=f"{self.left:.0f} s were left of the part")
        print(f"left out: {what}", flush=True)
        return False


class PartFailed(Exception):
    """A part found something wrong; the message is a sentence."""


def _tests(run: Run) -> None:
    """Every op against float64, all dtypes; searches; no host waits in the loop."""
    environment = {} if run.device == "cuda" else {"W2S_GPU_TESTS_ON": run.device}
    chosen = ["tests/gpu/test_ops_on_the_device.py", "-k", "entropy"] if run.tiny else ["tests/gpu"]
    done = commands.run(commands.pytest(*chosen), run.left, **environment)
    run.store.add("command", name="tests/gpu", **asdict(done))
    if done.code != 0:
        raise PartFailed(f"tests/gpu ended with {done.code}")


def _sanitizer(run: Run) -> None:
    tool = next((path for name in _SANITIZER if (path := shutil.which(name))), None)
    if tool is None:
        run.store.add("left out", what="compute-sanitizer", why="it is not installed")
        print("compute-sanitizer: absent, not installed", flush=True)
        return
    small = "not 128256 and not search and not host"
    for check in ("memcheck", "racecheck"):
        if not run.enough(60, f"compute-sanitizer {check}"):
            return
        command = [
            tool, "--tool", check, "--error-exitcode", "9", "--target-processes", "all",
            *commands.pytest("tests/gpu/test_ops_on_the_device.py", "-k", small, "-x"),
        ]  # fmt: skip
        # Without the caching allocator an access beyond a tensor is one beyond its memory.
        done = commands.run(command, run.left / 2, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        run.store.add("command", name=f"compute-sanitizer {check}", **asdict(done))
        if done.code not in (0, None):
            raise PartFailed(f"compute-sanitizer {check} ended with {done.code}")


def _ceilings(run: Run) -> None:
    from . import device_ceilings

    found = device_ceilings.measure(run.device, tiny=run.tiny, seconds=1 if run.tiny else 20)
    run.store.add("ceilings", **asdict(found), product=found.product)
    print(
        f"reads {found.read / 1e9:.0f} GB/s, copies {found.copy / 1e9:.0f} GB/s, multiplies "
        f"{found.product / 1e12:.0f} TFLOP/s in bf16",
        flush=True,
    )


def _ops(table: str) -> Callable[[Run], None]:
    def run_ops(run: Run) -> None:
        from w2s_kernels.bench import report
        from w2s_kernels.bench.__main__ import CASES
        from w2s_kernels.bench.measure import measure

        from . import device_ceilings, sizes

        ceilings = device_ceilings.measure(run.device, tiny=run.tiny, seconds=1 if run.tiny else 4)
        run.store.add("ceilings", **asdict(ceilings), product=ceilings.product)
        wrong = []
        for measured in getattr(sizes, table):
            one = sizes.tiny(measured, run.device) if run.tiny else measured
            if not run.enough(75 if not run.tiny else 0, f"{one.op} {one.size}"):
                continue
            case = CASES[one.op]
            asked = [name for name in one.providers.split(",") if name in case.providers]
            result = measure(
                case, one.size, asked, seconds=0 if run.tiny else 8, check=True, say=print
            )
            run.store.add("op", target=one.target, **result.as_dict())
            print(report.text(result), end="\n\n", flush=True)
            wrong += [f"{one.op} {one.size} {row.provider}" for row in result.rows if not row.right]
        _host_cost(run, table)
        if wrong:
            raise PartFailed(f"beyond the allowed error: {', '.join(wrong)}")

    return run_ops


def _host_cost(run: Run, table: str) -> None:
    """What a warm call costs the host, beside one small torch op."""
    import torch

    from w2s_kernels.bench.__main__ import CASES
    from w2s_kernels.bench.case import Size, moved
    from w2s_kernels.bench.timing import host_seconds

    ops = {"LOGITS": ("logprob", "logprob_diff"), "FEW_ROWS": ("linear_logprob_diff",)}
    for op in ops.get(table, ()):
        size = Size(4, 4096, 128, 5, torch.bfloat16, run.device)
        inputs = moved(CASES[op].inputs(size, 0), run.device)
        call = CASES[op].providers["ours"].call
        small = torch.zeros(8, device=run.device)
        calls = 5 if run.tiny else 500
        with torch.no_grad():
            call(*inputs)
            one = host_seconds(functools.partial(_call, call, inputs), calls)
            torch_op = host_seconds(functools.partial(_call, small.neg_, ()), calls)
        run.store.add("host", op=op, seconds=one, torch_op=torch_op)
        print(f"{op}: a warm call costs the host {one * 1e6:.1f} µs, a torch op "
              f"{torch_op * 1e6:.1f} µs", flush=True)  # fmt: skip


def _call(call: Callable[..., Any], inputs: Sequence[Any], turn: int) -> None:
    call(*inputs)


def _search(models: str, dtype: str) -> Callable[[Run], None]:
    def run_search(run: Run) -> None:
        # 1 prompt, then 8, then memory: a run that is cut off keeps what it had.
        plans: list[tuple[str, Sequence[str], float]] = [
            ("1 prompt", ("--prompts", "1", "--repeats", "3", "--no-memory"), 60),
            ("8 prompts", ("--prompts", "8", "--repeats", "1", "--no-memory"), 150),
            ("memory", ("--prompts", "1", "--repeats", "1"), 90),
        ]
        chosen = "tiny" if run.tiny else models
        for name, options, least in plans[:1] if run.tiny else plans:
            if not run.enough(0 if run.tiny else least, f"search, {chosen}, {name}"):
                continue
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "found.json"
                command = [
                    sys.executable, "bench/end_to_end/public_way.py", "--models", chosen,
                    "--device", run.device, "--dtype", dtype, "--json", str(file), *options,
                    *(("--new-tokens", "10", "--prompt-tokens", "5") if run.tiny else ()),
                ]  # fmt: skip
                done = commands.run(command, run.left)
                report = json.loads(file.read_text()) if file.is_file() else None
            run.store.add("search", name=name, report=report, **asdict(done))
            if done.code not in (0, None):
                raise PartFailed(f"the search of {chosen}, {name}, ended with {done.code}")

    return run_search


RUN: dict[str, Callable[[Run], None]] = {
    "tests": _tests,
    "sanitizer": _sanitizer,
    "ceilings": _ceilings,
    "logits": _ops("LOGITS"),
    "few rows": _ops("FEW_ROWS"),
    "many rows": _ops("MANY_ROWS"),
    "step": _ops("STEP"),
    "search gpt2": _search("gpt2", "float32"),
    "search 7b": _search("7b", "bfloat16"),
}


def run_part(name: str, store: Store, device: str, *, tiny: bool = False) -> str:
    """Runs one part; its state, "done" or what failed, which the store has as well."""
    store.begin(name)
    try:
        RUN[name](Run(store, device, tiny, time.monotonic() + LIMIT))
        state = "done"
    except PartFailed as error:
        state = f"failed: {error}"
    except Exception as error:  # the other parts still run, and what this one had is kept
        traceback.print_exc()
        state = f"failed: {type(error).__name__}: {error}"
    store.end(state)
    return state


def entries(data: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """All findings of a kind in a store's data, with their part's stamp."""
    return [
        {**entry, "stamp": part["stamp"], "part": name}
        for name, part in data["parts"].items()
        for entry in part["entries"]
        if entry["kind"] == kind
    ]
