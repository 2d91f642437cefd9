"""`w2s check`: do these models fit together? Answered before any weight is loaded."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from w2s.cli.errors import BadInput, one_sentence
from w2s.cli.findings import show
from w2s.cli.plans import Method, build_plan, pair_roles
from w2s.cli.rows import Format, read_rows

EXAMPLE = "Example: w2s check --chat --max-new-tokens 512"


def command(
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
    chat: bool = typer.Option(False, help="Prompts go through the chat templates."),
    system: str = typer.Option("", help="System message for the chat templates."),
    prompts: str | None = typer.Option(
        None, help="JSONL or plain text, one prompt a line: also check their lengths; - is stdin."
    ),
    field: str = typer.Option("prompt", help="The field of --prompts that holds the prompt."),
    layout: Format = typer.Option(Format.auto, "--format", help="Of --prompts."),
    method: Method = typer.Option(Method.cbs, help="As for w2s search."),
    width: int | None = typer.Option(None, "--width", "-W", help="As for w2s search."),
    samples: int | None = typer.Option(None, "--samples", "-K", help="As for w2s search."),
    max_new_tokens: int = typer.Option(50, help="Longest response in tokens."),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:1 …"),
    dtype: str = typer.Option("auto", help="auto, float32, bfloat16 or float16."),
    as_json: bool = typer.Option(False, "--json", help="Print the findings as one JSON object."),
) -> None:
    """Check that models, templates and prompts fit together, without loading any weights.

    Reads configs, tokenizers and the headers of the weight files, and prints what it finds: errors
    (a search would refuse or fail), warnings (it would run, and probably not as meant) and notes,
    each with what to do.

    Exit code 0: no errors (there may be warnings and notes). 1: errors were found. 2: bad input,
    such as a folder that does not exist.
    """
    plan = build_plan(method, {"width": width, "samples": samples}, max_new_tokens=max_new_tokens)
    rows = None if prompts is None else read_rows(prompts, field, layout)

    from w2s.cli.models import model_names, quiet_transformers
    from w2s.errors import W2SError
    from w2s.preflight import examine

    quiet_transformers()
    style = {"chat": chat, "system": system}
    roles = pair_roles(method, plan, None, pair is not None)
    name, members = model_names(large, pair, roles.needs_pair)
    try:
        report = examine(
            name,
            (members[0], members[1]) if members else None,
            plan=plan,
            prompts=None if rows is None else [row.prompt for row in rows],
            large_style={**style, "template": large_template},
            pair_style={**style, "template": pair_template},
            bridge=roles.beta is None,
            device=device,
            dtype=dtype,
        )
    except (W2SError, ImportError, OSError) as error:
        raise BadInput(one_sentence(error)) from error
    if as_json:
        found = [asdict(finding) for finding in report.findings]
        typer.echo(
            json.dumps({"looked_at": report.looked_at, "findings": found}, ensure_ascii=False)
        )
    else:
        looked_at = [f"looked at {line}" for line in report.looked_at]
        if rows is not None:
            looked_at.append(f"looked at {len(rows)} prompts")
        show(report.findings, looked_at)
    if report.errors:
        raise typer.Exit(1)
