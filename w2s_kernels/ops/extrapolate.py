"""extrapolate: θ₁ + α(θ₁ − θ₀) in float64, rounded once, nearest or stochastically."""

import hashlib
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from .. import dispatch
from ..errors import DtypeError, LayoutError, RangeError, ShapeError
from . import _check, _extrapolate_reference, _op

Rounding = Literal["nearest", "stochastic"]

# One correct rounding by fixed rules: every backend and device gives the same bits.
ATOL, RTOL = 0.0, 0.0
DTYPES = (torch.float64, *_check.FLOATS)
# Where `start` is a multiple of it, pieces give the whole tensor's sums too.
LEAF = _extrapolate_reference.LEAF


def example_inputs(
    rows: int, columns: int, *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Random (theta1, theta0) `[rows, columns]` as weights are: std 0.02, difference 1e-4."""
    generator = torch.Generator().manual_seed(seed)
    theta0 = torch.randn(rows, columns, generator=generator) * 0.02
    theta1 = theta0 + torch.randn(rows, columns, generator=generator) * 1e-4
    return theta1.to(dtype), theta0.to(dtype)


def key_of(name: str, seed: int = 0) -> int:
    """The 64-bit key of a tensor's name: the same in every version, process and machine.

    The first 8 bytes, little-endian, of BLAKE2b with a digest of 8 bytes over the seed as 8 bytes,
    little-endian, followed by the name in UTF-8.

    Raises:
        DtypeError, RangeError: the name is no string, the seed not in [0, 2⁶⁴).
    """
    if not isinstance(name, str):
        raise DtypeError(f"name must be a str, got {type(name).__name__}")
    data = _word("seed", seed).to_bytes(8, "little") + name.encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def extrapolate(
    theta1: Tensor,
    theta0: Tensor,
    alpha: float | Tensor,
    *,
    rounding: Rounding = "nearest",
    key: int | str = 0,
    out_dtype: torch.dtype | None = None,
    out: Tensor | None = None,
    start: int = 0,
    sums: Tensor | None = None,
) -> Tensor:
    """θ₁ + α(θ₁ − θ₀), element by element (ExPO, arXiv 2404.16792). Not differentiable.

    x = θ₁ + α·(θ₁ − θ₀) is three float64 operations, none of them fused, and is rounded once to the
    result's dtype: float64 → 16 bits does not pass through fp32. α = 0 gives θ₁ bit for bit (NaN
    payloads and −0 too; in another dtype: θ₁ rounded once). NaN gives the quiet NaN without sign or
    payload. The result depends on nothing but an element's values, α, key and index: not on
    threads, on backend or device, or on how a tensor was cut into pieces.

    `rounding="nearest"`: ties to even; overflow gives ±inf.
    `rounding="stochastic"`: unbiased over keys, for 16-bit results (fp32 and fp64: as nearest).
    x is first taken to fp32, to nearest: an error of at most 2⁻¹⁷ of a bf16's spacing (2⁻¹⁴ of an
    fp16's) to either side alike, so it adds no bias. Then an element's random bits r are added to
    the low bits of the magnitude that the result has not (16 for bf16, 13 for fp16) and what is
    below the result's last place is cut off; so the magnitude is rounded up with the probability
    its remainder is of a spacing. Below 2⁻¹⁴ fp16's spacing is 2⁻²⁴ throughout: there the fp32
    number is taken to the nearest multiple of 2⁻⁵⁶ and 32 random bits are added. A representable
    value stays; NaN and inf stay; a finite x becomes neither, but at most the largest number.
    Random bits: Philox-4x32-10 with key words (key mod 2³², key div 2³²) and counter
    (c mod 2³², c div 2³², 0, 0) for c = index div 8, index = start + i for the i-th element in
    row-major order. Element index uses word w = out[(index mod 8) div 2]: the bits are
    h·2¹⁶ + h', h the lower 16 bits of w and h' the upper ones where the index is even, the other
    way round where it is odd; of these 32 the highest 16, 13 or all are added.

    Args:
        theta1, theta0: one shape; fp64, fp32, bf16 or fp16 in any mix, on one device. Strided ones
            are copied; elements are counted in row-major order.
        alpha: a finite number, or float64 `[rows]`, rows = theta1.shape[0]: one a row.
        rounding, key: see above; key is a number in [0, 2⁶⁴) or a str, which means `key_of(key)`.
        out_dtype: of the result; None: theta1's, or that of `out`.
        out: contiguous, written and returned; may be theta1 or theta0 itself (when elements have
            the same size), but may not overlap them otherwise.
        start: index of the first element here in the whole tensor, when this is a piece of it.
        sums: float64 `[4]`, to which is added: Σθ₁², ΣΔ² (Δ = θ₁ − θ₀), Σ(result − θ₁)Δ, each over
            the elements where Δ and the result are finite, and the number of results that are not
            finite though θ₁ and θ₀ are. Added leaf by leaf, a leaf being 4096 elements from a
            multiple of 4096 on, so pieces cut there give the bits of the whole.

    Returns:
        The result, contiguous, in theta1's shape; it carries no gradient.

    Raises:
        DtypeError, ShapeError, DeviceError, LayoutError, RangeError: naming the argument.
    """
    call = _Call(theta1, theta0, alpha, rounding, key, start, sums)
    if out is None:
        dtype = theta1.dtype if out_dtype is None else _out_dtype(out_dtype)
        if sums is None:
            op = dispatch.resolve("extrapolate", call.device)
            result: Tensor = op(*call.thetas, *call.settings, dtype)
            return result
        out = torch.empty(theta1.shape, dtype=dtype, device=call.device)
    else:
        _check_out(out, out_dtype, theta1, theta0)
    if out is theta1:
        dispatch.resolve("extrapolate_", call.device)(*call.thetas, sums, *call.settings)
    else:
        op = dispatch.resolve("extrapolate_into", call.device)
        op(*call.thetas, out.detach(), sums, *call.settings)
    return out


def extrapolate_(
    theta1: Tensor,
    theta0: Tensor,
    alpha: float | Tensor,
    *,
    rounding: Rounding = "nearest",
    key: int | str = 0,
    start: int = 0,
    sums: Tensor | None = None,
) -> None:
    """`extrapolate` written into theta1, which must be contiguous; returns nothing.

    A parameter that requires a gradient is written like any other tensor (as under
    `torch.no_grad()`).
    """
    call = _Call(theta1, theta0, alpha, rounding, key, start, sums)
    _contiguous("theta1", theta1)
    _apart("theta1", theta1, "theta0", theta0)
    dispatch.resolve("extrapolate_", call.device)(*call.thetas, sums, *call.settings)


class _Call:
    """Checked arguments, as the torch ops take them."""

    def __init__(
        self,
        theta1: Tensor,
        theta0: Tensor,
        alpha: float | Tensor,
        rounding: str,
        key: int | str,
        start: int,
        sums: Tensor | None,
    ) -> None:
        _check.tensor("theta1", theta1, DTYPES)
        _check.tensor("theta0", theta0, DTYPES)
        _check.same_shape("theta0", theta0, theta1.shape, "theta1")
        if rounding not in ("nearest", "stochastic"):
            raise RangeError(f"rounding must be 'nearest' or 'stochastic', got {rounding!r}")
        if isinstance(start, bool) or not isinstance(start, int | torch.SymInt) or start < 0:
            raise RangeError(f"start must be a whole number >= 0, got {start!r}")
        if sums is not None:
            _check.tensor("sums", sums, (torch.float64,))
            _check.same_shape("sums", sums, [4], "extrapolate")
            _contiguous("sums", sums)
        number, rows = _alphas(alpha, theta1)
        self.device = _check.same_device(theta1=theta1, theta0=theta0, alpha=rows, sums=sums)
        word = _word("key", _constant_key(key) if isinstance(key, str) else key)
        signed = word - (word >> 63 << 64)  # torch's integers have a sign
        self.thetas = theta1.detach().contiguous(), theta0.detach().contiguous()
        self.settings = number, rows, rounding == "stochastic", signed, start


def _constant_key(name: str) -> int:
    return key_of(name)


# A name is hashed while torch.compile traces: its key is a constant of the graph. This mark is all
# that torch.compiler.assume_constant_result sets, but calling it imports the compiler for a second.
_constant_key._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _word(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**64:
        raise RangeError(f"{name} must be a whole number in [0, 2**64), got {value!r}")
    return value


def _alphas(alpha: object, theta1: Tensor) -> tuple[float, Tensor | None]:
    if not isinstance(alpha, Tensor):
        if isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise DtypeError(
                f"alpha must be a number or a float64 tensor [rows], got {type(alpha).__name__}"
            )
        if not math.isfinite(alpha):
            raise RangeError(f"alpha must be finite, got {alpha}")
        return float(alpha), None
    _check.tensor("alpha", alpha, (torch.float64,))
    if theta1.dim() == 0:
        raise ShapeError("alpha must be a number where theta1 has no dimension")
    _check.same_shape("alpha", alpha, [theta1.shape[0]], "the rows of theta1")
    if _check.reads_values(alpha) and not bool(alpha.isfinite().all()):
        row = int((~alpha.isfinite()).nonzero()[0, 0])
        raise RangeError(f"alpha[{row}] is {float(alpha[row])}: it must be finite")
    return 0.0, alpha.detach().contiguous()


def _out_dtype(dtype: torch.dtype) -> torch.dtype:
    if dtype not in DTYPES:
        raise DtypeError(f"out_dtype must be float64, float32, bfloat16 or float16, got {dtype}")
    return dtype


def _check_out(out: Tensor, out_dtype: torch.dtype | None, theta1: Tensor, theta0: Tensor) -> None:
    _check.tensor("out", out, DTYPES)
    _check.same_shape("out", out, theta1.shape, "theta1")
    _check.same_device(theta1=theta1, out=out)
    _contiguous("out", out)
    if out_dtype is not None and out_dtype != out.dtype:
        raise DtypeError(f"out_dtype is {out_dtype} but out has {out.dtype}; leave one of them out")
    _apart("out", out, "theta1", theta1)
    _apart("out", out, "theta0", theta0)


def _contiguous(name: str, value: Tensor) -> None:
    if not value.is_contiguous():
        raise LayoutError(
            f"{name} is written, so it must be contiguous; got strides {list(value.stride())} for "
            f"shape {list(value.shape)}"
        )


def _apart(name: str, written: Tensor, other_name: str, other: Tensor) -> None:
    """Memory that is written is the other's element for element, or none of it."""
    plain = type(written) in (Tensor, torch.nn.Parameter) and type(other) in (
        Tensor,
        torch.nn.Parameter,
    )
    if torch.compiler.is_compiling() or not plain or not written.numel():
        return
    a, b = written.data_ptr(), other.data_ptr()
    same = a == b and written.element_size() == other.element_size() and other.is_contiguous()
    last = sum((n - 1) * step for n, step in zip(other.shape, other.stride(), strict=True))
    b_end = b + (last + 1) * other.element_size()
    if not same and a and b and a < b_end and b < a + written.nbytes:
        raise LayoutError(
            f"{name} overlaps {other_name} without being the same elements; give it memory of its "
            "own"
        )


