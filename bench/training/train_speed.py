"""Training steps of `w2s train` beside plain torch and torch's F.linear_cross_entropy.

    python bench/training/train_speed.py --shapes pair smollm2 llama3 --threads 1 2 \\
        --json bench/results/training.json

Steps are those of the loop behind `w2s train sft` and `w2s train dpo` (clipping and AdamW are part
of them) on one model and one batch; the ways take turns. Before anything is timed the ways' losses
and gradients must agree with plain torch's, or the exit code is 1, and every timed step's loss must
be the same again.

Memory: the high-water mark of the resident set over a second step, in a fresh process for each,
less what was resident after the first: weights, AdamW's moments and the batch. So it holds the
gradients and whatever the way keeps.
"""

import argparse
import ctypes
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

# Also where PYTHONSAFEPATH leaves them out.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))

import peak_memory
import torch
from training_tasks import KINDS, SHAPES, Task, make_task
from training_ways import OURS, PLAIN, WAYS, Way

from w2s.train.loop import Step, StepReport, optimise
from w2s_kernels.bench.report import stamp

# Against plain torch, both fp32. Losses: relative to 1 + |loss|. Gradients: the norm of a
# parameter's difference over the norm of its gradient.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4
_CPU = torch.device("cpu")


class Disagreement(Exception):
    """Two ways give another loss or gradient; the message says which and by how much."""


def agreement(task: Task, ways: Iterable[Way]) -> tuple[float, dict[str, dict[str, float]]]:
    """Plain torch's loss, and each way's distance to it and to its gradients.

    Raises:
        Disagreement: a distance is over its tolerance.
    """
    loss, gradients = _derived(task, WAYS[PLAIN])
    found = {}
    for way in ways:
        other, theirs = (loss, gradients) if way.name == PLAIN else _derived(task, way)
        far = {
            "loss": abs(other - loss) / (1 + abs(loss)),
            "gradient": max(
                float((theirs[name] - mine).norm() / mine.norm().clamp(min=1e-30))
                for name, mine in gradients.items()
            ),
        }
        found[way.name] = far
        for what, allowed in (("loss", LOSS_TOLERANCE), ("gradient", GRADIENT_TOLERANCE)):
            if not far[what] <= allowed:  # NaN, too
                raise Disagreement(
                    f"{task.shape}, {task.kind}: the {what} of {way.name} is {far[what]:.1e} away "
                    f"from plain torch's, {allowed:.0e} is allowed"
                )
    return loss, found


def _derived(task: Task, way: Way) -> tuple[float, dict[str, torch.Tensor]]:
    task.policy.module.zero_grad(set_to_none=True)
    loss = task.loss(way)
    loss.backward()
    named = task.policy.module.named_parameters()
    gradients = {name: p.grad for name, p in named if p.grad is not None}
    task.policy.module.zero_grad(set_to_none=True)
    return float(loss.detach()), gradients


def timed(task: Task, ways: Sequence[Way], rounds: int, loss: float) -> dict[str, list[float]]:
    """Seconds of each way's steps; each round a step of every way, the first round not counted.

    Raises:
        Disagreement: a step's loss is not `loss`.
    """
    # Each round begins with another way, so that none always follows the same one.
    turns = [ways[(i + shift) % len(ways)] for shift in range(rounds + 1) for i in range(len(ways))]
    coming = iter(turns)
    marks = [time.perf_counter()]

    def next_step() -> Step:
        return Step(task.loss(next(coming)), task.tokens)

    def on_step(report: StepReport) -> None:
        way = turns[report.step - 1]
        if not abs(report.loss - loss) <= LOSS_TOLERANCE * (1 + abs(loss)):
            raise Disagreement(
                f"{task.shape}, {task.kind}: step {report.step} ({way.name}) has loss "
                f"{report.loss}, not {loss}"
            )
        marks.append(time.perf_counter())

    optimise(task.policy.module, next_step, len(turns), task.config, on_step)
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    for number in range(len(ways), len(turns)):
        seconds[turns[number].name].append(marks[number + 1] - marks[number])
    return seconds


