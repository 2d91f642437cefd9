"""The README's table of hardware: for each GPU kernel where it was measured, or that it was not.

    python -m gpu_suite.hardware README.md      # writes the table between its two markers

A kernel counts as measured when the suite's stored figures have it within its allowed error.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .parts import entries
from .store import FOLDER, read

BEGIN, END = "<!-- hardware -->", "<!-- /hardware -->"
BACKENDS = ("triton", "cuda")
NOT_RUN = "compiled and interpreted, not yet run"


def kernels() -> list[tuple[str, str]]:
    """(op, backend) of every GPU kernel of a public op that this version has."""
    import w2s_kernels
    from w2s_kernels import dispatch

    for name in w2s_kernels.__all__:
        getattr(w2s_kernels, name)  # defines the op
    table = dispatch.available()
    return [
        (op, backend)
        for op in sorted(set(table) & set(w2s_kernels.__all__))
        for backend in BACKENDS
        if table[op][backend] is None
    ]


def measured(op: str, backend: str, stores: Iterable[dict[str, Any]]) -> list[str]:
    """ "NAME, date" of every GPU that has figures of the kernel, in the stores' order."""
    found = []
    for data in stores:
        dates = [
            str(entry["stamp"]["date"]).split()[0]
            for entry in entries(data, "op")
            if entry["op"] == op and entry["size"]["device"] == "cuda"
            for row in entry["rows"]
            if row["provider"] == backend and row["cold"] is not None and row["right"]
        ]
        if dates:
            found.append(f"{data['device']}, {max(dates)}")
    return found


def table(stores: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown, its markers included."""
    lines = [BEGIN, "| kernel | language | hardware |", "| --- | --- | --- |"]
    for op, backend in kernels():
        found = measured(op, backend, stores)
        where = f"measured on {'; '.join(found)}" if found else NOT_RUN
        lines.append(f"| {op} | {'Triton' if backend == 'triton' else 'CUDA C++'} | {where} |")
    return "\n".join([*lines, END])


def stored() -> list[dict[str, Any]]:
    """All figures under bench/results/gpu."""
    return [read(path) for path in sorted(FOLDER.glob("*.json"))]


def with_table(text: str, found: str) -> str:
    """`text` with what stands between the markers replaced; `ValueError` without markers."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"there is not just one {BEGIN} … {END}")
    return text[: text.index(BEGIN)] + found + text[text.index(END) + len(END) :]


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the table into the given files."""
    for name in sys.argv[1:] if arguments is None else arguments:
        file = Path(name)
        file.write_text(with_table(file.read_text(encoding="utf-8"), table(stored())), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
