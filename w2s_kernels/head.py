"""`Head`: what turns one model's hidden states into logits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import DeviceError, DtypeError, LayoutError, RangeError, ShapeError

_WEIGHTS = (torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.float8_e4m3fn)


@dataclass(frozen=True, eq=False)
class Head:
    """One model's output head: `z = softcap·tanh(logit_scale·(h·Wᵀ·weight_scale + b) / softcap)`.

    Attributes:
        weight: `[V, D]`, fp32, bf16 or fp16 (int8 or fp8 with `weight_scale`), rows contiguous.
        bias: `[V]` floating, or None.
        softcap: 0 for none (Gemma 2: 30).
        logit_scale: a factor on the product (Cohere), or 1 / the divisor (Granite).
        valid_vocab: columns from here on are padding: neither read nor normalised. None: all.
        weight_scale: `[V]` fp32 factors of an int8 or fp8 weight's rows, or None.

    Raises:
        DtypeError, ShapeError, DeviceError, LayoutError, RangeError: naming the field.
    """

    weight: Tensor
    bias: Tensor | None = None
    softcap: float = 0.0
    logit_scale: float = 1.0
    valid_vocab: int | None = None
    weight_scale: Tensor | None = None

    def __post_init__(self) -> None:
        weight = self.weight
        if weight.dtype not in _WEIGHTS:
            raise DtypeError(f"Head.weight has dtype {weight.dtype}; use fp32, bf16 or fp16")
        if weight.dim() != 2 or 0 in weight.shape:
            raise ShapeError(f"Head.weight must be [V, D], got {list(weight.shape)}")
        if weight.shape[1] > 1 and weight.stride(1) != 1:
            raise LayoutError(
                f"Head.weight must be contiguous in its last dimension, got stride "
                f"{weight.stride(1)}: pass [V, D], not its transpose"
            )
        quantized = not weight.dtype.is_floating_point or weight.dtype.itemsize == 1
        if quantized and self.weight_scale is None:
            raise DtypeError(f"Head.weight_scale is needed for a {weight.dtype} weight")
        for name, value in (("bias", self.bias), ("weight_scale", self.weight_scale)):
            if value is None:
                continue
            if list(value.shape) != [weight.shape[0]]:
                raise ShapeError(
                    f"Head.{name} must be [{weight.shape[0]}] (one a row of weight), "
                    f"got {list(value.shape)}"
                )
            if value.device != weight.device:
                raise DeviceError(f"Head.{name} is on {value.device}, weight on {weight.device}")
            if not value.dtype.is_floating_point:
                raise DtypeError(f"Head.{name} must be floating, got {value.dtype}")
        if self.softcap < 0:
            raise RangeError(f"Head.softcap must be >= 0 (0: none), got {self.softcap}")
        if self.valid_vocab is not None and not 1 <= self.valid_vocab <= weight.shape[0]:
            raise RangeError(
                f"Head.valid_vocab must lie in [1, {weight.shape[0]}], got {self.valid_vocab}"
            )

    @property
    def vocab(self) -> int:
        """Number of valid columns."""
        return self.weight.shape[0] if self.valid_vocab is None else self.valid_vocab
