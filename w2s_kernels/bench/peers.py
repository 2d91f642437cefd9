"""Kernels of other packages that compute a log-prob, where they are installed; nothing here needs
them. Each is imported when it is called first.

liger-kernel and cut-cross-entropy give a loss a token, which is −log p; trl's is a torch function.
flashinfer has no log-prob of a target, only samplers (see guided_cases.py). All but trl need a GPU.
"""

import importlib
from collections.abc import Callable
from importlib import metadata, util
from typing import Any

import torch
from torch import Tensor

from ..head import Head
from .case import Provider, Size


def _from(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _liger(logits: Tensor, target: Tensor) -> Tensor:
    found: Tensor = _from("liger_kernel.transformers.functional", "liger_cross_entropy")(
        logits, target, reduction="none"
    )
    return -found


def _quack(logits: Tensor, target: Tensor) -> Tensor:
    found: Tensor = _from("quack.cross_entropy", "cross_entropy")(logits, target, reduction="none")
    return -found


def _trl(logits: Tensor, target: Tensor) -> Tensor:
    found: Tensor = _from("trl.trainer.utils", "selective_log_softmax")(logits, target)
    return found


def _cut(hidden: Tensor, head: Head, target: Tensor) -> Tensor:
    found: Tensor = _from("cut_cross_entropy", "linear_cross_entropy")(
        hidden, head.weight, target, reduction="none"
    )
    return -found


def _liger_linear(hidden: Tensor, head: Head, target: Tensor) -> Tensor:
    call = _from("liger_kernel.transformers.functional", "liger_fused_linear_cross_entropy")
    found: Tensor = call(hidden, head.weight, target, reduction="none")
    return -found


def _twice(call: Callable[..., Tensor], each: int) -> Callable[..., Tensor]:
    """A pair's difference by two calls of a kernel for one model: `each` inputs a model."""

    def pair(*inputs: Any) -> Tensor:
        tuned, untuned, target = inputs[:each], inputs[each : 2 * each], inputs[-1]
        return call(*tuned, target) - call(*untuned, target)

    return pair


def _absent(package: str, *, on_cpu: bool) -> Callable[[Size], str | None]:
    module = package.replace("-", "_").removesuffix("_kernels").removesuffix("_python")

    def why(size: Size) -> str | None:
        if util.find_spec(module) is None:
            return f"{package} is not installed"
        if size.device == "cpu" and not on_cpu:
            return f"{package} has no kernel for CPUs"
        return None

    return why


def _providers(calls: dict[str, tuple[str, Callable[..., Tensor]]], each: int, pair: bool) -> Any:
    return {
        name: Provider(
            _twice(call, each) if pair else call, absent=_absent(package, on_cpu=package == "trl")
        )
        for name, (package, call) in calls.items()
    }


_ON_LOGITS = {
    "liger": ("liger-kernel", _liger),
    "quack": ("quack-kernels", _quack),
    "trl": ("trl", _trl),
}
_ON_HIDDEN = {
    "cut-cross-entropy": ("cut-cross-entropy", _cut),
    "liger fused": ("liger-kernel", _liger_linear),
}
NAMES = (*_ON_LOGITS, *_ON_HIDDEN, "flashinfer")


def on_logits(*, pair: bool = False) -> dict[str, Provider]:
    """Those that take logits; a pair's difference by two calls."""
    found: dict[str, Provider] = _providers(_ON_LOGITS, 1, pair)
    return found


def on_hidden(*, pair: bool = False) -> dict[str, Provider]:
    """Those that take hidden states and a head's weight."""
    found: dict[str, Provider] = _providers(_ON_HIDDEN, 2, pair)
    return found


def flashinfer_sample(
    base: Tensor, tuned: Tensor, untuned: Tensor, seed: Tensor, position: Tensor, k: int,
    *, beta: float, top_p: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Guided logits in torch, then flashinfer's filtered sampler: a token, no log-prob."""
    logits = base.float() + beta * (tuned.float() - untuned.float())
    call = _from("flashinfer.sampling", "top_k_top_p_sampling_from_logits")
    token: Tensor = call(logits, k or logits.shape[-1], top_p)
    return token.long(), torch.zeros_like(logits[:, 0])


flashinfer_absent = _absent("flashinfer-python", on_cpu=False)


def versions() -> dict[str, str | None]:
    """Installed versions of every peer, None for those that are absent."""
    found: dict[str, str | None] = {}
    packages = ("liger-kernel", "cut-cross-entropy", "trl", "quack-kernels", "flashinfer-python")
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found
