"""The training section of the page: steps of `w2s train` beside other ways to the same loss."""

from collections.abc import Sequence
from statistics import median

from .stored import TrainingFile, TrainingRun
from .tables import table

OURS = "ours"
INTRODUCTION = """## Training

A whole step of `w2s train` (forward, backward, clipping, AdamW) by several ways to the same loss
(`bench/training/`), on one model and one batch: *ours* is what `w2s train` does; *plain torch*
makes all logits and takes F.cross_entropy of them, or log_softmax and gather where single log-probs
are wanted (DPO); *F.linear_cross_entropy* is torch's own, as it comes and *in chunks* of 256 rows.
All ways get the counted positions alone, and their gradients must agree, or there is no file.
Seconds are medians (least to most). **ours is × as fast**: the way's time over ours; below 1 ours
is the slower one. *tokens/s* counts the tokens read. *Peak* is memory above the weights and AdamW's
moments, the gradients included. *gradient* is the largest distance of a parameter's gradient to
plain torch's, relative to its norm."""


def training_part(file: TrainingFile, folder: str) -> str:
    """One file's section; `folder` is where its command writes it again."""
    threads = tuple(dict.fromkeys(run.threads for run in file.runs))
    ways = dict.fromkeys(name for run in file.runs for name in run.ways)
    head = ("model", "training", "threads", "way", "s a step", "tokens/s", "ours is × as fast",
            "peak", "gradient")  # fmt: skip
    parts = [
        f"### {file.name.removesuffix('.json')}",
        f"{file.dtype}. {file.stamp.line(file.device, threads)}. Allowed: losses "
        f"{file.loss_tolerance:.0e}, gradients {file.gradient_tolerance:.0e} apart.",
        f"```\n{_command(file, threads, [*ways, *file.absent], folder)}\n```",
        table(head, 4, [line for run in file.runs for line in _lines(run)]),
    ]
    if file.absent:
        absent = "; ".join(f"{name} ({why})" for name, why in file.absent.items())
        parts.append(f"Absent: {absent}.")
    return "\n\n".join(parts)


def _lines(run: TrainingRun) -> list[list[str]]:
    first = [
        f"{run.shape}: V={run.vocab} D={run.dim}, {run.layers} layer{'s'[: run.layers > 1]}",
        f"{run.kind}, {run.targets} targets",
        str(run.threads),
    ]
    lines = []
    for name, way in run.ways.items():
        middle = median(way.seconds)
        spread = f"{middle:.3f} ({min(way.seconds):.3f} to {max(way.seconds):.3f})"
        against = ""
        if name != OURS and OURS in run.ways:
            against = f"{middle / median(run.ways[OURS].seconds):.2f}"
        peak = "" if way.peak is None else f"{way.peak / 1e6:.0f} MB"
        lines.append([*first, name, spread, f"{run.tokens / middle:.0f}", against, peak,
                      f"{way.far:.1g}"])  # fmt: skip
        first = ["", "", ""]
    return lines


def _command(file: TrainingFile, threads: Sequence[int], ways: Sequence[str], folder: str) -> str:
    words = ["python bench/training/train_speed.py"]
    words += ["--shapes", *dict.fromkeys(run.shape for run in file.runs)]
    words += ["--kinds", *dict.fromkeys(run.kind for run in file.runs)]
    words += ["--ways", *(f"'{way}'" if " " in way else way for way in ways)]
    words += ["--threads", *map(str, threads), "--rounds", str(file.rounds)]
    if all(way.peak is None for run in file.runs for way in run.ways.values()):
        words.append("--no-memory")
    return " ".join([*words, "--json", f"{folder}/{file.name}"])
