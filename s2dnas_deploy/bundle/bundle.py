"""A bundle on disk: read and checked before anything runs it.

Part of the bridge: all that a device needs, in one folder.

    manifest.json      what there is and how it fits together, see `manifest`
    stage_K.onnx       one graph per stage
    labels.txt         one class a line
    README.md, verification.txt
    plan.json          of a network that was divided: the plan; nothing runs by it
    SHA256SUMS         of every file above
    bundle.sig         if it is signed, of all these; see `signature`

Nothing outside the folder is ever read. The graphs' bytes are kept as they were checked, and those bytes are
what onnxruntime gets: a file that changes afterwards changes nothing. Whoever names a key to trust gets
nothing that its owner has not signed: no other byte of the folder is even parsed.
"""

import errno
import hashlib
import os
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from s2dnas_deploy.bundle.entries import GraphFile
from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.bundle.signature import LARGEST_BYTES, SIGNATURE, Trusted
from s2dnas_deploy.decide.flow import IMAGE, LABEL, PROBABILITIES
from s2dnas_deploy.decide.rules import CONFIDENCE
from s2dnas_deploy.errors import BundleError, PlanError
from s2dnas_deploy.files.onnx_file import GraphValue, read_signature
from s2dnas_deploy.files.plain_file import open_file, read_file
from s2dnas_deploy.quoting import shown

if TYPE_CHECKING:
    from s2dnas_deploy.plan import Plan

MACS = "s2dnas.macs"  # in a graph's metadata: its MACs for one image
MANIFEST, LABELS, CARD, SUMS = "manifest.json", "labels.txt", "README.md", "SHA256SUMS"
VERIFICATION, PLAN = "verification.txt", "plan.json"
_UNFINISHED = re.compile(r"\..*\.part")
"""What a replacement that was killed leaves in a bundle, until the next one; nobody reads it."""
_LARGEST_TEXT_BYTES = 64 * 2**20
_LONGEST_NAME_BYTES = 255
_LONGEST_REPLACING, _BETWEEN_LOOKS = 2.0, 0.01  # seconds


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle whose files are what its manifest says; `graphs` are the stages' ONNX files."""

    folder: Path
    manifest: Manifest
    graphs: tuple[bytes, ...]
    digest: str
    """The sha256 of the manifest's file."""
    trust: Path | None = None
    """The public key whose owner has signed all of it, if that was asked for."""


def load_bundle(folder: Path | str, trust: Path | str | None = None) -> Bundle:
    """Read a bundle and check all that running it needs.

    Args:
        folder: the bundle.
        trust: the file of a public key: what its owner has not signed does not fit.

    Returns:
        The manifest and the graphs, as bytes that were checked.

    Raises:
        BundleError: what does not fit, in a line.

    Example:
        >>> load_bundle("bundle/").manifest.flow.thresholds
    """
    return _undisturbed(_load, Path(folder), trust)


def plan_of(bundle: Bundle) -> "Plan | None":
    """The plan by which the network was divided, where the bundle has it: who owns which channels."""
    from s2dnas_deploy.plan import Plan  # nothing that runs a bundle needs it

    sums = sums_of(bundle.folder)
    if PLAN not in sums:
        return None
    try:
        return Plan.from_json(_text(bundle.folder, PLAN, sums, None))
    except PlanError as error:
        raise BundleError(f"{PLAN}: {error}") from error


def verify_bundle(folder: Path | str, trust: Path | str | None = None) -> Bundle:
    """Read a bundle and check every file of it: all are there, unchanged, and no other.

    Args:
        folder: the bundle.
        trust: as for `load_bundle`.

    Returns:
        As `load_bundle` does.

    Raises:
        BundleError: what does not fit, in a line.

    Example:
        >>> verify_bundle("bundle/", trust="release.pub").manifest.name
    """
    return _undisturbed(_verified, Path(folder), trust)


def is_bundle(folder: Path) -> bool:
    """Whether the folder says of itself that it is a bundle."""
    return (folder / MANIFEST).is_file() and (folder / SUMS).is_file()


def _undisturbed(
    read: Callable[[Path, Path | None], Bundle], folder: Path, trust: Path | str | None
) -> Bundle:
    """What is read of a bundle; once more, if it was replaced meanwhile, or is not in place for a moment."""
    key = None if trust is None else Path(trust).absolute()
    until = time.monotonic() + _LONGEST_REPLACING
    while True:
        before = _state(folder)
        try:
            return read(folder, key)
        except BundleError as error:
            disturbed = _state(folder) != before or _has_another_beside(folder)
            if not disturbed or time.monotonic() > until:
                raise BundleError(f"bundle {folder}: {error}") from error
        time.sleep(_BETWEEN_LOOKS)


