"""Networks of every kind of route, as a person may bring them, each with its own plain way to answer.

`stages()`, `routes()` and `settings()` are for `s2dnas-export`. `answer` is what they mean, in ordinary
torch: one image after the other, the stages called by name, and an `if` for every route.
"""

import torch
from torch import Tensor, nn

CLASSES = 5
WIDTH = 6


class Prefix(nn.Module):
    """Features, and a gate of some numbers."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.gate = nn.Linear(WIDTH, numbers)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.conv(image))
        return {"x": x, "gate": self.gate(x.amax((2, 3)))}


class Head(nn.Module):
    """Logits of what it reads, and perhaps more features."""

    def __init__(self, *, more: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.classifier = nn.Linear(WIDTH, CLASSES)
        self.more = more

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        y = torch.relu(self.conv(x))
        logits = self.classifier(y.amax((2, 3)))
        return {"logits": logits, "y": y} if self.more else logits


class Both(Head):
    """The same of two features."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x + y)


class FromImage(nn.Module):
    """A whole network, and what it may hand on."""

    def __init__(self, width: int, *, more: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.classifier = nn.Linear(width, CLASSES)
        self.more = more

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        x = torch.relu(self.conv(image))
        logits = self.classifier(x.amax((2, 3)))
        return {"logits": logits, "x": x} if self.more else logits


class Block(nn.Module):
    """A residual block: it renews what it read, in place as many do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x += torch.tanh(self.conv(x))
        return {"x": x.relu_()}


class Aside(nn.Module):
    """A stage between two blocks that gives something for the second."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"side": x.mean((2, 3), keepdim=True)}


class SecondBlock(Block):
    """A block that also reads what was given aside."""

    def forward(self, x: Tensor, side: Tensor) -> dict[str, Tensor]:
        return super().forward(x - side)


class Judge(nn.Module):
    """A single number by itself: what going on would be worth."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"worth": self.gate(x.amax((2, 3))).squeeze(1)}


class Routed(nn.Module):
    """Stages by name; each kind says where samples go."""

    def __init__(self, **stages: nn.Module) -> None:
        super().__init__()
        self.parts = stages
        self.held = nn.ModuleList(stages.values())
        self.at = 0.0

    def stages(self):
        return self.parts

    def answer(self, image: Tensor, **settings: str) -> tuple[Tensor, list[str]]:
        """The logits for one image [1, 3, H, W], and the stages that it went through."""
        raise NotImplementedError


class Chain(Routed):
    def answer(self, image, **settings):
        first = self.parts["early"](image)
        if sure(first["logits"]) >= 0.9:
            return first["logits"], ["early"]
        second = self.parts["middle"](first["x"])
        if sure(second["logits"]) >= 0.9:
            return second["logits"], ["early", "middle"]
        return self.parts["late"](first["x"], second["y"]), ["early", "middle", "late"]


class Gate(Routed):
    def stages(self):
        return nn.ModuleDict(self.parts)

    def routes(self):
        slices = ("s", "m", "l")
        return {
            "prefix": {"to": slices, "by": {"rule": "largest", "of": "gate"}},
            **dict.fromkeys(slices, "answer"),
        }

    def answer(self, image, **settings):
        given = self.parts["prefix"](image)
        name = "sml"[int(given["gate"].argmax())]
        return self.parts[name](given["x"]), ["prefix", name]


class Widths(Routed):
    def routes(self):
        widths = ("quarter", "half", "full")
        start = {"to": widths, "by": {"rule": "setting", "name": "width"}}
        return {"start": start, **dict.fromkeys(widths, "answer")}

    def settings(self):
        return {"width": {"choices": ["quarter", "half", "full"], "default": "half"}}

    def answer(self, image, *, width="half"):
        return self.parts[width](image), [width]


class Skipping(Routed):
    def routes(self):
        def skips(column, past, block):
            return {
                "to": [past, block],
                "by": {"rule": "threshold", "of": "gate", "column": column, "at": 0.0},
            }

        return {
            "head": skips(0, "between", "block_a"),
            "block_a": "between",
            "between": skips(2, "tail", "block_b"),
            "block_b": "tail",
            "tail": "answer",
        }

    def answer(self, image, **settings):
        given, way = self.parts["head"](image), ["head"]
        x, gate = given["x"], given["gate"][0]
        if gate[0] < 0:
            x, way = self.parts["block_a"](x.clone())["x"], [*way, "block_a"]
        side, way = self.parts["between"](x)["side"], [*way, "between"]
        if gate[2] < 0:
            x, way = self.parts["block_b"](x.clone(), side)["x"], [*way, "block_b"]
        return self.parts["tail"](x), [*way, "tail"]


class GateThenExits(Routed):
    def exits(self, following):
        return {"to": ["answer", following], "by": {"rule": "threshold", "of": "confidence", "at": self.at}}

    def routes(self):
        return {
            "prefix": {"to": ["s", "l"], "by": {"rule": "largest", "of": "gate"}},
            "s": self.exits("more"),
            "more": self.exits("last"),
            "l": self.exits("last"),
            "last": "answer",
        }

    def answer(self, image, **settings):
        given, way = self.parts["prefix"](image), ["prefix"]
        x = given["x"]
        if given["gate"].argmax() == 0:
            said, way = self.parts["s"](x), [*way, "s"]
            if sure(said["logits"]) >= self.at:
                return said["logits"], way
            y = said["y"]
            logits, way = self.parts["more"](x, y), [*way, "more"]
        else:
            said, way = self.parts["l"](x), [*way, "l"]
            logits, y = said["logits"], said["y"]
        if sure(logits) >= self.at:
            return logits, way
        return self.parts["last"](x, y), [*way, "last"]


class Late(Routed):
    def routes(self):
        return {
            "first": "judge",
            "judge": {"to": ["answer", "second"], "by": {"rule": "threshold", "of": "worth", "at": 0.0}},
            "second": "answer",
        }

    def answer(self, image, **settings):
        given = self.parts["first"](image)
        if self.parts["judge"](given["x"])["worth"] >= 0:
            return given["logits"], ["first", "judge"]
        return self.parts["second"](given["x"]), ["first", "judge", "second"]


def sure(logits: Tensor) -> Tensor:
    """How sure an exit is."""
    best = torch.softmax(logits, 1).topk(2).values
    return best[:, 0] - best[:, 1]


def images(count: int = 64) -> Tensor:
    """Some that every factory balances its gates on."""
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def balanced(linear: nn.Linear, features: Tensor, spread: float = 2.0) -> None:
    """Every number is above 0 for half of the images, and as far from it as any other."""
    pooled = features.amax((2, 3))
    linear.weight.mul_(spread / (pooled @ linear.weight.T).std(0)[:, None])
    linear.bias.copy_(-(pooled @ linear.weight.T).median(0).values)


def chain() -> Routed:
    torch.manual_seed(0)
    network = Chain(early=FromImage(WIDTH, more=True), middle=Head(more=True), late=Both())
    x = network.parts["early"](images())["x"]
    balanced(network.parts["early"].classifier, x, 4.0)
    balanced(network.parts["middle"].classifier, network.parts["middle"](x)["y"], 4.0)
    return network


def gate() -> Routed:
    torch.manual_seed(1)
    network = Gate(prefix=Prefix(3), s=Head(), m=Head(), l=Head())
    balanced(network.parts["prefix"].gate, network.parts["prefix"](images())["x"])
    return network


def setting() -> Routed:
    torch.manual_seed(2)
    return Widths(quarter=FromImage(2), half=FromImage(4), full=FromImage(8))


def skipped() -> Routed:
    torch.manual_seed(3)
    network = Skipping(head=Prefix(3), block_a=Block(), between=Aside(), block_b=SecondBlock(), tail=Head())
    balanced(network.parts["head"].gate, network.parts["head"](images())["x"])
    return network


def gate_then_exits() -> Routed:
    torch.manual_seed(4)
    network = GateThenExits(prefix=Prefix(2), s=Head(more=True), more=Both(), l=Head(more=True), last=Both())
    given = network.parts["prefix"](images())
    balanced(network.parts["prefix"].gate, given["x"])
    for name in ("s", "l"):
        balanced(network.parts[name].classifier, network.parts[name](given["x"])["y"])
    balanced(network.parts["more"].classifier, given["x"])
    network.at = 0.75
    return network


def late() -> Routed:
    torch.manual_seed(5)
    network = Late(first=FromImage(WIDTH, more=True), judge=Judge(), second=Head())
    balanced(network.parts["judge"].gate, network.parts["first"](images())["x"])
    return network
