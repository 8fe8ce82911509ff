"""Recipes: a TOML file whose keys are a command's options; the command line overrides them.

A recipe comes from anyone's hands and names code: the file of a network beside it, or a class of networks in
an installed package. What it names is not what it may do: where results go, what is discarded and which
machines work is said on the command line alone, and any other function is called only if it is named there.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from s2dnas_deploy.cli.options.kinds import JsonObject, Numbers
from s2dnas_deploy.cli.options.sections import Option, tell_renamed
from s2dnas_deploy.files.plain_file import read_file
from s2dnas_deploy.files.strict_json import MisfitError, parse
from s2dnas_deploy.quoting import in_a_line, is_shown, shown

_PATHS = {"weights", "plan", "data", "cost", "classes"}
_OF_A_PLAN = {"plan", "align", "exit_weights"}
_OF_THE_COMMAND_LINE = {"out", "restart", "write_probes", "ray"}
_LARGEST_BYTES, _LONGEST_TEXT, _LONGEST_WORD = 2**20, 400, 40


def apply_recipe(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Let the recipe's values be the defaults of the command's options."""
    if value is None:
        return None

    def refuse(problem: str) -> NoReturn:
        raise click.BadParameter(f"{value} {problem}", ctx, param)

    recipe = _read(value, refuse)
    known = {_key(option): option for option in ctx.command.params if option.name}
    for key in ("recipe", "debug", "version"):
        known.pop(key, None)
    # A recipe says how a network is trained, and a search trains as well; but it finds the plan itself, and
    # what else is said of the recipe's plan need not suit the plan that is found.
    if ctx.command.name == "search" and "plan" in recipe:
        recipe = {key: setting for key, setting in recipe.items() if key not in _OF_A_PLAN}
    for key in sorted(_OF_THE_COMMAND_LINE & known.keys() & recipe.keys()):
        refuse(f"has the key {key}, which is for the command line: give --{key.replace('_', '-')} there")
    recipe = _by_todays_names(recipe, known.values(), value, refuse)
    unknown = sorted(set(recipe) - set(known))
    if unknown:
        settable = ", ".join(sorted(known.keys() - _OF_THE_COMMAND_LINE))
        refuse(f"has unknown keys {', '.join(map(shown, unknown[:3]))}; known are {settable}")
    defaults = {}
    for key, setting in recipe.items():
        expected = _expected_in_place(known[key], setting)
        if expected is not None:
            refuse(f"has {key} = {shown(setting)}; expected {expected}")
        defaults[known[key].name or ""] = _resolved(key, setting, value.parent, refuse)
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return value


def check_code_of_recipe(model: str | None, recipe: Path | None) -> None:
    """Refuse a network's code that only a recipe names and that does not lie with it."""
    file = (model or "").rpartition(":")[0]
    if recipe is None or not file.endswith(".py") or not is_from_recipe("model"):
        return
    if not _is_inside(file, recipe.parent):
        raise click.UsageError(
            f"{recipe} names the code of {shown(file)}, which is not in the recipe's folder; where you trust "
            f"it, give --model {shown(model)} on the command line"
        )


def is_from_recipe(parameter: str) -> bool:
    """Whether a value of the command that runs comes from its recipe, and not from the command line."""
    return click.get_current_context().get_parameter_source(parameter) is ParameterSource.DEFAULT_MAP


def is_left_open(parameter: str) -> bool:
    """Whether a value of the command that runs is a default that nobody has said anything about."""
    return click.get_current_context().get_parameter_source(parameter) is ParameterSource.DEFAULT


def _read(path: Path, refuse: Callable[[str], NoReturn]) -> dict[str, Any]:
    try:
        content = read_file(path, _LARGEST_BYTES)
    except OSError as error:
        refuse(error.strerror or in_a_line(error))
    try:
        recipe = parse_toml(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits; lists in lists in lists
        refuse(f"is not TOML: {in_a_line(error)}")
    except ModuleNotFoundError as error:
        refuse(f"needs {error.name} to be read, which the extra [build] of s2dnas-deploy installs")
    return recipe


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML document. The parser is imported here: on Python 3.10 a device has none."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    tables: dict[str, Any] = tomllib.loads(text)
    return tables


def _key(option: click.Parameter) -> str:
    """How a recipe spells an option: as on the command line, with underscores."""
    return _spelled(max(option.opts, key=len))


def _spelled(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


def _by_todays_names(
    recipe: Mapping[str, Any],
    options: Iterable[click.Parameter],
    path: Path,
    refuse: Callable[[str], NoReturn],
) -> dict[str, Any]:
    """The recipe, whose keys may be names that options once had."""
    now = {
        _spelled(each.formerly): _key(each) for each in options if isinstance(each, Option) and each.formerly
    }
    for former in sorted(now.keys() & recipe.keys()):
        if now[former] in recipe:
            refuse(f"has {now[former]} and {former}, which are the same: keep {now[former]} alone")
        tell_renamed(former, now[former], f" in {path}")
    return {now.get(key, key): setting for key, setting in recipe.items()}


def _expected_in_place(option: click.Parameter, setting: Any) -> str | None:
    """What an option takes, if the setting is nothing of that; text is read as on the command line."""
    kind = option.type
    if getattr(option, "is_flag", False):
        expected, fits = "true or false", isinstance(setting, bool)
    elif isinstance(setting, str):
        is_word = isinstance(kind, click.Choice | click.types.FloatParamType | click.types.IntParamType)
        longest = _LONGEST_WORD if is_word else _LONGEST_TEXT
        expected = f"one line of text, of at most {longest} characters"
        fits = is_shown(setting) and len(setting) <= longest
    elif isinstance(kind, JsonObject):
        expected, fits = "a table of numbers, text and lists", isinstance(setting, dict) and _is_json(setting)
    elif isinstance(kind, Numbers):
        expected, fits = "a list of numbers", isinstance(setting, list) and all(map(_is_number, setting))
    elif isinstance(kind, click.types.FloatParamType):
        expected, fits = "a number", _is_number(setting)
    elif isinstance(kind, click.types.IntParamType):
        expected, fits = "a whole number", _is_number(setting) and isinstance(setting, int)
    else:
        expected, fits = "text", False
    return None if fits else expected


def _is_number(setting: Any) -> bool:
    return type(setting) is float or (type(setting) is int and abs(setting) < 2**64)


def _is_json(setting: Any) -> bool:
    """Whether a model can keep it in its description."""
    try:
        parse(json.dumps(setting), largest_bytes=_LARGEST_BYTES)
    except (TypeError, ValueError, RecursionError, MisfitError):
        return False
    return True


def _resolved(key: str, setting: Any, folder: Path, refuse: Callable[[str], NoReturn]) -> Any:
    """Paths in a recipe are relative to the recipe."""
    if key == "model":
        file, _, name = setting.rpartition(":")
        if not file.endswith(".py"):
            return setting
        return f"{folder / file}:{name}"
    if key in _PATHS and _is_there(folder / setting):
        return str(folder / setting)
    return setting


def _is_inside(file: str, folder: Path) -> bool:
    """Whether a file is in the folder or below it, links followed; ~ is somebody's home."""
    try:
        return not file.startswith("~") and Path(file).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links that lead to each other
        return False


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a plan in words may be too long for a name
        return False
