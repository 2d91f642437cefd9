"""`w2s expo` beside plain copying and mergekit: seconds, bytes a second, memory.

    python bench/expo/expo_speed.py --folder /data --mergekit build/peers/mergekit/bin/python \\
        --json bench/results/expo_speed.json

makes a pair of random bf16 checkpoints of --gigabytes each and has every way make a result of it,
in an order that changes, each time in a fresh process, with the pair in the page cache (hot) and
out of it (cold: posix_fadvise DONTNEED, looked at afterwards). A way's time begins with its imports
done and ends when its result is on the disk (mergekit does no fsync itself; it is added).

*plain* reads both checkpoints and writes one of them again in blocks of 16 MiB, one after the
other, without reflinks or copies inside the kernel; *plain in threads* does the three at once.
mergekit runs as it comes (task_arithmetic), and with shards as small as the inputs', which it
writes from a thread: --out-shard-size, --async-write.

Memory is anonymous and shared memory above that after the imports, in runs of their own that are
not timed, looked at every 2 ms. Results are compared with float64 at both ends of every tensor; one
that is wrong ends the bench with 1. The folder that the bench makes inside --folder is deleted,
unless --keep is given; then the next run takes the pair from it.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # also where PYTHONSAFEPATH leaves it out

import page_cache
from exactness import units_away
from made_pair import Size, make_pair
from watched import Taken, WorkerFailed, run

from w2s_kernels.bench.page_expo import table
from w2s_kernels.bench.report import stamp
from w2s_kernels.bench.stored_expo import expo_file

ALPHA = 0.3
STATES = ("hot", "cold")
_SHARD = 1_000_000_000


@dataclass(frozen=True)
class Way:
    """Who makes the result. worker: a name in worker.py. options: of its command. units: how far
    from float64 its bf16 may be, in units in the last place; None does not compute."""

    worker: str
    options: tuple[str, ...] = ()
    units: float | None = None


WAYS = {
    "plain": Way("plain"),
    "plain in threads": Way("plain in threads"),
    "nearest": Way("w2s", (), 0.5),
    "stochastic": Way("w2s", ("--rounding", "stochastic"), 1.0),
    "mergekit": Way("mergekit", (), 8.0),
    "mergekit in shards": Way(
        "mergekit", ("--out-shard-size", str(_SHARD), "--async-write"), 8.0
    ),
}  # fmt: skip


class WrongResult(Exception):
    """A result that is not the extrapolation; the message says whose and by how much."""


class Bench:
    """One pair in one folder, and the ways that take turns with it."""

    def __init__(self, folder: Path, size: Size, mergekit: str | None) -> None:
        self.size = size
        self.python = {"mergekit": mergekit}
        self.out = folder / "out"
        self._drop()
        self.base, self.aligned = make_pair(folder, size)
        self.weights = sorted(
            [*self.base.glob("*.safetensors"), *self.aligned.glob("*.safetensors")]
        )
        self.config = folder / "mergekit.yml"
        self.config.write_text(
            "merge_method: task_arithmetic\n"
            f"base_model: {self.base}\n"
            f"models:\n- model: {self.aligned}\n  parameters:\n    weight: {1 + ALPHA}\n"
            "dtype: bfloat16\n"
        )

    def take(self, name: str, state: str, *, watch: bool = False) -> tuple[Taken, float | None]:
        """One run, and its distance from float64.

        Raises:
            WrongResult, WorkerFailed, page_cache.StillCached: no figure comes of it.
        """
        way = WAYS[name]
        task = {"base": str(self.base), "aligned": str(self.aligned), "out": str(self.out),
                "alpha": ALPHA, "config": str(self.config), "options": way.options}  # fmt: skip
        python = self.python.get(way.worker) or sys.executable

        def before() -> None:
            os.sync()  # nothing of the run before is still to be written
            (page_cache.heat if state == "hot" else page_cache.cool)(self.weights)

        try:
            taken = run(python, way.worker, task, before, watch=watch)
            return taken, self._checked(name)
        finally:
            self._drop()

    def _checked(self, name: str) -> float | None:
        allowed = WAYS[name].units
        if allowed is None:
            return None
        try:
            found = units_away(self.base, self.aligned, self.out, ALPHA)
        except ValueError as error:
            raise WrongResult(f"{name}: {error}") from error
        if not found <= allowed * (1 + 1e-6):
            raise WrongResult(f"{name} is {found:.3f} units away from float64, not {allowed}")
        return found

    def _drop(self) -> None:
        for left in (self.out, self.out.with_name("out.partial")):
            shutil.rmtree(left, ignore_errors=True)


def measure(bench: Bench, names: Sequence[str], rounds: int, report: dict[str, Any]) -> None:
    """Adds every way's runs to the report: `rounds` of each state, then one for its memory."""
    ways = report["expo"]["ways"]
    for name in names:
        ways[name] = {state: {"call": [], "process": []} for state in STATES} | {"units": None}
    turns = random.Random(0)
    for number in range(rounds):
        for state in STATES:
            # By chance: who follows a way that leaves much memory to take over has it easier.
            for name in turns.sample(names, len(names)):
                taken, units = bench.take(name, state)
                ways[name][state]["call"].append(taken.call)
                ways[name][state]["process"].append(taken.process)
                ways[name]["units"] = units
                print(f"round {number + 1}, {state}, {name}: {taken.call:.2f} s",
                      file=sys.stderr, flush=True)  # fmt: skip
    for name in names:
        taken, _ = bench.take(name, "hot", watch=True)
        ways[name]["peak_anonymous"] = taken.anonymous
        ways[name]["peak_resident"] = taken.resident


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=2.4, help="of each checkpoint at least")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()),
                        help="on the disk that is to be measured; there is room for four such "
                        "checkpoints")  # fmt: skip
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=list(WAYS), metavar="WAY",
                        help="; ".join(WAYS))  # fmt: skip
    parser.add_argument("--mergekit", metavar="PYTHON", help="of an environment that has mergekit, "
                        "as make test-peers makes it: build/peers/mergekit/bin/python")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each way and state")
    parser.add_argument("--keep", action="store_true", help="leave the pair for the next run")
    parser.add_argument("--quick", action="store_true", help="a pair of 22 MB, one round")
    parser.add_argument("--json", type=Path, help="write the report there as well")
    given = parser.parse_args(arguments)
    if given.rounds < 1 or not given.gigabytes > 0:
        parser.error("--rounds is at least 1 and --gigabytes above 0")
    if given.mergekit and not shutil.which(given.mergekit):
        parser.error(f"--mergekit is {given.mergekit!r}, which is no program that can be run")
    given.size = Size.of_gigabytes(given.gigabytes)
    if given.quick:
        given.size, given.rounds = Size(2, 4096, 512, 2048), 1
    needed = 4 * given.size.nbytes
    free = shutil.disk_usage(given.folder).free if given.folder.is_dir() else 0
    if free < needed:
        parser.error(f"--folder {given.folder} has {free / 1e9:.1f} GB free; "
                     f"{needed / 1e9:.1f} GB are needed")  # fmt: skip
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; 1 when a result is wrong or a way fails."""
    given = _arguments(arguments)
    names = [name for name in given.ways if WAYS[name].worker != "mergekit" or given.mergekit]
    absent = {name: "no --mergekit" for name in given.ways if name not in names}
    size: Size = given.size
    report: dict[str, Any] = {
        "stamp": stamp(),
        "expo": {
            "alpha": ALPHA, "dtype": "bfloat16", "rounds": given.rounds, "size": asdict(size),
            "checkpoint_bytes": size.nbytes, "largest_tensor": size.largest,
            "absent": absent, "ways": {},
        },
    }  # fmt: skip
    folder = given.folder / "w2s_expo_bench"
    try:
        measure(Bench(folder, size, given.mergekit), names, given.rounds, report)
    except (WrongResult, WorkerFailed, page_cache.StillCached) as error:
        print(f"no figures: {error}", file=sys.stderr)
        return 1
    finally:
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(table(expo_file("", report)))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
