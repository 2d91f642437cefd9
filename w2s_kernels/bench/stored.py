"""Result files as they were written by `python -m w2s_kernels.bench OP --json`, by
`bench/end_to_end/public_way.py --json`, by `bench/training/train_speed.py --json` and by
`bench/expo/expo_speed.py --json`, read back and checked; the report of `w2s reproduce report
--json` is known and left aside. Imports without torch.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .stored_expo import ExpoFile, expo_file
from .stored_parts import Stamp, number, read_stamp

# The options that say an op's size, in the order of the command line.
OPTIONS: dict[str, tuple[str, ...]] = {
    "logprob": ("rows", "vocab", "dtype"),
    "logprob_stats": ("rows", "vocab", "dtype"),
    "logprob_diff": ("rows", "vocab", "dtype"),
    "linear_logprob": ("rows", "vocab", "dim", "dtype"),
    "linear_logprob_diff": ("rows", "vocab", "dim", "dtype"),
    "guided_logits": ("rows", "vocab", "dtype"),
    "guided_sample": ("rows", "vocab", "dtype", "k"),
    "guided_topk": ("rows", "vocab", "dtype", "k"),
    "segment_score_": ("rows",),
    "select_beams": ("rows",),
    "gather_beams_": ("dtype", "k"),
    "extrapolate": ("rows", "vocab", "dtype"),
}
_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


class BadFile(Exception):
    """A file that cannot be shown; the message is one sentence that names it."""


@dataclass(frozen=True)
class Row:
    """A provider's seconds and errors."""

    provider: str
    cold: tuple[float, float, float]  # lower quartile, median, upper quartile
    hot: float
    ratio: float | None  # error over the op's allowance
    right: bool


@dataclass(frozen=True)
class Sized:
    """One op at one size. size: option → value. read, exp: bytes and exponentials a second of the
    machine. providers: all that were asked; rows: those that ran; absent: why the others did not.
    """

    op: str
    device: str
    size: Mapping[str, int | str]
    least_bytes: float
    exps: float
    read: float
    exp: float
    floor: float
    providers: tuple[str, ...]
    rows: tuple[Row, ...]
    absent: Mapping[str, str]

    def seconds(self, *providers: str) -> float | None:
        """The least median (cold) among the providers that were measured."""
        found = [row.cold[1] for row in self.rows if row.provider in providers]
        return min(found, default=None)

    @property
    def dtype(self) -> str:
        """fp32, bf16 or fp16; empty for an op that has no choice of it."""
        return str(self.size.get("dtype", ""))

    def __str__(self) -> str:
        letters = {"rows": "N", "vocab": "V", "dim": "D", "k": "k"}
        parts = [f"{letters[n]}={v}" for n, v in self.size.items() if n in letters]
        return " ".join([*parts, self.dtype]).strip()


@dataclass(frozen=True)
class OpFile:
    """What `python -m w2s_kernels.bench OP --json` wrote."""

    name: str
    stamp: Stamp
    results: tuple[Sized, ...]

    @property
    def op(self) -> str:
        """The one op of the file."""
        return self.results[0].op


@dataclass(frozen=True)
class SearchRun:
    """One number of prompts, ours and public: seconds of each run, median seconds by part, peak."""

    prompts: int
    seconds: Mapping[str, tuple[float, ...]]
    parts: Mapping[str, Mapping[str, float]]
    outside: float  # share of our time outside the forwards
    peak: Mapping[str, float] | None  # bytes above the weights


