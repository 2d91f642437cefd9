"""The ExPO section of the page: `w2s expo` beside plain copying and mergekit."""

from statistics import median

from .stored_expo import OURS, STATES, ExpoFile
from .tables import table as _table

INTRODUCTION = """## Extrapolating checkpoints (ExPO)

`w2s expo` on a pair of checkpoints on disk, rounding to nearest or stochastically, beside *plain*
copying (both checkpoints read and one of them written, block after block, with fsync), the same
with *a thread* for each of the three, and mergekit's `task_arithmetic` as it comes and *in shards*
as small as the inputs', written from a thread (`bench/expo/`). *hot*: the pair lies in the page
cache; *cold*: it does not. Seconds are those of the work, imports done, until the result is on the
disk: medians (least to most); *whole process* has imports and exit as well. *GB/s* counts both
inputs and the result. **of plain**: plain copying's time in the same round over the way's, median
(least to most). *Peak* is anonymous memory above that after the imports. *units* is the largest
distance from float64, in units in the last place of the largest of θ₀, θ₁ and the exact result: 0.5
is rounding to nearest, stochastic rounding stays below 1."""


def expo_part(file: ExpoFile, folder: str) -> str:
    """One file's section; `folder` is where its command writes it again."""
    parts = [
        f"### {file.name.removesuffix('.json')}",
        f"Two {file.dtype} checkpoints of {file.checkpoint / 1e9:.2f} GB, {file.layers} layers, "
        f"V={file.vocab}, largest tensor {file.largest / 1e6:.0f} MB; {file.rounds} rounds. "
        f"{file.stamp.line('cpu')}.",
        f"```\n{_command(file, folder)}\n```",
        table(file),
    ]
    if file.absent:
        absent = "; ".join(f"{name} ({why})" for name, why in file.absent.items())
        parts.append(f"Absent: {absent}.")
    return "\n\n".join(parts)


def table(file: ExpoFile) -> str:
    """Every way in every state, as Markdown."""
    head = ("way", "pair", "s", "whole process, s", "GB/s", "of plain", "peak", "units")
    lines = []
    for name, way in file.ways.items():
        first = f"w2s expo, {name}" if name in OURS else name
        last = [f"{way.peak / 1e6:.0f} MB", "" if way.units is None else f"{way.units:.3g}"]
        for state in STATES:
            seconds = way.call[state]
            of_plain = file.of_plain(name, state)
            share = ""
            if of_plain is not None:
                share = f"{of_plain[1]:.0%} ({of_plain[0]:.0%} to {of_plain[2]:.0%})"
            lines.append([
                first, state, f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})",
                f"{median(way.process[state]):.1f}", f"{file.rate(name, state) / 1e9:.2f}", share,
                *last,
            ])  # fmt: skip
            first, last = "", ["", ""]
    return _table(head, 2, lines)


def _command(file: ExpoFile, folder: str) -> str:
    words = ["python bench/expo/expo_speed.py", f"--gigabytes {file.checkpoint / 1e9 - 0.01:.2f}"]
    names = [*file.ways, *file.absent]
    words += ["--ways", *(f"'{name}'" if " " in name else name for name in names)]
    if any(name.startswith("mergekit") for name in file.ways):
        words.append("--mergekit build/peers/mergekit/bin/python")
    return " ".join([*words, f"--rounds {file.rounds} --json {folder}/{file.name}"])