def measure(
    shape: str, kind: str, threads: int, ways: Sequence[Way], rounds: int
) -> dict[str, Any]:
    """One entry of the report, but for memory."""
    torch.set_num_threads(threads)
    task = make_task(shape, kind, (rounds + 1) * len(ways))
    loss, far = agreement(task, ways)
    seconds = timed(task, ways, rounds, loss)
    made = SHAPES[shape]
    return {
        "shape": shape, "kind": kind, "threads": threads,
        "vocab": made.vocab, "dim": made.width, "layers": made.layers,
        "tokens": task.tokens, "targets": task.targets, "loss": loss,
        "ways": {way.name: {"seconds": seconds[way.name], "far": far[way.name]} for way in ways},
    }  # fmt: skip


def step_peak(shape: str, kind: str, threads: int, name: str) -> int:
    """Bytes of a step above weights and optimiser; to be called in a fresh process."""
    torch.set_num_threads(threads)
    task = make_task(shape, kind, 2)
    before = 0

    def on_step(report: StepReport) -> None:
        nonlocal before
        if report.step == 1:
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc keeps freed pages
            if trim is not None:
                trim(0)
            before = peak_memory.start(_CPU)

    def next_step() -> Step:
        return Step(task.loss(WAYS[name]), task.tokens)

    optimise(task.policy.module, next_step, 2, task.config, on_step)
    return peak_memory.highest(_CPU) - before


def add_peaks(runs: Sequence[dict[str, Any]]) -> Iterable[None]:
    """Adds each way's peak to its runs, whatever their threads; yields after each run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([Path(__file__).stem])  # import once, fork for each peak
    peaks: dict[tuple[str, str, str], int] = {}
    for run in runs:
        for name, way in run["ways"].items():
            key = (run["shape"], run["kind"], name)
            if key not in peaks:
                with ProcessPoolExecutor(1, context) as fresh:
                    peaks[key] = fresh.submit(step_peak, *key[:2], run["threads"], name).result()
            way["peak_bytes"] = peaks[key]
        yield


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    head = ["shape", "training", "threads", "way", "s a step", "tokens/s", "against ours", "peak"]
    lines = [head, ["---"] * 4 + ["---:"] * 4]
    for run in report["training"]:
        ours = run["ways"].get(OURS)
        for name, way in run["ways"].items():
            middle = statistics.median(way["seconds"])
            spread = f"{middle:.3f} ({min(way['seconds']):.3f} to {max(way['seconds']):.3f})"
            against = f"{middle / statistics.median(ours['seconds']):.2f} ×" if ours else ""
            peak = f"{way['peak_bytes'] / 1e6:.0f} MB" if "peak_bytes" in way else ""
            lines.append([run["shape"], run["kind"], str(run["threads"]), name, spread,
                          f"{run['tokens'] / middle:.0f}", against, peak])  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shapes", choices=SHAPES, nargs="+", default=["pair", "smollm2", "llama3"]
    )
    parser.add_argument("--kinds", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=list(WAYS), metavar="WAY",
                        help="; ".join(WAYS))  # fmt: skip
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each way")
    parser.add_argument("--no-memory", action="store_true", help="leave the memory runs out")
    parser.add_argument("--json", type=Path, help="write the report there, after every part of it")
    given = parser.parse_args(arguments)
    if min(*given.threads, given.rounds) < 1:
        parser.error("--threads and --rounds are at least 1")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; 1 when the ways disagree."""
    given = _arguments(arguments)
    ways = [WAYS[name] for name in given.ways if WAYS[name].absent is None]
    absent = {name: WAYS[name].absent for name in given.ways if WAYS[name].absent}
    for name, why in absent.items():
        print(f"{name}: absent, {why}", file=sys.stderr)
    report: dict[str, Any] = {
        "stamp": stamp(), "device": "cpu", "dtype": "float32", "rounds": given.rounds,
        "tolerance": {"loss": LOSS_TOLERANCE, "gradient": GRADIENT_TOLERANCE},
        "absent": absent, "training": [],
    }  # fmt: skip

    def write() -> None:
        if given.json:
            given.json.parent.mkdir(parents=True, exist_ok=True)
            given.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    try:
        for shape in given.shapes:
            for kind in given.kinds:
                for threads in given.threads:
                    run = measure(shape, kind, threads, ways, given.rounds)
                    report["training"].append(run)
                    write()
                    print(f"{shape}, {kind}, {threads} threads: losses and gradients agree, timed",
                          file=sys.stderr, flush=True)  # fmt: skip
    except Disagreement as error:
        print(f"the ways disagree: {error}", file=sys.stderr)
        return 1
    if not given.no_memory:
        for _ in add_peaks(report["training"]):
            write()
    print(table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
