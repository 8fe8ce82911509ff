"""A wheel of this package, made of the files that are installed: what an edge kit brings to a board.

A wheel is a zip of the files and of a folder that says what they are. Made here, for the package may be
installed where its sources are not, and a device that packs a kit has no build tools.
"""

import base64
import hashlib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import s2dnas_deploy

_NAME = "s2dnas-deploy"
_ENTRY_POINTS = "entry_points.txt"
_WHEEL = "Wheel-Version: 1.0\nGenerator: s2dnas_deploy\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def write_wheel(folder: Path) -> Path:
    """Write the wheel into a folder."""
    about = distribution(_NAME)
    stem = f"{_NAME.replace('-', '_')}-{about.version}"
    info = f"{stem}.dist-info"
    package = Path(s2dnas_deploy.__file__).parent
    files = {
        f"{package.name}/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in _files(package)
    }
    files[f"{info}/METADATA"] = str(about.metadata).encode()
    files[f"{info}/WHEEL"] = _WHEEL.encode()
    files[f"{info}/{_ENTRY_POINTS}"] = (about.read_text(_ENTRY_POINTS) or "").encode()
    for name in about.metadata.get_all("License-File", []):  # which go along with every copy
        files[f"{info}/licenses/{name}"] = (about.read_text(f"licenses/{name}") or "").encode()
    record = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def _files(package: Path) -> list[Path]:
    """What belongs to the package: not what Python has compiled of it."""
    return sorted(path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
