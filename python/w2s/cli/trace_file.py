"""Writes a search's trace: what every candidate gained in every chunk, and which ones went on.

The format, JSON Lines; every line is an object with a "kind":

* "header", the first line: format ("w2s-trace"), version, w2s, method, plan (all its settings),
  beta (of guided decoding, else null) and models (large, tuned, untuned).
* "prompt", when its batch begins: prompt (its place in the input, from 0) and text. The same place
  once more begins that prompt anew: an interrupted run that goes on need not know what was lost.
* "chunk", a round of one prompt: prompt, chunk (from 0), written (tokens of an unfinished row so
  far), seconds (since the batch began), frozen, and lists with one entry a candidate: tokens (ids
  gained), texts (gained), scores (running), finished, parents (the rows that go on, in their new
  order); valid has one a kept hypothesis. A frozen prompt gains nothing, so its lines end with
  the round that froze it. rewrites {row: whole text}, only where a row's text so far is not the
  old text plus the gained one.
* "result", the prompt's last line: row (of the last chunk; the winner), text, score, finished,
  finish_reason.

A score is a number, null for NaN, "inf" or "-inf".
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import TYPE_CHECKING, cast

from w2s.cli.trace_lines import TraceLines

if TYPE_CHECKING:
    from w2s.plan import SearchPlan
    from w2s.prompts import Prompt
    from w2s.results import ChunkTrace, SearchResult

FORMAT = "w2s-trace"
VERSION = 1
# What a decoder gives for bytes that are no whole character (yet).
_HALF = "\N{REPLACEMENT CHARACTER}"

Decode = Callable[[Sequence[int]], str]


def trace_header(
    plan: SearchPlan,
    method: str,
    models: Mapping[str, str | None],
    *,
    beta: float | None = None,
) -> dict[str, object]:
    """A trace's first line; `models` are names by role, for people to read.

    beta: how strongly the pair guides each token; None where it does not.
    """
    try:
        installed: str | None = version("w2s-kernels")
    except PackageNotFoundError:
        installed = None
    return {
        "kind": "header",
        "format": FORMAT,
        "version": VERSION,
        "w2s": installed,
        "method": method,
        "plan": dataclasses.asdict(plan),
        "beta": beta,
        "models": dict(models),
    }


def model_labels(
    large: str | None, pair: tuple[str, str] | None, needs_pair: bool
) -> dict[str, str | None]:
    """What to call the models in a trace: as they were given, or by what is embedded."""
    labels = {"large": large or "SmolLM2-135M-Instruct (embedded)"}
    if not needs_pair:
        return {**labels}
    tuned, untuned = pair or ("sentiment pair (embedded)", "sentiment pair (embedded)")
    return {**labels, "tuned": tuned, "untuned": untuned}


class TraceFile:
    """The trace of a run, batch by batch: `start`, `on_chunk` for every round, `finish`.

    target: the file; it is TARGET.partial until `complete`, and a line reaches it before the call
      that wrote it returns. header: from `trace_header`. resume: go on with an interrupted run's.

    Raises:
        BadInput: on construction, thus before any work, if the file cannot be written.
    """

    def __init__(self, target: str, header: dict[str, object], *, resume: bool = False) -> None:
        self._file = TraceLines(target, header, resume=resume)
        self._first = 0
        self._rows: list[_Rows] = []

    def start(self, first: int, prompts: Sequence[Prompt], decode: Decode) -> None:
        """Begins a batch, whose prompts take the places from `first` in the input.

        decode: response tokens to text, of the model that writes.
        """
        self._first = first
        self._rows = [_Rows(decode) for _ in prompts]
        self._file.write(
            [
                {"kind": "prompt", "prompt": first + p, "text": _prompt_text(prompt)}
                for p, prompt in enumerate(prompts)
            ]
        )

    def on_chunk(self, trace: ChunkTrace) -> None:
        """Takes a round of the batch; what `search(on_chunk=…)` calls."""
        size = len(trace.tokens) // len(self._rows)
        lines: list[dict[str, object]] = []
        for p, rows in enumerate(self._rows):
            if rows.frozen:
                continue
            pool = slice(p * size, (p + 1) * size)
            finished = list(trace.finished[pool])
            rows.extend(trace.tokens[pool], finished, last=trace.written >= trace.limit)
            line: dict[str, object] = {
                "kind": "chunk",
                "prompt": self._first + p,
                "chunk": trace.chunk,
                "written": trace.written,
                "seconds": round(trace.seconds, 4),
                "frozen": trace.frozen[p],
                "tokens": [list(ids) for ids in trace.tokens[pool]],
                "texts": rows.gained,
                "scores": [_number(score) for score in trace.scores[p]],
                "finished": finished,
                "parents": list(trace.parents[p]),
                "valid": list(trace.valid[p]),
            }
            if rows.rewrites:
                line["rewrites"] = rows.rewrites
            lines.append(line)
            rows.go_on(trace.scores[p], trace.parents[p], trace.frozen[p])
        self._file.write(lines)

    def finish(self, results: Sequence[SearchResult]) -> None:
        """Ends the batch with its prompts' results."""
        lines: list[dict[str, object]] = []
        for p, result in enumerate(results):
            line: dict[str, object] = {"kind": "result", "prompt": self._first + p, "row": None}
            if result.candidates:
                best = result.best
                line |= {
                    "row": self._rows[p].find(best.tokens, best.score),
                    "text": best.text,
                    "score": _number(best.score),
                    "finished": best.finished,
                    "finish_reason": best.finish_reason,
                }
            lines.append(line)
        self._file.write(lines)

    def complete(self) -> None:
        """Gives the file its name; from here on it is whole."""
        self._file.complete()

    def __enter__(self) -> TraceFile:
        self._file.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.__exit__(kind, error, trace)


