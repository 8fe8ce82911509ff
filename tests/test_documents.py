"""Every kind of JSON document, damaged in every way: read, or refused with its own error, in one line."""

import hashlib
import json
import shutil
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

pytest.importorskip("torch")

from click.testing import CliRunner
from exports import chain_from, export_to
from made_up_report import made_up_report
from mutations import mutations, told_well
from small_networks import residual

from s2dnas_deploy import plan as plans
from s2dnas_deploy.bench import compare as comparison
from s2dnas_deploy.bench import spread
from s2dnas_deploy.bench.page import page_of
from s2dnas_deploy.bench.report import Report
from s2dnas_deploy.bench.summary import summarise
from s2dnas_deploy.bench.workers.job import Job
from s2dnas_deploy.bundle.device_profile import PROBES, Profile, StageTimes, probes_in
from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.cli import bench, inspect
from s2dnas_deploy.errors import (
    BundleError,
    CheckpointError,
    OptionError,
    PlanError,
    RecordError,
    S2dnasError,
)
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.runtime.answers.output import Output
from s2dnas_deploy.runtime.answers.records import record_in
from s2dnas_deploy.workshop.network.graph import ChannelGraph
from s2dnas_deploy.workshop.network.model_file import _ABOUT, _PROVENANCE
from s2dnas_deploy.workshop.search.judging.reward import Worth
from s2dnas_deploy.workshop.search.space.candidate import candidate_of
from s2dnas_deploy.workshop.search.space.make_space import make_space
from s2dnas_deploy.workshop.search.trials import Trials


@pytest.fixture(params=[17, pytest.param(1, marks=pytest.mark.slow)])
def every(request):
    """Of so many variants, one is tried; the slow tests try all."""
    return request.param


def ends_well(document, read, errors, every):
    """One of so many variants is read, or refused as it should be; some are refused."""
    refused = 0
    for mutation in islice(mutations(document), None, None, every):
        try:
            read(mutation.text)
        except S2dnasError as problem:
            error = problem
        except Exception as problem:
            pytest.fail(f"{mutation}: {problem!r}")
        else:
            continue
        assert isinstance(error, errors), f"{mutation}: {error!r}"
        assert told_well(error), f"{mutation}: {error}"
        refused += 1
    assert refused


@pytest.fixture(scope="module")
def static():
    return residual()


@pytest.fixture(scope="module")
def plan(static):
    return plans.uniform(static.divisible.space, [0.25, 0.75])


@pytest.fixture(scope="module")
def bundle(static, plan, tmp_path_factory):
    return export_to(
        tmp_path_factory.mktemp("bundle") / "b", chain_from(static, plan), single_file=True
    ).folder


def manifest_of(bundle):
    promise = {"statement": "At most one point.", "images": 9, "max_drop": 0.01}
    document = json.loads((bundle / "manifest.json").read_text())
    document["promise"] = {**promise, "probability": 0.95, "observed_drop": -0.002, "other_answers": 0.1}
    document["expected"] = {
        "images": 100,
        "exit_accuracy": [0.5, 0.75],
        "exit_share": [0.25, 0.75],
        "cascade_accuracy": 0.75,
        "mean_macs": 1e6,
    }
    return document


def test_manifests(bundle, every):
    ends_well(manifest_of(bundle), Manifest.from_json, BundleError, every)


def test_plans(plan, every):
    ends_well(
        json.loads(replace(plan, no_reuse=frozenset({"conv1"})).to_json()), Plan.from_json, PlanError, every
    )


def profile_of(plan):
    times = {name: StageTimes(stage_ms=(1.0, 2.0), reference_ms=3.0) for name in ("static", "probe_00")}
    about = {"processor": "one", "threads": 1}
    return Profile(device=about, times=times, plans=dict.fromkeys(times, plan), input_shape=(3, 8, 8))


def test_device_profiles(plan, tmp_path, every):
    path = tmp_path / "device.json"

    def read(text):
        path.write_text(text)
        Profile.load(path)

    ends_well(json.loads(profile_of(plan).to_json()), read, RecordError, every)


def test_probes(plan, tmp_path, every):
    def read(text):
        (tmp_path / PROBES).write_text(text)
        probes_in(tmp_path)

    own = json.loads(plan.to_json())
    document = {"format": "s2dnas-probes", "version": 1, "probes": {"static": own, "probe_00": own}}
    ends_well(document, read, RecordError, every)


def test_measurements(tmp_path, every, monkeypatch):
    path, whole = tmp_path / "report.json", made_up_report(processes=2, blocks=2)
    monkeypatch.setattr(spread, "_DRAWS", 9)
    monkeypatch.setattr(comparison, "_DRAWS", 9)

    def read(text):
        path.write_text(text)
        report = Report.load(path)
        page_of(report, [summarise(run, report) for run in report.runs])
        comparison.compare(report, whole, force=True)

    # Nothing may be in common: that is no fault of the file.
    ends_well(json.loads(whole.to_json(summary=[])), read, (RecordError, OptionError), 13 * every)


