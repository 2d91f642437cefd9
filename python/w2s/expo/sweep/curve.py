"""The curve: reward with its interval against α, guard perplexity and length below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from w2s.embedded.demo_package import MissingDemoError, require_module
from w2s.errors import ExpoError

_REWARD, _GUARD, _LENGTH, _CHOSEN = "#4c72b0", "#c44e52", "#55a868", "#dd8452"

Alpha = Mapping[str, Any]


def require_curve() -> None:
    """Raises `ExpoError` unless a curve can be drawn; said before the long part, not after it."""
    try:
        require_module("matplotlib")
    except MissingDemoError as error:
        raise ExpoError(str(error)) from error


def draw_curve(report: Mapping[str, Any], path: Path) -> None:
    """Draws the report's figures (SVG); the same report gives the same bytes.

    α is linear between its smallest magnitudes around 0 and logarithmic beyond.
    """
    import matplotlib
    from matplotlib.figure import Figure

    alphas = [one for one in report["alphas"] if not one["failed"]]
    guarded = alphas[0]["guard"] is not None
    heights = [3.0, 1.2, 1.2] if guarded else [3.0, 1.2]
    # No date, no random ids; letters stay letters.
    with matplotlib.rc_context({"svg.hashsalt": "w2s", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(7, 1.2 + sum(heights)), layout="constrained")
        panels = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
        _reward(panels[0], report, alphas)
        if guarded:
            _line(panels[1], alphas, [one["guard"] for one in alphas], _GUARD)
            panels[1].set_ylabel("guard\nperplexity")
            _logarithmic(panels[1])
            if report["guard_limit"] is not None:
                limit = report["guard_limit"] * _zero(alphas)["guard"]
                panels[1].axhline(limit, color=_GUARD, linewidth=0.8, linestyle=":")
        lengths = [one["measures"]["tokens"]["mean"] for one in alphas]
        _line(panels[-1], alphas, lengths, _LENGTH)
        panels[-1].set_ylabel("tokens a\nresponse")
        _scale(panels[-1], [one["alpha"] for one in alphas])
        panels[-1].set_xlabel("α")
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _reward(axes: Any, report: Mapping[str, Any], alphas: Sequence[Alpha]) -> None:
    values = [one["measures"]["reward"] for one in alphas]
    axes.errorbar(
        [one["alpha"] for one in alphas],
        [value["mean"] for value in values],
        yerr=[
            [max(0.0, value["mean"] - value["low"]) for value in values],
            [max(0.0, value["high"] - value["mean"]) for value in values],
        ],
        fmt="o-", markersize=4, capsize=3, linewidth=1, color=_REWARD,
    )  # fmt: skip
    axes.axhline(_zero(alphas)["measures"]["reward"]["mean"], color="#999999", linewidth=0.8)
    chosen = report["choice"]["alpha"]
    axes.axvline(chosen, color=_CHOSEN, linewidth=1, linestyle="--")
    axes.annotate(
        f"recommended: {chosen:g}", (chosen, 0), xycoords=("data", "axes fraction"),
        xytext=(4, 4), textcoords="offset points", color=_CHOSEN, fontsize=8,
    )  # fmt: skip
    axes.set_ylabel(report["reward_label"])
    axes.grid(axis="y", color="#eeeeee")


def _line(axes: Any, alphas: Sequence[Alpha], values: Sequence[float], colour: str) -> None:
    axes.plot([one["alpha"] for one in alphas], values, "o-", markersize=3, linewidth=1,
              color=colour)  # fmt: skip
    axes.grid(axis="y", color="#eeeeee")


def _scale(axes: Any, alphas: Sequence[float]) -> None:
    smallest = min((abs(alpha) for alpha in alphas if alpha != 0), default=1.0)
    axes.set_xscale("symlog", linthresh=smallest, linscale=0.5)
    axes.set_xticks(alphas)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.tick_params(axis="x", labelsize=7, rotation=45 if len(alphas) > 8 else 0)


def _logarithmic(axes: Any) -> None:
    """A logarithmic y axis with numbers on it however little it spans."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 3 * low else "all"))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())


def _zero(alphas: Sequence[Alpha]) -> Alpha:
    return next(one for one in alphas if one["alpha"] == 0)
