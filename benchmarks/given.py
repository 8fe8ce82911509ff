"""Commands of this package, as they are typed; those that are done are not given again."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click


def run_once(given: Sequence[Sequence[str]], folder: Path) -> list[float]:
    """Seconds that each command took, in `folder`; one is done if it and all before it are the same."""
    kept = folder / "seconds.json"
    done = json.loads(kept.read_text()) if kept.exists() else []
    for number, command in enumerate(given):
        if done[number : number + 1] and done[number]["command"] == list(command):
            continue
        del done[number:]
        click.echo(" ".join(command), err=True)
        start = time.monotonic()
        give(command, folder)
        done.append({"command": command, "seconds": time.monotonic() - start})
        kept.write_text(json.dumps(done, indent=1) + "\n")
    return [each["seconds"] for each in done]


def give(command: Sequence[str], folder: Path) -> None:
    """Run one of this package's commands, in `folder`."""
    tool = command[0].removeprefix("s2dnas-")
    subprocess.run([sys.executable, "-m", "s2dnas_deploy.cli", tool, *command[1:]], check=True, cwd=folder)
