"""A store's figures as Markdown."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from .parts import entries
from .titles import PARTS
from .verdicts import ceilings_of, floor, size_of, verdicts


def page(data: dict[str, Any], figures: Sequence[str] = ()) -> str:
    """The whole page. figures: image files beside it."""
    lines = [f"# Measured on {data['device']}", "", _stamps(data), ""]
    for figure in figures:
        lines += [f"![{figure.rpartition('/')[2].partition('.')[0]}]({figure})", ""]
    lines += ["## Parts", "", "| part | state | seconds | date | commit |"]
    lines.append("| --- | --- | ---: | --- | --- |")
    for name in PARTS:
        found = data["parts"].get(name)
        if found is None:
            lines.append(f"| {name} | not run | | | |")
            continue
        at = found["stamp"]
        lines.append(
            f"| {name} | {found['state']} | {found['seconds']} | {at['date']} | {at['commit']} |"
        )
    lines += ["", *_targets(data), *_ceilings(data), *_ops(data), *_searches(data), *_rest(data)]
    return "\n".join(lines).rstrip() + "\n"


def _stamps(data: dict[str, Any]) -> str:
    stamp = max((part["stamp"] for part in data["parts"].values()), key=lambda s: str(s["date"]))
    versions = ", ".join(f"{name} {v}" for name, v in stamp["versions"].items() if v)
    absent = [name for name, version in stamp["peers"].items() if version is None]
    others = f" Absent, so not compared: {', '.join(absent)}." if absent else ""
    return f"Driver {stamp['driver']}; {versions}; host {stamp['cpu']['model']}.{others}"


def _targets(data: dict[str, Any]) -> list[str]:
    found = verdicts(data)
    if not found:
        return []
    lines = [
        "## Against targets",
        "",
        "| target | size | measured | |",
        "| --- | --- | ---: | --- |",
    ]
    for v in found:
        lines.append(
            f"| {v.target} | {v.size} | {v.figure} | {'reached' if v.reached else '**missed**'} |"
        )
    return [*lines, ""]


def _ceilings(data: dict[str, Any]) -> list[str]:
    found = ceilings_of(data, "ceilings")
    if found is None:
        return []
    products = ", ".join(
        f"{shape}: {rate / 1e12:.0f} TFLOP/s" for shape, rate in found["products"].items()
    )
    return [
        "## What the device can do", "",
        f"Reads {found['read'] / 1e9:.0f} GB/s, copies {found['copy'] / 1e9:.0f} GB/s (both ways "
        f"counted), multiplies in bf16 {products}. One small torch op costs the host "
        f"{found['launch'] * 1e6:.1f} µs.", "",
    ]  # fmt: skip


def _ops(data: dict[str, Any]) -> list[str]:
    found = entries(data, "op")
    if not found:
        return []
    lines = [
        "## Ops", "",
        "Device microseconds of a call by events, medians; *cold*: on inputs outside the cache. "
        "The floor: the bytes, or the products, at the speeds measured in the same part.", "",
        "| op | size | provider | cold µs | hot µs | GB/s | of the floor | error / allowed |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for entry in found:
        least = floor(entry, ceilings_of(data, entry["part"]))
        name, size = entry["op"], size_of(entry)
        for row in entry["rows"]:
            if row["cold"] is None:
                continue
            seconds = row["cold"]["median"]
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2g}"
            lines.append(
                f"| {name} | {size} | {row['provider']} | {seconds * 1e6:.1f} "
                f"| {row['hot']['median'] * 1e6:.1f} | {entry['least_bytes'] / seconds / 1e9:.0f} "
                f"| {least / seconds:.0%} | {ratio}{'' if row['right'] else ' WRONG'} |"
            )
            name = size = ""
    lines += ["", *_absent(found)]
    hosts = entries(data, "host")
    for entry in hosts:
        lines.append(
            f"* A warm call of {entry['op']} costs the host {entry['seconds'] * 1e6:.1f} µs, one "
            f"small torch op {entry['torch_op'] * 1e6:.1f} µs."
        )
    return [*lines, ""]


def _absent(found: Sequence[dict[str, Any]]) -> list[str]:
    """Who did not run, and why, each reason once."""
    reasons: dict[str, set[str]] = {}
    for entry in found:
        for row in entry["rows"]:
            if row["absent"]:
                reasons.setdefault(f"{row['provider']}: {row['absent']}", set()).add(entry["op"])
    return [f"* {why} ({', '.join(sorted(ops))})" for why, ops in reasons.items()]


def _searches(data: dict[str, Any]) -> list[str]:
    found = [entry for entry in entries(data, "search") if entry["report"] is not None]
    if not found:
        return []
    lines = [
        "## Whole searches", "",
        "CBS(4, 4, 5) beside a re-creation of the public code's way of working, same models, equal "
        "selections.", "",
        "| models | prompts | public way s | ours s | faster | outside the forwards | public MB "
        "| ours MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for entry in found:
        report = entry["report"]
        for run in report["runs"]:
            public, ours = (median(run["seconds"][who]) for who in ("public", "ours"))
            peak = run.get("peak_bytes")
            memory = [f"{peak[who] / 1e6:.0f}" if peak else "" for who in ("public", "ours")]
            lines.append(
                f"| {report['models']} {report['dtype']} | {run['prompts']} | {public:.2f} "
                f"| {ours:.2f} | {public / ours:.1f} × | {run['outside_share']:.1%} "
                f"| {' | '.join(memory)} |"
            )
    return [*lines, ""]


def _rest(data: dict[str, Any]) -> list[str]:
    lines = []
    for entry in entries(data, "command"):
        end = "was stopped when its time was over" if entry["code"] is None else (
            f"ended with {entry['code']}"
        )  # fmt: skip
        last = entry["tail"].strip().splitlines()[-1:] or [""]
        lines.append(f"* {entry['name']} {end} after {entry['seconds']:.0f} s: `{last[0]}`")
    lines += [f"* left out: {entry['what']}, {entry['why']}" for entry in entries(data, "left out")]
    return ["## Tests, and what was left out", "", *lines] if lines else []