def _fake(
    theta1: Tensor,
    theta0: Tensor,
    alpha: float,
    alpha_rows: Tensor | None,
    stochastic: bool,
    key: int,
    start: int,
    out_dtype: torch.dtype,
) -> Tensor:
    return torch.empty_like(theta1, dtype=out_dtype)


def _fake_writes(*_: Any) -> None:
    return None


def _cpu_into(*arguments: Any) -> None:
    torch.ops.w2s_cpu.extrapolate_into(*arguments)


def _new(into: Callable[..., None]) -> Callable[..., Tensor]:
    def run(theta1: Tensor, theta0: Tensor, *settings: Any) -> Tensor:
        out = torch.empty_like(theta1, dtype=settings[-1])
        into(theta1, theta0, out, None, *settings[:-1])
        return out

    return run


def _in_place(into: Callable[..., None]) -> Callable[..., None]:
    def run(theta1: Tensor, theta0: Tensor, sums: Tensor | None, *settings: Any) -> None:
        into(theta1, theta0, theta1, sums, *settings)

    return run


_SETTINGS = "float alpha, Tensor? alpha_rows, bool stochastic, int key, int start"
_op.define(
    "extrapolate_into",
    f"(Tensor theta1, Tensor theta0, Tensor(a!) out, Tensor(b!)? sums, {_SETTINGS}) -> ()",
    reference=_extrapolate_reference.extrapolate_into,
    fake=_fake_writes,
)
_op.define(
    "extrapolate_",
    f"(Tensor(a!) theta1, Tensor theta0, Tensor(b!)? sums, {_SETTINGS}) -> ()",
    reference=_in_place(_extrapolate_reference.extrapolate_into),
    fake=_fake_writes,
    cpu=_in_place(_cpu_into),
    needs=("extrapolate_into",),
)
_op.define(
    "extrapolate",
    f"(Tensor theta1, Tensor theta0, {_SETTINGS}, ScalarType out_dtype) -> Tensor",
    reference=_new(_extrapolate_reference.extrapolate_into),
    fake=_fake,
    cpu=_new(_cpu_into),
    needs=("extrapolate_into",),
)
