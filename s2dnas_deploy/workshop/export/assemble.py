"""A whole export: from a network's stages to a bundle that has been verified.

Place in the flow: what `s2dnas-export` does. A draft passes from step to step, and each gives a new one:

    written ──▶ simplified ──▶ in rows ──▶ quantised ──▶ nested ──▶ skipping ──▶ described
            ──▶ verified ──▶ judged ──▶ contents

All of it is in memory; only a bundle that answers as the network does is saved, and then all at once.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto

from s2dnas_deploy import __version__
from s2dnas_deploy.bundle.bundle import MACS
from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.bundle.saving import check_replaceable, save_bundle
from s2dnas_deploy.bundle.signature import Signer
from s2dnas_deploy.decide.course import Array
from s2dnas_deploy.decide.flow import IMAGE
from s2dnas_deploy.quoting import number_of
from s2dnas_deploy.reporter import Reporter, counted
from s2dnas_deploy.workshop.export.checks.expect import before_and_after, expected_of, told_by, weighed
from s2dnas_deploy.workshop.export.checks.verify import LARGE_BATCH, verify, verify_single_file
from s2dnas_deploy.workshop.export.contents import SINGLE_FILE, Contents, contents_of
from s2dnas_deploy.workshop.export.draft import Draft, Export, StageDraft
from s2dnas_deploy.workshop.export.graphs.follow import OnnxStages
from s2dnas_deploy.workshop.export.graphs.quantise import quantise_stages
from s2dnas_deploy.workshop.export.graphs.rows import read_rows
from s2dnas_deploy.workshop.export.graphs.simplify import check, simplify
from s2dnas_deploy.workshop.export.graphs.single_file import nest
from s2dnas_deploy.workshop.export.graphs.skip import skipping
from s2dnas_deploy.workshop.export.graphs.stage_graph import GraphForm, StageGraph, to_onnx
from s2dnas_deploy.workshop.export.samples import Normalised
from s2dnas_deploy.workshop.export.staged import StagedNetwork


def write_bundle(export: Export, out: Path, reporter: Reporter, signer: Signer | None = None) -> Manifest:
    """Make the bundle, and save it to `out`, signed if need be; its manifest."""
    check_replaceable(out)
    made = make_bundle(export, reporter)
    save_bundle(made.files, out, signer)
    return made.manifest


def make_bundle(export: Export, reporter: Reporter) -> Contents:
    """All that a bundle holds, verified; or a `VerificationError`."""
    draft = _made(export, reporter)
    for step in (_verified, _judged):
        draft = step(draft, reporter)
    return contents_of(draft)


def write_probe(export: Export, out: Path, reporter: Reporter) -> None:
    """A bundle that is timed and thrown away: what it answers is compared with nothing."""
    save_bundle(contents_of(_made(export, reporter)).files, out)


def _made(export: Export, reporter: Reporter) -> Draft:
    draft = _written(export, reporter)
    for step in (_simplified, _in_rows, _quantised, _nested, _skipping, _described):
        draft = step(draft, reporter)
    return draft


def _written(export: Export, reporter: Reporter) -> Draft:
    """Every stage as ONNX, as torch writes it."""
    options, links = export.options, export.network.links
    form = GraphForm(
        preprocessing=export.network.preprocessing,
        float_input=options.float_input,
        half=options.precision == "float16",
        gather=options.gather,
        opset=options.opset,
    )
    progress = counted(reporter.phase("exporting", "stages"))
    stages = []
    for k, (link, exit_) in enumerate(zip(links, export.exits, strict=True)):
        graph = StageGraph(link, exit_, form, export.flow)
        stages.append(StageDraft(graph=graph, model=to_onnx(graph)))
        check(stages[k].model)
        progress(k + 1, len(links))
    return Draft(export=export, stages=tuple(stages), settings=export.flow.settings)


def _simplified(draft: Draft, reporter: Reporter) -> Draft:
    """Every graph made smaller, where that leaves it the same; and remarks where it does not."""
    progress, count = counted(reporter.phase("simplifying", "stages")), len(draft.stages)
    images = draft.export.taken(draft.export.shown)[:2]
    values: dict[str, Array] = {IMAGE: images}
    stages = []
    for k, stage in enumerate(draft.stages):
        rows = dict.fromkeys(stage.graph.rows, np.arange(len(images), dtype=np.int64))
        result = simplify(stage.model, {**values, **rows})
        remark = f"{stage.file} is not simplified: {result.kept_because}." if result.kept_because else ""
        values.update({name: result.outputs[output] for name, output in stage.graph.outputs.items()})
        stages.append(replace(stage, model=result.model, remark=remark))
        progress(k + 1, count)
    return replace(draft, stages=tuple(stages))


def _in_rows(draft: Draft, _: Reporter) -> Draft:
    """With bytes read as they come, where a runtime works in blocks: it need not transpose them then."""
    options = draft.export.options
    if not options.in_blocks or options.float_input:
        return draft
    stages = tuple(replace(stage, model=read_rows(stage.model)) for stage in draft.stages)
    for stage in stages:
        check(stage.model)
    return replace(draft, stages=stages)


def _quantised(draft: Draft, reporter: Reporter) -> Draft:
    """In INT8, if that is asked for."""
    export = draft.export
    if export.options.precision != "int8":
        return draft
    assert export.images is not None, "checked when the export was made"
    images = export.taken(export.images.calibration)
    progress = counted(reporter.phase("quantising", "stages"))
    models = quantise_stages(draft.graphs, draft.models, export.flow, images, progress)
    pairs = zip(draft.stages, models, strict=True)
    return replace(draft, stages=tuple(replace(stage, model=model) for stage, model in pairs), plain=draft)


def _nested(draft: Draft, _: Reporter) -> Draft:
    """With all stages in one file as well, if that is asked for."""
    export = draft.export
    if not export.options.single_file:
        return draft
    return replace(draft, single_file=nest(draft.models, export.flow, len(export.network.class_names)))


def _skipping(draft: Draft, _: Reporter) -> Draft:
    """With branches whose gates can shut under an `If`; in INT8, they are computed, and multiplied by 0."""
    if draft.export.options.precision == "int8":
        return draft
    stages = tuple(replace(stage, model=skipping(stage.model)) for stage in draft.stages)
    for stage in stages:
        check(stage.model)
    return replace(draft, stages=stages)


def _described(draft: Draft, _: Reporter) -> Draft:
    """Labels, preprocessing and MACs in each graph's own metadata, for whoever has only that file."""
    network = draft.export.network
    stages = tuple(
        replace(stage, model=_with_metadata(stage.model, network, stage.file, stage.graph.link.macs))
        for stage in draft.stages
    )
    if draft.single_file is None:
        return replace(draft, stages=stages)
    single_file = _with_metadata(draft.single_file, network, SINGLE_FILE)
    return replace(draft, stages=stages, single_file=single_file)


