"""`w2s score`: what a pair thinks of responses that are there already."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import typer

from w2s.cli.errors import BadInput, Interrupted, one_sentence
from w2s.cli.results_file import ResultsFile
from w2s.cli.rows import Format, Row, read_rows
from w2s.cli.run_settings import input_digest
from w2s.errors import W2SError
from w2s.fingerprint import identity

if TYPE_CHECKING:
    from w2s.models import Model
    from w2s.scoring import EncodedRow, ResponseScore

EXAMPLE = """Example: echo '{"prompt": "This film was", "response": " a joy."}' | w2s score"""
_ROWS_A_BATCH = 256


@dataclass(frozen=True)
class Pending:
    """An input row with its responses as tokens: one, or chosen and rejected."""

    row: Row
    responses: list[EncodedRow]


def command(
    source: str = typer.Argument(
        "-", metavar="[INPUT]", help="JSONL, one object a line; - is standard input."
    ),
    output: str = typer.Option("-", "--output", "-o", help="JSONL file; - is standard output."),
    pair: tuple[str, str] | None = typer.Option(
        None,
        metavar="TUNED UNTUNED",
        help="The two models that judge.  [default: the embedded sentiment pair]",
    ),
    tokenizer: str | None = typer.Option(
        None, help="Folder or hub id of a tokenizer, for a pair that brings none."
    ),
    pair_template: str | None = typer.Option(
        None, help='How the pair sees a prompt, such as "Review: {prompt}".'
    ),
    system: str = typer.Option("", help="System message; implies --chat."),
    chat: bool = typer.Option(False, "--chat", help="Send prompts through the chat template."),
    field: str = typer.Option("prompt", help="JSONL field that holds the prompt."),
    response_field: str | None = typer.Option(
        None, help="JSONL field that holds the response.  [default: response]"
    ),
    per_token: bool = typer.Option(False, "--per-token", help="Also list each token's difference."),
    eos: bool = typer.Option(False, "--eos", help="Also score the end token behind a response."),
    batch: int = typer.Option(
        _ROWS_A_BATCH, help="Rows read and written at once; memory is bounded by tokens besides."
    ),
    resume: bool = typer.Option(
        False, "--resume", help="Go on with the finished rows of an interrupted run."
    ),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:1 …"),
    dtype: str = typer.Option("auto", help="auto, float32, bfloat16 or float16."),
) -> None:
    """Score given responses with a pair: Σ log p_tuned − log p_untuned, in nats.

    Rows {"prompt", "response"} get "score" and "n_tokens". Rows {"prompt", "chosen", "rejected"}
    get "chosen_score", "rejected_score" and "margin"; the last line on standard error is then the
    share of rows whose chosen response has the higher score. All fields go through to the output.
    """
    if batch < 1:
        raise BadInput(f"--batch is {batch}; it must be a whole number >= 1")
    rows = read_rows(source, field, Format.jsonl)
    fields = _response_fields(rows, response_field)
    results = ResultsFile(output, resume=resume)
    try:
        with results:
            style = {"template": pair_template, "system": system, "chat": chat}
            settings = {
                **_models_settings(pair, tokenizer),
                "--pair-template": pair_template, "--system": system, "--chat": chat,
                "--field": field, "--response-field": response_field, "--per-token": per_token,
                "--eos": eos, "--dtype": dtype, "the input": input_digest(rows),
            }  # fmt: skip
            results.take_up(settings, [row.fields for row in rows], _added_fields(fields))
            if results.was_complete:
                typer.echo(f"{results.name} is complete already: {len(rows)} rows", err=True)
                return
            models = _load_pair(pair, tokenizer, device=device, dtype=dtype, **style)
            pending = [_encode(row, models, field, fields, eos) for row in rows]
            settings.update(_models_settings(pair, tokenizer))  # a hub id's commit is known by now
            batch = results.begin(settings, batch)
            _score(pending, models, fields, batch, per_token, results)
            results.complete()
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted: {results.state()}") from None


def _models_settings(pair: tuple[str, str] | None, tokenizer: str | None) -> dict[str, object]:
    """What `--resume` compares of the models: their names and digests of their files."""
    from w2s import embedded

    members = embedded.pair() if pair is None else pair
    found: dict[str, object] = {"the command": "score", "--tokenizer": tokenizer}
    for role, name in zip(("tuned", "untuned"), members, strict=True):
        found[f"the {role} model"], found[f"the files of the {role} model"] = identity(str(name))
    return found


def _added_fields(fields: tuple[str, ...]) -> tuple[str, ...]:
    if len(fields) == 1:
        return ("score", "n_tokens", "per_token")
    per_side = ("score", "per_token")
    return (*(f"{name}_{what}" for name in fields for what in per_side), "margin")


def _response_fields(rows: list[Row], given: str | None) -> tuple[str, ...]:
    """("response",) or ("chosen", "rejected"), by the first row; all rows must have them.

    Raises:
        BadInput: a row lacks one, or it is no string.
    """
    single, double = (given or "response",), ("chosen", "rejected")
    first = rows[0].fields
    fields: tuple[str, ...] = single
    if given is None and single[0] not in first:
        if not any(name in first for name in double):
            raise BadInput(
                f'{rows[0].place}: has neither a field "response" nor "chosen" and "rejected"; '
                "--response-field names another one"
            )
        fields = double
    for row in rows:
        for name in fields:
            if name not in row.fields:
                raise BadInput(f'{row.place}: has no field "{name}"')
            if not isinstance(row.fields[name], str):
                found = json.dumps(row.fields[name], ensure_ascii=False)
                raise BadInput(f'{row.place}: field "{name}" must be a string, not {found:.40}')
    return fields


def _load_pair(
    pair: tuple[str, str] | None, tokenizer: str | None, **settings: Any
) -> tuple[Model, Model]:
    from w2s.cli.models import quiet_transformers
    from w2s.scoring import load_pair

    quiet_transformers()
    from transformers import AutoTokenizer

    from w2s import embedded

    try:
        if pair is None:
            tokenizer = tokenizer or str(embedded.large())
        lent = None if tokenizer is None else AutoTokenizer.from_pretrained(tokenizer)
        return load_pair(embedded.pair() if pair is None else pair, tokenizer=lent, **settings)
    except (W2SError, ImportError, OSError, ValueError) as error:
        message = one_sentence(error)
        raise BadInput(message.replace("pass tokenizer=", "give --tokenizer")) from error


def _encode(
    row: Row, models: tuple[Model, Model], field: str, fields: tuple[str, ...], eos: bool
) -> Pending:
    from w2s.scoring import encode_row

    try:
        return Pending(
            row,
            [
                encode_row(
                    models, row.prompt, str(row.fields[name]), eos,
                    f'{row.place}: field "{field}"', f'{row.place}: field "{name}"',
                )
                for name in fields
            ],
        )  # fmt: skip
    except W2SError as error:
        raise BadInput(one_sentence(error)) from error


def _score(
    pending: list[Pending],
    models: tuple[Model, Model],
    fields: tuple[str, ...],
    batch: int,
    per_token: bool,
    results: ResultsFile,
) -> None:
    from w2s.scoring import score_rows

    began, tokens, before = time.perf_counter(), 0, results.rows
    margins = _margins_of(results) if len(fields) == 2 else []
    with _bar(len(pending) - before) as advance:
        for first in range(before, len(pending), batch):
            part = pending[first : first + batch]
            try:
                flat = iter(score_rows([one for p in part for one in p.responses], models))
            except W2SError as error:
                raise BadInput(one_sentence(error)) from error
            done = []
            for one in part:
                scores = {name: next(flat) for name in fields}
                tokens += sum(score.n_tokens for score in scores.values())
                if len(fields) == 2:
                    margins.append(scores["chosen"].total - scores["rejected"].total)
                done.append({**one.row.fields, **_added(scores, per_token)})
            results.write(done)
            advance(len(part))
    seconds = time.perf_counter() - began
    earlier = f" after {before} earlier ones" if before else ""
    typer.echo(
        f"{len(pending) - before} rows{earlier}, {tokens} response tokens scored "
        f"in {seconds:.1f} s",
        err=True,
    )
    if margins:
        right = sum(margin > 0 for margin in margins)
        typer.echo(
            f"pairwise accuracy {right / len(margins):.4f} ({right} of {len(margins)} rows have "
            f"the chosen response above the rejected one), mean margin {fmean(margins):+.4f}",
            err=True,
        )


def _margins_of(results: ResultsFile) -> list[float]:
    """Those of the rows that an interrupted run has finished."""
    if results.partial is None:
        return []
    lines = results.partial.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["margin"] for line in lines]


def _added(scores: dict[str, ResponseScore], per_token: bool) -> dict[str, object]:
    """What a row gets: a single response's score, or both of a preference and their difference."""
    added: dict[str, object] = {}
    if len(scores) == 1:
        (score,) = scores.values()
        added = {"score": score.total, "n_tokens": score.n_tokens}
        return {**added, "per_token": score.per_token} if per_token else added
    for name, score in scores.items():
        added[f"{name}_score"] = score.total
        if per_token:
            added[f"{name}_per_token"] = score.per_token
    return {**added, "margin": scores["chosen"].total - scores["rejected"].total}


@contextmanager
def _bar(rows: int) -> Iterator[Any]:
    """A bar on standard error while that is a terminal; yields what moves it on."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("rows", total=rows)
        yield lambda done: progress.advance(task, done)
