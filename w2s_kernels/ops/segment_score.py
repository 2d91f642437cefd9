"""segment_score: sums of per-token differences, bit for bit the same however they were chunked."""

from typing import Any

import torch
from torch import Tensor

from .. import dispatch
from ..errors import RangeError, ShapeError
from . import _check, _op

# Sums are sequential float64 additions: every backend gives the same bits.
ATOL, RTOL = 0.0, 0.0


def example_inputs(
    rows: int, longest: int, *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Random (diff `[N]`, cu_seqlens `[rows + 1]` int64), segments of 0 … longest tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(longest + 1, (rows,), generator=generator)
    cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    return torch.randn(int(cu_seqlens[-1]), generator=generator).to(dtype), cu_seqlens


def segment_score(
    diff: Tensor, cu_seqlens: Tensor | None = None, *, max_length: int | None = None
) -> Tensor:
    """Sum of each segment of `diff`: `S(y|x) = Σ_t diff_t`. Differentiable in diff.

    The additions run left to right in float64, starting from 0: a search that adds its chunks one
    by one with `segment_score_` ends with the same bits (arXiv 2405.19262, the score of a
    hypothesis).

    Args:
        diff: `[N]` fp32, bf16, fp16 or float64, all segments one after another; or, without
            cu_seqlens, `[R, L]` with a segment a row, whose ignored positions hold 0 (as
            `logprob_diff` gives for an ignored target), last dimension contiguous.
        cu_seqlens: `[R + 1]` int32 or int64, segment r is diff[cu_seqlens[r] : cu_seqlens[r + 1]].
            A segment that is not within [0, N], or longer than max_length, gives NaN.
        max_length: an upper bound on the segments' lengths, None for N. The reference on a GPU
            takes that many steps, because it may not ask the device for the longest segment.

    Returns:
        float64 `[R]`; 0 for an empty segment.

    Raises:
        DtypeError, ShapeError, DeviceError, LayoutError, RangeError: naming the argument.
    """
    device, diff, cu_seqlens, bound = _arguments(diff, cu_seqlens, max_length)
    result: Tensor = dispatch.resolve("segment_score", device)(diff, cu_seqlens, bound)
    return result


def segment_score_(
    score: Tensor, diff: Tensor, cu_seqlens: Tensor | None = None, *, max_length: int | None = None
) -> None:
    """Adds each diff, in order, to its segment's running score, in place.

    Args:
        score: `[R]` float64, contiguous.
        diff, cu_seqlens, max_length: as in `segment_score`.

    Raises:
        DtypeError, ShapeError, DeviceError, LayoutError, RangeError: naming the argument.
    """
    _check.tensor("score", score, (torch.float64,))
    device, diff, cu_seqlens, bound = _arguments(diff, cu_seqlens, max_length)
    _check.same_device(score=score, diff=diff)
    rows = diff.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    _check.same_shape("score", score, [rows], "diff" if cu_seqlens is None else "cu_seqlens")
    _check.last_dim_contiguous("score", score)
    dispatch.resolve("segment_score_", device)(score, diff, cu_seqlens, bound)


def _arguments(
    diff: Tensor, cu_seqlens: Tensor | None, max_length: int | None
) -> tuple[torch.device, Tensor, Tensor | None, int]:
    """Checked (device, diff in fp32 or float64, contiguous cu_seqlens, bound on the lengths)."""
    _check.tensor("diff", diff, (*_check.FLOATS, torch.float64))
    _check.last_dim_contiguous("diff", diff)
    device = _check.same_device(diff=diff, cu_seqlens=cu_seqlens)
    longest = diff.shape[-1] if diff.dim() else 0
    if max_length is not None:
        if max_length < 0:
            raise RangeError(f"max_length must be >= 0, got {max_length}")
        longest = min(longest, max_length)
    if cu_seqlens is None:
        if diff.dim() != 2:
            raise ShapeError(
                f"diff must be [R, L] without cu_seqlens, got {list(diff.shape)}; "
                f"pass cu_seqlens [R + 1] for segments of a flat diff"
            )
    else:
        _check.tensor("cu_seqlens", cu_seqlens, _check.INTEGERS)
        if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] == 0:
            raise ShapeError(
                f"cu_seqlens must be [R + 1], at least [0], got {list(cu_seqlens.shape)}"
            )
        if diff.dim() != 1:
            raise ShapeError(f"diff must be [N] with cu_seqlens, got {list(diff.shape)}")
        _check_values(cu_seqlens, diff.shape[0], longest)
        cu_seqlens = cu_seqlens.contiguous()
    if diff.dtype in (torch.bfloat16, torch.float16):
        diff = diff.float()
    return device, diff, cu_seqlens, longest


