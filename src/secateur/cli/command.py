"""Commands of typer that start fast and whose help is plain text in groups.

Options are shown in groups (`rich_help_panel`), missing options are reported before any value is converted
(which imports pydantic), and torch is imported before the work begins.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from typer.core import TyperCommand, TyperGroup

from secateur.cli.interrupts import import_torch
from secateur.cli.options import OUTPUT
from secateur.printable import printable

_COLUMN = 26  # where texts of help begin
_SECTIONS = "_sections_of_help"  # attribute of a command's function
_Function = TypeVar("_Function", bound=Callable[..., None])
Record = tuple[str, str]  # a name and its text in the help


def extra_help(title: str, records: Sequence[Record]) -> Callable[[_Function], _Function]:
    """Mark the function of a command: its help ends with such a section."""

    def mark(function: _Function) -> _Function:
        function.__dict__.setdefault(_SECTIONS, {})[title] = records
        return function

    return mark


# `Any` below: the library's own classes, which typer has moved between its versions.


class Command(TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given, rest, _ = self.make_parser(ctx).parse_args(args=list(args))
        if ctx.resilient_parsing:
            return self._known_to_completion(ctx, given, rest)
        if not given.get("help"):
            self._check_usage(ctx, given, rest)
        return super().parse_args(ctx, args)

    def _check_usage(self, ctx: Any, given: dict[str, Any], rest: list[str]) -> None:
        for param in self.params:
            if param.required and given.get(param.name) is None:
                name = " / ".join(param.opts) if param.param_type_name == "option" else param.metavar
                ctx.fail(f"Missing {param.param_type_name} {name}. {getattr(param, 'help', '')}")
        if rest:
            ctx.fail(
                f"Unexpected argument {printable(rest[0])!r}: an option takes the one value that follows it."
            )

    def _known_to_completion(self, ctx: Any, given: dict[str, Any], rest: list[str]) -> list[str]:
        """The shell asks what may come next: for that, text will do as it is."""
        for param in self.params:
            value, source = param.consume_value(ctx, given)
            ctx.set_parameter_source(param.name, source)
            ctx.params[param.name] = value
        ctx.args = rest
        return rest

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Groups in the order in which their first options stand in the command's function."""
        groups: dict[str, list[Record]] = {}
        for param in self.get_params(ctx):
            argument = param.param_type_name == "argument"
            group = "Arguments" if argument else getattr(param, "rich_help_panel", None) or OUTPUT
            record = param.get_help_record(ctx)
            if record is not None:
                name, text = record
                groups.setdefault(group, []).append((str(param.metavar) if argument else name, text))
        groups.update(getattr(self.callback, _SECTIONS, {}))
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write("".join(_lines(records, formatter.width)))

    def invoke(self, ctx: Any) -> Any:
        import_torch()
        return super().invoke(ctx)


class Group(TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for param in self.get_params(ctx):
            # typer's own flags: --help, --show-completion
            if getattr(param, "is_flag", False) and param.default is None:
                param.default = False
        return super().parse_args(ctx, args)


def _lines(records: Sequence[Record], width: int) -> Iterator[str]:
    """Names in one column and texts in another, without breaks at the hyphens of options."""
    for name, text in records:
        first = f"  {name}"
        if len(first) > _COLUMN - 2:
            yield f"{first}\n"
            first = ""
        for line in textwrap.wrap(text, width - _COLUMN, break_on_hyphens=False):
            yield f"{first:{_COLUMN}}{line}\n"
            first = ""
