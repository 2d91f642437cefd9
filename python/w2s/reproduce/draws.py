"""Draws the texts of one batch, and counts what they cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import w2s
from w2s.cli.errors import Stopped
from w2s.reproduce.experiment import NEW_TOKENS, Batch

if TYPE_CHECKING:
    from w2s.cli.models import Models
    from w2s.plan import SearchPlan
    from w2s.results import ChunkTrace, SearchResult

Row = dict[str, Any]


def draw(
    models: Models, batch: Batch, openings: Sequence[str], skip: int, new_tokens: int = NEW_TOKENS
) -> dict[str, Any]:
    """The batch as a record: `run`, `seed`, `first`, `seconds`, and a row for each opening.

    A row: `opening` (its place in the experiment), `texts`, their `tokens` (lengths) and `scores`
    (nats; None for guided draws, which are not ranked), in the order of the draws; `written`, the
    tokens the large model wrote for it, discarded ones included.
    openings: all of the experiment's. skip: how many held-out openings lie before the first.

    Raises:
        Stopped: a score is NaN.
    """
    run, plan = batch.run, batch.run.plan(batch.seed, new_tokens)
    prompts = list(openings[batch.first : batch.end])
    traces: list[ChunkTrace] = []
    began = time.perf_counter()
    results = w2s.search(
        prompts,
        _proposer(models, batch, plan),
        None if run.kind == "guided" or models.pair is None else w2s.PairScorer(*models.pair, plan),
        plan,
        on_chunk=traces.append,
        index=range(skip + batch.first, skip + batch.end),
    )
    seconds = time.perf_counter() - began
    written = [
        sum(
            len(row)
            for trace in traces
            for row in trace.tokens[p * plan.pool : (p + 1) * plan.pool]
        )
        for p in range(len(prompts))
    ]
    rows = [
        {
            "opening": batch.first + p,
            **(_best(result) if run.kind == "search" else _all(result, traces[0], p, plan)),
            "written": written[p],
        }
        for p, result in enumerate(results)
    ]
    if run.kind == "guided":
        for row in rows:
            row["scores"] = None
    return {
        "run": run.name, "seed": batch.seed, "first": batch.first, "seconds": seconds, "rows": rows,
    }  # fmt: skip


def _proposer(models: Models, batch: Batch, plan: SearchPlan) -> w2s.LocalProposer:
    if batch.run.kind != "guided" or models.pair is None:
        return w2s.LocalProposer(models.large, plan)
    return w2s.GuidedProposer(models.large, *models.pair, plan, beta=batch.run.beta)


def _best(result: SearchResult) -> Row:
    best = result.best
    return {"texts": [best.text], "tokens": [len(best.tokens)], "scores": [best.score]}


def _all(result: SearchResult, trace: ChunkTrace, prompt: int, plan: SearchPlan) -> Row:
    """Every text of a pool, in the order of its draws: a pool's first n are a pool of n.

    The result has them best first; the trace of its only round has them in order.
    """
    text = {tuple(candidate.tokens): candidate.text for candidate in result.candidates}
    rows = [tuple(row) for row in trace.tokens[prompt * plan.pool : (prompt + 1) * plan.pool]]
    if any(row not in text for row in rows):
        raise Stopped(
            f"a text after the opening {result.prompt!r:.60} has no score (NaN); check the models' "
            "weights and dtypes"
        )
    return {
        "texts": [text[row] for row in rows],
        "tokens": [len(row) for row in rows],
        "scores": list(trace.scores[prompt]),
    }
