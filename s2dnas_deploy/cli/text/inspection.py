"""An inspection in words: the document that `workshop/describe` makes, as paragraphs and aligned tables.

It rounds and abbreviates, which the JSON does not; it computes nothing that the document does not say. It
needs no torch, and reads a model's provenance with care: that part of the file is anyone's.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from s2dnas_deploy.quoting import number_of

Document = Mapping[str, Any]

_OF_STATIC = "\n\nStatic network"
_SHOWN_EXITS = 10
_SHOWN_FEATURES = 8
_SHOWN_LAYERS = 2
_SHOWN_CLASSES = 12


def in_words(document: Document) -> str:
    """The whole inspection, as text for a terminal."""
    parts = [_heading(document)]
    if document["kind"] == "static":
        parts += [_layers(document["static"]), _groups(document["static"]), _exits(document["static"])]
    elif _is_nested(document):
        parts += [_widths(document), _channels(document)]
    else:
        parts += [_stages(document), _channels(document), _features(document["stages"])]
    if "model" in document:
        parts.append(_model(document["model"], _answers(document)))
    return "\n\n".join(parts)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> str:
    """Columns with two spaces between; those in `left` flush left, the others flush right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]

    def aligned(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join(f"  {aligned(line)}" for line in lines)


def human(count: float) -> str:
    """A count to three digits: 640, 40.6 M, 1.23 G."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 0.9995 * size:
            return f"{_three_digits(count / size)} {unit}"
    return f"{count:.0f}"


def human_bytes(count: float) -> str:
    """A size to three digits, in powers of 1000: 512 B, 184 KB, 1.08 MB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= 0.9995 * size:
            return f"{_three_digits(count / size)} {unit}"
    return f"{count:.0f} B"


def percent(share: float) -> str:
    """A share as 6.5%."""
    return f"{100 * share:.1f}%"


# --- the static network --------------------------------------------------------------------------------


def _heading(document: Document) -> str:
    static, stages = document["static"], len(document["stages"])
    classifier = static["classifier"]
    kind = "a static network" if stages == 1 else f"a multi-stage network of {stages} stages"
    if _is_nested(document):
        kind = f"{stages} nested widths of a network"
        if (gate := document["plan"].get("gate")) is not None:
            kind += f", with a gate after {gate}"
        if document["plan"].get("in_turn"):
            kind += ", tried in turn until one is sure"
    facts = [
        ("input", f"{_shape(static['input'])}, {number_of(static['classes'], 'class', 'classes')}"),
        ("operators", f"{static['operators']}"),
        ("MACs", f"{human(static['macs'])} for one image"),
        ("parameters", f"{human(static['parameters'])}, {human_bytes(static['size_bytes'])} in float32"),
        (
            "classifier",
            f"{', '.join(classifier['nodes'])} on {', '.join(classifier['reads'])} "
            f"({human(classifier['macs'])} MACs)",
        ),
    ]
    title = f"{document['name']}: {kind}{'' if stages == 1 else _OF_STATIC}"
    return "\n".join([title, *_facts(facts)])


def _layers(static: Document) -> str:
    rows = [
        [row["name"], row["operator"], _shape(row["shape"]), human(row["macs"]), percent(row["macs_share"])]
        for row in static["layers"]
    ]
    return f"Layers\n{table(['layer', 'operator', 'shape', 'MACs', 'share'], rows, left=(0, 1))}"


def _groups(static: Document) -> str:
    rows = [
        [row["name"], str(row["channels"]), str(row["granule"]), str(row["tensors"]), _made_by(row)]
        for row in static["groups"]
    ]
    body = table(["group", "channels", "granule", "tensors", "made by"], rows, left=(0, 4))
    return f"Channel groups: what a plan divides, {len(rows)} in all\n{body}"


def _made_by(group: Document) -> str:
    layers = group["layers"]
    more = f" and {len(layers) - _SHOWN_LAYERS} more" if len(layers) > _SHOWN_LAYERS else ""
    return ", ".join(layers[:_SHOWN_LAYERS]) + more if layers else "padding"


def _exits(static: Document) -> str:
    """Some of the exits: those that all later nodes hang on, evenly spread over the MACs."""
    exits = static["exits"]
    rows = [
        [
            row["name"],
            _shape(row["shape"]) if row["shape"] else "",
            human(row["macs_before"]),
            percent(row["macs_before_share"]),
        ]
        for row in _spread(exits)
    ]
    body = table(["exit", "shape", "MACs before", "share"], rows)
    return f"Possible exits: {len(exits) - 1} nodes and the output. Some of them; --json lists all\n{body}"


def _spread(exits: Sequence[Document]) -> list[Document]:
    """The last cut at each level of MACs, thinned out evenly; the output is the last."""
    last_at = {row["macs_before"]: row for row in exits if row["cut"]}
    cuts = [row for row in last_at.values() if row["macs_before"]]
    if len(cuts) <= _SHOWN_EXITS:
        return cuts
    total = cuts[-1]["macs_before"]
    wanted = [total * (place + 1) / _SHOWN_EXITS for place in range(_SHOWN_EXITS)]
    nearest = [min(cuts, key=_distance_to(macs)) for macs in wanted]
    return list({row["name"]: row for row in nearest}.values())


def _distance_to(macs: float) -> Callable[[Document], float]:
    return lambda row: abs(float(row["macs_before"]) - macs)


# --- the stages ----------------------------------------------------------------------------------------


def _stages(document: Document) -> str:
    header = ["stage", "exit", "channels", "share", "MACs", "of static", "so far", "parameters", "hands over"]
    rows = [_stage_row(stage) for stage in document["stages"]]
    return f"Stages\n{table(header, rows, left=(0, 1))}\n\n{_totals(document)}"


def _answers(document: Document) -> list[str]:
    """What each of the network's answers is called."""
    return [stage.get("width", f"exit {stage['stage']}") for stage in document.get("stages", ())]


def _is_nested(document: Document) -> bool:
    return bool(document["plan"].get("nested"))


def _widths(document: Document) -> str:
    """Each runs alone, so nothing is summed up."""
    header = ["width", "channels", "share", "MACs", "of static", "parameters"]
    rows = [
        [
            stage["width"],
            str(stage["channels"]),
            percent(stage["channels_share"]),
            human(stage["macs"]),
            percent(stage["macs_share"]),
            human(stage["parameters"]),
        ]
        for stage in document["stages"]
    ]
    return f"Widths, each with all channels of the one before\n{table(header, rows)}"


def _stage_row(stage: Document) -> list[str]:
    return [
        str(stage["stage"]),
        stage["exit"],
        str(stage["channels"]),
        percent(stage["channels_share"]),
        human(stage["macs"]),
        percent(stage["macs_share"]),
        percent(stage["cumulative_macs_share"]),
        human(stage["parameters"]),
        _handed_over(len(stage["gives"]), stage["gives_bytes"]),
    ]


def _handed_over(count: int, size: int) -> str:
    return f"{_counted(count, 'feature')}, {human_bytes(size)}" if count else "nothing"


def _totals(document: Document) -> str:
    totals, static = document["totals"], document["static"]
    removed = totals["removed_macs"] / static["macs"]
    kept = f"{human(totals['removed_macs'])} MACs ({percent(removed)} of static) are no longer computed"
    facts = [
        ("all stages", f"{human(totals['macs'])} MACs, {percent(totals['macs_share'])} of static"),
        (
            "without heads",
            f"{human(totals['body_macs'])} of {human(totals['static_body_macs'])} MACs: {kept}",
        ),
        (
            "heads",
            f"{human(totals['heads_macs'])} MACs for {number_of(len(document['stages']), 'exit')}; "
            f"the static classifier has {human(totals['static_head_macs'])}",
        ),
    ]
    return "\n".join(_facts(facts))


def _channels(document: Document) -> str:
    plan, stages = document["plan"], document["stages"]
    nested = _is_nested(document)
    parts = [stage["width"] if nested else f"stage {stage['stage']}" for stage in stages]
    header = ["group", "channels", *parts]
    rows = [
        [group["name"], str(group["channels"]), *(str(n) for n in plan["channels"][group["name"]])]
        for group in document["static"]["groups"]
    ]
    if nested:
        return f"Channels that each width has more than the one before\n{table(header, rows)}"
    alone = ", ".join(plan["no_reuse"]) or "none"
    return f"Channels by the stage that owns them\n{table(header, rows)}\n\n  layers without reuse: {alone}"


def _features(stages: Sequence[Document]) -> str:
    features = [feature for stage in stages for feature in stage["gives"]]
    if not features:
        return "Features handed over: none"
    total = sum(feature["size_bytes"] for feature in features)
    largest = sorted(features, key=lambda feature: -int(feature["size_bytes"]))[:_SHOWN_FEATURES]
    rows = [[row["name"], _shape(row["shape"]), human_bytes(row["size_bytes"])] for row in largest]
    which = "" if len(rows) == len(features) else ". The largest; --json lists all"
    title = f"Features handed over: {len(features)}, {human_bytes(total)} for one image in float32{which}"
    return f"{title}\n{table(['feature', 'shape', 'size'], rows)}"


# --- what a model.pt says of itself --------------------------------------------------------------------


def _model(model: Document, answers: Sequence[str]) -> str:
    about, preprocessing = model["provenance"], model["preprocessing"]
    facts = [
        ("file", f"{model['path']}, {human_bytes(model['size_bytes'])}"),
        ("classes", _some(model["class_names"])),
        ("mean, std", f"{_numbers(preprocessing['mean'])}; {_numbers(preprocessing['std'])}"),
        ("resize", str(preprocessing["resize"] or "no, images must fit")),
        *((name, text) for name, text in _origin(about) if text),
    ]
    accuracies = _accuracies(about, answers)
    title = "Model file\n" + "\n".join(_facts(facts))
    return f"{title}\n\n{accuracies}" if accuracies else title


def _origin(about: Document) -> Iterator[tuple[str, str]]:
    """Where a model comes from, as far as it says."""
    yield "network", str(about.get("network") or "")
    data = about.get("data")
    if isinstance(data, dict):
        parts = [f"{data[part]} {part}" for part in ("train", "val", "test") if data.get(part)]
        yield "data", f"{data.get('source')} ({', '.join(parts)} images)"
    if about.get("epochs_trained") is not None:
        yield "trained", number_of(about["epochs_trained"], "epoch")
    yield "made by", ", ".join(str(about[key]) for key in ("tool",) if about.get(key))


def _accuracies(about: Document, answers: Sequence[str]) -> str:
    """Accuracy of each exit or width, on validation and test images, where they are given."""
    val, test = _list(about.get("val_accuracy")), _list(about.get("test_accuracy"))
    static = about.get("static_accuracy")
    rows = []
    if isinstance(static, dict):
        rows.append(["static", _accuracy(static.get("val")), _accuracy(static.get("test"))])
    for stage in range(max(len(val), len(test))):
        name = answers[stage] if stage < len(answers) else f"exit {stage}"
        rows.append([name, _accuracy(_item(val, stage)), _accuracy(_item(test, stage))])
    return table(["accuracy", "val", "test"], rows) if rows else ""


def _accuracy(value: Any) -> str:
    return f"{100 * value:.2f}%" if isinstance(value, float | int) else "-"


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _item(values: Sequence[Any], place: int) -> Any:
    return values[place] if place < len(values) else None


# --- words ---------------------------------------------------------------------------------------------


def _facts(facts: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in facts)
    return [f"  {name.ljust(width)}  {text}" for name, text in facts]


def _shape(shape: Sequence[int]) -> str:
    return "x".join(str(length) for length in shape)


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_CLASSES} more" if len(names) > _SHOWN_CLASSES else ""
    return f"{len(names)}: {', '.join(names[:_SHOWN_CLASSES])}{more}"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _three_digits(value: float) -> str:
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f}"
