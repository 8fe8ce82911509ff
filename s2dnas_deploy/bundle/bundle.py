"""A bundle on disk: read and checked before anything runs it, written so that no half of one is ever there.

Part of the bridge: all that a device needs, in one folder.

    manifest.json      what there is and how it fits together, see `manifest`
    stage_K.onnx       one graph per stage
    labels.txt         one class a line
    README.md, verification.txt
    SHA256SUMS         of every file above

Nothing outside the folder is ever read. The graphs' bytes are kept as they were checked, and those bytes are
what onnxruntime gets: a file that changes afterwards changes nothing.
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from s2dnas_deploy.bundle.card import readme
from s2dnas_deploy.bundle.files import lock_folder, sync_folder, write_text_atomically
from s2dnas_deploy.bundle.manifest import (
    CONFIDENCE,
    IMAGE,
    LABEL,
    PROBABILITIES,
    GraphFile,
    Manifest,
)
from s2dnas_deploy.bundle.onnx_file import GraphValue, read_signature
from s2dnas_deploy.errors import BundleError, OptionError

MANIFEST, LABELS, CARD, SUMS = "manifest.json", "labels.txt", "README.md", "SHA256SUMS"
_UNFINISHED = re.compile(r"\..*\.part")
_LARGEST_TEXT_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle whose files are what its manifest says; `graphs` are the stages' ONNX files."""

    folder: Path
    manifest: Manifest
    graphs: tuple[bytes, ...]


def load_bundle(folder: Path | str) -> Bundle:
    """Read and check a bundle; whatever does not fit is a `BundleError`."""
    folder = Path(folder)
    try:
        return _load(folder)
    except BundleError as error:
        raise BundleError(f"bundle {folder}: {error}") from error


def verify_bundle(folder: Path | str) -> Bundle:
    """As `load_bundle`, and also that every file that was exported is there, unchanged."""
    bundle = load_bundle(folder)
    for name, sha256 in _sums(bundle.folder).items():
        if hashlib.sha256(_content(bundle.folder, name)).hexdigest() not in sha256:
            raise BundleError(
                f"bundle {folder}: {name} is not the file that was exported (its sha256 differs)"
            )
    return bundle


def is_bundle(folder: Path) -> bool:
    """Whether the folder says of itself that it is a bundle."""
    return (folder / MANIFEST).is_file() and (folder / SUMS).is_file()


def save_bundle(files: Mapping[str, bytes], folder: Path) -> None:
    """Put `files` and their SHA256SUMS into `folder`, all at once; an older bundle there is replaced."""
    check_replaceable(folder)
    parent = folder.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(parent, folder.name)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=parent))
    with lock_folder(part):
        try:
            sums = [(name, hashlib.sha256(content).hexdigest()) for name, content in files.items()]
            for name, content in {**files, SUMS: _lines(sums).encode()}.items():
                _write(part / name, content)
            part.chmod(0o755)
            sync_folder(part)
            load_bundle(part)  # what was written is what a device will accept
            _replace(folder, part)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    sync_folder(parent)


def replace_manifest(bundle: Bundle, manifest: Manifest) -> None:
    """Give a bundle another manifest, and the card that goes with it; the graphs stay.

    Three files cannot be renamed at once. So the sums first list the old files and the new ones, then the
    files are replaced, then the sums list the new ones only: killed at any moment, the bundle is a whole one.
    """
    if manifest.graphs != bundle.manifest.graphs:
        raise BundleError("another manifest must be about the same graphs")
    folder, sums = bundle.folder, _sums(bundle.folder)
    texts = {MANIFEST: manifest.to_json().encode(), CARD: readme(manifest).encode()}
    kept = [(name, sha256) for name, known in sums.items() for sha256 in known if name not in texts]
    old = [(name, sha256) for name, known in sums.items() for sha256 in known if name in texts]
    new = [(name, hashlib.sha256(content).hexdigest()) for name, content in texts.items()]
    with lock_folder(folder):
        write_text_atomically(folder / SUMS, _lines([*kept, *old, *new]))
        for name, content in texts.items():
            write_text_atomically(folder / name, content.decode())
        write_text_atomically(folder / SUMS, _lines([*kept, *new]))
    load_bundle(folder)


def check_replaceable(folder: Path) -> None:
    """Refuse to write where something else than a bundle would be lost."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OptionError(f"{folder} is there already and is no folder; give another --out")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not is_bundle(folder):
        raise OptionError(
            f"{folder} is a folder that is no bundle, and is not overwritten; give another --out, or empty it"
        )
    try:
        own = {*_sums(folder), SUMS}
    except BundleError as error:
        raise OptionError(
            f"{folder} holds a damaged bundle ({error}); remove it, or give another --out"
        ) from error
    # A replacement that was killed leaves its unfinished file; nothing is lost with that.
    others = sorted(
        path.name
        for path in folder.iterdir()
        if path.name not in own and not _UNFINISHED.fullmatch(path.name)
    )
    if others:
        raise OptionError(
            f"{folder} is a bundle that also holds {', '.join(others[:3])}, which would be lost; "
            "give another --out, or move that away"
        )


# --- reading -----------------------------------------------------------------------------------------------


def _load(folder: Path) -> Bundle:
    if not folder.is_dir():
        raise BundleError("there is no such folder; s2dnas-export writes one")
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"it has no {MANIFEST}, so it is no bundle; s2dnas-export writes one")
    sums = _sums(folder)
    manifest = Manifest.from_json(_text(folder, MANIFEST, sums))
    labels = _text(folder, LABELS, sums).split("\n")[:-1]
    if tuple(labels) != manifest.labels:
        raise BundleError(f"{LABELS} holds other labels than {MANIFEST}")
    graphs = []
    for stage, entry in enumerate(manifest.stages):
        content = _graph(folder, entry.graph)
        try:
            _check_signature(content, manifest, stage)
        except BundleError as error:
            raise BundleError(f"{entry.graph.file}: {error}") from error
        graphs.append(content)
    if manifest.single_file is not None:
        read_signature(_graph(folder, manifest.single_file))
    return Bundle(folder=folder, manifest=manifest, graphs=tuple(graphs))


def _sums(folder: Path) -> dict[str, frozenset[str]]:
    """The sha256 of each file as exported; two while a file is being replaced, see `replace_texts`."""
    sums: dict[str, frozenset[str]] = {}
    for line in _decoded(_content(folder, SUMS), SUMS).splitlines():
        sha256, space, name = line.partition("  ")
        if not space or Path(name).name != name or len(sha256) != 64:
            raise BundleError(f"{SUMS} has a line that is no sha256 and a plain file name: {line[:100]!r}")
        sums[name] = sums.get(name, frozenset()) | {sha256}
    return sums


def _text(folder: Path, name: str, sums: Mapping[str, frozenset[str]]) -> str:
    """A text file of the bundle, which must be the one that was exported."""
    content = _content(folder, name)
    if hashlib.sha256(content).hexdigest() not in sums.get(name, ()):
        raise BundleError(f"{name} is not the file that was exported (its sha256 differs from {SUMS})")
    return _decoded(content, name)


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BundleError(f"{name} is not text: {error}") from error


def _graph(folder: Path, graph: GraphFile) -> bytes:
    content = _content(folder, graph.file, graph.size_bytes)
    if len(content) != graph.size_bytes:
        raise BundleError(f"{graph.file} has {len(content)} bytes, expected {graph.size_bytes}")
    if hashlib.sha256(content).hexdigest() != graph.sha256:
        raise BundleError(f"{graph.file} is damaged or was replaced: its sha256 is not the manifest's")
    return content


def _content(folder: Path, name: str, largest_bytes: int = _LARGEST_TEXT_BYTES) -> bytes:
    """A file of the folder itself; a link could lead anywhere, so it is refused."""
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{name} is missing, or is no plain file")
    size = path.stat().st_size
    if size > largest_bytes:
        raise BundleError(f"{name} has {size} bytes, expected at most {largest_bytes}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{name} cannot be read: {error}") from error


def _check_signature(content: bytes, manifest: Manifest, stage: int) -> None:
    """The stage's graph takes and gives exactly what the manifest says."""
    signature, entry = read_signature(content), manifest.stages[stage]
    inputs = {spec.name: (spec.type, (None, *spec.shape)) for spec in entry.reads}
    if entry.reads_image:
        inputs[IMAGE] = (manifest.image_type, (None, *manifest.image_shape))
    inputs |= dict.fromkeys(manifest.row_inputs(stage), ("int64", (None,)))
    outputs = {spec.name: (spec.type, (None, *spec.shape)) for spec in entry.gives}
    outputs[LABEL] = ("int64", (None,))
    outputs[CONFIDENCE] = ("float32", (None,))
    outputs[PROBABILITIES] = ("float32", (None, len(manifest.labels)))
    _check_values("input", signature.inputs, inputs)
    _check_values("output", signature.outputs, outputs)


def _check_values(
    kind: str,
    found: tuple[GraphValue, ...],
    expected: Mapping[str, tuple[str, tuple[int | None, ...]]],
) -> None:
    names = {value.name for value in found}
    missing, unexpected = sorted(set(expected) - names), sorted(names - set(expected))
    if missing or unexpected:
        raise BundleError(f"{kind}s missing: {missing[:3]}; unexpected: {unexpected[:3]}")
    for value in found:
        if (value.type, value.shape) != expected[value.name]:
            wanted_type, wanted_shape = expected[value.name]
            raise BundleError(
                f"{kind} {value.name!r} is {value.type} {_shown(value.shape)}, "
                f"the manifest says {wanted_type} {_shown(wanted_shape)}"
            )


def _shown(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("N" if size is None else str(size) for size in shape) + "]"


# --- writing -----------------------------------------------------------------------------------------------


def _lines(sums: Iterable[tuple[str, str]]) -> str:
    """Names and hashes as `sha256sum` writes and checks them."""
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(set(sums)))


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _replace(folder: Path, part: Path) -> None:
    """Rename the finished folder into place; an older bundle is moved aside first, and then removed."""
    if not folder.exists():
        part.rename(folder)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.absolute().parent))
    with lock_folder(aside):
        folder.rename(aside / "old")
        part.rename(folder)
        shutil.rmtree(aside)


def _remove_abandoned(parent: Path, name: str) -> None:
    """Remove what killed exports to this folder have left; those still running hold a lock."""
    for path in parent.glob(f".{name}.*.part"):
        try:
            with lock_folder(path):
                shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            continue