@dataclass(frozen=True)
class SearchFile:
    """What `bench/end_to_end/public_way.py --json` wrote."""

    name: str
    stamp: Stamp
    models: str
    dtype: str
    device: str
    threads: int
    prompt_tokens: int
    new_tokens: int
    runs: tuple[SearchRun, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts of a search, in the file's order."""
        return tuple(self.runs[0].parts["ours"]) if self.runs else ()


@dataclass(frozen=True)
class TrainingWay:
    """One way to a training step: seconds of each step, distance of its gradients to plain torch's,
    peak bytes above weights and optimiser."""

    seconds: tuple[float, ...]
    far: float
    peak: float | None


@dataclass(frozen=True)
class TrainingRun:
    """One kind of training on one shape; ways by name."""

    shape: str
    kind: str
    threads: int
    vocab: int
    dim: int
    layers: int
    tokens: int
    targets: int
    ways: Mapping[str, TrainingWay]


@dataclass(frozen=True)
class TrainingFile:
    """What `bench/training/train_speed.py --json` wrote."""

    name: str
    stamp: Stamp
    device: str
    dtype: str
    rounds: int
    loss_tolerance: float
    gradient_tolerance: float
    absent: Mapping[str, str]
    runs: tuple[TrainingRun, ...]


@dataclass(frozen=True)
class ExperimentFile:
    """What `w2s reproduce report --json` or `w2s expo sweep` wrote: judged texts, no timings."""

    name: str
    experiment: str


ResultFile = OpFile | SearchFile | TrainingFile | ExpoFile | ExperimentFile


def read_all(given: Iterable[Path]) -> list[ResultFile]:
    """All files, and all `*.json` of folders, sorted by name; `BadFile` for the first bad one.

    What lies in a folder called `gpu` is the GPU suite's, which has pages of its own.
    """
    found: dict[str, Path] = {}
    for path in given:
        inside = [path]
        if path.is_dir():
            inside = sorted(f for f in path.rglob("*.json") if f.parent.name != "gpu")
        if not inside:
            raise BadFile(f"{path} holds no .json file; write some with --json")
        for file in inside:
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            if found.setdefault(name, file).resolve() != file.resolve():
                raise BadFile(f"{found[name]} and {file} have the same name; rename one of them")
    return [read(path, name) for name, path in sorted(found.items())]


def read(path: Path, name: str) -> ResultFile:
    """One file, to be called `name` on the page; `BadFile` when it is not a result file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if "experiment" in data:
            return _experiment_file(name, data)
        if "training" in data:
            return _training_file(name, data)
        if "expo" in data:
            return expo_file(name, data)
        if "runs" in data:
            return _search_file(name, data)
        return _op_file(name, data)
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror}") from error
    except KeyError as error:
        why = f"it has no {error}"
    except (TypeError, ValueError, AttributeError) as error:
        why = str(error)
    raise BadFile(
        f"{path} is not a result file of python -m w2s_kernels.bench OP --json, of "
        "bench/end_to_end/public_way.py --json, of bench/training/train_speed.py --json, of "
        f"bench/expo/expo_speed.py --json or of w2s reproduce report --json: {why}"
    )


def _op_file(name: str, data: Any) -> OpFile:
    results = tuple(_sized(result) for result in data["results"])
    if len({(result.op, result.device) for result in results}) != 1:
        raise ValueError("it does not hold results of just one op on one device")
    return OpFile(name, read_stamp(data["stamp"]), results)


def _sized(data: Any) -> Sized:
    if data["op"] not in OPTIONS:
        raise ValueError(f"{data['op']!r} is not an op of the bench")
    size = {option: data["size"][option] for option in OPTIONS[data["op"]]}
    for option, value in size.items():
        if option == "dtype":
            size[option] = _DTYPES[value]
        else:
            size[option] = int(number(value, option))
    return Sized(
        op=data["op"],
        device=str(data["size"]["device"]),
        size=size,
        least_bytes=number(data["least_bytes"], "least_bytes", zero=True),
        exps=number(data["exps"], "exps", zero=True),
        read=number(data["read"], "read"),
        exp=number(data["exp"], "exp"),
        floor=number(data["floor"], "floor"),
        providers=tuple(str(row["provider"]) for row in data["rows"]),
        rows=tuple(_row(row) for row in data["rows"] if row["absent"] is None),
        absent={r["provider"]: str(r["absent"]) for r in data["rows"] if r["absent"] is not None},
    )


def _row(data: Any) -> Row:
    cold, ratio = data["cold"], data["ratio"]
    return Row(
        provider=str(data["provider"]),
        cold=(
            number(cold["lower"], "lower"),
            number(cold["median"], "median"),
            number(cold["upper"], "upper"),
        ),
        hot=number(data["hot"]["median"], "median"),
        ratio=None if ratio is None else float(ratio),
        right=bool(data["right"]),
    )


def _search_file(name: str, data: Any) -> SearchFile:
    return SearchFile(
        name=name,
        stamp=read_stamp(data["stamp"]),
        models=str(data["models"]),
        dtype=str(data["dtype"]),
        device=str(data["device"]),
        threads=int(number(data["threads"], "threads")),
        prompt_tokens=int(number(data["prompt_tokens"], "prompt_tokens")),
        new_tokens=int(number(data["new_tokens"], "new_tokens")),
        runs=tuple(_search_run(run) for run in data["runs"]),
    )


def _search_run(data: Any) -> SearchRun:
    who = ("public", "ours")
    peak = data.get("peak_bytes")
    return SearchRun(
        prompts=int(number(data["prompts"], "prompts")),
        seconds={w: tuple(number(s, "seconds") for s in data["seconds"][w]) for w in who},
        parts={w: {p: number(s, p, zero=True) for p, s in data["parts"][w].items()} for w in who},
        outside=number(data["outside_share"], "outside_share", zero=True),
        peak=peak and {w: number(peak[w], "peak_bytes") for w in who},
    )


def _training_file(name: str, data: Any) -> TrainingFile:
    tolerance = data["tolerance"]
    runs = tuple(_training_run(run) for run in data["training"])
    if not runs:
        raise ValueError("training holds no run")
    return TrainingFile(
        name=name,
        stamp=read_stamp(data["stamp"]),
        device=str(data["device"]),
        dtype=str(data["dtype"]),
        rounds=int(number(data["rounds"], "rounds")),
        loss_tolerance=number(tolerance["loss"], "tolerance"),
        gradient_tolerance=number(tolerance["gradient"], "tolerance"),
        absent={str(way): str(why) for way, why in data["absent"].items()},
        runs=runs,
    )


def _training_run(data: Any) -> TrainingRun:
    numbers = {
        key: int(number(data[key], key))
        for key in ("threads", "vocab", "dim", "layers", "tokens", "targets")
    }
    ways = {str(way): _training_way(found) for way, found in data["ways"].items()}
    if not ways:
        raise ValueError("a run of training holds no way")
    return TrainingRun(shape=str(data["shape"]), kind=str(data["kind"]), **numbers, ways=ways)


def _training_way(data: Any) -> TrainingWay:
    seconds = tuple(number(second, "seconds") for second in data["seconds"])
    if not seconds:
        raise ValueError("a way of training has no seconds")
    peak = data.get("peak_bytes")
    return TrainingWay(
        seconds=seconds,
        far=number(data["far"]["gradient"], "far", zero=True),
        peak=None if peak is None else number(peak, "peak_bytes", zero=True),
    )


def _experiment_file(name: str, data: Any) -> ExperimentFile:
    known = ("sentiment", "expo sweep")
    if data["experiment"] not in known:
        raise ValueError(f"experiment is {data['experiment']!r}, not one of {known}")
    return ExperimentFile(name, data["experiment"])
