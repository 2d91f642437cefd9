"""A sweep's report: all figures and the recommendation as plain data, and as a page."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from w2s.durable import replace_file
from w2s.expo.sweep.choice import recommend
from w2s.expo.sweep.curve import draw_curve
from w2s.expo.sweep.figures import AlphaFigures
from w2s.reproduce import stamp
from w2s.reproduce.bootstrap import RESAMPLES

EXPERIMENT = "expo sweep"
REPORT_FILE, PAGE_FILE, CURVE_FILE = "sweep.json", "sweep.md", "curve.svg"


def sweep_report(
    found: Sequence[AlphaFigures],
    settings: Mapping[str, Any],
    *,
    guard_limit: float | None,
    reward_label: str,
    memory: Mapping[str, int],
    command: Sequence[str],
) -> dict[str, Any]:
    """Everything about a finished sweep as plain data, stamped with machine, versions and commit.

    settings: what the rows depend on. memory: bytes by what they are for. command: `w2s expo …`
    without its --alpha and --out.
    """
    choice = recommend([one.point for one in found], guard_limit)
    return {
        "experiment": EXPERIMENT,
        "settings": dict(settings),
        "reward_label": reward_label,
        "guard_limit": guard_limit,
        "memory_bytes": dict(memory),
        "alphas": [asdict(one) for one in found],
        "choice": {
            **asdict(choice),
            "command": None if choice.alpha == 0 else _command(command, choice.alpha),
        },
        "machine": stamp.machine(),
        "versions": stamp.versions(),
        "commit": stamp.commit(),
    }


def write_report(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes sweep.json, sweep.md and curve.svg into `folder`; says which."""
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    replace_file(folder / REPORT_FILE, [text.encode()])
    replace_file(folder / PAGE_FILE, [page(report).encode()])
    draw_curve(report, folder / CURVE_FILE)
    return [folder / name for name in (REPORT_FILE, PAGE_FILE, CURVE_FILE)]


def table(report: Mapping[str, Any]) -> str:
    """A row for each α in Markdown: means with 95 % intervals over prompts."""
    alphas = report["alphas"]
    first = next(one for one in alphas if not one["failed"])
    beside = [
        name for name in first["measures"]
        if name not in ("reward", "tokens", "words", "distinct-2")
    ]  # fmt: skip
    guarded = first["guard"] is not None
    head = ["α", "reward", "gain over α = 0"]
    for name in beside:
        head += [name, f"{name} gain"]
    head += ["tokens", "words", "distinct-2"]
    head += ["guard perplexity", "× α = 0"] * guarded + ["seconds"]
    lines = [head, ["---"] * len(head)]
    for one in alphas:
        if one["failed"]:
            lines.append([_minus(f"{one['alpha']:g}"), one["failed"], *["–"] * (len(head) - 2)])
            continue
        measures = one["measures"]
        line = [_minus(f"{one['alpha']:g}"), _interval(measures["reward"]), _gain(one, "reward")]
        for name in beside:
            line += [_interval(measures[name]), _gain(one, name)]
        line += [f"{measures['tokens']['mean']:.1f}", f"{measures['words']['mean']:.1f}"]
        line.append(f"{measures['distinct-2']['mean']:.3f}")
        if guarded:
            line += [f"{one['guard']:.4g}", f"{one['guard_ratio']:.3f}"]
        lines.append([*line, f"{one['seconds']:.1f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def verdict(report: Mapping[str, Any]) -> str:
    """What is recommended and why; the command that makes the checkpoint, where there is one."""
    choice = report["choice"]
    if choice["command"] is None:
        return f"Recommended: keep the aligned model (α = 0): {choice['why']}."
    return f"Recommended: {choice['why']}.\n\n    {choice['command']}"


def page(report: Mapping[str, Any]) -> str:
    """The report as Markdown, with the curve beside it."""
    settings = report["settings"]
    facts = "\n".join(
        f"* {name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in settings.items()
    )
    machine = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    versions = ", ".join(f"{name} {value}" for name, value in report["versions"].items())
    return f"""# Choosing α

{verdict(report)}

{table(report)}

Brackets are 95 % bootstrap intervals over prompts ({RESAMPLES:,} resamples; a prompt counts once,
with the mean over its samples). A gain is paired: prompt by prompt, the same seeds at every α.
Nothing is corrected for the number of α that were tried.

![Reward, guard perplexity and length against α]({CURVE_FILE})

{facts}
* machine: {machine}
* versions: {versions}
* commit: {report["commit"] or "unknown"}
"""


def _command(parts: Sequence[str], alpha: float) -> str:
    return shlex.join([*parts, "--alpha", f"{alpha:g}", "--out", "DIR"])


def _interval(value: Mapping[str, float], sign: str = "") -> str:
    mean, low, high = (f"{value[name]:{sign}.3f}" for name in ("mean", "low", "high"))
    return _minus(f"{mean} [{low}, {high}]")


def _minus(number: str) -> str:
    return number.replace("-", "−")


def _gain(one: Mapping[str, Any], name: str) -> str:
    return "–" if one["alpha"] == 0 else _interval(one["gains"][name], "+")
