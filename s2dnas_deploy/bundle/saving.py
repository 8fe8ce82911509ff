"""Writing a bundle so that no half of one is ever there, whenever the process is killed.

Part of the bridge: export saves whole bundles, calibration replaces what the manifest says.
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from s2dnas_deploy.bundle.bundle import (
    CARD,
    MANIFEST,
    SUMS,
    Bundle,
    is_bundle,
    load_bundle,
    names_in,
    sums_of,
    verify_bundle,
)
from s2dnas_deploy.bundle.card import readme
from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.bundle.signature import SIGNATURE, Signer
from s2dnas_deploy.errors import BundleError, OptionError
from s2dnas_deploy.files.atomic import (
    cannot_be_written,
    exchange,
    lock_folder,
    sync_folder,
    write_text_atomically,
)

OLD = "old"


def save_bundle(files: Mapping[str, bytes], folder: Path, signer: Signer | None = None) -> None:
    """Put `files` and their SHA256SUMS into `folder`, all at once; an older bundle there is replaced."""
    check_replaceable(folder)
    try:
        _save(files, folder, signer)
    except OSError as error:  # about the folder that was asked for, not about one in its place
        raise cannot_be_written(error, folder, "the bundle") from error


def _save(files: Mapping[str, bytes], folder: Path, signer: Signer | None) -> None:
    parent = folder.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(parent, folder.name)
    with _hidden_beside(folder) as part:
        try:
            sums = [(name, _sha256(content)) for name, content in files.items()]
            listed = _lines(sums).encode()
            for name, content in {**files, SUMS: listed}.items():
                _write(part / name, content)
            if signer is not None:
                _write(part / SIGNATURE, signer.sign({**dict(sums), SUMS: _sha256(listed)}))
            part.chmod(0o755)
            sync_folder(part)
            load_bundle(part)  # what was written is what a device will accept
            _replace(folder, part)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    sync_folder(parent)


def replace_manifest(bundle: Bundle, manifest: Manifest, signer: Signer | None = None) -> None:
    """Give a bundle another manifest, and the card that goes with it; the graphs stay.

    Three files cannot be renamed at once. So the sums first list the old files and the new ones, then the
    files are replaced, then the sums list the new ones only: killed at any moment, the bundle is a whole one.
    A signature is of one state only. So it goes before anything changes, and the new one comes last: killed
    in between, the bundle is whole and not signed, and no signature is ever about other files.
    """
    if manifest.graphs != bundle.manifest.graphs:
        raise BundleError("another manifest must be about the same graphs")
    with _writing(bundle.folder):
        if load_bundle(bundle.folder, bundle.trust).manifest != bundle.manifest:
            raise BundleError(
                f"bundle {bundle.folder} was replaced since it was read; what was worked out for the old one "
                "was not written. Do it again"
            )
        if signer is not None:
            verify_bundle(bundle.folder)  # only what was exported is signed
        check_manifest_replaceable(bundle.folder)
        _replace_texts(bundle.folder, manifest, signer)
    load_bundle(bundle.folder)


def _replace_texts(folder: Path, manifest: Manifest, signer: Signer | None) -> None:
    sums = sums_of(folder)
    texts = {MANIFEST: manifest.to_json().encode(), CARD: readme(manifest).encode()}
    kept = [(name, sha256) for name, known in sums.items() for sha256 in known if name not in texts]
    old = [(name, sha256) for name, known in sums.items() for sha256 in known if name in texts]
    new = [(name, _sha256(content)) for name, content in texts.items()]
    listed = _lines([*kept, *new])
    signature = None
    if signer is not None:
        signature = signer.sign({**dict(kept), **dict(new), SUMS: _sha256(listed.encode())})
    (folder / SIGNATURE).unlink(missing_ok=True)
    sync_folder(folder)
    write_text_atomically(folder / SUMS, _lines([*kept, *old, *new]))
    for name, content in texts.items():
        write_text_atomically(folder / name, content.decode())
    write_text_atomically(folder / SUMS, listed)
    if signature is not None:
        write_text_atomically(folder / SIGNATURE, signature.decode())


def check_manifest_replaceable(folder: Path) -> None:
    """That `replace_manifest` can write the files that nothing has to read before: better known early."""
    for name in (CARD, SIGNATURE):
        if (folder / name).exists() and not (folder / name).is_file():
            raise BundleError(
                f"bundle {folder}: {name} is no plain file, and is to be written anew; remove it"
            )


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
        own = {*sums_of(folder), SUMS, SIGNATURE}
        others = sorted(names_in(folder) - own)  # without what a replacement that was killed has left
    except BundleError as error:
        raise OptionError(
            f"{folder} holds a damaged bundle ({error}); remove it, or give another --out"
        ) from error
    if others:
        raise OptionError(
            f"{folder} is a bundle that also holds {', '.join(others[:3])}, which would be lost; "
            "give another --out, or move that away"
        )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _lines(sums: Iterable[tuple[str, str]]) -> str:
    """Names and hashes as `sha256sum` writes and checks them."""
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(set(sums)))


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _replace(folder: Path, part: Path) -> None:
    """Put the finished folder in the place of an older bundle, which is then removed.

    In one step, where the system can: who reads meanwhile finds one bundle or the other. Else the older one
    is moved aside first, and for a moment there is none.
    """
    if not folder.exists():
        part.rename(folder)
        return
    with _writing(folder):
        if exchange(part, folder):
            shutil.rmtree(part)
            return
        with _hidden_beside(folder) as aside:
            folder.rename(aside / OLD)
            try:
                part.rename(folder)
            except BaseException:
                (aside / OLD).rename(folder)
                raise
            shutil.rmtree(aside)


@contextmanager
def _hidden_beside(folder: Path) -> Iterator[Path]:
    """A new folder under a hidden name, held as long as it is worked with; what is not is left behind."""
    with ExitStack() as stack:
        while True:
            hidden = tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.absolute().parent)
            try:
                stack.enter_context(lock_folder(Path(hidden)))
                break
            except (BlockingIOError, FileNotFoundError):
                continue  # somebody who cleans up came between
        yield Path(hidden)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Hold a bundle against other processes that write."""
    with ExitStack() as stack:
        try:
            stack.enter_context(lock_folder(folder))
        except BlockingIOError as error:
            raise BundleError(f"bundle {folder} is being written by another process") from error
        yield


def _remove_abandoned(parent: Path, name: str) -> None:
    """Remove what killed exports to this folder have left, but for a bundle that they had moved aside.

    Those still running hold a lock.
    """
    left = re.compile(rf"\.{re.escape(name)}\.[^.]+\.part")  # and not `.name.int8.….part`, another's
    for path in [path for path in parent.iterdir() if left.fullmatch(path.name)]:
        with suppress(BlockingIOError, NotADirectoryError, FileNotFoundError), lock_folder(path):
            if (path / OLD).exists() and not (parent / name).exists():
                (path / OLD).rename(parent / name)  # killed between the two renames
            shutil.rmtree(path, ignore_errors=True)
