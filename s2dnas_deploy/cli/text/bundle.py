"""A bundle in words: what it holds, what each stage costs, and what to expect of it."""

from s2dnas_deploy.bundle.bundle import Bundle, plan_of
from s2dnas_deploy.bundle.entries import percent
from s2dnas_deploy.cli.text.export import choices_in_words
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.quoting import number_of


def bundle_in_words(bundle: Bundle) -> str:
    """For a person to read; the manifest itself is the same as JSON."""
    m = bundle.manifest
    channels, height, width = m.preprocessing.input_shape
    longest = max(14, *(len(stage.graph.file) for stage in m.stages))
    lines = [
        f"{m.name}: bundle of {number_of(len(m.stages), 'stage')}, {m.precision}, "
        f"{number_of(len(m.labels), 'class', 'classes')}, "
        f"images {channels}x{height}x{width} as {m.image_type}",
        "",
        f"{'stage':>5} {'graph':<{longest}} {'size':>10} {'MACs':>11} {'reads':>6} {'gives':>6} "
        f"{'per image':>11}  then",
    ]
    for k, stage in enumerate(m.stages):
        given = [m.tensors[name] for name in stage.gives]
        handed = sum(_bytes(tensor.type, tensor.shape) for tensor in given)
        lines.append(
            f"{k:>5} {stage.graph.file:<{longest}} {stage.graph.size_bytes / 1e6:>7.2f} MB "
            f"{stage.macs / 1e6:>9.2f} M {len(stage.reads):>6} {len(stage.gives):>6} "
            f"{handed / 1e3:>8.1f} kB  {stage.in_words}"
        )
    if m.single_file is not None:
        lines.append(
            f"  all {m.single_file.file:<{longest}} {m.single_file.size_bytes / 1e6:>7.2f} MB, "
            "one image at a time"
        )
    if m.expected is not None:
        e, whom = m.expected, "all images" if m.flow.is_chain else "images that come"
        lines += [
            "",
            f"on {number_of(e.images, 'validation image')}: {100 * e.cascade_accuracy:.2f}% right with "
            f"{e.mean_macs / 1e6:.2f} M MACs on average",
            *(
                f"  exit {called}: {percent(accuracy)} right on {whom}; {100 * share:.1f}% exit here"
                for called, stop, accuracy, share in zip(
                    m.flow.called, m.flow.stops, e.exit_accuracy, e.exit_share, strict=True
                )
                if stop.answers and (accuracy is not None or m.flow.is_chain)
            ),
        ]
    lines += [f"\n{choices_in_words(name, setting)}" for name, setting in m.flow.settings.items()]
    if m.promise is not None:
        lines += ["", m.promise.statement]
    plan = plan_of(bundle)
    if plan is not None:
        lines += ["", *_channels(plan)]
    return "\n".join([*lines, "", "made with " + ", ".join(f"{tool} {v}" for tool, v in m.tools.items())])


def _channels(plan: Plan) -> list[str]:
    """Who owns how many channels of each group."""
    longest = max(len("group"), *map(len, plan.channels))
    title, parts = "channels by the stage that owns them", [f"stage {k}" for k in range(plan.stages)]
    if plan.nested:
        title, parts = "channels that each width has more than the one before", list(plan.width_names)
    wide = 2 + max(7, *map(len, parts))
    return [
        title,
        f"  {'group':<{longest}}" + "".join(f"{part:>{wide}}" for part in parts),
        *(
            f"  {name:<{longest}}" + "".join(f"{count:>{wide}}" for count in counts)
            for name, counts in plan.channels.items()
        ),
    ]


def _bytes(kind: str, shape: tuple[int, ...]) -> int:
    size = {"float32": 4, "float16": 2, "uint8": 1, "int8": 1}[kind]
    for length in shape:
        size *= length
    return size
