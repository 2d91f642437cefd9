"""`Served`: one loaded model that holds θ₁ + α(θ₁ − θ₀) for one α after the other.

Neither θ₁ nor θ₀ is kept in memory: each α reads both from the checkpoints' files, tensor by
tensor, through two buffers as large as the largest tensor. That costs what reading the files
costs, which the page cache serves after the first time, next to nothing beside writing text; and a
sweep then needs the memory of one model, where copies of θ₁ and θ₀ would make it three. Every value
is made from the stored ones in float64 and rounded once, so it is the one that `w2s expo` would
write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from w2s.errors import ExpoError
from w2s.expo.tasks import FLOATING, StoredTensor, TensorTask
from w2s.packing import Packed, pack_layer, unpack_layer
from w2s_kernels import extrapolate

if TYPE_CHECKING:
    from w2s.models import Model

_NAMED = 3  # tensors named in a message
_ELEMENTS = 2**20  # compared at once


@dataclass(frozen=True)
class ServedBytes:
    """What serving takes: the model's weights, the two read buffers; and the files it reads."""

    model: int
    buffers: int
    files: int


@dataclass(frozen=True)
class _Place:
    """Where a parameter lies: an attribute of a layer, which packing may replace."""

    layer: nn.Module
    attribute: str

    @property
    def tensor(self) -> Tensor:
        found: Tensor = getattr(self.layer, self.attribute)
        return found


class Served:
    """`model`, whose parameters hold θ(α); it holds θ₁ (`alpha` 0.0) once this is made.

    model: θ₁ as `w2s.load` gives it. tasks: of the recipe (`w2s.expo.survey`); a tensor that the
    recipe copies (no θ₀, or α 0) stays θ₁'s at every α.

    Raises:
        ExpoError: the model's parameters are not the checkpoint's tensors one to one, which is
            found out by comparing every value with what transformers loaded.
    """

    def __init__(self, model: Model, tasks: Sequence[TensorTask]) -> None:
        self.model = model
        self.alpha = 0.0
        self._tasks = _matched(model.module, tasks)
        stored = [(task.aligned, task.base) for task, _ in self._tasks]
        sizes = [
            max((one.nbytes for one in side if one is not None), default=0)
            for side in zip(*stored, strict=True)
        ]
        self._buffers = [torch.empty(size, dtype=torch.uint8) for size in sizes]
        self.bytes = ServedBytes(
            model=_held(model.module),
            buffers=sum(sizes),
            files=sum(one.nbytes for pair in stored for one in pair if one is not None),
        )
        for task, place in self._tasks:
            self._compare(task, place)

    def set(self, alpha: float) -> None:
        """Puts θ(α) into the model's parameters, one tensor after the other.

        Raises:
            ExpoError: a file cannot be read; the parameters are then of two α, and `alpha` is NaN
                until the next call succeeds.
        """
        if alpha == self.alpha:
            return
        self.alpha = float("nan")
        with torch.no_grad():
            for task, place in self._tasks:
                self._put(task, place, alpha)
        self.alpha = alpha

    def _put(self, task: TensorTask, place: _Place, alpha: float) -> None:
        packed = isinstance(place.layer, Packed) and place.attribute == "weight"
        if packed:
            unpack_layer(place.layer)  # type: ignore[arg-type]
        try:
            self._write(task, place.tensor.data, alpha)
        finally:
            if packed:
                pack_layer(place.layer)

    def _write(self, task: TensorTask, out: Tensor, alpha: float) -> None:
        """θ(α) of one tensor into `out`, whose dtype and device it takes."""
        theta1 = self._read(task.aligned, 0).to(out.device)
        if task.base is None or task.alpha == 0.0:
            out.copy_(theta1)
            return
        theta0 = self._read(task.base, 1).to(out.device)
        rows = len(theta1) if task.rows is None and theta1.ndim else task.rows
        if rows is None:  # a scalar
            extrapolate(theta1, theta0, alpha, out=out)
            return
        if rows < len(theta1):
            out[rows:].copy_(theta1[rows:])
        extrapolate(theta1[:rows], theta0[:rows], alpha, out=out[:rows])

    def _read(self, stored: StoredTensor, side: int) -> Tensor:
        """The stored tensor in this side's buffer, valid until the side's next read."""
        if not stored.nbytes:
            return torch.empty(stored.shape, dtype=FLOATING[stored.code])
        piece = self._buffers[side][: stored.nbytes]
        stored.read_into(memoryview(piece.numpy()), 0)  # type: ignore[arg-type]
        return piece.view(FLOATING[stored.code]).view(stored.shape)

    def _compare(self, task: TensorTask, place: _Place) -> None:
        """Refuses a parameter that transformers loaded as something else than the stored tensor."""
        loaded = place.tensor
        if isinstance(place.layer, Packed) and place.attribute == "weight":
            loaded = place.layer.plain_weight()
        theta1 = self._read(task.aligned, 0).to(loaded.device)
        if theta1.shape != loaded.shape or not _same(theta1, loaded.detach()):
            raise ExpoError(
                f"the tensor {task.aligned.name} of {self.model.name} is not what transformers "
                "loads under that name, so it cannot be served in place; write the α to try with "
                "`w2s expo` and compare those checkpoints"
            )


def _matched(module: Any, tasks: Sequence[TensorTask]) -> list[tuple[TensorTask, _Place]]:
    """Each parameter's task, in the tasks' order; of tied parameters' tensors the first."""
    places = {
        f"{prefix}.{name}" if prefix else name: _Place(layer, name)
        for prefix, layer in module.named_modules(remove_duplicate=False)
        for name, parameter in layer.named_parameters(recurse=False)
        if parameter is not None
    }
    prefix = getattr(module, "base_model_prefix", "")
    found: list[tuple[TensorTask, _Place]] = []
    covered: set[int] = set()
    for task in tasks:
        place = places.get(task.aligned.name) or places.get(f"{prefix}.{task.aligned.name}")
        if place is None or id(place.tensor) in covered or task.aligned.code not in FLOATING:
            continue
        covered.add(id(place.tensor))
        found.append((task, place))
    missing = [name for name, place in places.items() if id(place.tensor) not in covered]
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise ExpoError(
            f"the aligned checkpoint has no tensor for the model's {', '.join(missing[:_NAMED])}"
            f"{more}: transformers renames or merges what this checkpoint holds, so an α cannot be "
            "served in place; write the α to try with `w2s expo` and compare those checkpoints"
        )
    return found


def _same(stored: Tensor, loaded: Tensor) -> bool:
    """Whether equally shaped tensors hold the same in the dtype of `loaded`; NaN is like NaN."""
    pieces = (tensor.reshape(-1).split(_ELEMENTS) for tensor in (stored, loaded))
    for a, b in zip(*pieces, strict=True):
        a = a.to(b.dtype)
        if not bool(((a == b) | (a.isnan() & b.isnan())).all()):
            return False
    return True


def _held(module: nn.Module) -> int:
    """Bytes of the parameters, tied ones once."""
    return sum(one.numel() * one.element_size() for one in module.parameters())
