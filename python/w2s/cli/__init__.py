"""The command line `w2s`: one file a command, bad input ends with exit code 2 and one sentence."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

if find_spec("typer") is None or find_spec("rich") is None:
    raise ImportError(
        "The command line needs typer and rich; install the decode extra: "
        "pip install 'w2s-kernels[decode]'"
    )

import typer

from w2s.cli import check, demo, expo, info, reproduce, score, search, trace, train
from w2s.cli.errors import BadInput, Interrupted, Stopped, one_sentence
from w2s.cli.grouped_help import GroupedHelp

app = typer.Typer(
    name="w2s",
    help="Steer a large language model with a tuned and an untuned small one.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("search", cls=GroupedHelp, epilog=search.EXAMPLE)(search.command)
app.command("score", epilog=score.EXAMPLE)(score.command)
app.command("check", epilog=check.EXAMPLE)(check.command)
app.add_typer(train.app, name="train")
app.add_typer(expo.app, name="expo")
app.command("trace", epilog=trace.EXAMPLE)(trace.command)
app.add_typer(reproduce.app, name="reproduce")
app.command("info", epilog=info.EXAMPLE)(info.command)
app.command("demo", epilog=demo.EXAMPLE)(demo.command)


def _installed_version() -> str:
    try:
        return version("w2s-kernels")
    except PackageNotFoundError:
        return "not installed (run from a source tree)"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"w2s-kernels {_installed_version()}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code.

    0: done. 1: an error that is no fault of the input: one sentence where the machine let the run
    down (a full disk), else its traceback. 2: bad input, one sentence on standard error.
    130: interrupted; finished rows are kept.
    """
    command = typer.main.get_command(app)
    try:
        code = command.main(
            args=None if arguments is None else list(arguments),
            prog_name="w2s",
            standalone_mode=False,
        )
    except BadInput as error:
        return _fail(one_sentence(error), 2)
    except Stopped as error:
        return _fail(one_sentence(error), 1)
    except Interrupted as error:
        return _fail(one_sentence(error), 130)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except Exception as error:
        # Usage errors: their class moved from click into typer, their method did not.
        if not hasattr(error, "format_message"):
            raise
        return _fail(" ".join(error.format_message().split()), 2)
    return code if isinstance(code, int) else 0


def _fail(sentence: str, code: int) -> int:
    print(f"w2s: {sentence}", file=sys.stderr)
    return code
