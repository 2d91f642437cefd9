"""`w2s info`: the hardware, the kernels' backends and the versions in use."""

from __future__ import annotations

import typer

EXAMPLE = "Example: w2s info"


def command() -> None:
    """Show hardware, backends and versions: what to paste into a bug report."""
    from w2s_kernels.info import report

    typer.echo(report())
