"""What ops, search and `w2s expo` are held to on a CPU, and whether stored results keep it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median

from .stored import OpFile, ResultFile, SearchFile, Sized
from .stored_expo import OURS, STATES, ExpoFile

FLOOR = "logprob_diff, N=256: at least 85 % of the floor"
EAGER = "logprob_diff, N=256, fp32: at least 8 × as fast as eager torch"
COMPILE = "logprob_diff, N=256, fp32: at least 2.5 × as fast as torch.compile"
PRODUCTS = "linear_logprob_diff, N ≥ 16: at most 1.10 × the bare matrix products"
SAMPLE = "guided_sample, N=16, V=49152, k=50: at most 2 × a sum of the inputs"
MOVES = "gather_beams_: at most 1.5 × the moved bytes at reading speed"
ONE = "search, 1 prompt: at least 4 × as fast as the public way"
EIGHT = "search, 8 prompts: at least 8 × as fast as the public way"
OUTSIDE = "search: at most 5 % of the time outside the forwards"
MEMORY = "search: at most 1/5 of the public way's memory above the weights"
EXPO = "w2s expo: at least 90 % of the speed of plain copying"
EXPO_MEMORY = "w2s expo: at most four times the largest tensor and 200 MiB above the imports"
ALL = (
    FLOOR, EAGER, COMPILE, PRODUCTS, SAMPLE, MOVES, ONE, EIGHT, OUTSIDE, MEMORY, EXPO, EXPO_MEMORY,
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """A target and what was measured: `figure` is text, for the table."""

    target: str
    size: str
    file: str
    threads: int
    figure: str
    reached: bool


def verdicts(files: Iterable[ResultFile]) -> list[Verdict]:
    """One for each target and measured size that it speaks of, in the order of `ALL`.

    Training has no target of its own; an experiment's report none that could be missed here.
    """
    found: list[Verdict] = []
    for file in files:
        if isinstance(file, SearchFile):
            found += _of_search(file)
        elif isinstance(file, ExpoFile):
            found += _of_expo(file)
        elif isinstance(file, OpFile):
            for result in file.results:
                if result.device == "cpu":
                    found += [
                        Verdict(target, str(result), file.name, file.stamp.threads, figure, reached)
                        for target, figure, reached in _of_op(result)
                    ]
    return sorted(found, key=lambda verdict: ALL.index(verdict.target))


def _of_op(result: Sized) -> Iterator[tuple[str, str, bool]]:
    ours = next((row for row in result.rows if row.provider == "ours"), None)
    if ours is None:
        return
    lower, middle, upper = ours.cold
    size = result.size
    if result.op == "logprob_diff" and size["rows"] == 256:
        share = result.floor / middle
        spread = f"{result.floor / upper:.0%} to {result.floor / lower:.0%}"
        yield FLOOR, f"{share:.1%} (quartiles {spread})", share >= 0.85
        if result.dtype == "fp32":
            for target, other, least in ((EAGER, "eager", 8.0), (COMPILE, "compile", 2.5)):
                seconds = result.seconds(other)
                if seconds is not None:
                    yield target, f"{seconds / middle:.2f} ×", seconds / middle >= least
    if result.op == "linear_logprob_diff" and int(size["rows"]) >= 16:
        seconds = result.seconds("products fp32", "products native")
        if seconds is not None:
            yield PRODUCTS, f"{middle / seconds:.3f} ×", middle / seconds <= 1.10
    if result.op == "guided_sample" and (size["rows"], size["vocab"], size["k"]) == (16, 49152, 50):
        seconds = result.seconds("sum of the inputs")
        if seconds is not None:
            yield SAMPLE, f"{middle / seconds:.3f} ×", middle / seconds <= 2.0
    if result.op == "gather_beams_":
        yield MOVES, f"{middle / result.floor:.3f} ×", middle / result.floor <= 1.5


def _of_search(file: SearchFile) -> Iterator[Verdict]:
    if file.device != "cpu" or (file.prompt_tokens, file.new_tokens) != (32, 50):
        return
    for run in file.runs:
        size = f"{file.models}, {file.dtype}, {run.prompts} prompt{'s'[: run.prompts > 1]}"

        def verdict(target: str, figure: str, reached: bool, size: str = size) -> Verdict:
            return Verdict(target, size, file.name, file.threads, figure, reached)

        faster = median(run.seconds["public"]) / median(run.seconds["ours"])
        for prompts, target, least in ((1, ONE, 4.0), (8, EIGHT, 8.0)):
            if run.prompts == prompts:
                yield verdict(target, f"{faster:.2f} ×", faster >= least)
        yield verdict(OUTSIDE, f"{run.outside:.1%}", run.outside <= 0.05)
        if run.peak is not None:
            less = run.peak["public"] / run.peak["ours"]
            yield verdict(MEMORY, f"1/{less:.2f}", less >= 5.0)


def _of_expo(file: ExpoFile) -> Iterator[Verdict]:
    for name in OURS:
        if name not in file.ways:
            continue
        size = f"{file.checkpoint / 1e9:.1f} GB, {name}"

        def verdict(target: str, figure: str, reached: bool, size: str = size) -> Verdict:
            return Verdict(target, size, file.name, file.stamp.threads, figure, reached)

        for state in STATES:
            share = file.of_plain(name, state)
            if share is not None:
                figure = f"{share[1]:.0%} {state} ({share[0]:.0%} to {share[2]:.0%})"
                yield verdict(EXPO, figure, share[1] >= 0.9)
        peak, allowed = file.ways[name].peak, 4 * file.largest + (200 << 20)
        figure = f"{peak / 1e6:.0f} MB of {allowed / 1e6:.0f} MB"
        yield verdict(EXPO_MEMORY, figure, peak <= allowed)
