"""`python -m w2s_kernels.bench.page bench/results -o docs/performance.md`: all stored results as a
page.

Takes files and folders of files that `python -m w2s_kernels.bench OP --json FILE`,
`bench/end_to_end/public_way.py --json FILE`, `bench/training/train_speed.py --json FILE` and
`bench/expo/expo_speed.py --json FILE` wrote; a report of `w2s reproduce` among them is only named.
The page depends on the files alone: the same files give the same page. Needs no torch.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from .page_expo import INTRODUCTION as EXPO
from .page_expo import expo_part
from .page_training import INTRODUCTION as TRAINING
from .page_training import training_part
from .stored import (
    OPTIONS,
    BadFile,
    ExperimentFile,
    OpFile,
    ResultFile,
    Row,
    SearchFile,
    Sized,
    TrainingFile,
    read_all,
)
from .stored_expo import ExpoFile
from .tables import table as _table
from .targets import ALL, verdicts

_FOLDER = "bench/results"
_BASELINES = ("eager", "compile", "processors")
_PRODUCTS = ("products fp32", "products native")

_INTRODUCTION = f"""# Performance

<!-- Written by `make performance` (python -m w2s_kernels.bench.page); change
w2s_kernels/bench/page.py instead. -->

How fast the ops are beside plain torch and beside what the machine itself can do, how a whole
search compares with the way the paper's public code works, training with plain torch, and weight
extrapolation with plain copying and mergekit. Every table comes from a file under `{_FOLDER}/`; the
line above it names the machine. **Absolute times belong to that machine, and on a shared one to
that hour. The ratios count**: whoever is compared in a table took turns in one run.

## What the columns mean

* **provider**: who computes. *ours* is what a call of the op gets; *cpu* and *reference* are single
  backends of ours; *eager* and *compile* are plain torch and `torch.compile` of it; *products* are
  the bare matrix products of a linear op and nothing else, in fp32 or in the inputs' own dtype;
  *processors* is a chain of filters as transformers applies them; *sum of the inputs* only reads.
* **floor**: the least time that any implementation can take here: the bytes that must be read at
  the machine's reading speed, or the exponentials at the speed of the first cache, whichever takes
  longer. Both speeds are measured beside each size, in turns with the providers.
* **µs** and **25–75 %**: median and quartiles of a call, on inputs that rotate through at least
  three times the last cache. **hot µs**: the median on one set of inputs, in cache where it fits.
* **GB/s**: those least bytes over the median; **of reading**: that over the reading speed;
  **of the floor**: floor over median.
* **× eager**, **× compile**, **× processors**: how many times as fast as that provider.
  **/ products**: the time over that of the faster bare products.
* **error / allowed**: the largest error against float64 over what the op's contract allows. Only
  our kernels are held to 1 (WRONG beyond it); the others' figures show what they give. Empty: not
  compared.

## Again, on another machine

Each section gives its command. They write files; this makes the page of them:

