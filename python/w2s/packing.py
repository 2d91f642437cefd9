"""Linear layers with their weights in the processor's own order: up to twice as fast on a CPU.

BLAS first copies a weight into blocks that suit the processor, then multiplies by those. For the
few rows of a search the copying takes as long as the multiplying, and the weights never change.
oneDNN can be given the blocks instead: a packed layer keeps them in place of its weight, so that it
needs no more memory. Products change in their last bits only.

A packed model is for inference, and can do what it could before: `state_dict()`, `copy.deepcopy`
and pickles hold plain weights, `.to()` and `load_state_dict()` work, `.train()` unpacks.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Rows that a weight is put in order for. It serves 1 to 512 rows as well as an order for just so
# many does (Zen 4); an order for 1 row costs a third at 16.
_ROWS = 64
# Smaller weights stay in the first caches: there is little to gain.
_LEAST_ELEMENTS = 2**14


def pack(module: nn.Module, *, keep: nn.Module | None = None) -> int:
    """Packs the linear layers under `module` in place, all but `keep`; says how many it packed.

    Layers that are packed: `nn.Linear` and transformers' `Conv1D`, exactly these classes, on a CPU,
    in a dtype that oneDNN multiplies here (float32; bfloat16 where the processor can). Left alone:
    weights that another layer shares, and layers with hooks or adapters, which may want the weight
    itself.
    """
    if getattr(module, "peft_config", None):
        return 0
    seen: dict[int, int] = {}
    layers = list(module.modules())
    for layer in layers:
        for parameter in layer.parameters(recurse=False):
            seen[id(parameter)] = seen.get(id(parameter), 0) + 1
    return sum(
        seen[id(layer.weight)] == 1 and pack_layer(layer)
        for layer in layers
        if layer is not keep and _packed_class(type(layer)) is not None
    )


def pack_layer(layer: nn.Module) -> bool:
    """Packs one layer in place if it is of those that `pack` takes; whether it did."""
    packed_class, weight = _packed_class(type(layer)), getattr(layer, "weight", None)
    if (
        packed_class is None
        or type(weight) is not nn.Parameter
        or weight.device.type != "cpu"
        or weight.layout != torch.strided
        or weight.numel() < _LEAST_ELEMENTS
        or not can_pack(weight.dtype)
        or "forward" in vars(layer)  # how accelerate hooks a layer
        or layer._forward_hooks
        or layer._forward_pre_hooks
    ):
        return False
    rows = packed_class.turned(weight.detach()).contiguous()  # [out, in]
    blocks = torch.ops.mkldnn._reorder_linear_weight(rows, _ROWS)
    vars(layer)["trainable"] = weight.requires_grad
    layer.weight = nn.Parameter(blocks, requires_grad=False)
    layer.__class__ = packed_class
    return True


def unpack_layer(layer: "Packed") -> None:
    """Gives a packed layer its plain weight and its class back."""
    weight = nn.Parameter(layer.plain_weight(), requires_grad=vars(layer).pop("trainable"))
    layer.weight = weight
    layer.__class__ = layer.plain_class  # type: ignore[assignment]


@lru_cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies by packed weights of this dtype here; tried, not looked up."""
    if not torch.backends.mkldnn.is_available() or not dtype.is_floating_point:
        return False
    weight = torch.eye(32, dtype=dtype)
    try:
        blocks = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        product = onednn_product(weight[:3], blocks, None)
        return torch.equal(product, weight[:3]) and torch.equal(blocks.to_dense(), weight)
    except (RuntimeError, NotImplementedError, AttributeError):
        return False


def onednn_product(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`functional.linear` [..., in] -> [..., out] by oneDNN, where `can_pack` says so.

    weight: a plain or a packed one [out, in].
    """
    found: Tensor = torch.ops.mkldnn._linear_pointwise(hidden, weight, bias, "none", [], "")
    return found


def plain_parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """`module.named_parameters()`, where a packed layer gives a plain copy of its weight."""
    for name, parameter in module.named_parameters():
        if parameter.is_mkldnn:
            layer = module.get_submodule(name.rpartition(".")[0])
            yield name, layer.plain_weight()  # type: ignore[operator]
        else:
            yield name, parameter


class Packed(nn.Module):
    """What the packed classes share. `weight` is an opaque tensor [out, in], frozen."""

    plain_class: type[nn.Module]
    weight: Any
    bias: Any

    @staticmethod
    def turned(weight: Tensor) -> Tensor:
        """The plain class's weight as [out, in], and back."""
        return weight

    def plain_weight(self) -> Tensor:
        """The weight as the plain class has it."""
        return self.turned(self.weight.detach().to_dense()).contiguous()

    def forward(self, hidden: Tensor) -> Tensor:  # [..., in] -> [..., out]
        if torch.is_grad_enabled() and hidden.requires_grad:
            return functional.linear(hidden, self.turned(self.plain_weight()), self.bias)
        return onednn_product(hidden, self.weight, self.bias)

    def train(self, mode: bool = True) -> "Packed":
        if not mode:
            return super().train(mode)
        unpack_layer(self)
        return self.train(mode)

    def __reduce_ex__(self, protocol: Any) -> Any:
        state = dict(vars(self))
        trainable = state.pop("trainable")
        state["_parameters"] = dict(
            self._parameters, weight=nn.Parameter(self.plain_weight(), requires_grad=trainable)
        )
        return _packed_again, (self.plain_class, state)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:  # `.to()`, `.half()`, `.cuda()`
        unpack_layer(self)
        self._apply(*args, **kwargs)
        pack_layer(self)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.plain_weight()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        unpack_layer(self)
        self._load_from_state_dict(*args, **kwargs)
        pack_layer(self)


def _packed_again(plain_class: type[nn.Module], state: dict[str, Any]) -> nn.Module:
    layer = plain_class.__new__(plain_class)
    layer.__setstate__(state)
    pack_layer(layer)
    return layer


class PackedLinear(Packed, nn.Linear):
    """A packed `nn.Linear`."""

    plain_class = nn.Linear


def _packed_class(plain: type[nn.Module]) -> type[Packed] | None:
    if plain is nn.Linear:
        return PackedLinear
    # Known by name, so that nothing here has to import transformers.
    known = (plain.__module__, plain.__name__) == ("transformers.pytorch_utils", "Conv1D")
    return _packed_conv1d() if known else None


@lru_cache
def _packed_conv1d() -> type[Packed]:
    from transformers.pytorch_utils import Conv1D

    class PackedConv1D(Packed, Conv1D):  # type: ignore[misc]
        """A packed `Conv1D` of transformers, whose plain weight is [in, out]."""

        plain_class = Conv1D

        @staticmethod
        def turned(weight: Tensor) -> Tensor:
            return weight.T

    return PackedConv1D
