"""The report's two plots: reward against model tokens, and reward against W·K.

Reward is a method's gain over the base on the same openings and seeds, so methods that were run on
fewer openings stand beside the others fairly.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from w2s.embedded.demo_package import require_module

_JUDGE = {"judge": "review judge: P(positive) − base", "vader": "VADER compound − base"}
_COLOURS = {"best of N": "#4c72b0", "EFT": "#8172b3", "L = 5": "#c44e52"}
_OTHER = ("#dd8452", "#55a868", "#937860")
_SPREAD = 1.09  # between methods of equal W·K

Point = dict[str, Any]


def plot_tokens(report: dict[str, Any], path: Path) -> None:
    """Gain against the tokens that all models handle for one opening (SVG)."""
    _plot(
        report,
        path,
        lambda one: float(one["large_tokens"] + one["pair_tokens"]),
        "model tokens an opening (large + pair)",
    )


def plot_candidates(report: dict[str, Any], path: Path) -> None:
    """Gain against W·K (SVG)."""
    _plot(report, path, lambda one: float(one["candidates"]), "W·K, candidates an opening")


def _plot(report: dict[str, Any], path: Path, cost: Callable[[Point], float], label: str) -> None:
    require_module("matplotlib")
    import matplotlib
    from matplotlib.figure import Figure

    # The same report gives the same bytes: no date, no random ids; letters stay letters.
    with matplotlib.rc_context({"svg.hashsalt": "w2s", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        for axes, judge in zip(figure.subplots(1, 2), _JUDGE, strict=True):
            _panel(axes, report, judge, cost)
            axes.set_xlabel(label)
            axes.set_ylabel(_JUDGE[judge])
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _panel(axes: Any, report: dict[str, Any], judge: str, cost: Callable[[Point], float]) -> None:
    axes.axhline(0, color="#999999", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.12)
    points = [one for one in report["methods"] if one["guided"]]
    series: dict[str, list[Point]] = {}
    for one in points:
        series.setdefault(_series(one), []).append(one)
    spare = iter(_OTHER)
    for name, members in series.items():
        members = sorted(members, key=cost)
        places = [_beside(one, points, cost) for one in members]
        gains = [one["gain"][judge] for one in members]
        colour = _COLOURS.get(name) or next(spare, "#777777")
        axes.errorbar(
            places,
            [gain["mean"] for gain in gains],
            yerr=[
                [max(0.0, gain["mean"] - gain["low"]) for gain in gains],
                [max(0.0, gain["high"] - gain["mean"]) for gain in gains],
            ],
            fmt="o", markersize=4, capsize=2, linewidth=1, color=colour, label=name,
        )  # fmt: skip
        if name == "best of N":
            axes.plot(places, [gain["mean"] for gain in gains], color=colour, linewidth=0.6)
        for one, place, gain in zip(members, places, gains, strict=True):
            axes.annotate(
                one["name"].removeprefix("CBS ").removeprefix("BoN-"),
                (place, gain["mean"]),
                xytext=(3, 3), textcoords="offset points", fontsize=7, color=colour,
            )  # fmt: skip
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    axes.grid(axis="y", color="#eeeeee")


def _beside(one: Point, points: list[Point], cost: Callable[[Point], float]) -> float:
    """Its cost; methods of one W·K, whose costs are nearly equal, are set side by side."""
    level = [other for other in points if other["candidates"] == one["candidates"]]
    middle = sum(cost(other) for other in level) / len(level)
    shift = level.index(one) - (len(level) - 1) / 2
    return float(middle * _SPREAD**shift) if one["candidates"] > 1 else cost(one)


def _series(one: Point) -> str:
    if one["chunk"] is not None:
        return f"L = {one['chunk']}"
    return "EFT" if one["name"].startswith("EFT") else "best of N"
