"""`make tune`: times the Triton kernels' launch settings on this GPU, writes the tables.

    python -m gpu_suite.tune            # both tables, the entry of this GPU's architecture alone

A setting that wins by less than 2 % does not replace what is there. Warps and tile depths order a
sum, so a new table may change results in their last bits; it is committed like code, and nothing
is ever tuned at run time.
"""

import argparse
import functools
import importlib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

Choice = TypeVar("Choice")
_MARGIN = 0.98
_WIDTH = 100


def fastest(
    choices: Iterable[Choice], now: Choice, seconds: Callable[[Choice], float | None]
) -> Choice:
    """The fastest choice, or `now` where none beats it by the margin. None: cannot run here."""
    best, least = now, seconds(now)
    for choice in choices:
        if choice == now:
            continue
        found = seconds(choice)
        if found is not None and (least is None or found < _MARGIN * least):
            best, least = choice, found
    return best


def dumps(value: Any, indent: int = 0) -> str:
    """JSON as the tables have it: what fits a line stands on one."""
    flat = json.dumps(value)
    if not isinstance(value, dict) or (indent > 0 and indent + len(flat) < _WIDTH - 8):
        return flat
    inner = ",\n".join(
        f"{' ' * (indent + 2)}{json.dumps(key)}: {dumps(item, indent + 2)}"
        for key, item in value.items()
    )
    return "{\n" + inner + "\n" + " " * indent + "}"


def entry_for(table: dict[str, Any], arch: int) -> dict[str, Any]:
    """The architecture's own entry; at first a copy of that of the newest one before it."""
    known = sorted(int(name) for name in table)
    base = max((name for name in known if name <= arch), default=known[0])
    found: dict[str, Any] = table.setdefault(str(arch), json.loads(json.dumps(table[str(base)])))
    return found


def _milliseconds(op: str, rows: int, vocab: int, dim: int, dtype: Any) -> Callable[[], float]:
    """A timing of one call of our op on inputs that rotate."""
    from w2s_kernels.bench.__main__ import CASES
    from w2s_kernels.bench.case import Size, moved, nbytes
    from w2s_kernels.bench.timing import by_turns, copies_for

    import torch  # isort: skip

    case = CASES[op]
    size = Size(rows, vocab, dim, 50, dtype, "cuda")
    first = case.inputs(size, 0)
    sets = [moved(first, "cuda")]
    for seed in range(1, copies_for(nbytes(first), "cuda")):
        sets.append(moved(case.inputs(size, seed), "cuda"))
    call = case.providers["triton"].call

    def run() -> float:
        with torch.no_grad():
            times = by_turns(
                {op: lambda turn: call(*sets[turn % len(sets)])}, seconds=0.2, device="cuda"
            )
        return times[op].median * 1e3

    return run


def _able(run: Callable[[], float]) -> float | None:
    """None where the setting needs more shared memory or registers than there are."""
    from triton.runtime.errors import OutOfResources, PTXASError

    try:
        return run()
    except (OutOfResources, PTXASError):
        return None


def tune_logits(arch: int) -> None:
    """`settings.json`: warps and stages by dtype, then programs to fill the device."""
    import torch

    settings = importlib.import_module("w2s_kernels.triton_kernels.settings")
    rows = importlib.import_module("w2s_kernels.triton_kernels.rows")
    table = settings._TABLE
    entry = entry_for(table, arch)

    def timed(run: Callable[[], float], put: Callable[[Any], None], choice: Any) -> float | None:
        put(choice)
        rows.forget_settings()
        found = _able(run)
        print(f"  {choice}: {'cannot run' if found is None else f'{found:.4f} ms'}", flush=True)
        return found

    for bits, dtype in (("16", torch.bfloat16), ("32", torch.float32)):
        run = _milliseconds("logprob_diff", 2048, 128256, 0, dtype)

        def put(choice: tuple[int, int], bits: str = bits) -> None:
            entry["warps"][bits], entry["forward_stages"][bits] = choice

        now = (entry["warps"][bits], entry["forward_stages"][bits])
        choices = [(warps, stages) for warps in (4, 8, 16) for stages in (1, 2, 3, 4, 5)]
        print(f"logits of {bits} bits: warps, stages", flush=True)
        put(fastest(choices, now, functools.partial(timed, run, put)))

    run = _milliseconds("logprob_diff", 16, 128256, 0, torch.bfloat16)

    def put_programs(choice: int) -> None:
        entry["programs_per_sm"] = choice

    print("few rows of logits: programs a multiprocessor", flush=True)
    put_programs(
        fastest(
            (1, 2, 4, 6, 8), entry["programs_per_sm"], functools.partial(timed, run, put_programs)
        )
    )
    rows.forget_settings()
    _write(settings, table, "settings.json")


