"""The forms that values of options have, each told by an example where a text has another."""

from typing import Any

import click

from s2dnas_deploy.files.strict_json import MisfitError, parse
from s2dnas_deploy.images.resizing import WORDS, resizing
from s2dnas_deploy.quoting import shown


class Shape(click.ParamType):  # type: ignore[type-arg]  # generic in new releases of click only
    """An image's shape as `3x32x32`: channels, height, width."""

    name = "CxHxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Three whole numbers with x between."""
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if len(parts) != 3 or not all(map(_is_size, parts)):
            self.fail(
                f"{shown(value)} is not of the form CHANNELSxHEIGHTxWIDTH, for example 3x32x32", param, ctx
            )
        first, second, last = (int(part) for part in parts)
        if first * second * last > _MOST_VALUES:
            self.fail(f"{value!r} has more than {_MOST_VALUES:,} values an image", param, ctx)
        if last in (1, 3) and first == second > 4:
            self.fail(f"{value!r} has its channels last; did you mean {last}x{first}x{second}?", param, ctx)
        return first, second, last


_MOST_VALUES = 100_000_000


def _is_size(text: str) -> bool:
    """Whether it is a whole number above 0 of no more digits than a size can have."""
    return text.isdecimal() and len(text) <= 9 and int(text) > 0


_LONGEST_OBJECT = 2**20


class Resize(click.ParamType):  # type: ignore[type-arg]  # generic in new releases of click only
    """How pictures of another size are made to fit: `crop`, `stretch`, `crop:0.875:bicubic`."""

    name = "WAY"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The text, if it says one."""
        if resizing(str(value)) is None:
            self.fail(f"{shown(value)}: expected {WORDS}", param, ctx)
        return str(value)


class JsonObject(click.ParamType):  # type: ignore[type-arg]  # generic in new releases of click only
    """A JSON object, such as `{"num_classes": 10}`."""

    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The object as a dictionary."""
        if isinstance(value, dict):
            return value
        try:
            result = parse(value, largest_bytes=_LONGEST_OBJECT)
        except MisfitError as misfit:
            self.fail(f"{shown(value)} is not JSON that a model can keep: {misfit}", param, ctx)
        if not isinstance(result, dict):
            self.fail(
                f'{shown(value)} is not a JSON object; expected for example {{"num_classes": 10}}', param, ctx
            )
        return result


class Numbers(click.ParamType):  # type: ignore[type-arg]  # generic in new releases of click only
    """Numbers with commas between, such as `1,1,2`."""

    name = "N,N,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The numbers as a tuple."""
        parts = value if isinstance(value, (tuple, list)) else str(value).split(",")
        try:
            return tuple(float(part) for part in parts)
        except (TypeError, ValueError, OverflowError):
            self.fail(f"{shown(value)} is not a list of numbers with commas between", param, ctx)


class Counts(click.ParamType):  # type: ignore[type-arg]  # generic in new releases of click only
    """Whole numbers above 0 with commas between, such as `1,2,4`."""

    name = "N,N,…"

    def __init__(self, *, most: int) -> None:
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The numbers as a tuple."""
        if isinstance(value, (tuple, list)):
            return tuple(value)
        try:
            counts = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            counts = (0,)
        if not 0 < min(counts) <= max(counts) <= self.most:
            self.fail(
                f"{shown(value)} is not a list of whole numbers from 1 to {self.most:,} with commas between",
                param,
                ctx,
            )
        return counts


class Share(click.ParamType):  # type: ignore[type-arg]  # generic in new releases of click only
    """A share, as a number between 0 and 1 or in percent: 0.005 or 0.5%."""

    name = "SHARE"

    def __init__(self, *, most: float = 1.0) -> None:
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The share as a number."""
        if isinstance(value, float):
            return value
        text = str(value)
        try:
            share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor a percentage, such as 0.005 or 0.5%", param, ctx)
        if not 0 < share < 1:
            meant = f"; did you mean {text}%?" if 1 <= share < 100 and not text.endswith("%") else ""
            self.fail(f"{value!r} is not above 0 and below 1 (or 100%){meant}", param, ctx)
        if share >= self.most and not text.endswith("%"):
            self.fail(
                f"{value} would be {100 * share:g} points; for {value} points write {value}% or "
                f"{share / 100:g}, and if you mean it {100 * share:g}%",
                param,
                ctx,
            )
        return share


class Macs(click.ParamType):  # type: ignore[type-arg]  # generic in new releases of click only
    """A number of MACs, such as 20M or 1.5G."""

    name = "MACS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, without K, M or G."""
        text = str(value).upper()
        unit = {"K": 1e3, "M": 1e6, "G": 1e9}.get(text[-1:])
        try:
            macs = float(text) if unit is None else float(text[:-1]) * unit
        except ValueError:
            macs = 0.0
        if not 0 < macs < float("inf"):
            self.fail(f"{value!r} is not a number of MACs, such as 20M or 1.5G", param, ctx)
        return macs


class Setting(click.ParamType):  # type: ignore[type-arg]  # generic in new releases of click only
    """What a bundle lets its caller choose, such as `width=half`."""

    name = "NAME=CHOICE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name and the choice."""
        if isinstance(value, tuple):
            return value
        name, equals, choice = str(value).partition("=")
        if not (name and equals and choice):
            self.fail(f"{shown(value)} is not of the form NAME=CHOICE, for example width=half", param, ctx)
        return name, choice
