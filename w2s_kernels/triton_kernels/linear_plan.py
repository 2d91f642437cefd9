"""How the linear ops cut rows and columns, so that their working memory has a bound.

A forward takes at most `FORWARD_LIMIT` bytes beside its results, whatever N, V and D are; a
backward `BACKWARD_LIMIT` beside the gradients and an fp32 `[N, D]` for the hidden states' gradient.
"""

from collections.abc import Iterator
from dataclasses import dataclass

LEAF = 4096
FORWARD_LIMIT = 64 << 20
BACKWARD_LIMIT = 128 << 20
_BUFFER = 16 << 20  # fp32 products of a chunk: small enough to stay in the L2 cache
_WIDE = 12 << 20  # weights, and as much again for hidden states, in another dtype
_PARTS = 16 << 20  # one head's parts
_ROWS = 1024


@dataclass(frozen=True)
class Plan:
    """Rows that are taken at once, columns of a chunk, columns whose weights are converted at once.

    `bytes` is the working memory that this takes, the sum of every buffer.
    """

    rows: int
    columns: int
    piece: int
    bytes: int


def cdiv(value: int, step: int) -> int:
    """value / step, rounded up. (Triton's is slow on the host: it serves device code too.)"""
    return -(-value // step)


def target_block(targets: int) -> int:
    """Targets that a kernel takes at a time: a power of two up to 128."""
    return 1 if targets <= 1 else min(128, 1 << (targets - 1).bit_length())


def slices(stop: int, step: int) -> Iterator[slice]:
    """Consecutive slices of at most `step` that cover [0, stop)."""
    for start in range(0, stop, step):
        yield slice(start, min(stop, start + step))


def _floor(value: int, multiple: int) -> int:
    return max(multiple, value // multiple * multiple)


def tile_plan(rows: int, valid: int, columns: int, *, heads: int = 1) -> Plan:
    """The fused tile: parts of `columns` columns of each head's `valid`."""
    parts = cdiv(valid, columns)
    group = min(rows, _floor(_PARTS // (12 * parts), 16))
    return Plan(group, columns, 0, heads * group * parts * 12)


def forward_plan(
    rows: int, width: int, valid: int, *, weight_bytes: int, hidden_bytes: int, heads: int = 1
) -> Plan:
    """Chunks of the vendor's products.

    Args:
        rows, width, valid: N, D and the columns that count.
        weight_bytes: of an element of a weight that must be converted for the product; else 0.
        hidden_bytes: the same of a hidden state.
        heads: heads whose parts are held at the same time.
    """
    leaves = cdiv(valid, LEAF)
    group = min(rows, _ROWS, max(1, _PARTS // (12 * leaves)))
    if hidden_bytes:
        group = min(group, max(1, _WIDE // (width * hidden_bytes)))
    columns = min(leaves, max(1, _BUFFER // (4 * LEAF * group))) * LEAF
    piece = columns
    if weight_bytes:
        piece = min(columns, _floor(_WIDE // (width * weight_bytes), 16))
    total = 4 * group * columns + heads * 12 * group * leaves
    total += width * (group * hidden_bytes + (piece * weight_bytes if weight_bytes else 0))
    return Plan(group, columns, piece, total)


def backward_plan(
    rows: int, width: int, valid: int, *, split: bool, weight_bytes: int, hidden_bytes: int,
    block_rows: int, block_columns: int,
) -> Plan:  # fmt: skip
    """Chunks of products and of their gradient.

    Args:
        rows, width, valid: N, D and the columns that count.
        split: whether the gradient is held as two 16-bit halves beside the fp32 products.
        weight_bytes: of an element of a weight that must be converted for the product; else 0.
        hidden_bytes: of a hidden state in the product's dtype (ignored rows are copied as zeros).
        block_rows, block_columns: of a gradient program, which leaves one sum a column for the
            bias; the buffers are whole blocks.
    """
    most = _floor((2 * _WIDE) // (4 * width), block_columns)
    columns = min(cdiv(valid, block_columns) * block_columns, LEAF, most)
    group = min(_BUFFER // (4 * columns), (2 * _WIDE) // (4 * width))
    group = min(cdiv(rows, block_rows) * block_rows, _floor(group, block_rows))
    total = (8 if split else 4) * group * columns + group // block_rows * columns * 4
    total += group * width * hidden_bytes + columns * width * weight_bytes
    total += 4 * width * columns + 4 * width * max(group, columns)  # dW of a chunk, one product
    return Plan(group, columns, columns, total)
