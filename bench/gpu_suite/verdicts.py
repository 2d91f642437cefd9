"""What the GPU is held to, and whether stored figures keep it."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from .parts import entries

_GIVEN = {"92 % of reading": 0.92, "85 % of reading": 0.85}


@dataclass(frozen=True)
class Verdict:
    """A target at a size; figure is text, for the table."""

    target: str
    size: str
    figure: str
    reached: bool


def size_of(entry: dict[str, Any]) -> str:
    """An op entry's size, as the tables call it."""
    size = entry["size"]
    parts = [f"N={size['rows']}"]
    if size["vocab"]:
        parts.append(f"V={size['vocab']}")
    if entry["op"].startswith("linear"):
        parts.append(f"D={size['dim']}")
    if entry["op"] in ("guided_sample", "guided_topk"):
        parts.append(f"k={size['k']}")
    return " ".join([*parts, size["dtype"]])


def cold(entry: dict[str, Any], provider: str) -> float | None:
    """Median seconds of a provider on inputs outside the cache; None where it did not run."""
    for row in entry["rows"]:
        if row["provider"] == provider and row["cold"] is not None:
            return float(row["cold"]["median"])
    return None


def floor(entry: dict[str, Any], ceilings: dict[str, Any] | None) -> float:
    """The least seconds: bytes, exponentials, or products at the device's measured speeds."""
    least = float(entry["floor"])
    if ceilings is not None:
        least = max(entry["least_bytes"] / ceilings["read"], entry["flops"] / ceilings["product"])
    return least


def ceilings_of(data: dict[str, Any], part: str) -> dict[str, Any] | None:
    """The ceilings measured in the same part."""
    found = [entry for entry in entries(data, "ceilings") if entry["part"] == part]
    return found[0] if found else None


def verdicts(data: dict[str, Any]) -> list[Verdict]:
    """One for each target and what was measured for it."""
    found = []
    for entry in entries(data, "op"):
        if entry["target"]:
            found += list(_of_op(entry, ceilings_of(data, entry["part"])))
    for entry in entries(data, "host"):
        over = entry["seconds"] - entry["torch_op"]
        found.append(
            Verdict(f"{entry['op']}: a warm call costs the host at most 15 µs over a launch", "",
                    f"{over * 1e6:.1f} µs", over <= 15e-6)
        )  # fmt: skip
    for entry in entries(data, "search"):
        if entry["report"] is not None:
            found += list(_of_search(entry["report"]))
    return found


def _of_op(entry: dict[str, Any], ceilings: dict[str, Any] | None) -> Iterator[Verdict]:
    op, size, target = entry["op"], size_of(entry), entry["target"]
    ours = cold(entry, "ours")
    if ours is None:
        return
    if target in _GIVEN:
        read = max(float(entry["read"]), ceilings["read"] if ceilings else 0.0)
        share = entry["least_bytes"] / ours / read
        yield Verdict(
            f"{op}: at least {target} bandwidth".replace(" of reading", " of the reading"),
            size, f"{share:.1%}", share >= _GIVEN[target],
        )  # fmt: skip
    elif target == "1.20 products":
        products = cold(entry, "products native")
        if products is not None:
            times = ours / products
            yield Verdict(
                f"{op}: at most 1.20 × the bare products", size, f"{times:.2f} ×", times <= 1.2
            )
    else:
        most = float(target.removesuffix(" µs"))
        yield Verdict(f"{op}: at most {target}", size, f"{ours * 1e6:.1f} µs", ours * 1e6 <= most)


def _of_search(report: dict[str, Any]) -> Iterator[Verdict]:
    for run in report["runs"]:
        public, ours = (median(run["seconds"][who]) for who in ("public", "ours"))
        prompts = run["prompts"]
        size = f"{report['models']} {report['dtype']}, {prompts} prompt{'s'[: prompts > 1]}"
        faster = public / ours
        yield Verdict(
            "search: at least 10 × as fast as the public way", size, f"{faster:.1f} ×", faster >= 10
        )
        if report["models"] == "7b":
            outside = run["outside_share"]
            yield Verdict("search: at most 3 % of the time outside the forwards", size,
                          f"{outside:.1%}", outside <= 0.03)  # fmt: skip
