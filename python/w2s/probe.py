"""A few tokens through a model at load: our head, cache, masks and positions against its own.

What a model family does to its logits, and what it reads from its cache, its masks and its
positions, is not written anywhere that a program could read, and a family that does something else
than is known here must be refused, not run. So two rows go through the model's own forward, and
again the decoder's way: prompts of different lengths into a `KVCache`, then token by token. Sliding
windows are narrowed while the probe runs, so that ten tokens pass their edge.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from w2s.anatomy import text_config
from w2s.errors import HeadError, ModelError
from w2s.heads import head_logits, verify_logits
from w2s_kernels import Head

if TYPE_CHECKING:
    from w2s.models import Model

_TOKENS, _STEPS = 10, 2
_PROMPTS = (_TOKENS - _STEPS, 4)  # both pass the narrowed window
_WINDOW = 3
# Of the distance to the logits of no model at all (all equal), in fp32 and in half precisions.
_TOLERANCE, _TOLERANCE_HALF = 1e-4, 0.2


def probe(model: "Model") -> None:
    """Raises `HeadError` or `ModelError` when a search would not see the model's own logits."""
    module = model.module
    ids = (torch.arange(2 * _TOKENS, device=model.device) + model.vocab // 2) % model.vocab
    ids = ids.view(2, _TOKENS)
    with torch.inference_mode(), _narrow_windows(module):
        theirs = module(input_ids=ids, use_cache=False).logits  # [2, T, V]
        try:
            hidden, column = _decode(model, ids)
        except Exception as error:
            raise _does_not_run(module, error) from error
        row = torch.arange(2, device=model.device).repeat_interleave(_STEPS + 1)
        expected = theirs[row, column.flatten()]  # [2·(S+1), V]
        ours = model.logits(hidden)
        token = int(ids[row[0], column[0, 0]])
        if ours.shape != expected.shape or not (distance := _distance(ours, expected)) <= _limit(
            module
        ):
            uncached = model.backbone(input_ids=ids, use_cache=False).last_hidden_state
            first = int(column[0, 0])
            verify_logits(module, model.logits(uncached[0, first : first + 1])[0], expected[0], token)
            raise _differs(module, distance)
        if isinstance(model._head, Head):
            verify_logits(module, head_logits(hidden[:1], model._head)[0], ours[0], token)


def _decode(model: "Model", ids: Tensor) -> tuple[Tensor, Tensor]:
    """The decoder's hidden states [2·(S+1), D] of a prefill and S steps, and their columns [2, S+1]."""
    narrow = {
        kind: None if window is None else min(window, _WINDOW)
        for kind, window in model.layer_windows.items()
    }
    model = replace(model, layer_windows=narrow)
    cache = model.new_cache(list(_PROMPTS), 1, _TOKENS)
    prompts = [ids[row, :length].tolist() for row, length in enumerate(_PROMPTS)]
    found = [model.prefill(prompts, cache)]
    column = torch.tensor(_PROMPTS, device=model.device)[:, None] + torch.arange(
        -1, _STEPS, device=model.device
    )  # [2, S+1]
    for step in range(_STEPS):
        position = column[:, step + 1, None]  # [2, 1]
        pending = ids.gather(1, position)
        found.append(model.hidden(pending, position, _PROMPTS[0] + step + 1, cache)[:, -1])
    return torch.stack(found, dim=1).flatten(0, 1), column


@contextmanager
def _narrow_windows(module: Any) -> Iterator[None]:
    """The model's own masks are made from its config at each forward: a narrower one reaches them."""
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
    ours, theirs = ours.double(), theirs.double()
    spread = (theirs - theirs.mean(-1, keepdim=True)).norm(dim=-1).clamp(min=1e-12)
    return float(((ours - theirs).norm(dim=-1) / spread).nan_to_num(torch.inf).max())


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
