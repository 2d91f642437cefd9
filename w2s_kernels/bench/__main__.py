"""`python -m w2s_kernels.bench OP`: how fast an op is here, beside what the machine can do.

    python -m w2s_kernels.bench logprob_diff --rows 256 --vocab 128256 --dtype bf16 --check

Providers take turns on inputs that rotate through more than the last cache (cold) and on one set
of inputs (hot). `of the floor` is the least time that the bytes or the exponentials take, by the
read bandwidth and the exponentials a second measured in the same run, over the median time. A
provider that cannot run here says why. With --check every result is compared with float64; a
kernel of ours beyond its tolerance ends with exit code 1.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from . import expo_cases, guided_cases, linear_cases, logit_cases, report, search_cases
from .case import Case
from .measure import Result, measure

CASES: dict[str, Case] = {
    case.op: case
    for module in (logit_cases, linear_cases, guided_cases, search_cases, expo_cases)
    for case in module.CASES
}
DTYPES = {
    "fp32": torch.float32, "float32": torch.float32, "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16, "fp16": torch.float16, "float16": torch.float16,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0, or 1 for a wrong result, or 2 for bad input."""
    given = _parser().parse_args(arguments)
    case = CASES[given.op]
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if given.threads:
        torch.set_num_threads(given.threads)
    names = given.providers.split(",") if given.providers else list(case.providers)
    results: list[Result] = []
    try:
        sizes = [
            case.sized(rows=rows, vocab=vocab, dim=dim, dtype=DTYPES[dtype] if dtype else None,
                       k=given.k, device=device)
            for rows, vocab, dim, dtype in itertools.product(
                given.rows, given.vocab, given.dim, given.dtype
            )
        ]  # fmt: skip
    except ValueError as error:
        print(f"python -m w2s_kernels.bench: {error}", file=sys.stderr)
        return 2
    for size in sizes:
        try:
            result = measure(
                case, size, names, seconds=given.seconds, check=given.check, say=_progress
            )
        except ValueError as error:
            print(f"python -m w2s_kernels.bench: {error}", file=sys.stderr)
            return 2
        results.append(result)
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        if not given.csv:
            print(report.text(result), end="\n\n", flush=True)
    if given.csv:
        print(report.as_csv(results), end="")
    if given.json:
        path = Path(given.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(report.as_json(results) + "\n", encoding="utf-8")
    return 0 if all(row.right for result in results for row in result.rows) else 1


def _progress(text: str) -> None:
    """On a terminal a line that the next one overwrites."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:110]}", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


def _list(kind: Any) -> Any:
    def parse(text: str) -> list[Any]:
        return [kind(part) for part in text.split(",")]

    return parse


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number >= 1")
    return int(text)


def _dtype(text: str) -> str:
    if text not in DTYPES:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(DTYPES)}")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m w2s_kernels.bench",
        description=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("op", choices=list(CASES), metavar="OP", help=", ".join(CASES))
    numbers = _list(_positive)
    parser.add_argument("--rows", type=numbers, default=[None], help="N; several: 1,16,256")
    parser.add_argument("--vocab", type=numbers, default=[None], help="V; several: 49152,128256")
    parser.add_argument("--dim", type=numbers, default=[None], help="D of the linear ops")
    parser.add_argument("--dtype", type=_list(_dtype), default=[None], help="fp32, bf16, fp16")
    parser.add_argument("--k", type=_positive, help="top-k; positions moved by gather_beams_")
    parser.add_argument("--providers", help="names with commas; by default all of the op's")
    parser.add_argument("--device", help="cpu or cuda; by default cuda where there is one")
    parser.add_argument("--threads", type=_positive, help="CPU threads; by default torch's")
    parser.add_argument("--seconds", type=float, default=5.0, help="about how long a size takes")
    parser.add_argument("--check", action="store_true", help="compare with float64; exit code 1")
    parser.add_argument("--csv", action="store_true", help="comma-separated values, no tables")
    parser.add_argument("--json", metavar="FILE", help="also write everything, with the stamp")
    return parser


if __name__ == "__main__":
    sys.exit(main())
