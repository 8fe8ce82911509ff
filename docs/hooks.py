"""How these files become a site: equations, notebooks, commands, and links that work in both places.

A page is written for the repository: it links to `../benchmarks/README.md`. On the site, some files of the
repository are pages too, and any other file that is linked to lies under `repository/`. A link to nothing
fails the strict build.
"""

import inspect
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from s2dnas_deploy import cli

ROOT = Path(__file__).parents[1]
DOCS = "docs/"
PAGES = {
    "benchmarks/README.md": "benchmarks.md",
    "models/README.md": "models.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "README.md": "index.md",
}
"""Files of the repository that are pages of the site; the front page there is the first one here."""
COMMANDS = "docs/commands.md"
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
_log = get_plugin_logger(__name__)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fences of `math` become MathML, which browsers show without any script."""
    fence = {"name": "math", "class": "math", "format": _as_mathml}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    return config


def _as_mathml(source: str, *_: Any, **__: Any) -> str:
    return f'<div class="math">{convert(source, display="block")}</div>'


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add what comes from elsewhere: pages of the repository, notebooks, and files that pages link to."""
    for path, uri in PAGES.items():
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, content=(ROOT / path).read_text(encoding="utf-8")))
    for notebook in [each for each in files if each.src_uri.endswith(".ipynb")]:
        text = as_markdown(json.loads(Path(str(notebook.abs_src_path)).read_text(encoding="utf-8")))
        files.append(File.generated(config, page_of(notebook.src_uri), content=text))
    for path in sorted({path for file in files if file.is_documentation_page() for path in _linked(file)}):
        if path not in PAGES and not path.startswith(DOCS) and (ROOT / path).is_file():
            files.append(File.generated(config, f"repository/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where their files are here."""
    own = source_of(page.file.src_uri)
    if own == COMMANDS:
        markdown += all_commands()

    def here(match: re.Match[str]) -> str:
        path = _resolved(own, match[1])
        target = site_uri(path)
        if files.get_file_from_path(target) is None:
            _log.warning("%s links to %s, which is not there", own, match[1])
        return os.path.relpath(target, os.path.dirname(page.file.src_uri) or ".") + (match[2] or "")

    return LINK.sub(here, markdown)


def source_of(uri: str) -> str:
    """The file of the repository that a page of the site is made of."""
    found = {page: path for path, page in PAGES.items() if path != "README.md"}
    return found.get(uri, DOCS + uri)


def site_uri(path: str) -> str:
    """What a file of the repository is called on the site."""
    if path in PAGES:
        return PAGES[path]
    return page_of(path.removeprefix(DOCS)) if path.startswith(DOCS) else f"repository/{path}"


def page_of(uri: str) -> str:
    """The page that shows a notebook; any other file is its own."""
    return re.sub(r"\.ipynb$", ".md", uri)


def _linked(file: File) -> Iterator[str]:
    own = source_of(file.src_uri)
    return (_resolved(own, match[1]) for match in LINK.finditer(file.content_string))


def _resolved(own: str, link: str) -> str:
    return os.path.normpath(os.path.join(os.path.dirname(own), link))


def as_markdown(notebook: dict[str, Any]) -> str:
    """A notebook's cells with what they gave, as it is kept in the file."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += [_shown(output) for output in cell.get("outputs", ())]
    return "\n\n".join(parts) + "\n"


def _shown(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/svg+xml" in data:
        return f'<div class="output">{"".join(data["image/svg+xml"])}</div>'
    if "image/png" in data:
        return f'<img class="output" alt="" src="data:image/png;base64,{data["image/png"].strip()}">'
    text = "".join(output.get("text", data.get("text/plain", ()))).rstrip()
    return f"```{{.text .output}}\n{text}\n```"


# By hand, because mkdocs-click knows no sections of options and shows a marker of click's own as a default.
def all_commands() -> str:
    """The commands, in the order of use, with their options in sections."""
    return "".join(_command(f"s2dnas-{name}", each, 2) for name, each in cli.main.commands.items())


def _command(name: str, command: click.Command, level: int) -> str:
    context = click.Context(command, info_name=name)
    usage = command.get_usage(context).removeprefix("Usage: ")
    text = f"\n{'#' * level} {name}\n\n{_help(command)}\n\n```text\n{usage}\n```\n"
    for title, options in _sections(command, context).items():
        text += f"\n| {title} | |\n| --- | --- |\n" + "".join(options)
    inner = command.commands if isinstance(command, click.Group) else {}
    return text + "".join(_command(f"{name} {each}", inner[each], level + 1) for each in inner)


def _sections(command: click.Command, context: click.Context) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for param in command.get_params(context):
        told = param.get_help_record(context)
        if told is not None:
            row = f"| `{told[0]}` | {_escaped(told[1])} |\n".replace("\n", " ").rstrip() + "\n"
            found.setdefault(getattr(param, "section", "Help"), []).append(row)
    return found


def _help(command: click.Command) -> str:
    """What a command says of itself; what must not be wrapped is code."""
    paragraphs = inspect.cleandoc(command.help or "").partition("\f")[0].split("\n\n")
    return "\n\n".join(
        f"```text\n{inspect.cleandoc(each[1:])}\n```" if each.startswith("\b") else _escaped(each)
        for each in paragraphs
    )


def _escaped(text: str) -> str:
    return re.sub(r"([\\|*_\[\]])", r"\\\1", text).replace("<", "&lt;")


class Examples(griffe.Extension):
    """Lets `Example:` in a docstring be what `Examples:` is: lines that are typed into Python."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section of whatever was read."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )
