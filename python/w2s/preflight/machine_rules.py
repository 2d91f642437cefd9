"""Findings about where the models will run: device, dtype and memory."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from w2s.checkpoints import resolve_dtype
from w2s.errors import ModelError, SearchError
from w2s.estimate import Estimate, estimate, size
from w2s.memory import available_memory
from w2s.plan import SearchPlan
from w2s.preflight.card import Card
from w2s.preflight.finding import Finding, error, note

# Mean error of a 48-token score, in nats, by rounding to these dtypes: the embedded pair on review
# texts, against its scores in float32, which are 3.0 in size.
_ROUNDING = {torch.bfloat16: 0.09, torch.float16: 0.01}

# Tokens of the prompt that memory is estimated for when none is given.
_PROMPT = 32


def resolve_device(device: str | torch.device) -> torch.device:
    """What `load` makes of `device`; `ModelError` for something that names none."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except RuntimeError as reason:
        raise ModelError(
            f"device {device!r} is not a torch device, like 'cpu' or 'cuda:0'"
        ) from reason


def device_findings(device: torch.device) -> Iterator[Finding]:
    """The device is there."""
    if device.type != "cuda":
        return
    count = torch.cuda.device_count()
    if count == 0:
        yield error("device", f"{device} is asked for, and torch sees no CUDA device", "use cpu")
    elif (device.index or 0) >= count:
        yield error(
            "device",
            f"{device} is asked for, and torch sees {count} CUDA devices",
            f"use cuda:0 to cuda:{count - 1}" if count > 1 else "use cuda:0",
        )


def dtype_findings(
    large: Card | None,
    pair: Sequence[Card],
    dtype: str | torch.dtype,
    device: torch.device,
) -> Iterator[Finding]:
    """A dtype that is slow where it runs, or that rounds the scores."""
    everyone = [*([] if large is None else [large]), *pair]
    slow = [c.who for c in everyone if _runs_in(c, dtype, device) == (torch.float16, "cpu")]
    if slow:
        yield note(
            "slow-dtype",
            f"float16 is slow on a CPU ({', '.join(slow)})",
            "use float32, or bfloat16 on a CPU that has it",
        )
    for card in pair:
        rounded = _runs_in(card, dtype, device)[0]
        if rounded in _ROUNDING:
            yield note(
                "pair-rounding",
                f"{card.who} runs in {str(rounded).removeprefix('torch.')}, which rounds scores: "
                f"the embedded pair's by about {_ROUNDING[rounded]} of 3.0 nats over 48 tokens",
                "use float32 for the pair where near-ties matter; it is small",
            )
            return


def placement_findings(cards: Sequence[Card]) -> Iterator[Finding]:
    """Loaded models lie on one device."""
    places = {card.who: next(card.module.parameters()).device for card in cards if card.loaded}
    if len(set(places.values())) > 1:
        named = ", ".join(f"{who} on {place}" for who, place in places.items())
        yield error("devices", f"the models are on several devices: {named}", "move them to one")


def _runs_in(
    card: Card, dtype: str | torch.dtype, device: torch.device
) -> tuple[torch.dtype | None, str]:
    """The dtype and the kind of device that a model will compute with."""
    if card.module is None:
        return None, device.type
    if card.loaded and dtype == "auto":
        return card.module.dtype, next(card.module.parameters()).device.type
    if dtype != "auto":
        return resolve_dtype(dtype), device.type
    if device.type == "cpu":
        return torch.float32, "cpu"
    stored: Any = getattr(card.config, "dtype", None)
    return (stored if isinstance(stored, torch.dtype) else None), device.type


def memory_estimate(
    cards: Sequence[Card],
    plan: SearchPlan,
    longest: int | None,
    dtype: str | torch.dtype,
    device: torch.device,
) -> Estimate | None:
    """Bytes of a search of one prompt of `longest` tokens, before any of them is allocated.

    None where configs do not tell: models that are loaded already, quantized weights.
    """
    if any(card.loaded or card.quantization is not None for card in cards):
        return None
    members = [
        (card.module.config, _runs_in(card, dtype, device)[0] or torch.float32, device)
        for card in cards
    ]
    return estimate(plan, members if len(members) > 1 else members[0], [longest or _PROMPT])


def memory_findings(one: Estimate, device: torch.device) -> Iterator[Finding]:
    """One prompt at a time fits; more are split into batches by the search."""
    free = free_memory(device)
    if free is None or one.prompts_that_fit(free) > 0:
        return
    yield error(
        "memory",
        f"a search of one prompt takes {size(one.needed)}, and {size(free)} is free on {device}",
        "lower samples, width or max_new_tokens, use a smaller dtype, or free memory",
    )


def free_memory(device: torch.device) -> int | None:
    """Bytes free on the device; None where the system does not say."""
    try:
        return available_memory(device)
    except SearchError:
        return None
