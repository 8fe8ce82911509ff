"""The bundles that are served: by name and version, loaded and unloaded while others answer.

Place in the flow: folders ──▶ `House`; a request names a bundle ──▶ its `Service`.

A bundle's name is its folder's, or `NAME=FOLDER`; a folder of folders that are called 1, 2, 3 has versions,
of which the latest answers where none is named. Who unloads a bundle waits until all that it accepted is
answered.
"""

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s2dnas_deploy.bundle.bundle import is_bundle
from s2dnas_deploy.errors import OptionError, S2dnasError
from s2dnas_deploy.quoting import in_a_line, shown
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.serve.service import Service

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
FIRST = "1"
"""The version of a bundle that has no others."""


class UnknownModelError(S2dnasError):
    """Nothing is served under this name, or not in this version, or not now."""


@dataclass(kw_only=True)
class Resident:
    """One version of a bundle: what runs it, if it is loaded, and why it is not, if it is not."""

    name: str
    version: str
    folder: Path
    service: Service | None = None
    reason: str = "unloaded"


@dataclass(kw_only=True)
class House:
    """All bundles that may be served; `how` is for `Cascade.load`, and `pace` for `Service`."""

    folders: Mapping[str, Path]
    how: Mapping[str, Any]
    pace: Mapping[str, Any]
    residents: dict[str, dict[str, Resident]] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def open(self) -> None:
        """Load all; the first that cannot be is an error."""
        for name in self.folders:
            self.load(name)

    def load(self, name: str) -> None:
        """Load all versions of a bundle, anew if they are loaded; they answer until the new ones do."""
        if name not in self.folders:
            raise UnknownModelError(f"expected {self._either()}, got {shown(name)}")
        fresh = {}
        for version, folder in versions_of(self.folders[name]).items():
            cascade = Cascade.load(folder, **self.how)
            service = Service(cascade, **self.pace)
            fresh[version] = Resident(name=name, version=version, folder=folder, service=service, reason="")
        with self._lock:
            before, self.residents[name] = self.residents.get(name, {}), fresh
        _let_go(before)

    def unload(self, name: str) -> None:
        """Answer what was accepted, and no more."""
        if name not in self.residents:
            raise UnknownModelError(f"expected {self._either()}, got {shown(name)}")
        with self._lock:
            before = self.residents[name]
            self.residents[name] = {
                version: Resident(name=name, version=version, folder=each.folder)
                for version, each in before.items()
            }
        _let_go(before)

    def find(self, name: str, version: str = "") -> Resident:
        """Who answers for a name: in this version, or in the latest."""
        versions = self.residents.get(name)
        if not versions:
            raise UnknownModelError(f"model: expected {self._either()}, got {shown(name)}")
        chosen = version or max(versions, key=int)
        if chosen not in versions:
            raise UnknownModelError(
                f"version of {name}: expected {' or '.join(sorted(versions, key=int))}, got {shown(version)}"
            )
        return versions[chosen]

    def service(self, name: str, version: str = "") -> tuple[Service, Resident]:
        """What runs it."""
        resident = self.find(name, version)
        if resident.service is None:
            raise UnknownModelError(
                f"model {name}, version {resident.version}, is not loaded: {resident.reason}"
            )
        return resident.service, resident

    @property
    def each(self) -> list[Resident]:
        """All versions of all bundles."""
        return [resident for versions in self.residents.values() for resident in versions.values()]

    def loaded(self, name: str = "", version: str = "") -> list[tuple[Service, Resident]]:
        """Those that answer now, of one bundle or of all."""
        chosen = [self.find(name, version)] if name else self.each
        return [(each.service, each) for each in chosen if each.service is not None]

    def close(self) -> None:
        """Answer what was accepted, and let all go."""
        with self._lock:
            before, self.residents = self.residents, {}
        for versions in before.values():
            _let_go(versions)

    def _either(self) -> str:
        return " or ".join(self.folders) or "nothing"


def _let_go(residents: Mapping[str, Resident]) -> None:
    for each in residents.values():
        if each.service is not None:
            each.service.close()
            each.service.cascade.close()


def versions_of(folder: Path) -> dict[str, Path]:
    """The versions in a folder; a bundle by itself is its first."""
    if is_bundle(folder):
        return {FIRST: folder}
    try:
        inside = [path for path in folder.iterdir() if path.name.isascii() and path.name.isdigit()]
    except OSError as problem:
        raise OptionError(f"{folder}: {in_a_line(problem)}") from problem
    versions = {path.name: path for path in inside if is_bundle(path)}
    if not versions:
        raise OptionError(f"{folder}: expected a bundle, or a folder of bundles that are called 1, 2, 3 …")
    return dict(sorted(versions.items(), key=lambda item: int(item[0])))


def checked_name(name: str) -> str:
    """A name that may stand in an address."""
    if not _NAME.fullmatch(name):
        raise OptionError(
            f"a bundle's name has letters, digits, dots, dashes and underscores, got {shown(name)}; give "
            "another one (NAME=FOLDER, or --name)"
        )
    return name


def named(given: Sequence[str]) -> dict[str, Path]:
    """Folders by name, from what was typed: `FOLDER` or `NAME=FOLDER`."""
    found: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        path = Path(folder if equals else text)
        name = checked_name(name if equals else path.resolve().name)
        if name in found:
            raise OptionError(
                f"{text}: there are two bundles called {name}; give another name by NAME=FOLDER"
            )
        found[name] = path
    return found