def test_jobs(tmp_path, every):
    path = tmp_path / "job.json"

    def read(text):
        path.write_text(text)
        Job.load(path)

    job = Job(
        kind="warm",
        bundle="b",
        images="i.npy",
        static=None,
        mean=(0.5,),
        std=(1.0,),
        provider="cpu",
        threads=1,
        batch=2,
    )
    ends_well(json.loads(job.to_json()), read, RecordError, every)


def test_trials(static, tmp_path, every):
    space, path = make_space(static.divisible.space, stages=2), tmp_path / "plans.jsonl"
    worth = Worth(
        reward=0.5,
        accuracy=0.5,
        cost=0.2,
        exit_accuracy=(0.5, 0.6),
        exit_cost=(0.1, 0.9),
        exit_share=(0.9, 0.1),
        fits=True,
    )

    def trials():
        return Trials(path, {"seed": 0}, space, lambda asked: [worth for _ in asked], lambda: None)

    choices = space.draw(np.random.default_rng(0))
    trials().evaluate([candidate_of(static, choices, space.plan(choices))])
    header, line = path.read_text().splitlines()

    def read(text):
        path.write_text(f"{header}\n{text}\n")
        trials()

    ends_well(json.loads(line), read, CheckpointError, every)


def test_descriptions_of_models(static, plan, every):
    graph = json.loads(static.graph.to_json())
    ends_well(graph, ChannelGraph.from_json, CheckpointError, 5 * every)
    about = {
        "graph": "{}",
        "plan": plan.to_json(),
        "class_names": ["a", "b"],
        "preprocessing": {"input_shape": [1, 8, 8], "mean": [0.5], "std": [1.0], "resize": "crop"},
        "provenance": {},
    }
    ends_well(about, lambda text: _ABOUT.read(text, "the description"), CheckpointError, every)
    provenance = {
        "run": "abc",
        "settings": {"seed": 1, "lr": 0.1},
        "data": {"digest": "d", "train": 9, "val": 1, "test": None, "val_fraction": 0.1, "limit": None},
        "static_accuracy": {"val": 0.9, "test": 0.8},
        "val_accuracy": [0.5, 0.75],
        "test_accuracy": None,
    }
    ends_well(provenance, lambda text: _PROVENANCE.read(text, "the provenance"), CheckpointError, every)


RECORD = {"file": "a.png", "label": "cat", "index": 3, "confidence": 0.5, "exit": 1, "truth": "cat"}


def test_records_of_a_run(every):
    for record in (RECORD | {"probabilities": [0.5, None]}, {"file": "a.png", "error": "no picture"}):
        ends_well(record, lambda text: record_in(text.encode(), "jsonl", "record 1"), RecordError, every)


def test_journals(tmp_path, every):
    out, run = tmp_path / "out.jsonl", {"bundle": "abc", "threads": None, "thresholds": [0.5]}

    def read(text):
        out.write_text(json.dumps(RECORD) + "\n")
        (tmp_path / ".out.jsonl.run.json").write_text(text)
        with Output(out, "jsonl", run, images=1, resume=True):
            pass

    # It may be another run's: that is no fault of the file.
    ends_well({**run, "complete": False}, read, (RecordError, OptionError), every)


# --- through the commands ----------------------------------------------------------------------------------


def command_ends_well(command, codes, *arguments):
    result = CliRunner().invoke(command, [str(each) for each in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in codes, result.output
    assert "Traceback" not in result.output
    if result.exit_code:
        message = result.stderr.strip()
        assert message.startswith("error: ")
        assert "\n" not in message
        assert len(message) < 1000


def test_damaged_bundles_through_the_command(bundle, tmp_path):
    for number, mutation in enumerate(islice(mutations(manifest_of(bundle)), 5, None, 301)):
        folder = shutil.copytree(bundle, tmp_path / str(number))
        (folder / "manifest.json").write_text(mutation.text)
        sums = (folder / "SHA256SUMS").read_text().splitlines()
        own = f"{hashlib.sha256(mutation.text.encode()).hexdigest()}  manifest.json"
        kept = [line for line in sums if not line.endswith("manifest.json")]
        (folder / "SHA256SUMS").write_text("\n".join([*kept, own]) + "\n")
        command_ends_well(inspect, (0, 3), folder)


def test_damaged_measurements_through_the_command(tmp_path):
    whole, other = tmp_path / "whole.json", tmp_path / "other.json"
    report = made_up_report(processes=2, blocks=2)
    whole.write_text(report.to_json())
    for mutation in islice(mutations(json.loads(report.to_json())), 3, None, 997):
        other.write_text(mutation.text)
        command_ends_well(bench, (0, 1, 2, 3), "compare", whole, other)
        command_ends_well(bench, (0, 3), "show", other, "--html", tmp_path / "page.html")
