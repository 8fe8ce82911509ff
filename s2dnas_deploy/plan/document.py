"""The plan itself, and how it is written down: a small JSON document."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

from s2dnas_deploy.errors import PlanError
from s2dnas_deploy.files.bounds import Between, Length
from s2dnas_deploy.files.document import Form, Head
from s2dnas_deploy.quoting import shown

FORMAT = "s2dnas-plan"
VERSION = 1
MAX_STAGES = 16
AUTO = "auto"  # in place of a plan: it is to be chosen
_CALLED = {0.25: "quarter", 0.5: "half", 0.75: "three_quarters"}
_WIDEST = "full"
_NEARLY = 0.02  # widths are rounded to what kernels like


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A decision about every group, layer and exit. Legal or not is for `check` to say."""

    channels: Mapping[str, tuple[int, ...]]
    exits: tuple[str, ...]
    no_reuse: frozenset[str] = frozenset()
    nested: bool = False
    """Whether it is of nested widths: what each stage owns is what a width has more than the one before.

    What no stage owns is left out: the widest need not be the static network.
    """
    in_turn: bool = False
    """Of nested widths: whether they are tried one after the other until one is sure."""
    gate: str | None = None
    """Of nested widths: the node after which a gate says with which of them a sample goes on."""

    @property
    def stages(self) -> int:
        """How many stages the plan has."""
        return len(self.exits)

    @property
    def exits_early(self) -> bool:
        """Whether samples go from one answer to the next until one is sure."""
        return not self.nested or self.in_turn

    def up_to_exits(self, costs: Iterable[float]) -> tuple[float, ...]:
        """What it costs to get each answer, from what each stage or width costs by itself."""
        return tuple(accumulate(costs)) if self.exits_early else tuple(costs)

    @property
    def width_names(self) -> tuple[str, ...]:
        """What a person calls each nested width: its share of the channels that differ, or a word for it.

        Of all channels, if it leaves out blocks. The widest is the full one, of what the plan has.
        """
        leaves_out = not all(counts[0] for counts in self.channels.values())
        differ = [counts for counts in self.channels.values() if leaves_out or any(counts[1:])]
        owned = [sum(counts) for counts in zip(*differ, strict=True)]
        shares = [sum(owned[: index + 1]) / sum(owned) for index in range(self.stages)]
        names = [
            next((name for known, name in _CALLED.items() if abs(share - known) < _NEARLY), f"{share:.2f}")
            for share in shares[:-1]
        ]
        names.append(_WIDEST)
        return tuple(name if names.count(name) == 1 else f"{name}_{k}" for k, name in enumerate(names))

    def to_json(self) -> str:
        """The plan as a JSON document, one group a line; equal plans give equal text."""
        rows = ",\n".join(
            f"    {json.dumps(name)}: {json.dumps(list(counts))}" for name, counts in self.channels.items()
        )
        return (
            f'{{\n  "format": "{FORMAT}",\n  "version": {VERSION},\n  "stages": {self.stages},\n'
            + ('  "nested": true,\n' if self.nested else "")
            + ('  "in_turn": true,\n' if self.in_turn else "")
            + ("" if self.gate is None else f'  "gate": {json.dumps(self.gate)},\n')
            + f'  "exits": {json.dumps(list(self.exits))},\n'
            f'  "no_reuse": {json.dumps(sorted(self.no_reuse))},\n  "channels": {{\n{rows}\n  }}\n}}\n'
        )

    @property
    def digest(self) -> str:
        """Sha256 of the decision itself, whatever the order in which the groups are written."""
        content: list[Any] = [sorted((n, list(c)) for n, c in self.channels.items())]
        content += [self.exits, sorted(self.no_reuse), *(["nested"] if self.nested else [])]
        content += ["in turn"] if self.in_turn else []
        content += [] if self.gate is None else [["gate", self.gate]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @staticmethod
    def from_json(text: str) -> "Plan":
        """Read a plan document; `check` it against a space before use."""
        return _FORM.read(text, "the plan").plan

    @staticmethod
    def load(path: Path) -> "Plan":
        """As `from_json`, of a file."""
        return _FORM.load(path).plan

    @staticmethod
    def from_document(document: Any) -> "Plan":
        """As `from_json`, of a plan within another document."""
        return _FORM.of(document, "the plan").plan


_Names = tuple[Annotated[str, Length(1, 1000)], ...]


@dataclass(frozen=True, kw_only=True)
class _Document:
    """The form of a plan document. What the names mean is checked later."""

    exits: Annotated[_Names, Length(1, MAX_STAGES)]
    channels: Mapping[str, Annotated[tuple[Annotated[int, Between(0, 2**40)], ...], Length(1, MAX_STAGES)]]
    stages: int | None = None
    no_reuse: _Names = ()
    nested: bool = False
    in_turn: bool = False
    gate: Annotated[str, Length(1, 1000)] | None = None

    def __post_init__(self) -> None:
        if self.stages not in (None, len(self.exits)):
            raise PlanError(f'"stages" is {self.stages} but "exits" lists {len(self.exits)}')
        for name, counts in self.channels.items():
            if len(counts) != len(self.exits):
                raise PlanError(
                    f"group {shown(name)}: {list(counts)} has {len(counts)} counts; expected one per stage, "
                    f"{len(self.exits)}"
                )
        if self.nested and not any(map(any, self.channels.values())):
            raise PlanError("no width owns any channel")

    @property
    def plan(self) -> Plan:
        """The plan that it is."""
        return Plan(
            channels=self.channels,
            exits=self.exits,
            no_reuse=frozenset(self.no_reuse),
            nested=self.nested,
            in_turn=self.in_turn,
            gate=self.gate,
        )


_FORM = Form(
    record=_Document,
    error=PlanError,
    head=Head(format=FORMAT, version=VERSION, writer="s2dnas-inspect --write-plan"),
)