def tune_linear(arch: int) -> None:
    """`linear_settings.json`: tiles of 16-bit operands by rows, then which path many rows take."""
    import torch

    settings = importlib.import_module("w2s_kernels.triton_kernels.linear_settings")
    table = settings._TABLE
    entry = entry_for(table, arch)

    def timed(
        run: Callable[[], float], put: Callable[[Any], None], choice: Any, *, path: str | None
    ) -> float | None:
        put(choice)
        settings.linear_settings.cache_clear()
        with settings.use_path(path):
            found = _able(run)
        print(f"  {choice}: {'cannot run' if found is None else f'{found:.4f} ms'}", flush=True)
        return found

    op, vocab, dim = "linear_logprob_diff", 128256, 4096
    for rows in (16, 32, 64):
        run = _milliseconds(op, rows, vocab, dim, torch.bfloat16)

        def put(choice: list[int], rows: int = rows) -> None:
            entry["tile"]["16"][str(rows)] = list(choice)

        choices = [
            [columns, rows, depth, warps, stages]
            for columns in (64, 128, 256)
            for depth in (64, 128)
            for warps in (4, 8)
            for stages in (2, 3, 4, 5)
        ]
        print(f"tile of {rows} rows: columns, rows, depth, warps, stages", flush=True)
        now = entry["tile"]["16"][str(rows)]
        put(fastest(choices, now, functools.partial(timed, run, put, path="tile")))

    limits = []
    for rows in (64, 128, 256):
        run = _milliseconds(op, rows, vocab, dim, torch.bfloat16)
        found = {
            path: timed(run, lambda _: None, f"{rows} rows, {path}", path=path)
            for path in ("tile", "chunked")
        }
        if found["tile"] is not None and found["tile"] <= (found["chunked"] or 0.0):
            limits.append(rows)
    entry["few_rows"]["16"] = max(limits, default=16)

    if "fused" in entry:
        run = _milliseconds(op, 4096, vocab, dim, torch.bfloat16)
        entry["many"] = fastest(
            ("chunked", "fused"),
            "chunked",
            lambda path: timed(run, lambda _: None, path, path=path),
        )
    settings.linear_settings.cache_clear()
    _write(settings, table, "linear_settings.json")


def _write(module: Any, table: dict[str, Any], name: str) -> None:
    file = Path(module.__file__).with_name(name)
    ordered = {str(arch): table[str(arch)] for arch in sorted(int(key) for key in table)}
    file.write_text(dumps(ordered) + "\n", encoding="utf-8")
    print(f"wrote {file}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 3 where there is no CUDA device."""
    parser = argparse.ArgumentParser(
        prog="python -m gpu_suite.tune", description=(__doc__ or "").partition("\n\n")[0]
    )
    tables = {"logits": tune_logits, "linear": tune_linear}
    parser.add_argument("tables", nargs="*", default=list(tables), help="logits, linear")
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.tables) - set(tables))
    if unknown:
        parser.error(f"{unknown[0]!r} is not one of {', '.join(tables)}")
    import torch

    if not torch.cuda.is_available():
        print("no CUDA device: nothing was tuned. On one, launch settings of the logit and linear "
              "kernels would be timed and their tables written.", file=sys.stderr)  # fmt: skip
        return 3
    major, minor = torch.cuda.get_device_capability()
    for name in given.tables:
        tables[name](10 * major + minor)
    return 0


if __name__ == "__main__":
    sys.exit(main())
