"""The wheel in a kit is one that any installer takes, with all that belongs to a copy of this package."""

import zipfile
from email.message import Message

from s2dnas_deploy.bench.kit import wheel


class Installed:
    """What an installation says of itself."""

    version = "1.0"

    def __init__(self) -> None:
        self.metadata = Message()
        self.metadata["License-File"] = "LICENSE"

    def read_text(self, name: str) -> str | None:
        return {"entry_points.txt": "[console_scripts]", "licenses/LICENSE": "You may."}.get(name)


def test_the_license_goes_along(tmp_path, monkeypatch):
    monkeypatch.setattr(wheel, "distribution", lambda name: Installed())
    with zipfile.ZipFile(wheel.write_wheel(tmp_path)) as archive:
        place = "s2dnas_deploy-1.0.dist-info"
        assert archive.read(f"{place}/licenses/LICENSE") == b"You may."
        assert f"\n{place}/licenses/LICENSE,sha256=".encode() in archive.read(f"{place}/RECORD")
