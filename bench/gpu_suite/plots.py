"""`make gpu-report`: draws a store's figures and writes its page under docs/.

python -m gpu_suite.plots bench/results/gpu/NAME.json -o docs
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .page import page
from .parts import entries
from .store import FOLDER, read
from .verdicts import ceilings_of, cold, floor, size_of

_OURS, _OTHERS, _ROOF = "#b4451f", "#8a949e", "#2b2f33"


def _axes(width: float, height: float) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def bars(data: dict[str, Any], file: Path) -> bool:
    """One bar a provider and size: its share of the floor. False where nothing was measured."""
    found = entries(data, "op")
    if not found:
        return False
    lines: list[tuple[str, float, bool]] = []
    for entry in found:
        least = floor(entry, ceilings_of(data, entry["part"]))
        for row in entry["rows"]:
            if row["cold"] is not None:
                name = f"{entry['op']} {size_of(entry)}  {row['provider']}"
                lines.append((name, least / row["cold"]["median"], row["provider"] == "ours"))
    figure, axes = _axes(10, 0.8 + 0.2 * len(lines))
    names, shares, ours = zip(*lines, strict=True)
    axes.barh(range(len(lines)), shares, color=[_OURS if mine else _OTHERS for mine in ours])
    axes.set_yticks(range(len(lines)), names, fontsize=7)
    axes.invert_yaxis()
    axes.axvline(1.0, color=_ROOF, linewidth=0.8)
    axes.set_xlabel("floor over measured time (1: as fast as bytes or products allow)")
    axes.set_title(data["device"])
    figure.savefig(file, dpi=130)
    return True


def roofline(data: dict[str, Any], file: Path) -> bool:
    """Products a second over flop a byte, under the device's measured roof.

    False where no op with products, or no roof, was measured.
    """
    points, roof = [], None
    for entry in entries(data, "op"):
        seconds, ceilings = cold(entry, "ours"), ceilings_of(data, entry["part"])
        if seconds is not None and entry["flops"] and ceilings is not None:
            roof = ceilings
            intensity = entry["flops"] / entry["least_bytes"]
            points.append((intensity, entry["flops"] / seconds / 1e12, size_of(entry)))
    if roof is None:
        return False
    figure, axes = _axes(8, 5)
    ridge = roof["product"] / roof["read"]
    across = [min(p[0] for p in points) / 4, ridge, max(ridge, *(p[0] for p in points)) * 4]
    axes.plot(across, [min(x * roof["read"], roof["product"]) / 1e12 for x in across], color=_ROOF)
    for intensity, rate, name in points:
        axes.plot(intensity, rate, "o", color=_OURS)
        axes.annotate(name, (intensity, rate), textcoords="offset points", xytext=(6, -9), size=7)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("flop a byte that must be read")
    axes.set_ylabel("TFLOP/s")
    axes.set_title(f"linear ops of ours under the roof of {data['device']}")
    figure.savefig(file, dpi=130)
    return True


def write(file: Path, folder: Path) -> list[Path]:
    """The page and figures of one store, as `folder/gpu_NAME…`; what was written."""
    data = read(file)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, draw in (("roofline", roofline), ("bars", bars)):
        target = folder / f"gpu_{file.stem}_{name}.png"
        if draw(data, target):
            drawn.append(target)
    target = folder / f"gpu_{file.stem}.md"
    target.write_text(page(data, [figure.name for figure in drawn]), encoding="utf-8")
    return [target, *drawn]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 2 where there is no file to draw."""
    parser = argparse.ArgumentParser(
        prog="python -m gpu_suite.plots", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("files", nargs="*", type=Path, help="by default all of bench/results/gpu")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs"), metavar="FOLDER")
    given = parser.parse_args(arguments)
    files = given.files or sorted(FOLDER.glob("*.json"))
    if not files:
        print(f"nothing to draw: {FOLDER} has no figures; `make gpu` on a GPU writes some",
              file=sys.stderr)  # fmt: skip
        return 2
    for file in files:
        try:
            for written in write(file, given.output):
                print(written)
        except (OSError, ValueError) as error:
            print(f"{file}: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