def _with_metadata(
    model: ModelProto, network: StagedNetwork, name: str, macs: int | None = None
) -> ModelProto:
    described = ModelProto()
    described.CopyFrom(model)
    del described.metadata_props[:]
    about = {
        "s2dnas.name": network.name,
        "s2dnas.graph": f"{name} of {len(network.links)} stages",
        "s2dnas.labels": json.dumps(list(network.class_names)),
        "s2dnas.preprocessing": json.dumps(network.preprocessing.to_document()),
    }
    if macs is not None:
        about[MACS] = str(macs)
    onnx.helper.set_model_props(described, about)
    described.producer_name, described.producer_version = "s2dnas_deploy", __version__
    return described


def _verified(draft: Draft, reporter: Reporter) -> Draft:
    """Compared with the network in torch."""
    export = draft.export
    reporter.say(
        f"verifying {number_of(len(draft.stages), 'stage')} on {number_of(len(export.shown), 'image')}"
    )
    verification = verify(
        export.network,
        draft.graphs,
        draft.files,
        export.shown,
        images_are="made up: no --data was given" if export.images is None else f"of {export.images.source}",
        precision=export.options.precision,
        flow=export.flow,
        large=draft.at_once(LARGE_BATCH),
    )
    if draft.single_file is not None:
        single, images = draft.single_file.SerializeToString(), export.taken(export.shown)
        verify_single_file(single, draft.files, export.flow, images)
    return replace(draft, report=(*draft.report, verification.report()))


def _judged(draft: Draft, reporter: Reporter) -> Draft:
    """With what its settings cost, what it reaches on labelled images, and how that is beside float32."""
    export, flow, precision = draft.export, draft.export.flow, draft.export.options.precision
    macs = [link.macs for link in export.network.links]
    run, batch = OnnxStages(draft.graphs, draft.files), draft.at_once(_BATCH)
    images = export.taken(export.shown if export.images is None else export.images.validation)
    labels = None if export.images is None else export.images.labels
    draft = replace(draft, settings=weighed(flow, run, images, macs, labels, batch=batch))
    if labels is None:
        return draft
    told = told_by(flow, run, images, batch=batch)
    expected = expected_of(flow, told, labels, macs)
    if export.network.spent is not None and precision != "int8":
        expected = replace(expected, mean_macs=_share_spent(export, batch) * expected.mean_macs)
    draft = replace(draft, expected=expected)
    if precision == "float32":
        return draft
    plain = draft.plain or _in_float32(export, reporter)
    before = told_by(flow, OnnxStages(plain.graphs, plain.files), images, batch=batch)
    return replace(draft, report=(*draft.report, before_and_after(flow, before, told, labels, precision)))


def _share_spent(export: Export, batch: int) -> float:
    """The share of its MACs that a network with gates takes of a validation image, on average."""
    assert export.network.spent is not None, "a network with gates"
    images = Normalised(images=export.shown, preprocessing=export.network.preprocessing)
    shares = []
    for start in range(0, len(images), batch):
        shares.append(export.network.spent(torch.from_numpy(images[start : start + batch])))
    return float(torch.cat(shares).mean())


_BATCH = 100


def _in_float32(export: Export, reporter: Reporter) -> Draft:
    plain = replace(export, options=replace(export.options, precision="float32"))
    return _simplified(_written(plain, reporter), reporter)
