"""The README card of a bundle: what it is and how to run it, for whoever finds the folder."""

from s2dnas_deploy.bundle.entries import percent
from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.decide.flow import Choices
from s2dnas_deploy.quoting import number_of


def readme(manifest: Manifest) -> str:
    """The card as Markdown."""
    p, flow = manifest.preprocessing, manifest.flow
    channels, height, width = p.input_shape
    lines = [
        f"# {manifest.name}",
        "",
        f"A {'cascade' if flow.is_chain else 'bundle'} of {number_of(len(manifest.stages), 'stage')} "
        f"({manifest.precision}), exported by s2dnas_deploy.",
        "A later stage runs only for images of which the earlier ones are not sure."
        if flow.is_chain
        else "Which of them run for an image is said in the column “then”.",
        "",
        "    s2dnas-run --bundle . images/",
        "",
        f"It reads {channels}x{height}x{width} images as "
        + (
            f"bytes [N, {height}, {width}, {channels}]; the graphs normalise them."
            if manifest.image_type == "uint8"
            else f"float32 [N, {channels}, {height}, {width}], (pixel / 255 - mean) / std with "
            f"mean {_numbers(p.mean)} and std {_numbers(p.std)}."
        ),
        "",
        "| stage | graph | size | MACs | reads | gives | then |",
        "| ---: | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for k, stage in enumerate(manifest.stages):
        lines.append(
            f"| {flow.called[k]} | {stage.graph.file} | {stage.graph.size_bytes / 1e6:.2f} MB | "
            f"{stage.macs / 1e6:.2f} M | {number_of(len(stage.reads), 'feature')} | "
            f"{number_of(len(stage.gives), 'feature')} | {stage.in_words} |"
        )
    if flow.start.to != (flow.stops[0].name,):
        lines += ["", f"Images begin by {flow.start.by.in_words}: {', '.join(flow.start.to)}."]
    for name, each in manifest.settings.items():
        lines += ["", f"`--setting {name}=…` is {_choices(each)}."]
    if manifest.expected is not None:
        e = manifest.expected
        lines += [
            "",
            f"On {number_of(e.images, 'validation image')}: {100 * e.cascade_accuracy:.2f}% right with "
            f"{e.mean_macs / 1e6:.2f} M MACs per image on average.",
            "",
            "| exit | accuracy on all images | share that exits here |"
            if flow.is_chain
            else "| stage | accuracy on images that come | share that it answers |",
            "| ---: | ---: | ---: |",
            *(
                f"| {called} | {percent(accuracy)} | {100 * share:.1f}% |"
                for called, stop, accuracy, share in zip(
                    flow.called, flow.stops, e.exit_accuracy, e.exit_share, strict=True
                )
                if stop.answers and (accuracy is not None or flow.is_chain)
            ),
        ]
    if manifest.promise is not None:
        lines += ["", manifest.promise.statement]
    if manifest.single_file is not None:
        lines += [
            "",
            f"`{manifest.single_file.file}` is the whole cascade in one graph, one image at a time.",
        ]
    lines += ["", "`verification.txt` tells how it was compared with the network it was made from."]
    return "\n".join(lines) + "\n"


def _choices(setting: Choices) -> str:
    """What can be chosen, and what each costs, if that is known."""
    costs = [""] * len(setting.choices)
    if setting.macs is not None:
        costs = [f" ({macs / 1e6:.2f} M MACs)" for macs in setting.macs]
    if setting.accuracy is not None:
        costs = [
            f"{cost}, {percent(right)} right" for cost, right in zip(costs, setting.accuracy, strict=True)
        ]
    chosen = [f"{name}{cost}" for name, cost in zip(setting.choices, costs, strict=True)]
    return f"{' or '.join(chosen)}, if nothing is said {setting.default}"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