class _Rows:
    """The candidates of one prompt as they grow.

    A token may be half a character, so a chunk is never decoded alone: its text is what the
    decoded row has now and had not before, and half a character waits for its other half.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._tokens: list[list[int]] = []
        self._texts: list[str] = []
        # As of the round last taken: candidates before any of them was re-ordered.
        self._last: list[tuple[list[int], float]] = []
        self.gained: list[str] = []
        self.rewrites: dict[str, str] = {}
        self.frozen = False

    def extend(self, tokens: Sequence[Sequence[int]], finished: Sequence[bool], last: bool) -> None:
        """Row c gains `tokens[c]`; `last`: nothing can complete half a character any more."""
        self.gained, self.rewrites = [], {}
        if not self._texts:
            self._tokens, self._texts = [[] for _ in tokens], ["" for _ in tokens]
        for c, ids in enumerate(tokens):
            before = text = self._texts[c]
            if ids:
                self._tokens[c] = [*self._tokens[c], *ids]
                text = self._decode(self._tokens[c])
                if not (last or finished[c]):
                    text = text.rstrip(_HALF)
            if not text.startswith(before):
                self.rewrites[str(c)] = text
            self.gained.append(text.removeprefix(before))
            self._texts[c] = text

    def go_on(self, scores: Sequence[float], parents: Sequence[int], frozen: bool) -> None:
        """Row j becomes a copy of row `parents[j]`."""
        self._last = list(zip(self._tokens, scores, strict=True))
        self._tokens = [self._tokens[c] for c in parents]
        self._texts = [self._texts[c] for c in parents]
        self.frozen = frozen

    def find(self, tokens: Sequence[int], score: float) -> int | None:
        """The first candidate of the last round that has these tokens and this score."""
        return next(
            (c for c, (ids, s) in enumerate(self._last) if s == score and ids == list(tokens)), None
        )


def _prompt_text(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    # A chat: each message after its role.
    return "\n".join(
        f"{m['role']}: {m['content']}" for m in cast(Sequence[Mapping[str, str]], prompt)
    )


def _number(score: float) -> float | str | None:
    if math.isnan(score):
        return None
    return score if math.isfinite(score) else str(score)
