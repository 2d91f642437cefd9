"""`w2s search`: guided text for a file of prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from w2s.cli.errors import BadInput, Interrupted
from w2s.cli.plans import Method, build_plan
from w2s.cli.results_file import ResultsFile
from w2s.cli.rows import Format, Row, read_rows

if TYPE_CHECKING:
    from w2s.cli.models import Models
    from w2s.plan import SearchPlan
    from w2s.results import SearchResult

EXAMPLE = """Example: echo "This film was" | w2s search --max-new-tokens 20"""
# Rows a forward takes at once by default: more gain little on a CPU and cost cache memory.
_ROWS_A_BATCH = 256


def command(
    source: str = typer.Argument(
        "-", metavar="[INPUT]", help="JSONL or plain text, one prompt a line; - is standard input."
    ),
    output: str = typer.Option("-", "--output", "-o", help="JSONL file; - is standard output."),
    method: Method = typer.Option(
        Method.cbs, help="cbs: chunk-level beam search; bon: best of N; sample; greedy."
    ),
    width: int | None = typer.Option(
        None, "--width", "-W", help="Hypotheses kept (cbs).  [default: 4]"
    ),
    samples: int | None = typer.Option(
        None, "--samples", "-K", help="Continuations of each (cbs: 4), or N (bon: 16)."
    ),
    chunk: int | None = typer.Option(
        None, "--chunk", "-L", help="Tokens between two selections (cbs).  [default: 5]"
    ),
    max_new_tokens: int = typer.Option(50, help="Longest response in tokens."),
    temperature: float | None = typer.Option(
        None, help="0 takes the likeliest token.  [default: 0.7]"
    ),
    top_k: int = typer.Option(50, help="Sample among the k likeliest tokens; 0 is off."),
    top_p: float = typer.Option(1.0, help="Nucleus; 1 is off."),
    min_p: float = typer.Option(0.0, help="Least probability relative to the largest; 0 is off."),
    stop: list[str] = typer.Option([], help="A response ends before this text; repeatable."),
    seed: int = typer.Option(0, help="With a prompt's place in the input it fixes every draw."),
    large: str | None = typer.Option(
        None, help="Folder, hub id or .gguf file of the model that writes.  [default: embedded]"
    ),
    pair: tuple[str, str] | None = typer.Option(
        None,
        metavar="TUNED UNTUNED",
        help="The two models that steer.  [default: the embedded sentiment pair]",
    ),
    large_template: str | None = typer.Option(
        None, help='How the large model sees a prompt, such as "Review: {prompt}".'
    ),
    pair_template: str | None = typer.Option(None, help="How the pair sees a prompt."),
    chat: bool = typer.Option(False, help="Send prompts through the chat templates."),
    system: str = typer.Option("", help="System message for the chat templates."),
    field: str = typer.Option("prompt", help="The input's field that holds the prompt."),
    layout: Format = typer.Option(Format.auto, "--format", help="Of the input."),
    candidates: bool = typer.Option(
        False, "--candidates", help="Also write the last pool, best first."
    ),
    batch: int | None = typer.Option(
        None, help="Prompts searched at once.  [default: as many as make 256 rows]"
    ),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:1 …"),
    dtype: str = typer.Option("auto", help="auto, float32, bfloat16 or float16."),
) -> None:
    """Write guided text: the large model writes, the pair decides what is kept.

    Input rows are {"prompt": "…"}; output rows are the same with "response", "score" (Σ log p_tuned
    − log p_untuned, in nats), "finished" and "finish_reason" added. The output appears under its
    name when it is complete; until then finished rows are in OUTPUT.partial.
    """
    plan = build_plan(
        method,
        {"width": width, "samples": samples, "chunk": chunk, "temperature": temperature},
        max_new_tokens=max_new_tokens,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        stop=tuple(stop),
        seed=seed,
    )
    if batch is not None and batch < 1:
        raise BadInput(f"--batch is {batch}; it must be a whole number >= 1")
    rows = read_rows(source, field, layout)
    with ResultsFile(output) as results:
        from w2s.cli.models import check_lengths, load_models

        style = {"chat": chat, "system": system}
        models = load_models(
            large,
            pair,
            device=device,
            dtype=dtype,
            large_style={**style, "template": large_template},
            pair_style={**style, "template": pair_template},
        )
        check_lengths(models, rows, field, plan)
        at_once = batch or max(1, _ROWS_A_BATCH // plan.pool)
        try:
            _search(models, plan, rows, at_once, results, candidates)
        except KeyboardInterrupt:
            place = results.partial or results.name
            raise Interrupted(
                f"interrupted: {results.rows} of {len(rows)} rows are finished"
                + (f" and kept in {place}" if results.rows else "")
            ) from None
        results.complete()


def _search(
    models: Models,
    plan: SearchPlan,
    rows: list[Row],
    at_once: int,
    results: ResultsFile,
    candidates: bool,
) -> None:
    from w2s.cli.progress import search_progress

    with search_progress(len(rows), plan.max_new_tokens) as progress:
        for first in range(0, len(rows), at_once):
            part = rows[first : first + at_once]
            found = models.search([row.prompt for row in part], plan, progress.on_chunk, first)
            results.write(
                [result_row(row, one, candidates) for row, one in zip(part, found, strict=True)]
            )
            progress.finish_batch(len(part))
    typer.echo(
        f"{len(rows)} prompts, {progress.tokens} tokens written in "
        f"{progress.seconds:.1f} s ({progress.speed:.0f} tokens/s)",
        err=True,
    )


def result_row(row: Row, found: SearchResult, candidates: bool) -> dict[str, object]:
    """The input's fields, then what the search found."""
    best = found.best
    result: dict[str, object] = {
        **row.fields,
        "response": best.text,
        "score": best.score,
        "finished": best.finished,
        "finish_reason": best.finish_reason,
    }
    if candidates:
        result["candidates"] = [
            {"response": c.text, "score": c.score, "finish_reason": c.finish_reason}
            for c in found.candidates
        ]
    return result