def _state(folder: Path) -> tuple[tuple[int, int] | None, ...]:
    """Which files stand for the bundle just now; other ones, once it has been replaced."""
    return tuple(_which(path) for path in (folder, folder / MANIFEST, folder / SUMS))


def _which(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except (OSError, ValueError):  # no name that a file could have
        return None
    return found.st_ino, found.st_ctime_ns


def _has_another_beside(folder: Path) -> bool:
    """Whether a bundle of the name is being written, or was when its writer was killed."""
    whole = folder.absolute()
    hidden = re.compile(rf"\.{re.escape(whole.name)}\.[^.]+\.part")
    try:
        return any(hidden.fullmatch(each.name) and each.is_dir() for each in whole.parent.iterdir())
    except OSError:
        return False


def _verified(folder: Path, trust: Path | None) -> Bundle:
    bundle = _load(folder, trust)
    sums = sums_of(folder)
    _check_listed(folder, bundle.manifest, sums)
    largest = max(_LARGEST_TEXT_BYTES, *(graph.size_bytes for graph in bundle.manifest.graphs))
    for name, sha256 in sums.items():
        if hashlib.sha256(_content(folder, name, largest)).hexdigest() not in sha256:
            raise BundleError(f"{name} is not the file that was exported (its sha256 differs)")
    return bundle


def _check_listed(folder: Path, manifest: Manifest, sums: Mapping[str, frozenset[str]]) -> None:
    """Every file has its sum: one without could be any."""
    present = names_in(folder)
    exported = {MANIFEST, LABELS, CARD, VERIFICATION, *(graph.file for graph in manifest.graphs)}
    unlisted = sorted((present | exported) - {SUMS, SIGNATURE} - sums.keys())
    if unlisted:
        first = unlisted[0]
        advice = "export again" if first in exported else "remove it, for it is no part of the bundle"
        raise BundleError(
            f"{shown(first)} is not listed in {SUMS}, so nobody can tell where it comes from; {advice}"
        )
    # What calibration replaces is listed as it was and as it will be, while it does; see `saving`.
    twice = sorted(name for name, known in sums.items() if len(known) > 1 and name not in (MANIFEST, CARD))
    if twice:
        raise BundleError(f"{SUMS} lists {shown(twice[0])} with {len(sums[twice[0]])} sums, expected one")


def _load(folder: Path, trust: Path | None) -> Bundle:
    if not os.path.isdir(folder):  # which Path's own does not survive, for names that no folder can have
        found = "it is a file, a bundle is a folder" if os.path.exists(folder) else "there is no such folder"
        raise BundleError(f"{found}; s2dnas-export writes one")
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"it has no {MANIFEST}, so it is no bundle; s2dnas-export writes one")
    signed = None if trust is None else _signed(folder, trust)
    sums = sums_of(folder, signed)
    text = _text(folder, MANIFEST, sums, signed)
    manifest = Manifest.from_json(text)
    labels = _text(folder, LABELS, sums, signed).split("\n")[:-1]
    if tuple(labels) != manifest.labels:
        raise BundleError(f"{LABELS} holds other labels than {MANIFEST}")
    graphs = []
    for stage, entry in enumerate(manifest.stages):
        content = _graph(folder, entry.graph, signed)
        try:
            _check_signature(content, manifest, stage)
        except BundleError as error:
            raise BundleError(f"{entry.graph.file}: {error}") from error
        graphs.append(content)
    if manifest.single_file is not None:
        read_signature(_graph(folder, manifest.single_file, signed))
    if signed is not None:
        read = {MANIFEST, LABELS, SUMS, *(graph.file for graph in manifest.graphs)}
        for name in sorted(set(signed) - read):
            _content(folder, name, signed=signed)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Bundle(folder=folder, manifest=manifest, graphs=tuple(graphs), digest=digest, trust=trust)


def _signed(folder: Path, key: Path) -> dict[str, str]:
    """The sha256 of every file of the folder, as the owner of the key has signed them."""
    trusted = Trusted(key)  # before its absence hides behind that of a signature
    if not (folder / SIGNATURE).is_file():
        raise BundleError(f"it is not signed, for it has no {SIGNATURE}; only what {key} vouches for may run")
    signed = trusted.vouched(_content(folder, SIGNATURE, LARGEST_BYTES))
    _check_files(folder, signed)
    return signed


def _check_files(folder: Path, signed: Collection[str]) -> None:
    """The folder holds the files that are signed and no others."""
    found = names_in(folder) - {SIGNATURE}
    if missing := sorted(set(signed) - found):
        raise BundleError(f"{shown(missing[0])} is missing, which is signed")
    if added := sorted(found - set(signed)):
        raise BundleError(f"it holds {shown(added[0])}, which is not signed; remove it")


