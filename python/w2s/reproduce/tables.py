"""The report in Markdown: the methods, the paired differences, the paper's order."""

from __future__ import annotations

from typing import Any

_JUDGE = {"judge": "the review judge", "vader": "VADER"}


def methods_table(report: dict[str, Any]) -> str:
    """A row for each method; means with 95 % intervals over openings."""
    head = (
        "method", "openings × seeds", "judge, P(positive)", "VADER", "pair's score", "distinct-2",
        "words", "tokens", "large tokens", "pair tokens", "seconds",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for one in report["methods"]:
        measure = one["measures"]
        shared = "≈ " if one["seconds_shared"] else ""
        rows.append(
            (
                one["name"],
                f"{one['openings']} × {len(one['seeds'])}",
                _interval(measure["judge"], 3),
                _interval(measure["vader"], 3),
                _minus(f"{measure['score']['mean']:+.1f}") if "score" in measure else "–",
                f"{measure['distinct-2']['mean']:.3f}",
                f"{measure['words']['mean']:.1f}",
                f"{measure['tokens']['mean']:.1f}",
                f"{one['large_tokens']:.0f}",
                f"{one['pair_tokens']:.0f}",
                f"{shared}{one['seconds']:.2f}",
            )
        )
    return _table(head, rows)


def differences_table(report: dict[str, Any]) -> str:
    """The comparisons that the paper's order rests on, by each judge."""
    judges = list(report["differences"])
    rows = []
    for place, one in enumerate(report["differences"][judges[0]]):
        cells = [_interval(report["differences"][judge][place], 3, plus=True) for judge in judges]
        rows.append((f"{one['above']} − {one['below']}", *cells))
    return _table(("paired difference", *(_JUDGE[judge] for judge in judges)), rows)


def variants_table(report: dict[str, Any]) -> str:
    """Every method's gain over the base on the same openings and seeds."""
    rows = [
        (
            one["name"],
            str(one["candidates"]),
            "whole" if one["chunk"] is None else str(one["chunk"]),
            f"{one['large_tokens'] + one['pair_tokens']:.0f}",
            *(_interval(one["gain"][judge], 3, plus=True) for judge in one["gain"]),
        )
        for one in report["methods"]
        if one["guided"]
    ]
    head = ("method", "W·K", "L", "model tokens", "judge − base", "VADER − base")
    return _table(head, rows)


def order_sentences(report: dict[str, Any]) -> str:
    """What became of the paper's order, one sentence a judge, from the intervals alone."""
    return "\n".join(
        f"* By {_JUDGE[judge]}, the paper's order CBS > BoN ≈ EFT > base {_verdict(report, judge)}"
        for judge in report["order"]
    )


def _verdict(report: dict[str, Any], judge: str) -> str:
    found = report["order"][judge]
    steps = []
    for one in report["differences"][judge]:
        sign = 1 if one["low"] > 0 else -1 if one["high"] < 0 else 0
        what = {1: "is above", 0: "is not told apart from", -1: "is below"}[sign]
        steps.append(f"{one['above']} {what} {one['below']} ({_interval(one, 3, plus=True)})")
    verdict = {
        "holds": "**holds**",
        "does not hold": "**does not hold**",
        "is not settled": "**is not settled** at this size",
        "too few openings": "**cannot be judged** on so few openings",
    }[found["verdict"]]
    if found["verdict"] == "holds" and found["bon_eft"] != "not told apart":
        verdict += ", but for BoN ≈ EFT"
    return f"{verdict}: {'; '.join(steps)}."


def _interval(value: dict[str, Any], digits: int, *, plus: bool = False) -> str:
    sign = "+" if plus else ""
    mean, low, high = (
        _minus(f"{value[name]:{sign}.{digits}f}") for name in ("mean", "low", "high")
    )
    return f"{mean} [{low}, {high}]"


def _minus(number: str) -> str:
    return number.replace("-", "−")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
