"""Stages with names, whose tensors have names: chains, gates, settings, blocks that are left out.

Place in the flow: `stages()`, by name ──▶ `StagedNetwork`. All there is to the protocol:

    stages()    {name: module}, in an order in which samples only go forward
    a stage     forward(image, x, …): its arguments are called as the tensors that it reads
                returns logits, or {"logits": …, "x": …}: tensors by name, with logits if it answers
    routes()    {name: where its samples go}; without this method, a chain with an exit at each stage
                a stage's name, "answer", or {"to": [names], "by": {"rule": …}} as in a manifest; where
                samples begin is under "start", if it is not at the first stage
    settings()  {name: {"choices": [names], "default": name}} of the settings that routes go by

A tensor may be given by several stages, in one shape: a sample carries the one that it was given last.
"""

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from s2dnas_deploy.bundle.entries import MAX_STAGES
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.decide.flow import ANSWER, ANSWERS, IMAGE, Choices, Flow, Route, Stop, check_looks
from s2dnas_deploy.decide.rules import Setting
from s2dnas_deploy.errors import BundleError, ModelError
from s2dnas_deploy.files.bounds import Length, Matching, Name, Printable
from s2dnas_deploy.files.document import Form
from s2dnas_deploy.quoting import in_a_line, shortened, shown
from s2dnas_deploy.workshop.export.own.trial import BATCH, is_of_a_batch, macs_of
from s2dnas_deploy.workshop.export.staged import LOGITS, Link, Shapes, StagedNetwork