def names_in(folder: Path) -> set[str]:
    """What the folder holds, but for what a replacement that was killed has left."""
    try:
        return {path.name for path in folder.iterdir() if not _UNFINISHED.fullmatch(path.name)}
    except OSError as error:
        raise BundleError(f"its files cannot be listed: {error.strerror}") from error


def static_beside(folder: Path) -> Path:
    """Where export leaves the static network that a bundle was made from, if asked to: BUNDLE.static.onnx."""
    whole = folder.absolute()
    return whole.with_name(f"{whole.name}.static.onnx")


def own_static(folder: Path, manifest: Manifest) -> Path | None:
    """The static network beside a bundle, if it is there and of the very export that made the bundle."""
    beside, known = static_beside(folder), manifest.sources.get("static")
    if known is None or not beside.is_file():
        return None
    return beside if known == _digest_of_file(beside) else None


def _digest_of_file(path: Path) -> str:
    """As `source_digest`, of a file of any size."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        while content := file.read(2**20):
            digest.update(content)
    return f"sha256:{digest.hexdigest()}"


def source_digest(content: bytes) -> str:
    """How a manifest's `sources` name a file: by what is in it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def sums_of(folder: Path, signed: Mapping[str, str] | None = None) -> dict[str, frozenset[str]]:
    """The sha256 of each file as exported; two while a file is replaced, see `saving`."""
    sums: dict[str, frozenset[str]] = {}
    for line in _decoded(_content(folder, SUMS, signed=signed), SUMS).splitlines():
        sha256, space, name = line.partition("  ")
        if not space or not _is_plain_name(name) or len(sha256) != 64:
            raise BundleError(f"{SUMS} has a line that is no sha256 and a plain file name: {shown(line)}")
        sums[name] = sums.get(name, frozenset()) | {sha256}
    return sums


def _is_plain_name(name: str) -> bool:
    is_name = name.isprintable() and len(name.encode()) <= _LONGEST_NAME_BYTES
    return is_name and Path(name).name == name and name not in ("", "..")


def _text(
    folder: Path, name: str, sums: Mapping[str, frozenset[str]], signed: Mapping[str, str] | None
) -> str:
    """A text file of the bundle, which must be the one that was exported."""
    content = _content(folder, name, signed=signed)
    if hashlib.sha256(content).hexdigest() not in sums.get(name, ()):
        raise BundleError(f"{name} is not the file that was exported (its sha256 differs from {SUMS})")
    return _decoded(content, name)


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BundleError(f"{name} is not text: {error}") from error


def _graph(folder: Path, graph: GraphFile, signed: Mapping[str, str] | None) -> bytes:
    content = _content(folder, graph.file, graph.size_bytes, signed)
    if len(content) != graph.size_bytes:
        raise BundleError(
            f"{graph.file} has {len(content)} bytes, expected {graph.size_bytes}; copy the bundle again, "
            "as a whole"
        )
    if hashlib.sha256(content).hexdigest() != graph.sha256:
        raise BundleError(f"{graph.file} is damaged or was replaced: its sha256 is not the manifest's")
    return content


def _content(
    folder: Path,
    name: str,
    largest_bytes: int = _LARGEST_TEXT_BYTES,
    signed: Mapping[str, str] | None = None,
) -> bytes:
    """A file of the folder itself; a link could lead anywhere, so it is refused. If need be, a signed one."""
    try:
        content = read_file(folder / name, largest_bytes, follow_links=False)
    except FileNotFoundError as error:
        raise BundleError(f"{name} is missing; copy the bundle again, as a whole") from error
    except OSError as error:
        advice = "; cp -rL copies a bundle with what its links lead to" if error.errno == errno.ELOOP else ""
        raise BundleError(f"{name}: {error.strerror}{advice}") from error
    if signed is not None and hashlib.sha256(content).hexdigest() != signed.get(name):
        raise BundleError(f"{name} is not the file that was signed (its sha256 differs from {SIGNATURE})")
    return content


def _check_signature(content: bytes, manifest: Manifest, stage: int) -> None:
    """The stage's graph takes and gives exactly what the manifest says."""
    signature, entry = read_signature(content), manifest.stages[stage]
    tensors: dict[str, tuple[str, tuple[int | None, ...]]] = {
        name: (tensor.type, (None, *tensor.shape)) for name, tensor in manifest.tensors.items()
    }
    tensors[IMAGE] = (manifest.image_type, (None, *manifest.image_shape))
    tensors[LABEL] = ("int64", (None,))
    tensors[CONFIDENCE] = ("float32", (None,))
    tensors[PROBABILITIES] = ("float32", (None, len(manifest.labels)))
    inputs = {name: tensors[name] for name in entry.reads} | dict.fromkeys(entry.rows, ("int64", (None,)))
    outputs = {output: tensors[name] for name, output in entry.outputs_of.items()}
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
