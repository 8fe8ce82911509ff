"""Recipes: a TOML file whose keys are a command's options; the command line overrides them."""

import sys
from pathlib import Path
from typing import Any

import click

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PATHS = {"weights", "plan", "data", "cost"}
_OF_A_PLAN = {"plan", "align", "exit_weights"}


def apply_recipe(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Let the recipe's values be the defaults of the command's options."""
    if value is None:
        return None
    try:
        recipe = tomllib.loads(value.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{value} is not TOML: {error}", ctx, param) from error
    known = {_key(option): option.name for option in ctx.command.params if option.name}
    for key in ("recipe", "debug"):
        known.pop(key, None)
    # A recipe says how a network is trained, and a search trains as well; but it finds the plan itself, and
    # what else is said of the recipe's plan need not suit the plan that is found.
    if ctx.command.name == "search" and "plan" in recipe:
        recipe = {key: setting for key, setting in recipe.items() if key not in _OF_A_PLAN}
    unknown = sorted(set(recipe) - set(known))
    if unknown:
        raise click.BadParameter(
            f"{value} has unknown keys {', '.join(unknown)}; known are {', '.join(sorted(known))}", ctx, param
        )
    defaults = {known[key]: _resolved(key, setting, value.parent) for key, setting in recipe.items()}
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return value


def _key(option: click.Parameter) -> str:
    """How a recipe spells an option: as on the command line, with underscores."""
    return max(option.opts, key=len).lstrip("-").replace("-", "_")


def _resolved(key: str, setting: Any, folder: Path) -> Any:
    """Paths in a recipe are relative to the recipe."""
    if key == "model" and ".py:" in str(setting):
        return str(folder / str(setting))
    if key in _PATHS and (folder / str(setting)).exists():
        return str(folder / str(setting))
    return setting