START = "start"
_STAGE_NAME = Matching(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", "letters, digits, _ - or . inside")
_TAKEN = (ANSWER, START, "cascade")


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a network says beside its stages, in plain data."""

    routes: Annotated[Mapping[Name, Route], Length(1, MAX_STAGES + 1)] | None = None
    settings: Annotated[Mapping[Name, Choices], Length(0, 64)] = field(default_factory=dict)


def said_by(network: nn.Module) -> Said:
    """What `routes()` and `settings()` return, if they are there, as records."""
    whose, document = type(network).__name__, {}
    for name in ("routes", "settings"):
        method = getattr(network, name, None)
        if not inspect.isroutine(method):  # a layer or a record may be called so
            continue
        try:
            document[name] = json.loads(json.dumps(method()))  # tuples become lists
        except Exception as error:  # it is anyone's code, and may return anything
            raise ModelError(
                f"{name}() of {whose} failed, or is no plain data: {type(error).__name__}: {in_a_line(error)}"
            ) from error
    if isinstance(document.get("routes"), dict):
        routes = document["routes"].items()
        document["routes"] = {
            name: {"to": [route]} if isinstance(route, str) else route for name, route in routes
        }
    return _FORM.of(document, whose)


_FORM = Form(record=Said, error=ModelError)


def network_of_named(
    stages: Mapping[str, nn.Module],
    said: Said,
    preprocessing: Preprocessing,
    class_names: tuple[str, ...],
    *,
    name: str,
    whose: str,
) -> StagedNetwork:
    """The network's stages as links, after a trial run that shows what they give and read."""
    _check_names(stages)
    trial = _Trial(preprocessing.input_shape, len(class_names))
    links = tuple(trial.link(stage, module.eval()) for stage, module in stages.items())
    flow = None
    if said.routes is not None:
        flow = _flow(links, said.routes, said.settings, whose)
        _check_flow(flow, trial.shapes, len(class_names), whose)
    else:
        _check_chain(links, said, whose)
    return StagedNetwork(
        name=name, links=links, flow=flow, class_names=class_names, preprocessing=preprocessing
    )


def _check_names(stages: Mapping[str, nn.Module]) -> None:
    """Each is a file's name as well, also where capitals make no difference."""
    alike: dict[str, str] = {}
    for name in stages:
        if not isinstance(name, str) or not _STAGE_NAME.fits(name):
            raise ModelError(f"stage {shown(name)}: expected a name {_STAGE_NAME}, for its file")
        if name.lower() in _TAKEN:
            raise ModelError(f"stage {shown(name)}: expected another name, for {', '.join(_TAKEN)} are taken")
        if name.lower() in alike:
            raise ModelError(f"stages {shown(alike[name.lower()])} and {shown(name)} differ in capitals only")
        alike[name.lower()] = name


# --- where samples go --------------------------------------------------------------------------------------


def _flow(
    links: Sequence[Link], routes: Mapping[str, Route], settings: Mapping[str, Choices], whose: str
) -> Flow:
    names = [link.name for link in links]
    missing = [name for name in names if name not in routes]
    if missing:
        raise ModelError(
            f"{whose}: routes() says nothing of stage {shown(missing[0])}; expected where its samples go, "
            "a stage's name or 'answer'"
        )
    strange = [name for name in routes if name not in (START, *names)]
    if strange:
        raise ModelError(f"{whose}: routes() says where {shown(strange[0])} leads, which is no stage")
    try:
        return Flow(
            start=routes.get(START, Route(to=(names[0],))),
            stops=tuple(
                Stop(
                    name=link.name,
                    reads=link.read_names,
                    gives=tuple(link.gives),
                    answers=link.answers,
                    then=routes[link.name],
                )
                for link in links
            ),
            settings=settings,
        )
    except BundleError as error:
        raise ModelError(f"{whose}: {error}") from error


def _check_flow(flow: Flow, shapes: Shapes, classes: int, whose: str) -> None:
    """Rules find the numbers that they look at, settings are gone by, and nothing is given for nobody."""
    try:
        check_looks(flow, shapes, classes)
    except BundleError as error:
        raise ModelError(f"{whose}: {error}") from error
    rules = [flow.start.by, *(stop.then.by for stop in flow.stops)]
    idle = sorted(flow.settings.keys() - {rule.name for rule in rules if isinstance(rule, Setting)})
    if idle:
        raise ModelError(f"{whose}: no route goes by the setting {shown(idle[0])}")
    for k, stop in enumerate(flow.stops):
        wanted = {flow.looked_at[k], *(name for t in flow.targets[k] if t >= 0 for name in flow.live[t])}
        _check_wanted([name for name in stop.gives if name not in wanted], stop.name)


def _check_chain(links: Sequence[Link], said: Said, whose: str) -> None:
    """Without routes, every stage answers, and a later one reads what it gives."""
    if said.settings:
        raise ModelError(f"{whose} has settings() and no routes() that go by them")
    mute = [link.name for link in links if not link.answers]
    if mute:
        raise ModelError(
            f"stage {shown(mute[0])} gives no logits; {whose} has no routes(), so its stages are a chain in "
            "which each can be the last"
        )
    for k, link in enumerate(links):
        later = {name for following in links[k + 1 :] for name in following.reads}
        _check_wanted([name for name in link.gives if name not in later], link.name)


def _check_wanted(idle: Sequence[str], stage: str) -> None:
    """It would cost every image something."""
    if idle:
        raise ModelError(f"stage {shown(stage)} gives {shown(idle[0])}, which nobody reads; leave it out")


# --- what stages read and give -----------------------------------------------------------------------------


class _Trial:
    """A batch taken through all stages in order, whatever routes say: what each reads and gives."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        self._classes = classes
        self._examples: dict[str, Tensor] = {IMAGE: torch.randn(BATCH, *input_shape)}
        self._givers: dict[str, str] = {}

    @property
    def shapes(self) -> Shapes:
        """Of every tensor that a stage has given."""
        return {name: tuple(self._examples[name].shape[1:]) for name in self._givers}

    def link(self, stage: str, module: nn.Module) -> Link:
        """The next stage."""
        reads = _arguments(stage, module)
        for name in reads:
            if name not in self._examples:
                raise ModelError(
                    f"stage {shown(stage)} reads {shown(name)}, which no earlier stage gives; the arguments "
                    "of forward are called as the tensors that it reads"
                )
        given = self._run(stage, module, reads)
        logits = given.pop(LOGITS, None)
        if logits is not None and tuple(logits.shape) != (BATCH, self._classes):
            raise ModelError(
                f"stage {shown(stage)} gives logits {list(logits.shape)} for {BATCH} images, "
                f"expected [{BATCH}, {self._classes}]"
            )
        for name, tensor in given.items():
            self._take(stage, name, tensor)
        tensors = [name for name in reads if name != IMAGE]
        wrapped = _NamedStage(module, reads, tuple(given), answers=logits is not None).eval()
        inputs = [self._examples[name] for name in (IMAGE, *tensors)]
        return Link(
            name=stage,
            module=wrapped,
            reads_image=IMAGE in reads,
            reads={name: tuple(self._examples[name].shape[1:]) for name in tensors},
            gives={name: tuple(tensor.shape[1:]) for name, tensor in given.items()},
            answers=logits is not None,
            macs=macs_of(wrapped, inputs),
        )

    def _run(self, stage: str, module: nn.Module, reads: Sequence[str]) -> dict[str, Tensor]:
        """What a stage gives, but for what it was given itself and did not change: that is carried anyway."""
        values = {name: self._examples[name].clone() for name in reads}  # a stage may work in place
        versions = {name: x._version for name, x in values.items()}
        try:
            with torch.no_grad():
                outputs = _by_name(module(**values))
        except Exception as error:
            raise ModelError(
                f"stage {shown(stage)} failed on {shortened(', '.join(reads), 200)}: {type(error).__name__}: "
                f"{in_a_line(error)}"
            ) from error
        if not isinstance(outputs, dict) or not all(isinstance(x, Tensor) for x in outputs.values()):
            raise ModelError(
                f"stage {shown(stage)} gives a {type(outputs).__name__}; expected logits, or tensors by "
                "name, {'logits': …, 'x': …}"
            )
        return {
            name: x
            for name, x in outputs.items()
            if not (name in values and x is values[name] and x._version == versions[name])
        }

    def _take(self, stage: str, name: Any, tensor: Tensor) -> None:
        if not (isinstance(name, str) and Length(1, 1000).fits(name) and Printable().fits(name)):
            raise ModelError(f"stage {shown(stage)} gives a tensor called {shown(name)}; expected a name")
        if name in (IMAGE, *ANSWERS):
            raise ModelError(f"stage {shown(stage)} gives a tensor called {shown(name)}, which is taken")
        if not is_of_a_batch(tensor, dimensions=1):
            raise ModelError(
                f"{shown(name)} of stage {shown(stage)} is {tensor.dtype} {list(tensor.shape)}; "
                "expected float32 with the batch first"
            )
        if name in self._givers and tensor.shape != self._examples[name].shape:
            raise ModelError(
                f"{shown(name)} of stage {shown(stage)} is {list(tensor.shape)}, that of stage "
                f"{shown(self._givers[name])} is {list(self._examples[name].shape)}; expected one shape"
            )
        self._examples[name], self._givers[name] = tensor, stage


def _arguments(stage: str, module: nn.Module) -> list[str]:
    """The tensors that a stage reads: the arguments of its forward that have no default."""
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError) as error:
        raise ModelError(f"stage {shown(stage)}: its forward does not tell its arguments") from error
    if any(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD, each.POSITIONAL_ONLY) for each in parameters):
        raise ModelError(
            f"stage {shown(stage)}: forward{shortened(str(inspect.signature(module.forward)), 200)} does not "
            "name the tensors that it reads; expected an argument for each, forward(image, x)"
        )
    reads = [each.name for each in parameters if each.default is each.empty]
    if not reads:
        raise ModelError(f"stage {shown(stage)} reads nothing; expected the image, or what a stage gives")
    return reads


def _by_name(outputs: Any) -> Any:
    """Logits alone may come without a name."""
    if isinstance(outputs, Tensor):
        return {LOGITS: outputs}
    return dict(outputs) if isinstance(outputs, Mapping) else outputs


class _NamedStage(nn.Module):
    """A user's stage as a link: tensors in order, in place of by name."""

    def __init__(
        self, module: nn.Module, reads: Sequence[str], gives: Sequence[str], *, answers: bool
    ) -> None:
        super().__init__()
        self.module = module
        self.reads, self.gives = tuple(reads), ((LOGITS,) if answers else ()) + tuple(gives)
        self.names = (IMAGE, *(name for name in reads if name != IMAGE))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Logits if it answers, then what it gives; the image comes first, even if it is not read."""
        values = dict(zip(self.names, inputs, strict=True))
        given = _by_name(self.module(**{name: values[name].clone() for name in self.reads}))  # work in place
        return tuple(given[name] for name in self.gives)
