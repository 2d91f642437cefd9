"""logprob_stats: what a vocabulary shard knows of each row, and how shards become a log-prob."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import dispatch
from ..errors import RangeError
from . import _check, _op, _stats
from ._warm import warm
from .logprob import ATOL, RTOL, example_inputs, tolerance

__all__ = [
    "ATOL",
    "RTOL",
    "example_inputs",
    "finish_stats",
    "logprob_stats",
    "merge_stats",
    "tolerance",
]

Stats = tuple[Tensor, Tensor, Tensor]


@warm
def logprob_stats(
    logits: Tensor,
    target: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    softcap: float = 0.0,
    valid_vocab: int | None = None,
    vocab_start: int = 0,
) -> Stats:
    """(m, s, z_target) of each row over one shard of the vocabulary. Not differentiable.

    m is the largest logit z, s = Σ exp((z − m)/T), z_target the target's logit; m and z_target are
    not divided by T. To finish: `finish_stats(merge_stats(parts), target)`, or by hand
    `(z_target − m)/T − log s` in float64. A few bytes a row, so vocabulary-parallel ranks
    all-gather their parts and fold them in rank order.

    Args:
        logits: `[…, V_shard]` fp32, bf16 or fp16: columns vocab_start … of the whole row.
        target: `[…]` or `[…, K]` int32 or int64 ids of the whole vocabulary.
        temperature: a number > 0, or a tensor `[…]` of them (an entry ≤ 0 makes its row NaN).
        softcap: c > 0 applies c·tanh(z/c) first; 0 for none.
        valid_vocab: columns of this shard from here on are padding (0 … V_shard); None for all.
        vocab_start: id of the shard's first column.

    Returns:
        m fp32 `[…]`, s float64 `[…]`, z_target fp32 of target's shape, −inf where the target lies
        in another shard. A fully masked shard is (−inf, 0); one with a NaN or +inf (NaN, NaN).

    Raises:
        DtypeError, ShapeError, DeviceError, LayoutError, RangeError: naming the argument.
    """
    _check.logits("logits", logits)
    leading, columns = logits.shape[:-1], logits.shape[-1]
    _check.targets_of(target, leading, "logits")
    device = _check.same_device(logits=logits, target=target)
    softcap = _check.non_negative("softcap", softcap)
    valid = columns if valid_vocab is None else valid_vocab
    if not 0 <= valid <= columns:
        raise RangeError(f"valid_vocab must lie in [0, {columns}], got {valid_vocab}")
    if vocab_start < 0:
        raise RangeError(f"vocab_start must be >= 0, got {vocab_start}")
    scalar, rows = _check.temperature_of(temperature, leading)
    _check.no_nan("logits", logits)

    op = dispatch.resolve("logprob_stats", device)
    m, s, z_target = op(
        logits.detach().reshape(-1, columns),
        _check.rows_of_targets(target, leading),
        scalar, rows, softcap, valid, vocab_start,
    )  # fmt: skip
    return m.reshape(leading), s.reshape(leading), z_target.reshape(target.shape)


def merge_stats(parts: Sequence[Stats], *, temperature: float | Tensor = 1.0) -> Stats:
    """The statistics of the whole row from those of its shards, in rank order. Not differentiable.

    Merging shards that are cut at multiples of 4096 columns gives the log-probs of the unsharded
    row: the same m and z_target, and s within a few float64 roundings (none when each shard is a
    single leaf of 4096 columns).

    Args:
        parts: (m, s, z_target) of every shard as `logprob_stats` returns them, all of one shape
            and device, computed at the same temperature.
        temperature: as given to `logprob_stats`.

    Returns:
        (m, s, z_target) as `logprob_stats` of the whole row gives them.

    Raises:
        DtypeError, ShapeError, DeviceError, RangeError: naming the part.
    """
    if len(parts) == 0:
        raise RangeError("parts must hold at least one (m, s, z_target)")
    for i, part in enumerate(parts):
        _check_stats(f"parts[{i}]", part)
        for name, value, first in zip(("m", "s", "z_target"), part, parts[0], strict=True):
            _check.same_shape(f"parts[{i}].{name}", value, first.shape, "parts[0]")
        _check.same_device(**{"parts[0].m": parts[0][0], f"parts[{i}].m": part[0]})
    leading = parts[0][0].shape
    scalar, rows = _check.temperature_of(temperature, leading)
    op = dispatch.resolve("merge_stats", parts[0][0].device)
    m, s = op(
        torch.stack([part[0].detach().reshape(-1) for part in parts]),  # [P, N]
        torch.stack([part[1].detach().reshape(-1) for part in parts]),
        scalar,
        rows,
    )
    z_target = torch.stack([part[2].detach() for part in parts]).amax(dim=0)
    return m.reshape(leading), s.reshape(leading), z_target


def finish_stats(
    stats: Stats,
    target: Tensor | None = None,
    *,
    temperature: float | Tensor = 1.0,
    vocab: int | None = None,
) -> Tensor:
    """Log-probs `(z_target − m)/T − log s` from (merged) statistics, rounded once to fp32.

    Args:
        stats: (m `[…]`, s `[…]`, z_target `[…]` or `[…, K]`).
        target: the ids z_target was taken at, so that −100 gives 0 and ids outside [0, vocab) give
            NaN; None when every target is known to be a valid id.
        temperature: as given to `logprob_stats`.
        vocab: size of the whole vocabulary; None leaves ids ≥ it unnoticed (they give −inf).

    Returns:
        fp32 log-probs of z_target's shape: the bits that `logprob` gives for the whole row.

    Raises:
        DtypeError, ShapeError, DeviceError, RangeError: naming the argument.
    """
    _check_stats("stats", stats)
    m, s, z_target = (value.detach() for value in stats)
    leading = m.shape
    if target is None:
        target = torch.zeros(z_target.shape, dtype=torch.int64, device=m.device)
    _check.same_shape("target", _check.tensor("target", target, _check.INTEGERS), z_target.shape,
                      "stats.z_target")  # fmt: skip
    device = _check.same_device(**{"stats.m": m, "target": target})
    if vocab is not None and vocab < 1:
        raise RangeError(f"vocab must be >= 1, got {vocab}")
    columns = _ANY_ID if vocab is None else vocab
    scalar, rows = _check.temperature_of(temperature, leading)
    _check.target_values(target, columns)
    ids = _check.rows_of_targets(target, leading)
    op = dispatch.resolve("finish_stats", device)
    value: Tensor = op(
        m.reshape(-1), s.reshape(-1), z_target.reshape(ids.shape), ids, scalar, rows, columns
    )
    return value.reshape(z_target.shape)


# No vocabulary is larger, and int32 targets can be compared with it.
_ANY_ID = torch.iinfo(torch.int32).max


def _check_stats(name: str, stats: Stats) -> None:
    m = _check.tensor(f"{name}.m", stats[0], (torch.float32,))
    s = _check.tensor(f"{name}.s", stats[1], (torch.float64,))
    z_target = _check.tensor(f"{name}.z_target", stats[2], (torch.float32,))
    _check.same_shape(f"{name}.s", s, m.shape, f"{name}.m")
    if z_target.dim() == m.dim():
        _check.same_shape(f"{name}.z_target", z_target, m.shape, f"{name}.m")
    else:
        _check.same_shape(f"{name}.z_target", z_target, [*m.shape, *z_target.shape[-1:]], "m + K")
    _check.same_device(**{f"{name}.m": m, f"{name}.s": s, f"{name}.z_target": z_target})


def _reference(
    logits: Tensor,  # [N, V_shard]
    target: Tensor,  # [N, K]
    temperature: float,
    temperature_rows: Tensor | None,  # [N] fp32
    softcap: float,
    valid_vocab: int,
    vocab_start: int,
) -> Stats:
    m, s, z_target = _fake(logits, target)
    t = _stats.temperature_column(temperature, temperature_rows, logits)
    if valid_vocab == 0:  # a shard of padding alone; a temperature that cannot be used still shows
        usable = (t[:, 0] > 0) & t[:, 0].isfinite()
        m.fill_(float("-inf")).masked_fill_(~usable, float("nan"))
        s.zero_().masked_fill_(~usable, float("nan"))
        return m, s, z_target.fill_(float("-inf"))
    for block in _stats.row_blocks(*logits.shape):
        z = _stats.effective_logits(logits[block, :valid_vocab], softcap)
        stats = _stats.row_stats(z, t[block])
        z_t, inside = _stats.target_logits(z, target[block], vocab_start)
        m[block], s[block] = stats.m[:, 0].float(), stats.s[:, 0]
        z_target[block] = z_t.masked_fill(~inside, float("-inf")).float()
    return m, s, z_target


def _fake(logits: Tensor, target: Tensor, *_: object) -> Stats:
    rows = logits.shape[0]
    return (
        logits.new_empty(rows, dtype=torch.float32),
        logits.new_empty(rows, dtype=torch.float64),
        logits.new_empty(target.shape, dtype=torch.float32),
    )


def _reference_merge(
    m: Tensor,  # [P, N]
    s: Tensor,  # [P, N]
    temperature: float,
    temperature_rows: Tensor | None,  # [N]
) -> tuple[Tensor, Tensor]:
    t = _stats.temperature_column(temperature, temperature_rows, m[0])[:, 0]
    merged = m.double().amax(dim=0)  # [N]; NaN wins
    total = torch.zeros_like(merged)
    for part_m, part_s in zip(m.double(), s, strict=True):
        scale = torch.exp((part_m - merged) / t).masked_fill(part_m == float("-inf"), 0.0)
        total += torch.where(scale == 0, 0.0, scale * part_s)
    nan = merged.isnan()
    return merged.float(), total.masked_fill(nan, float("nan"))


def _fake_merge(m: Tensor, s: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return m.new_empty(m.shape[1]), s.new_empty(s.shape[1])


def _reference_finish(
    m: Tensor,  # [N]
    s: Tensor,  # [N]
    z_target: Tensor,  # [N, K]
    target: Tensor,  # [N, K]
    temperature: float,
    temperature_rows: Tensor | None,  # [N]
    vocab: int,
) -> Tensor:
    t = _stats.temperature_column(temperature, temperature_rows, m)
    stats = _stats.RowStats(m[:, None].double(), s[:, None], s[:, None])
    return _stats.finish(stats, z_target.double(), t, target, vocab).float()


def _fake_finish(m: Tensor, s: Tensor, z_target: Tensor, *_: object) -> Tensor:
    return torch.empty_like(z_target)


_TEMPERATURE = "float temperature, Tensor? temperature_rows"
_op.define(
    "logprob_stats",
    f"(Tensor logits, Tensor target, {_TEMPERATURE}, float softcap, int valid_vocab, "
    "int vocab_start) -> (Tensor, Tensor, Tensor)",
    reference=_reference,
    fake=_fake,
    triton="logprob_stats",
)
_op.define(
    "merge_stats",
    f"(Tensor m, Tensor s, {_TEMPERATURE}) -> (Tensor, Tensor)",
    reference=_reference_merge,
    fake=_fake_merge,
    triton="logprob_stats",
)
_op.define(
    "finish_stats",
    f"(Tensor m, Tensor s, Tensor z_target, Tensor target, {_TEMPERATURE}, int vocab) -> Tensor",
    reference=_reference_finish,
    fake=_fake_finish,
    triton="logprob_stats",
)
