"""`Recipe`: which two checkpoints, which α for which tensor, how the result is rounded and cut."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

from w2s.errors import ExpoError

Rounding = Literal["nearest", "stochastic"]
AdapterResult = Literal["adapter", "merged"]

# Names a result's dtype may go by -> its code in a safetensors header.
DTYPE_CODES = {
    "float32": "F32", "fp32": "F32", "bfloat16": "BF16", "bf16": "BF16", "float16": "F16",
    "fp16": "F16", "float64": "F64", "fp64": "F64",
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """θ₂ = θ₁ + α(θ₁ − θ₀) for two checkpoints (ExPO, arXiv 2404.16792); validated at once.

    base: θ₀, before preference training; a folder or hub id. aligned: θ₁, after it; or, with
      `adapter`, a LoRA adapter on top of `base`.
    alpha: any finite number; 0 is θ₁ bit for bit, −1 is θ₀ up to rounding.
    dtype: of the written floating-point tensors, a key of `DTYPE_CODES`; None keeps θ₁'s, tensor by
      tensor.
    rounding, seed: to nearest (ties to even), or stochastic, keyed by seed, tensor name and element
      index, so that no sharding, thread count or order changes a bit.
    alpha_for: (regular expression, α) pairs, searched in a tensor's name; the last match wins.
    skip: regular expressions; a tensor whose name one is found in is copied from θ₁.
    shard_size: bytes in a file of the result at most (a larger tensor has a file of its own); None
      cuts the result like θ₁.
    adapter: None unless θ₁ is a LoRA adapter: "adapter" writes an adapter that is scaled by 1 + α,
      "merged" a whole checkpoint.
    base_revision, aligned_revision: of hub ids.

    Raises:
        ExpoError: names the field, its value and what is allowed.
    """

    base: str
    aligned: str
    alpha: float
    dtype: str | None = None
    rounding: Rounding = "nearest"
    seed: int = 0
    alpha_for: tuple[tuple[str, float], ...] = ()
    skip: tuple[str, ...] = ()
    shard_size: int | None = None
    adapter: AdapterResult | None = None
    base_revision: str | None = None
    aligned_revision: str | None = None

    def __post_init__(self) -> None:
        for field in ("base", "aligned"):
            if not isinstance(getattr(self, field), str) or not getattr(self, field):
                raise _wrong(field, getattr(self, field), "a folder or a hub id")
        _require_finite("alpha", self.alpha)
        if self.dtype is not None and self.dtype not in DTYPE_CODES:
            raise _wrong("dtype", self.dtype, "one of " + ", ".join(DTYPE_CODES))
        if self.rounding not in get_args(Rounding):
            raise _wrong("rounding", self.rounding, "nearest or stochastic")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**64:
            raise _wrong("seed", self.seed, "a whole number from 0 to 2**64 - 1")
        for pattern, alpha in self.alpha_for:
            _require_regex("alpha_for", pattern)
            _require_finite(f"alpha_for[{pattern!r}]", alpha)
        for pattern in self.skip:
            _require_regex("skip", pattern)
        if self.shard_size is not None and self.shard_size <= 0:
            raise _wrong("shard_size", self.shard_size, "a number of bytes above 0")
        if self.adapter is not None and self.adapter not in get_args(AdapterResult):
            raise _wrong("adapter", self.adapter, "None, 'adapter' or 'merged'")

    def skips(self, name: str) -> bool:
        """Whether the tensor of this name is copied from θ₁ because `skip` says so."""
        return any(re.search(pattern, name) for pattern in self.skip)

    def alpha_of(self, name: str) -> float:
        """The α of the tensor of this name; `skip` is not looked at."""
        found = [value for pattern, value in self.alpha_for if re.search(pattern, name)]
        return float(found[-1] if found else self.alpha)

    @property
    def dtype_code(self) -> str | None:
        """The safetensors code of `dtype`; None keeps θ₁'s."""
        return None if self.dtype is None else DTYPE_CODES[self.dtype]


def _require_finite(field: str, value: object) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value):  # type: ignore[arg-type]
        raise _wrong(field, value, "a finite number")


def _require_regex(field: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise _wrong(field, pattern, f"a regular expression ({error})") from error


def _wrong(field: str, value: object, allowed: str) -> ExpoError:
    return ExpoError(f"Recipe.{field} is {value!r}; it must be {allowed}")