```
python -m w2s_kernels.bench.page {_FOLDER} -o docs/performance.md
```"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page; 0, or 2 with one sentence for a file that cannot be shown."""
    parser = argparse.ArgumentParser(
        prog="python -m w2s_kernels.bench.page",
        description=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("given", nargs="+", type=Path, metavar="FILE_OR_FOLDER")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/performance.md"))
    given = parser.parse_args(arguments)
    try:
        text = page(read_all(given.given))
    except BadFile as error:
        print(f"python -m w2s_kernels.bench.page: {error}", file=sys.stderr)
        return 2
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(text, encoding="utf-8")
    return 0


def page(files: Sequence[ResultFile]) -> str:
    """The whole page as Markdown; sections in the ops' order, files of one op by name."""
    parts = [_INTRODUCTION, _against_targets(files)]
    for op in OPTIONS:
        mine = [file for file in files if isinstance(file, OpFile) and file.op == op]
        if mine:
            parts += [f"## {op}", *(_op_part(file) for file in mine)]
    searches = [file for file in files if isinstance(file, SearchFile)]
    if searches:
        parts += [_SEARCH, *(_search_part(file) for file in searches)]
    trainings = [file for file in files if isinstance(file, TrainingFile)]
    if trainings:
        parts += [TRAINING, *(training_part(file, _FOLDER) for file in trainings)]
    expos = [file for file in files if isinstance(file, ExpoFile)]
    if expos:
        parts += [EXPO, *(expo_part(file, _FOLDER) for file in expos)]
    experiments = [file.name for file in files if isinstance(file, ExperimentFile)]
    if experiments:
        parts.append(
            f"Not timings, and so not on this page: {', '.join(experiments)} "
            "(`w2s reproduce report --json`, `w2s expo sweep`)."
        )
    return "\n\n".join(parts) + "\n"


def _against_targets(files: Sequence[ResultFile]) -> str:
    found = verdicts(files)
    lines = [
        (v.target, v.size, str(v.threads), v.file.removesuffix(".json"), v.figure,
         "reached" if v.reached else "**missed**")
        for v in found
    ]  # fmt: skip
    reached = sum(verdict.reached for verdict in found)
    parts = [
        "## Against targets",
        f"On CPUs; {reached} of {len(found)} figures reach their target. *file* is the section's "
        "file below, which names the machine.",
    ]
    if lines:
        head = ("target", "size", "threads", "file", "measured", "")
        parts.append(_table(head, len(head), lines))
    open_ones = [target for target in ALL if target not in {v.target for v in found}]
    if open_ones:
        parts.append("Not measured by any of these files:")
        parts.append("\n".join(f"* {target}" for target in open_ones))
    return "\n\n".join(parts)


def _op_part(file: OpFile) -> str:
    first = file.results[0]
    measured = {row.provider for result in file.results for row in result.rows}
    baselines = [name for name in _BASELINES if name in measured]
    products = bool(measured & set(_PRODUCTS))
    head = ["size", "provider", "µs", "25–75 %", "GB/s", "of reading", "of the floor", "hot µs"]
    head += [f"× {name}" for name in baselines] + ["/ products"] * products + ["error / allowed"]
    lines = []
    for result in file.results:
        rate = result.least_bytes / result.floor
        floor = [str(result), "*floor*", _micro(result.floor), "", f"{rate / 1e9:.1f}",
                 f"{rate / result.read:.0%}", "100%"]  # fmt: skip
        lines.append([*floor, *[""] * (len(head) - len(floor))])
        lines += [_cells(result, row, baselines, products=products) for row in result.rows]
    speeds = f"Measured beside the sizes: reading {_range([r.read for r in file.results])} GB/s"
    if first.exps:
        speeds += f", {_range([r.exp for r in file.results])} G exponentials/s"
    parts = [
        f"### {file.name.removesuffix('.json')}",
        f"{file.stamp.line(first.device)}. {speeds}.",
        f"```\n{_op_command(file)}\n```",
        _table(head, 2, lines),
    ]
    absent = dict.fromkeys(
        f"{provider} ({_without_paths(why)})"
        for result in file.results
        for provider, why in result.absent.items()
    )
    if absent:
        parts.append(f"Absent, at some sizes or all: {'; '.join(absent)}.")
    return "\n\n".join(parts)


def _cells(result: Sized, row: Row, baselines: Sequence[str], *, products: bool) -> list[str]:
    lower, middle, upper = row.cold
    rate = result.least_bytes / middle
    cells = ["", row.provider, _micro(middle), f"{_micro(lower)}–{_micro(upper)}",
             f"{rate / 1e9:.1f}", f"{rate / result.read:.0%}", f"{result.floor / middle:.0%}",
             _micro(row.hot)]  # fmt: skip
    for name in baselines:
        seconds = result.seconds(name)
        cells.append("" if seconds is None else f"{seconds / middle:.2f}")
    if products:
        seconds = result.seconds(*_PRODUCTS)
        cells.append("" if seconds is None else f"{middle / seconds:.2f}")
    error = "" if row.ratio is None else f"{row.ratio:.2g}"
    return [*cells, error if row.right else f"{error} WRONG"]


def _micro(seconds: float) -> str:
    value = seconds * 1e6
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _range(rates: Sequence[float]) -> str:
    low, high = f"{min(rates) / 1e9:.1f}", f"{max(rates) / 1e9:.1f}"
    return low if low == high else f"{low} to {high}"


def _without_paths(reason: str) -> str:
    """Reasons may quote a loader's message; where it was installed is nobody's business."""
    return re.sub(r"(?<![\w.])/[^\s:]*/", "", reason)


def _op_command(file: OpFile) -> str:
    first = file.results[0]
    words = ["python -m w2s_kernels.bench", file.op]
    for option in OPTIONS[file.op]:
        values = dict.fromkeys(str(result.size[option]) for result in file.results)
        words += [f"--{option}", ",".join(values)]
    names = ",".join(first.providers)
    words += ["--providers", f"'{names}'" if " " in names else names]
    words += ["--device", first.device.partition(":")[0]]
    if first.device == "cpu":
        words += ["--threads", str(file.stamp.threads)]
    if any(row.ratio is not None for result in file.results for row in result.rows):
        words.append("--check")
    return " ".join([*words, "--json", f"{_FOLDER}/{file.name}"])


_SEARCH = """## A whole search

CBS(4, 4, 5) with a tuned and an untuned small model, beside a re-creation of the public code's way
of working (`bench/end_to_end/`), on the same models and the same draws; equal selections are
required, or there is no file. Seconds are medians (least to most). *Memory* is the peak above the
weights, the public way's with one prompt a call as it works. *Outside the forwards* is the share of
our time that is neither the large forward nor the pair's; the pair's heads are products too, and in
ours they are part of *scoring*, which counts as a forward."""


def _search_part(file: SearchFile) -> str:
    totals, parts = [], []
    for run in file.runs:
        public, ours = run.seconds["public"], run.seconds["ours"]
        memory = ["", "", ""]
        if run.peak is not None:
            memory = [f"{run.peak[who] / 1e6:.0f} MB" for who in ("public", "ours")]
            memory.append(f"1/{run.peak['public'] / run.peak['ours']:.1f}")
        faster = f"{median(public) / median(ours):.2f} ×"
        totals.append([str(run.prompts), _spread(public), _spread(ours), faster, *memory,
                       f"{run.outside:.1%}"])  # fmt: skip
        for who, name in (("public", "public way"), ("ours", "ours")):
            seconds = [f"{run.parts[who].get(part, 0.0):.3f}" for part in file.parts]
            parts.append([str(run.prompts), name, *seconds])
    head = ("prompts", "public way", "ours", "faster", "public peak", "our peak", "memory",
            "outside the forwards")  # fmt: skip
    return "\n\n".join(
        [
            f"### {file.name.removesuffix('.json')}",
            f"{file.models} models, {file.dtype}, {file.prompt_tokens} + {file.new_tokens} tokens. "
            f"{file.stamp.line(file.device)}.",
            f"```\n{_search_command(file)}\n```",
            _table(head, 0, totals),
            "Median seconds by part:",
            _table(("prompts", "who", *file.parts), 2, parts),
        ]
    )


def _spread(seconds: Sequence[float]) -> str:
    middle = f"{median(seconds):.2f} s"
    return middle if len(seconds) == 1 else f"{middle} ({min(seconds):.2f} to {max(seconds):.2f})"


def _search_command(file: SearchFile) -> str:
    prompts = " ".join(str(run.prompts) for run in file.runs)
    repeats = " ".join(str(len(run.seconds["ours"])) for run in file.runs)
    memory = "" if any(run.peak for run in file.runs) else " --no-memory"
    return (
        f"python bench/end_to_end/public_way.py --models {file.models} --device {file.device} "
        f"--dtype {file.dtype} --threads {file.threads} --prompt-tokens {file.prompt_tokens} "
        f"--new-tokens {file.new_tokens} --prompts {prompts} --repeats {repeats}{memory} "
        f"--json {_FOLDER}/{file.name}"
    )


if __name__ == "__main__":
    sys.exit(main())
