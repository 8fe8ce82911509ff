"""A bundle as somebody makes it who wants a changed one to pass: sums and digests fit what is there now."""

import hashlib
import json
import shutil
from pathlib import Path


def copy_of(bundle: Path, folder: Path) -> Path:
    """A copy to be damaged, in place of the one before."""
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(bundle, folder))


def resum(folder: Path) -> None:
    """SHA256SUMS of the files that are there."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != "SHA256SUMS"]
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    # In place of whatever is there: a link leads elsewhere, and a pipe has no reader.
    (folder / ".sums").write_text(sums)
    if (folder / "SHA256SUMS").is_dir():
        (folder / "SHA256SUMS").rmdir()
    (folder / ".sums").replace(folder / "SHA256SUMS")


def replace_graph(folder: Path, name: str, content: bytes) -> None:
    """Another graph, with its digest in the manifest."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = next(stage["graph"] for stage in manifest["stages"] if stage["graph"]["file"] == name)
    entry.update(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    resum(folder)