def _check_values(cu_seqlens: Tensor, tokens: int, longest: int) -> None:
    """Under `checks(True)`: segments lie in [0, tokens] and none is longer than allowed."""
    if not _check.reads_values(cu_seqlens):
        return
    bad = ~_usable(cu_seqlens[:-1], cu_seqlens[1:], tokens, longest)
    if bool(bad.any()):
        row = int(bad.nonzero()[0, 0])
        raise RangeError(
            f"cu_seqlens[{row}:{row + 2}] is {cu_seqlens[row : row + 2].tolist()}: it must not "
            f"decrease, must lie in [0, {tokens}] and span at most max_length = {longest}"
        )


def _usable(start: Tensor, stop: Tensor, tokens: int, longest: int) -> Tensor:
    return (start >= 0) & (start <= stop) & (stop <= tokens) & (stop - start <= longest)


def _steps(lengths: Tensor, max_length: int) -> int:
    """The longest segment where asking costs no synchronisation, else the bound on it."""
    return int(lengths.max()) if lengths.device.type == "cpu" and lengths.numel() else max_length


def _padded(diff: Tensor, cu_seqlens: Tensor | None, max_length: int) -> Tensor:
    """float64 `[steps, R]`: the t-th diff of each segment, −0.0 after its end.

    −0.0 is the number that changes no bit of a running sum (0.0 would turn a −0.0 into 0.0).
    """
    if cu_seqlens is None:
        wide = diff.double().t()
        if max_length < wide.shape[0]:
            wide = torch.full_like(wide[:1], float("nan"))
        return wide
    start, stop = cu_seqlens[:-1].long(), cu_seqlens[1:].long()  # [R]
    usable = _usable(start, stop, diff.shape[0], max_length)
    # One step at least: it is what marks the unusable segments.
    steps = max(1, _steps(torch.where(usable, stop - start, 0), max_length))
    index = start + torch.arange(steps, device=diff.device)[:, None]  # [steps, R]
    inside = usable & (index < stop)
    source = torch.cat([diff.double(), diff.new_zeros(1, dtype=torch.float64)])
    wide = source[torch.where(inside, index, diff.shape[0])]
    return torch.where(inside, wide, torch.where(usable, -0.0, float("nan")).double())


def _reference_(score: Tensor, diff: Tensor, cu_seqlens: Tensor | None, max_length: int) -> None:
    for step in _padded(diff, cu_seqlens, max_length):
        score += step


def _reference(diff: Tensor, cu_seqlens: Tensor | None, max_length: int) -> Tensor:
    score = _fake(diff, cu_seqlens, max_length).zero_()
    _reference_(score, diff, cu_seqlens, max_length)
    return score


def _fake(diff: Tensor, cu_seqlens: Tensor | None, max_length: int) -> Tensor:
    rows = diff.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return diff.new_empty(rows, dtype=torch.float64)


def _fake_(score: Tensor, diff: Tensor, cu_seqlens: Tensor | None, max_length: int) -> None:
    return None


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    diff, cu_seqlens, _ = inputs
    ctx.save_for_backward(cu_seqlens)
    ctx.like = (diff.shape, diff.dtype)


def _backward(ops: Any, ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    """Each diff gets its segment's gradient; one in no segment gets 0."""
    (cu_seqlens,) = ctx.saved_tensors
    shape, dtype = ctx.like
    if cu_seqlens is None:
        return grad[:, None].expand(shape).to(dtype).contiguous(), None, None
    token = torch.arange(shape[0], dtype=cu_seqlens.dtype, device=grad.device)
    segment = torch.searchsorted(cu_seqlens, token, right=True)  # 0: before the first
    edge = grad.new_zeros(1)
    return torch.cat([edge, grad, edge])[segment].to(dtype), None, None


_ARGUMENTS = "Tensor diff, Tensor? cu_seqlens, int max_length"
_op.define(
    "segment_score",
    f"({_ARGUMENTS}) -> Tensor",
    reference=_reference,
    fake=_fake,
    setup_context=_setup_context,
    backward=_backward,
)
_op.define(
    "segment_score_", f"(Tensor(a!) score, {_ARGUMENTS}) -> ()", reference=_reference_, fake=_fake_
)
