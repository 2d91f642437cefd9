"""`make gpu [PART=N]`: runs the parts and keeps what they find in one JSON file and one page.

    python -m gpu_suite --part 4                 # bench/results/gpu/NAME-OF-THE-GPU.json and .md
    python -m gpu_suite --device cpu --tiny --out build/tried.json   # tries the suite itself

Ends with 3 where there is no CUDA device, with 1 when a part failed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .page import page
from .parts import run_part
from .store import Store, default_path
from .titles import PARTS, describe


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    given = _parser().parse_args(arguments)
    if given.list:
        print("\n".join(describe()))
        return 0
    if given.device == "cuda" and not _has_cuda():
        print("no CUDA device: nothing was run. On one, these would be:", file=sys.stderr)
        print("\n".join(describe()), file=sys.stderr)
        return 3
    if given.device == "cpu" and given.out is None:
        print("gpu_suite: --device cpu only tries the suite; give it an --out", file=sys.stderr)
        return 2
    out = given.out or default_path(given.device)
    try:
        store = Store(out, given.device)
    except ValueError as error:
        print(f"gpu_suite: {error}", file=sys.stderr)
        return 2
    states = {}
    for number, (name, title) in enumerate(PARTS.items(), start=1):
        if given.part and number not in given.part:
            continue
        print(f"== part {number}, {name}: {title}", flush=True)
        states[name] = run_part(name, store, given.device, tiny=given.tiny)
        out.with_suffix(".md").write_text(page(store.data), encoding="utf-8")
    for name, state in states.items():
        print(f"{name}: {state}")
    print(f"figures: {out}, {out.with_suffix('.md')}")
    return 0 if all(state == "done" for state in states.values()) else 1


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gpu_suite",
        description=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    numbers = range(1, len(PARTS) + 1)
    parser.add_argument("--part", type=int, nargs="+", choices=numbers, help="by default all")
    parser.add_argument("--list", action="store_true", help="say what the parts are")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the suite itself")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the JSON file to go on with")
    return parser


if __name__ == "__main__":
    sys.exit(main())
