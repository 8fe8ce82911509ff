"""The README card of a bundle: what it is and how to run it, for whoever finds the folder."""

from s2dnas_deploy.bundle.manifest import Manifest


def readme(manifest: Manifest) -> str:
    """The card as Markdown."""
    p = manifest.preprocessing
    channels, height, width = p.input_shape
    lines = [
        f"# {manifest.name}",
        "",
        f"A cascade of {len(manifest.stages)} stages ({manifest.precision}), exported by s2dnas_deploy.",
        "A later stage runs only for images of which the earlier ones are not sure.",
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
            f"| {k} | {stage.graph.file} | {stage.graph.size_bytes / 1e6:.2f} MB | "
            f"{stage.macs / 1e6:.2f} M | {len(stage.reads)} features | "
            f"{len(stage.gives)} features | {stage.in_words} |"
        )
    if manifest.expected is not None:
        e = manifest.expected
        lines += [
            "",
            f"On {e.images} validation images: {100 * e.cascade_accuracy:.2f}% right with "
            f"{e.mean_macs / 1e6:.2f} M MACs per image on average.",
            "",
            "| exit | accuracy on all images | share that leaves here |",
            "| ---: | ---: | ---: |",
            *(
                f"| {k} | {100 * accuracy:.2f}% | {100 * share:.1f}% |"
                for k, (accuracy, share) in enumerate(zip(e.exit_accuracy, e.exit_share, strict=True))
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


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
