"""`w2s trace --html`: one page with everything in it, style, script and data.

A model's text is not to be trusted. The page only ever gets it as JSON in which no `<` stands, its
script puts it in place as text and never as markup, and its policy lets nothing be loaded and no
script run but this one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from w2s.cli.errors import BadInput
from w2s.cli.trace_reader import PromptTrace, Trace
from w2s.cli.trace_rounds import Node, Round, rounds_of
from w2s.cli.trace_text import settings_line

# Candidates on a page, all rounds of all prompts: some 20 MB, what a browser opens in seconds.
LIMIT = 200_000


def write_page(target: str, trace: Trace, prompts: Sequence[PromptTrace]) -> int:
    """Writes the page of these prompts to `target` (`-`: standard output), whole or not at all.

    Returns how many prompts were left out because the page would grow beyond `LIMIT` candidates;
    the first one never is.

    Raises:
        BadInput: the file cannot be written.
    """
    size = trace.plan["width"] * trace.plan["samples"]
    room, shown = LIMIT, 0
    for prompt in prompts:
        room -= size * len(prompt.chunks)
        if room < 0 and shown:
            break
        shown += 1
    page = render(trace, prompts[:shown])
    if target == "-":
        sys.stdout.write(page)
        return len(prompts) - shown
    partial = Path(target + ".partial")
    try:
        if Path(target).is_dir():
            raise BadInput(f"{target}: cannot be written (it is a directory)")
        if Path(target).exists() and not Path(target).is_file():  # a pipe, /dev/null
            Path(target).write_text(page, encoding="utf-8", errors="replace")
        else:
            partial.write_text(page, encoding="utf-8", errors="replace")
            partial.replace(os.path.realpath(target))
    except OSError as error:
        raise BadInput(f"{target}: cannot be written ({error.strerror})") from error
    return len(prompts) - shown


def render(trace: Trace, prompts: Sequence[PromptTrace]) -> str:
    """The page as one string."""
    style, script = _asset("trace_page.css"), _asset("trace_page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    parts = {"@POLICY@": policy, "@STYLE@": style, "@SCRIPT@": script}
    # The data comes last, so that no text in it is taken for one of these marks.
    head, tail = _asset("trace_page.html").split("@DATA@")
    for mark, part in parts.items():
        head, tail = head.replace(mark, part), tail.replace(mark, part)
    return head + embedded_json(page_data(trace, prompts)) + tail


def embedded_json(value: Any) -> str:
    """JSON that may stand in a `<script>` element: none of its characters can end or open one."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def page_data(trace: Trace, prompts: Sequence[PromptTrace]) -> dict[str, Any]:
    """What the script draws."""
    models = trace.header.get("models")
    named = models if isinstance(models, Mapping) else {}
    return {
        "settings": settings_line(trace.header),
        "models": [[role, str(name)] for role, name in named.items() if name],
        "written": f"w2s {trace.header['w2s']}" if trace.header.get("w2s") else "",
        "notes": list(trace.notes),
        "prompts": [_prompt(prompt, trace.plan) for prompt in prompts],
    }


def _prompt(prompt: PromptTrace, plan: Mapping[str, Any]) -> dict[str, Any]:
    rounds = rounds_of(prompt, plan)
    result = prompt.result
    return {
        "place": prompt.place,
        "text": prompt.text,
        "result": None
        if result is None
        else {
            "row": result.get("row"),
            "text": str(result.get("text", "")),
            "score": result.get("score"),
            "reason": str(result.get("finish_reason", "")),
        },
        "rounds": [_round(one, chunk) for one, chunk in zip(rounds, prompt.chunks, strict=True)],
    }


def _round(one: Round, chunk: Mapping[str, Any]) -> dict[str, Any]:
    path = [node.row for node in one.nodes if node.on_path]
    return {
        "written": one.written,
        "ranked": list(one.ranked),
        "path": path[0] if path else None,
        "parent": [node.parent for node in one.nodes],
        "gained": [node.gained for node in one.nodes],
        "score": [_figure(node.score) for node in one.nodes],
        "gain": [_figure(node.gain) for node in one.nodes],
        "fate": [node.fate.value for node in one.nodes],
        "end": [_end(node) for node in one.nodes],
        "tokens": chunk["tokens"],
        "rewrites": chunk.get("rewrites", {}),
    }


def _end(node: Node) -> int:
    """0: goes on. 1: ended in this round. 2: had ended before."""
    return 0 if not node.finished else 1 if node.ended else 2


def _figure(score: float) -> float | str | None:
    if math.isnan(score):
        return None
    return round(score, 6) if math.isfinite(score) else str(score)


def _asset(name: str) -> str:
    return (files("w2s.cli") / name).read_text(encoding="utf-8")
