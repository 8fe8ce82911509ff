"""How options are declared: in sections, which `--help` shows, and with the names that they once had.

    @click.command(cls=Command)
    @section(INPUT, option("--data", help="Labelled images."), *NETWORK)
    @section(RUNNING, option("--batch", formerly="--batch-size", type=int, default=64))
    @gathered("network", NetworkOptions)
    def train(network: NetworkOptions, data: str, batch: int) -> None: ...

An option has one name and one meaning in all commands. One that was renamed takes its former name, too, for
one release: it is not in `--help`, and whoever writes it is told the new one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import wraps
from typing import Any, TypeVar

import click

from s2dnas_deploy.cli.console import say

Function = TypeVar("Function", bound=Callable[..., Any])
Declared = Callable[[str], Callable[[Function], Function]]
"""An option that still waits for its section."""

INPUT, OUTPUT, RUNNING, ADVANCED = "Input", "Output", "How it runs", "Advanced"


class Option(click.Option):
    """An option of a section, which may have had another name once."""

    def __init__(self, *args: Any, section: str, formerly: str | None, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.section, self.formerly = section, formerly

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Let the parser know the former name as well, and keep apart which one was written."""
        super().add_to_parser(parser, ctx)
        if self.formerly is not None:
            parser.add_option(
                obj=self, opts=[self.formerly], dest=self.formerly, action="store", nargs=self.nargs
            )

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """Take what was written under the former name, and tell the new one."""
        former, name = self.formerly, self.name
        if former is not None and name is not None and former in opts:
            now = max(self.opts, key=len)
            if name in opts:
                raise click.UsageError(f"{now} and {former} are the same: give {now} alone", ctx)
            if not ctx.resilient_parsing:
                tell_renamed(former, now)
            opts = {**opts, name: opts[former]}
        return super().handle_parse_result(ctx, opts, args)


def tell_renamed(former: str, now: str, where: str = "") -> None:
    """A note to whoever writes a name of the past."""
    say(f"note: {former}{where} is now {now}: write {now}, because the next release does not know {former}")


def option(*names: str, formerly: str | None = None, **attributes: Any) -> Declared[Any]:
    """An option, to be put into a section."""
    return lambda title: click.option(*names, cls=Option, section=title, formerly=formerly, **attributes)


def section(title: str, *options: Declared[Any]) -> Callable[[Function], Function]:
    """Give a command options, shown under a title in this order."""

    def declared(function: Function) -> Function:
        for each in reversed(options):
            function = each(title)(function)
        return function

    return declared


def gathered(name: str, record: Callable[..., Any]) -> Callable[[Function], Function]:
    """Hand a command those of its options that are fields of a dataclass as one record, by this name."""
    keys = [field.name for field in fields(record)]  # type: ignore[arg-type]  # a dataclass

    def gathering(function: Function) -> Function:
        @wraps(function)
        def command(**options: Any) -> Any:
            own = {key: options.pop(key) for key in keys if key in options}
            return function(**{name: record(**own)}, **options)

        return command  # type: ignore[return-value]  # click calls it by names

    return gathering


_WIDEST_NAME = 28


def write_sections(
    params: Sequence[click.Parameter], ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    """The options of a command, section after section; last those that every command has."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for param in params:
        record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
        if record is not None:
            title = param.section if isinstance(param, Option) else "Help"
            sections.setdefault(title, []).append(record)
    width = min(_WIDEST_NAME, max(len(name) for records in sections.values() for name, _ in records))
    for title, records in sections.items():
        with formatter.section(title):
            formatter.write_dl([(name.ljust(width), text) for name, text in records], _WIDEST_NAME)


quiet_option = option("--quiet", is_flag=True, help="Print the result only, no messages and no progress.")
