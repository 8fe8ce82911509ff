"""A bundle's writer that dies, without a process of its own: `kill_points` kills real ones."""

import pytest

from s2dnas_deploy.bundle import saving


def die_at_write(survived: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let a replacement die at the write after so many; the names of what was written by then."""
    real, writes = saving.write_text_atomically, list[str]()

    def dying(path, text):
        if len(writes) == survived:
            raise SystemExit("killed")
        writes.append(path.name)
        real(path, text)

    monkeypatch.setattr(saving, "write_text_atomically", dying)
    return writes
