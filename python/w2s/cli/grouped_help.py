"""Help with the options in groups, without a frame around each group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup


class GroupedHelp(TyperCommand):
    """A command whose options are listed under their `rich_help_panel`, in the order of writing."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_groups(self.get_params(ctx), ctx, formatter)


class GroupedCommands(TyperGroup):
    """A group of commands that is a command itself, with its options as `GroupedHelp` has them."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_groups(self.get_params(ctx), ctx, formatter)
        self.format_commands(ctx, formatter)


def _write_groups(parameters: Sequence[Any], ctx: Any, formatter: Any) -> None:
    groups: dict[str, list[tuple[str, str]]] = {}
    for parameter in parameters:
        record = parameter.get_help_record(ctx)
        if record is not None:
            is_argument = parameter.param_type_name == "argument"
            default = "Arguments" if is_argument else "Other options"
            name = getattr(parameter, "rich_help_panel", None) or default
            groups.setdefault(name, []).append(record)
    for name, records in groups.items():
        with formatter.section(name):
            formatter.write_dl(records)
