"""A few tokens through a model at load: our head, cache, masks and positions against its own.

What a model family does to its logits, and what it reads from its cache, its masks and its
positions, is not written anywhere that a program could read, and a family that does something else
than is known here must be refused, not run. So two rows go through the model's own forward, and
again the decoder's way: prompts of different lengths into a `KVCache`, then token by token. Sliding
windows are narrowed while the probe runs, so that a few tokens pass their edge.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from w2s.anatomy import text_config
from w2s.errors import ModelError
from w2s.heads import head_logits, verify_logits
from w2s_kernels import Head

if TYPE_CHECKING:
    from w2s.models import Model

_PROMPTS = (3, 2)
_STEPS = (2, 1)  # tokens of each forward after the prefill: a scorer reads several, a proposer one
_WINDOW = 2  # narrower than every prompt that a step continues
_TOKENS = max(_PROMPTS) + sum(_STEPS)
# Of the distance to a model without opinion (all logits equal), in fp32 and in half precisions.
_TOLERANCE, _TOLERANCE_HALF = 1e-3, 0.2


def probe(model: "Model") -> None:
    """Raises `HeadError` or `ModelError` when a search would not see the model's own logits."""
    module = model.module
    ids = (torch.arange(2 * _TOKENS, device=model.device) + model.vocab // 2) % model.vocab
    ids = ids.view(2, _TOKENS)
    with torch.inference_mode(), _narrow_windows(module):
        try:
            theirs = module(input_ids=ids, use_cache=False).logits  # [2, T, V]
            hidden, column = _decode(model, ids)  # [2, S, D], [2, S]
            ours = model.logits(hidden.flatten(0, 1))  # [2·S, V]
        except Exception as error:
            raise _does_not_run(module, error) from error
        expected = torch.cat([theirs[row, column[row]] for row in range(2)])  # [2·S, V]
        distance = _distance(ours, expected)
        if not distance <= _limit(module):
            _refuse_the_head(model, ids, theirs)
            raise _differs(module, distance)
        if isinstance(model._head, Head):
            token = int(ids[0, column[0, 0]])
            verify_logits(module, head_logits(hidden[0, :1], model._head)[0], ours[0], token)


def _decode(model: "Model", ids: Tensor) -> tuple[Tensor, Tensor]:
    """The decoder's hidden states [2, S, D] of ids [2, T] at some columns [2, S]."""
    narrow = {
        kind: None if window is None else min(window, _WINDOW)
        for kind, window in model.layer_windows.items()
    }
    model = replace(model, layer_windows=narrow)
    cache = model.new_cache(list(_PROMPTS), 1, _TOKENS)
    prompts = [ids[row, :length].tolist() for row, length in enumerate(_PROMPTS)]
    last = model.prefill(prompts, cache)  # [2, D]
    found = [] if last is None else [last[:, None]]
    length = torch.tensor(_PROMPTS, device=model.device)[:, None]  # [2, 1]
    written = 0
    for step in _STEPS:
        position = length + written + torch.arange(step, device=model.device)  # [2, Q]
        written += step
        found.append(model.hidden(ids.gather(1, position), position, _PROMPTS[0] + written, cache))
    return torch.cat(found, dim=1), length + torch.arange(-1, written, device=model.device)


@contextmanager
def _narrow_windows(module: Any) -> Iterator[None]:
    """A model makes its own masks from its config at each forward: a narrow window reaches them."""
    config = text_config(module)
    window = getattr(config, "sliding_window", None)
    if window is None:
        yield
        return
    config.sliding_window = min(window, _WINDOW)
    try:
        yield
    finally:
        config.sliding_window = window


def _limit(module: Any) -> float:
    return _TOLERANCE_HALF if module.dtype.itemsize == 2 else _TOLERANCE


def _distance(ours: Tensor, theirs: Tensor) -> float:
    """The largest distance of two rows of logits, as a part of their spread."""
    if ours.shape != theirs.shape:
        return torch.inf
    same = ours == theirs  # masked columns are -inf in both; a NaN equals nothing
    ours, theirs = ours.double(), theirs.double()
    error = (ours - theirs).masked_fill(same, 0.0).nan_to_num(torch.inf, torch.inf, -torch.inf)
    finite = theirs.isfinite()
    mean = theirs.where(finite, 0.0).sum(-1) / finite.sum(-1).clamp(min=1)
    spread = (theirs - mean[:, None]).where(finite, 0.0).norm(dim=-1).clamp(min=1e-12)
    return float((error.norm(dim=-1) / spread).max())


def _refuse_the_head(model: "Model", ids: Tensor, theirs: Tensor) -> None:
    """Raises `HeadError` if the logits differ without any cache, so that the head is to blame."""
    hidden = model.backbone(input_ids=ids[:1], use_cache=False).last_hidden_state[0, -1:]
    verify_logits(model.module, model.logits(hidden)[0], theirs[0, -1], int(ids[0, -1]))


def _does_not_run(module: Any, error: Exception) -> ModelError:
    return ModelError(
        f"{type(module).__name__} does not run with the decoder's own key-value cache, masks and "
        f"positions ({type(error).__name__}: {error}); this model family is not supported"
    )


def _differs(module: Any, distance: float) -> ModelError:
    return ModelError(
        f"{type(module).__name__} gives other logits from the decoder's key-value cache and masks "
        f"than from its own forward (off by {distance:.2g} of their spread, allowed is "
        f"{_limit(module):.2g}); this model family is not supported"
    )
