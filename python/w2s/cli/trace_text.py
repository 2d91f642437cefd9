"""How a trace puts texts, scores and settings, in the terminal and on the page."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from typing import Any

_NAMED = {"\n": "↵", "\t": "⇥", "\r": "␍"}


def visible(text: str) -> str:
    """`text` with all that cannot be seen, or would do something to a terminal, as signs."""
    if text and not text.strip(" "):
        return "␣" * len(text)
    return "".join(map(_sign, text))


def _sign(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    if character in "\u200c\u200d":  # joiners: part of how a word or an emoji is written
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"‹U+{code:04X}›"


def shown(score: float) -> str:
    """A score in four digits or so, always with its sign."""
    if math.isnan(score):
        return "nan"
    return f"{score:+.2f}" if abs(score) < 1000 else f"{score:+.4g}"


def settings_line(header: Mapping[str, Any]) -> str:
    """The plan in a line; settings that are off are left out."""
    plan = header["plan"]
    chunk = plan.get("chunk")
    parts = [
        str(header.get("method", "search")),
        f"width {plan['width']}",
        f"samples {plan['samples']}",
        "one chunk" if chunk is None else f"chunk {chunk}",
        f"at most {plan.get('max_new_tokens')} tokens",
        f"temperature {plan.get('temperature')}",
    ]
    off = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "clones": False, "stop": []}
    parts += [f"{key} {plan[key]}" for key, value in off.items() if plan.get(key, value) != value]
    if header.get("beta") is not None:
        parts.append(f"beta {header['beta']}")
    return " · ".join([*parts, f"seed {plan.get('seed')}"])
