"""What CI installs by its hash is what everyone else installs by its version."""

from pathlib import Path

ROOT = Path(__file__).parents[1]


def lines(path: str) -> list[str]:
    return [line for line in (ROOT / path).read_text().splitlines() if line and not line.startswith("#")]


def test_hashes_are_of_the_versions_that_are_pinned():
    """Run `.venv/bin/python .ci/lock` after a change of constraints.txt."""
    pinned = dict(line.lower().split("==") for line in lines("constraints.txt"))
    hashed = {}
    for line in lines(".ci/requirements.txt"):
        requirement, _, digest = line.partition(" --hash=sha256:")
        name, version = requirement.lower().split("==")
        assert len(digest) == 64, line
        hashed[name] = version
    assert pinned.keys() - hashed.keys() <= {"torch", "torchvision"}
    assert hashed.keys() - pinned.keys() <= {"setuptools"}
    assert {name: pinned.get(name, version) for name, version in hashed.items()} == hashed
