"""`python -m w2s_kernels.aot`: compiles the Triton kernels without a GPU and reads their code.

    python -m w2s_kernels.aot --op logprob_diff --arch 90      # a table on the terminal
    python -m w2s_kernels.aot --ceilings tests/aot/ceilings.json --page docs/gpu.md

Ends with exit code 1 when a kernel spills where it must not, reads narrowly, multiplies off the
tensor cores, or needs more than its ceiling.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .cases import ARCHES, cases, ops
from .compiling import Compiled, compile_case
from .page import page, table
from .promises import as_ceilings, broken, over, read_ceilings
from .traffic import counted


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0, or 1 for a broken promise, or 2 for bad input."""
    given = _parser().parse_args(arguments)
    if importlib.util.find_spec("triton") is None:
        absent = "triton is not installed; pip install triton"
        print(f"python -m w2s_kernels.aot: {absent}", file=sys.stderr)
        return 2
    unknown = sorted(set(given.op or []) - set(ops()))
    if unknown:
        print(
            f"python -m w2s_kernels.aot: {unknown[0]!r} offers no kernels to compile; "
            f"these do: {', '.join(ops()) or 'none'}",
            file=sys.stderr,
        )
        return 2
    found = []
    for op in given.op or ops():
        for case in cases(op):
            wanted = [arch for arch in case.arches if arch in (given.arch or ARCHES)]
            found += [compile_case(case, arch) for arch in wanted]
    ceilings = read_ceilings(given.ceilings) if given.ceilings else None
    wrong = [sentence for one in found for sentence in broken(one)]
    if ceilings is not None:
        wrong += [sentence for one in found for sentence in over(one, ceilings)]
    if given.json:
        given.json.write_text(json.dumps([_plain(one) for one in found], indent=1) + "\n")
    if given.write_ceilings:
        given.write_ceilings.write_text(as_ceilings(found), encoding="utf-8")
    if given.page:
        import triton

        given.page.write_text(page(found, counted(), triton.__version__), encoding="utf-8")
    if not (given.json or given.page or given.write_ceilings):
        _print(found)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    return 1 if wrong else 0


def _plain(one: Compiled) -> dict[str, Any]:
    return {
        "op": one.case.op,
        "case": one.case.name,
        "arch": one.arch,
        "dots": [asdict(dot) for dot in one.dots],
        "code": one.code.as_dict(),
        "broken": broken(one),
    }


def _print(found: Sequence[Compiled]) -> None:
    for op in dict.fromkeys(one.case.op for one in found):
        print(f"{op}\n" + "\n".join(table([one for one in found if one.case.op == op])) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m w2s_kernels.aot",
        description=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--op", nargs="+", help="only these; by default every one with kernels")
    parser.add_argument("--arch", type=int, nargs="+", choices=ARCHES, help="by default all three")
    parser.add_argument("--ceilings", type=Path, metavar="FILE", help="hold the figures to these")
    parser.add_argument("--write-ceilings", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure, as data")
    parser.add_argument("--page", type=Path, metavar="FILE", help="the table as a Markdown page")
    return parser


if __name__ == "__main__":
    sys.exit(main())
