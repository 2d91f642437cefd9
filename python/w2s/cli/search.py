"""`w2s search`: guided text for a file of prompts."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from w2s.cli.batches import AUTO, check_batch, prompts_at_once, search_rows
from w2s.cli.errors import BadInput, Interrupted
from w2s.cli.layouts import Layout, alpaca_eval, json_lines
from w2s.cli.plans import Method, build_plan, pair_roles
from w2s.cli.results_file import ResultsFile
from w2s.cli.rows import Format, read_rows
from w2s.cli.styles import build_styles, check_chat
from w2s.cli.trace_file import TraceFile, model_labels, trace_header

if TYPE_CHECKING:
    from w2s.cli.models import Models

EXAMPLE = """Example: echo "This film was" | w2s search --max-new-tokens 20"""
_METHOD, _LAW, _MODELS = (
    "How to search",
    "How a token is drawn (cbs, bon, eft, sample)",
    "The models",
)
_PROMPTS, _FILES, _RUN = "How the models see a prompt", "Input and output", "How to run"


def command(
    source: str = typer.Argument(
        "-", metavar="[INPUT]", help="JSONL or plain text, one prompt a line; - is standard input."
    ),
    method: Method = typer.Option(
        Method.cbs,
        help="cbs: chunk-level beam search; bon: best of N; eft: the pair guides each token; beam: "
        "beam search by the large model alone; sample: one sample; greedy.",
        rich_help_panel=_METHOD,
    ),
    width: int | None = typer.Option(
        None, "--width", "-W", rich_help_panel=_METHOD,
        help="Hypotheses kept (cbs, beam: 4; eft: 1).",
    ),
    samples: int | None = typer.Option(
        None, "--samples", "-K", rich_help_panel=_METHOD,
        help="Continuations of each (cbs: 4; eft: 1), or N (bon: 16).",
    ),
    chunk: int | None = typer.Option(
        None, "--chunk", "-L", rich_help_panel=_METHOD,
        help="Tokens between two selections (cbs: 5; eft: none).",
    ),
    beta: float | None = typer.Option(
        None, help="Strength of the pair's guidance (eft: 1).", rich_help_panel=_METHOD
    ),
    max_new_tokens: int = typer.Option(
        50, help="Longest response in tokens.", rich_help_panel=_METHOD
    ),
    stop: list[str] = typer.Option(
        [], metavar="TEXT", rich_help_panel=_METHOD,
        help="A response ends before this text; repeatable.",
    ),
    temperature: float | None = typer.Option(
        None, help="0 takes the likeliest token.  [default: 0.7]", rich_help_panel=_LAW
    ),
    top_k: int | None = typer.Option(
        None, help="Of the k likeliest tokens; 0 is off.  [default: 50]", rich_help_panel=_LAW
    ),
    top_p: float | None = typer.Option(
        None, help="Nucleus; 1 is off.  [default: 1]", rich_help_panel=_LAW
    ),
    min_p: float | None = typer.Option(
        None, rich_help_panel=_LAW,
        help="Least probability relative to the largest; 0 is off.  [default: 0]",
    ),
    seed: int = typer.Option(
        0, help="With a prompt's place in the input it fixes every draw.", rich_help_panel=_LAW
    ),
    large: str | None = typer.Option(
        None, rich_help_panel=_MODELS,
        help="Folder, hub id or .gguf file of the model that writes.  [default: embedded]",
    ),
    pair: tuple[str, str] | None = typer.Option(
        None, metavar="TUNED UNTUNED", rich_help_panel=_MODELS,
        help="The two models that steer.  [default: the embedded sentiment pair; none for beam, "
        "sample and greedy; given with the last two, it only scores]",
    ),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:1 …", rich_help_panel=_MODELS),
    dtype: str = typer.Option(
        "auto", help="auto, float32, bfloat16 or float16.", rich_help_panel=_MODELS
    ),
    large_template: str | None = typer.Option(
        None, rich_help_panel=_PROMPTS,
        help='How the large model sees a prompt, such as "Review: {prompt}".',
    ),
    pair_template: str | None = typer.Option(
        None, help="How the pair sees a prompt.", rich_help_panel=_PROMPTS
    ),
    chat: bool = typer.Option(
        False, "--chat", help="Send prompts through the chat templates.", rich_help_panel=_PROMPTS
    ),
    system: str = typer.Option(
        "", help="System message for the chat templates.", rich_help_panel=_PROMPTS
    ),
    output: str = typer.Option(
        "-", "--output", "-o", help="JSONL file; - is standard output.", rich_help_panel=_FILES
    ),
    layout: Format = typer.Option(
        Format.auto, "--format", rich_help_panel=_FILES,
        help="Of the input; alpaca-eval also of the output: a list for alpaca_eval.",
    ),
    field: str | None = typer.Option(
        None, rich_help_panel=_FILES,
        help="The field that holds the prompt.  [default: prompt; alpaca-eval: instruction]",
    ),
    candidates: bool = typer.Option(
        False, "--candidates", help="Also write the last pool, best first.", rich_help_panel=_FILES
    ),
    trace: str | None = typer.Option(
        None, metavar="FILE", rich_help_panel=_FILES,
        help="Also write every round's candidates, scores and parents; w2s trace draws them.",
    ),
    resume: bool = typer.Option(
        False, "--resume", rich_help_panel=_RUN,
        help="Go on with the finished rows of an interrupted run of the same command.",
    ),
    batch: str = typer.Option(
        AUTO, help="Prompts searched at once; auto: as many as make 256 rows, or fit into memory.",
        rich_help_panel=_RUN,
    ),
) -> None:  # fmt: skip
    """Write guided text: the large model writes, the pair decides what is kept.

    Input rows are {"prompt": "…"} or {"prompt": [{"role": …, "content": …}, …]}; output rows are
    the same with "response", "score", "finished" and "finish_reason" added. The score of cbs and
    bon, and of eft with several responses a prompt, is the pair's: the sum of
    log p_tuned − log p_untuned, in nats. Else it is the log-prob of the law that wrote: the large
    model's (after temperature and filters), for eft the guided one's.

    The output appears under its name when it is complete; until then finished rows are in
    OUTPUT.partial, where --resume finds them.
    """
    plan = build_plan(
        method,
        {
            "width": width, "samples": samples, "chunk": chunk, "temperature": temperature,
            "top_k": top_k, "top_p": top_p, "min_p": min_p,
        },
        max_new_tokens=max_new_tokens,
        stop=tuple(stop),
        seed=seed,
    )  # fmt: skip
    roles = pair_roles(method, plan, beta, pair is not None)
    if pair_template is not None and not roles.needs_pair:
        raise BadInput(f"--pair-template has no meaning with --method {method.value} and no --pair")
    check_batch(batch)
    styles = build_styles(large_template, pair_template, chat, system)
    rows = read_rows(source, field, layout)
    field = layout.field if field is None else field
    written = _layout(layout, large, method, candidates)
    if trace not in (None, "-") and os.path.realpath(trace) == os.path.realpath(output):
        raise BadInput(f"--trace and --output are both {trace}; give them two names")
    results = ResultsFile(output, resume=resume, as_list=written.as_list)
    try:
        with results, ExitStack() as open_files:
            from w2s.cli.models import check_lengths, load_models, model_names
            from w2s.cli.run_settings import run_settings

            names = model_names(large, pair, roles.needs_pair)

            def settings(loaded: Models | None = None) -> dict[str, object]:
                return run_settings(
                    method=method.value, plan=plan, large=names[0], pair=names[1], styles=styles,
                    rows=rows, loaded=loaded, beta=roles.beta, dtype=dtype, field=field,
                    candidates=candidates, format=layout.value if written.as_list else "jsonl",
                )  # fmt: skip

            results.take_up(settings(), [row.fields for row in rows], written.added)
            if resume:
                _say_where(results, len(rows))
            if results.was_complete:
                return
            check_chat(*names, styles, rows, field)
            tracing = None
            if trace is not None:
                labels = model_labels(large, pair, roles.needs_pair)
                header = trace_header(plan, method.value, labels, beta=roles.beta)
                tracing = open_files.enter_context(TraceFile(trace, header, resume=resume))
            models = load_models(
                large, pair, roles=roles, device=device, dtype=dtype,
                large_style=styles.large, pair_style=styles.pair,
            )  # fmt: skip
            check_lengths(models, rows, field, plan)
            at_once = prompts_at_once(batch, plan, models, rows)
            earlier = results.begin(settings(models), at_once)
            if batch == AUTO:  # the same batches as before the interruption, if they still fit
                at_once = min(at_once, earlier)
            search_rows(models, plan, rows, at_once, results, written, tracing)
            if tracing is not None:
                tracing.complete()
            results.complete()
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted: {results.state()}") from None


def _layout(layout: Format, large: str | None, method: Method, candidates: bool) -> Layout:
    if layout is not Format.alpaca_eval:
        return json_lines(candidates)
    name = "SmolLM2-135M-Instruct" if large is None else Path(large).name
    return alpaca_eval(f"{name}+{method.value}", candidates)


def _say_where(results: ResultsFile, total: int) -> None:
    if results.was_complete:
        said = f"{results.name} is complete already: {total} rows"
    elif results.rows:
        said = f"going on after the {results.rows} of {total} rows in {results.partial}"
    else:
        said = "there is nothing to resume: starting from the beginning"
    typer.echo(said, err=True)
