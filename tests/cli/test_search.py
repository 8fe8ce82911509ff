"""`s2dnas-search` from the command line: what it leaves, and that it goes on where it was."""

import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from on_a_cluster import run_on_a_cluster

torch = pytest.importorskip("torch")

from s2dnas_deploy.cli import search, train  # noqa: E402
from s2dnas_deploy.errors import OptionError  # noqa: E402
from s2dnas_deploy.files.atomic import lock_folder  # noqa: E402
from s2dnas_deploy.workshop.network import stages  # noqa: E402
from s2dnas_deploy.workshop.network.model_file import load_model  # noqa: E402
from s2dnas_deploy.workshop.search import run as search_run  # noqa: E402
from s2dnas_deploy.workshop.search.judging.reward import Worth  # noqa: E402
from s2dnas_deploy.workshop.search.space import candidate  # noqa: E402

MODELS = Path(__file__).resolve().parents[2] / "models"
NETWORK = [f"--model={MODELS}/digits_cnn.py:digits_cnn", "--input=1x8x8", "--data=digits", "--normalize=data"]
NETWORK += ["--limit=150"]  # digits of each part: how good the networks get is no matter
LONGER = "--limit=2000"  # all of them, where something must happen while they are learnt
QUICK = ["--epochs=1", "--augment=none", "--precision=float32", "--ema=0.9", "--lr=0.05"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(search, [str(argument) for argument in arguments])


def trained(out: Path, *more: str) -> Path:
    options = [*NETWORK, *QUICK, "--epochs=4", "--plan=static", f"--out={out}", "--quiet", *more]
    assert CliRunner().invoke(train, options).exit_code == 0
    return out


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A static network, trained for a moment."""
    return trained(tmp_path_factory.mktemp("static") / "static.pt")


@pytest.fixture(scope="module")
def weights_of_all(tmp_path_factory) -> Path:
    """One that has seen all digits."""
    return trained(tmp_path_factory.mktemp("static of all") / "static.pt", LONGER)


def options(weights, out, *more):
    asked = [
        "--target=0.4",
        "--evaluations=12",
        "--shared-epochs=1",
        "--stages=2",
        "--cost=macs",
        "--finalists=3",
        "--finetune-epochs=1",
    ]
    return [f"--weights={weights}", *NETWORK[2:], *QUICK, *asked, f"--out={out}", *more]


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_without_finalists_the_quick_scores_decide(weights, tmp_path):
    result = run(*options(weights, tmp_path / "m.pt", "--finalists=0", "--strategy=random"))
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "m.run/finalists.jsonl").exists()
    _, *tried = lines_of(tmp_path / "m.run/plans.jsonl")
    best = max(tried, key=lambda trial: (trial["fits"], trial["reward"]))
    assert json.loads((tmp_path / "m.run/plan.json").read_text()) == best["plan"]


def test_without_epochs_all_that_is_trained_lasts_as_suits_the_images(weights, tmp_path, monkeypatch):
    asked = []

    def note(request, prepared, *_, **__):
        asked.append(request.shared_settings(len(prepared.splits.train)).epochs)
        raise OptionError("enough")

    monkeypatch.setattr(search_run, "_best", note)  # it would train for long
    own = ("--epochs", "--shared-epochs")
    words = [each for each in options(weights, tmp_path / "m.pt") if not each.startswith(own)]
    result = run(*words)
    assert asked == [46]  # for 150 images
    assert "training shared weights (46 epochs)" in result.stderr
    assert "training the winner (at most 46 epochs)" in result.stderr
    run(*words, "--epochs=3")
    run(*words, "--epochs=3", "--shared-epochs=0")
    assert asked == [46, 3, 0]


@pytest.mark.parametrize("strategy", ["policy", "evolution", "random"])
def test_a_search_leaves_a_trained_model_and_what_it_tried(weights, tmp_path, strategy):
    result = run(*options(weights, tmp_path / "m.pt", f"--strategy={strategy}"))
    assert result.exit_code == 0, result.output
    model = load_model(tmp_path / "m.pt")
    assert model.network.stages == 2
    assert f"exits at {', '.join(model.network.division.plan.exits)}" in result.stdout
    first, *tried = lines_of(tmp_path / "m.run/plans.jsonl")
    assert first["run"]["strategy"] == strategy
    assert len(tried) == 12
    auto = json.loads((tmp_path / "m.run/forecast.json").read_text())["plan"]
    assert tried[0]["plan"] == auto
    by_hand = [bool(trial["plan"]["no_reuse"]) for trial in tried[1:5]]
    assert by_hand in ([False] * 2 + [True] * 2, [False] * 2 + [True] * 1 + by_hand[3:])  # one may be auto
    assert "to come, unless it is done already: training shared weights" in result.stderr
    assert "judging 12 plans, training 3 finalists" in result.stderr
    _, *finalists = lines_of(tmp_path / "m.run/finalists.jsonl")
    assert 1 < len(finalists) <= 3
    quickly_best = max(tried, key=lambda trial: (trial["fits"], trial["reward"]))
    assert quickly_best["choices"] == finalists[0]["choices"]
    best = max(finalists, key=lambda trial: (trial["fits"], trial["reward"]))
    assert best["plan"]["channels"] == {
        name: list(counts) for name, counts in model.network.division.plan.channels.items()
    }
    assert json.loads((tmp_path / "m.run/plan.json").read_text()) == best["plan"]
    assert (tmp_path / "m.run/frontier.svg").read_text().startswith("<?xml")
    (tmp_path / "m.run/shared.checkpoint.pt").unlink()
    again = run(*options(weights, tmp_path / "m.pt", f"--strategy={strategy}"))
    assert again.exit_code == 0
    assert again.stdout == result.stdout
    assert not (tmp_path / "m.run/shared.checkpoint.pt").exists(), "a complete search needs none"


def test_another_target_keeps_the_shared_weights_and_all_that_was_tried(weights, tmp_path):
    first = run(*options(weights, tmp_path / "m.pt", "--target=0.001"))
    assert first.exit_code == 2
    shared = tmp_path / "m.run/shared.checkpoint.pt"
    before = shared.stat().st_mtime_ns
    tried = (tmp_path / "m.run/plans.jsonl").read_bytes()
    again = run(*options(weights, tmp_path / "m.pt", "--evaluations=20", "--exit-weights=1,2"))
    assert again.exit_code == 0, again.output
    assert "plans.jsonl was of another search: it is kept as plans-1.jsonl" in again.stderr
    assert (tmp_path / "m.run/plans-1.jsonl").read_bytes() == tried
    assert shared.stat().st_mtime_ns == before
    assert "resuming" not in again.stderr


def test_a_candidate_is_sliced_once(weights, tmp_path, monkeypatch):
    made, sliced = [], []

    class Slicer(stages._Slicer):
        def __init__(self, network, index):
            sliced.append(index)
            super().__init__(network, index)

    def candidate_of(*plan):
        made.append(plan)
        return candidate.candidate_of(*plan)

    monkeypatch.setattr(stages, "_Slicer", Slicer)
    monkeypatch.setattr(search_run, "candidate_of", candidate_of)
    monkeypatch.setattr(search_run, "begun", lambda request, *_: (request, None))  # which divides, too
    few = ["--evaluations=4", "--finalists=2", "--shared-epochs=0", "--epochs=0", "--target=0.9"]
    result = run(*options(weights, tmp_path / "m.pt", *few))
    assert result.exit_code == 0, result.output
    assert len(made) >= 4 + 2
    assert len(sliced) == 2 * len(made)


def test_finalists_that_all_take_too_long_are_told(weights, tmp_path, monkeypatch):
    def slow(*means):
        shares = {"exit_accuracy": (0.9, 0.9), "exit_cost": (0.41, 1.0), "exit_share": (1.0, 0.0)}
        return lambda candidate: Worth(reward=0.5, accuracy=0.9, cost=0.41, fits=False, **shares)

    monkeypatch.setattr(search_run, "by_training_on", slow)
    result = run(*options(weights, tmp_path / "m.pt"))
    assert result.exit_code == 2
    assert "takes more than --target 0.4 once it is timed itself, the least 0.410" in result.stderr
    assert "Traceback" not in result.output


def test_a_recipes_exit_weights_hold_unless_they_are_of_its_own_plan(weights, tmp_path):
    recipe, said = tmp_path / "r.toml", 'exit_weights = "1,1,2"\n'
    quick = ["--shared-epochs=0", "--evaluations=1", "--finalists=0", "--epochs=0", "--target=0.9"]
    asked = options(weights, tmp_path / "m.pt", *quick, f"--recipe={recipe}")
    recipe.write_text(said)
    refused = run(*asked)
    assert refused.exit_code == 2
    assert "3 exit weights for 2 exits" in refused.stderr
    recipe.write_text(said + 'plan = "uniform:0.3,0.3,0.4"\n')
    result = run(*asked)
    assert result.exit_code == 0, result.output


def test_another_process_in_the_same_folder_is_waited_for(weights, tmp_path):
    (tmp_path / "m.run").mkdir()
    with lock_folder(tmp_path / "m.run"):
        result = run(*options(weights, tmp_path / "m.pt"))
        trained = CliRunner().invoke(train, [*NETWORK, *QUICK, "--plan=static", f"--out={tmp_path}/m.pt"])
    for each in (result, trained):
        assert each.exit_code == 2
        assert f"another process is working in {tmp_path / 'm.run'}" in each.stderr


def test_a_winner_that_is_beaten_makes_room(weights, tmp_path):
    first = run(*options(weights, tmp_path / "m.pt", "--evaluations=3", "--finalists=0", "--strategy=random"))
    assert first.exit_code == 0, first.output
    beaten = (tmp_path / "m.pt").read_bytes()
    (tmp_path / "m.run/checkpoint.pt").write_bytes(b"of the former winner")
    (tmp_path / "m.run/plan.json").write_text("{}")
    again = run(
        *options(weights, tmp_path / "m.pt", "--evaluations=30", "--finalists=0", "--strategy=random")
    )
    assert again.exit_code == 0, again.output
    assert "is of a plan that has been beaten since: it is discarded" in again.stderr
    assert "m.pt is of a plan that has been beaten since: it is kept as m.beaten-1.pt" in again.stderr
    assert (tmp_path / "m.beaten-1.pt").read_bytes() == beaten
    assert load_model(tmp_path / "m.pt")


@pytest.mark.parametrize("more", [["--evaluations=1"], ["--finalists=1", "--epochs=0"], ["--batch=16"]])
def test_small_searches_end_well(weights, tmp_path, more):
    result = run(*options(weights, tmp_path / "m.pt", "--shared-epochs=0", "--target=0.9", *more))
    assert result.exit_code == 0, result.output
    assert load_model(tmp_path / "m.pt").network.stages == 2


def test_writing_probes_discards_nothing(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(search_run, "probe_plans", partial(search_run.probe_plans, count=1))  # the fewest
    (tmp_path / "m.run").mkdir()
    (tmp_path / "m.run/plans.jsonl").write_text("kept\n")
    result = run(*options(weights, tmp_path / "m.pt", f"--write-probes={tmp_path / 'probes'}", "--restart"))
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert (tmp_path / "m.run/plans.jsonl").read_text() == "kept\n"


def test_the_best_few_are_trained(weights, tmp_path):
    result = run(*options(weights, tmp_path / "m.pt", "--top=2", "--strategy=random", "--quiet"))
    assert result.exit_code == 0, result.output
    plans = [load_model(tmp_path / name).network.division.plan for name in ("m.pt", "m-2.pt")]
    assert plans[0].digest != plans[1].digest


@pytest.mark.slow
def test_plans_are_priced_by_this_machine_and_by_another(weights, tmp_path):
    result = run(*options(weights, tmp_path / "m.pt", "--cost=clock", "--strategy=random", "--target=0.9"))
    assert result.exit_code == 0, result.output
    device = tmp_path / "m.run" / "device.json"
    probes = tmp_path / "probes"
    written = run(*options(weights, tmp_path / "n.pt", f"--write-probes={probes}"))
    assert written.exit_code == 0, written.output
    assert (probes / "probes.json").exists()
    assert not (tmp_path / "n.pt").exists()
    other = run(*options(weights, tmp_path / "n.pt", f"--cost={device}", "--strategy=random", "--target=0.9"))
    assert other.exit_code == 0, other.output
    # The plan that each begins with was priced in another way: timed itself, or by what the profile tells.
    here, there = (
        {
            json.dumps(trial["plan"]): trial["exit_cost"]
            for trial in lines_of(tmp_path / folder / "plans.jsonl")[1:]
        }
        for folder in ("m.run", "n.run")
    )
    assert len(here.keys() & there.keys()) >= 4  # the uniform ones at least
    assert all(here[plan] == there[plan] for plan in here.keys() & there.keys())
    elsewhere = json.loads(device.read_text())
    elsewhere["device"]["processor"] = "another"
    times = elsewhere["probes"]
    device.write_text(json.dumps(elsewhere))
    new = ["--cost=clock", "--strategy=random", "--target=0.85"]
    again = run(*options(weights, tmp_path / "m.pt", *new))
    assert "is of another device, onnxruntime or size of images: stages are timed anew" in again.stderr
    assert json.loads(device.read_text())["probes"] != times


def test_finetuning_judges_too(weights, tmp_path):
    more = ["--evaluator=finetune", "--finetune-epochs=1", "--evaluations=3", "--strategy=random"]
    result = run(*options(weights, tmp_path / "m.pt", *more))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--target=1.5"], 2, "is not in the range"),
        (["--stages=1"], 2, "is not in the range"),
        (["--strategy=luck"], 2, "is not one of"),
        (["--out={weights}/m.pt"], 2, "cannot write --out"),
        (["--cost=time"], 2, "expected clock, macs or the file of a device profile"),
        (["--ray=nowhere"], 2, "expected HOST:PORT"),
        (["--ray=127.0.0.1:1"], 2, "no Ray cluster answers there"),
        (["--exit-weights=1,1,2"], 2, "3 exit weights for 2 exits"),
        (["--shared-lr=0"], 2, "--shared-lr: expected a finite number above 0"),
        (["--target=0.001"], 2, "none of 12 plans keeps to --target 0.001: the cheapest first exit costs"),
        (["--data={other}"], 1, "the data has 2 classes and the network 10 outputs"),
        (["--out={weights}"], 2, "is the file of --weights, which is only read"),
        (["--out={trained}"], 3, "is there already, and not from a search: move it away"),
    ],
)
def test_errors_say_what_is_wrong(weights, tmp_path, more, code, message):
    images, classes = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 2
    np.savez(tmp_path / "other.npz", x_train=images, y_train=classes)
    trained = shutil.copy(weights, tmp_path / "trained.pt")
    places = {"weights": weights, "other": tmp_path / "other.npz", "trained": trained}
    asked = [option.format(**places) for option in more]
    result = run(*options(weights, tmp_path / "m.pt", *asked))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "searching" not in result.stderr or "--target" in message


def test_a_network_that_is_not_trained_is_refused(tmp_path):
    result = run(*NETWORK, f"--out={tmp_path / 'm.pt'}")
    assert result.exit_code == 2
    assert "give --weights, or --static-epochs" in result.stderr


@pytest.mark.slow
def test_a_cluster_finds_the_same_plan_though_a_node_is_killed(weights_of_all, tmp_path):
    asked = ["--evaluations=40", "--strategy=policy", LONGER]
    plans = tmp_path / "b.run" / "plans.jsonl"  # its first line tells of the search
    spread = run_on_a_cluster("search", plans, 7, *options(weights_of_all, tmp_path / "b.pt", *asked))
    assert spread.returncode == 0, spread.stderr
    assert "plans judged at a time: 2" in spread.stderr
    assert 0 < json.loads(spread.stdout.splitlines()[-1])["killed_after"] <= 40
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = ["-c", "from s2dnas_deploy.cli import search; search()"]
    here = options(weights_of_all, tmp_path / "a.pt", *asked)
    subprocess.run([sys.executable, *command, *here], env=environment, check=True)
    for name in ("plans.jsonl", "finalists.jsonl", "plan.json"):
        assert (tmp_path / "a.run" / name).read_bytes() == (tmp_path / "b.run" / name).read_bytes()


@pytest.mark.slow
def test_killed_in_every_phase_it_comes_to_the_same_plan(weights_of_all, tmp_path):
    epochs = ["--shared-epochs=6", "--epochs=6", LONGER]
    unbroken = run(*options(weights_of_all, tmp_path / "a.pt", *epochs))
    assert unbroken.exit_code == 0, unbroken.output
    command = options(weights_of_all, tmp_path / "b.pt", *epochs, "--checkpoint-seconds=0")
    code = "from s2dnas_deploy.cli import search; search()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    folder = tmp_path / "b.run"

    def lines(name, count):
        path = folder / name
        return lambda: path.exists() and len(path.read_bytes().splitlines()) >= count

    phases = [
        (folder / "shared.checkpoint.pt").exists,
        lines("plans.jsonl", 5),
        lambda: any(folder.glob("candidate/*/checkpoint.pt")),
        lines("finalists.jsonl", 3),
        (folder / "checkpoint.pt").exists,
    ]
    for is_reached in phases:
        process = subprocess.Popen([sys.executable, "-c", code, *command], env=environment)
        while process.poll() is None and not is_reached():
            time.sleep(0.005)
        assert process.poll() is None, "it ended before it could be killed"
        process.kill()
        process.wait()
    final = subprocess.run([sys.executable, "-c", code, *command], env=environment, check=False)
    assert final.returncode == 0
    ours, theirs = (load_model(tmp_path / name).network for name in ("a.pt", "b.pt"))
    assert ours.division.plan.digest == theirs.division.plan.digest
    assert all(torch.equal(a, theirs.weights()[key]) for key, a in ours.weights().items())


def test_a_device_profile_of_any_size_is_refused_before_it_is_read(weights, tmp_path):
    device = tmp_path / "device.json"
    with device.open("wb") as file:
        file.truncate(2**40)
    result = run(*options(weights, tmp_path / "m.pt", f"--cost={device}"))
    assert result.exit_code == 3, result.output
    assert "expected at most" in result.stderr


def test_widths_are_searched_for_and_a_search_that_goes_on_asks_nothing_again(weights, tmp_path):
    asked = options(weights, tmp_path / "m.pt", "--plan-kind=widths", "--stages=3", "--strategy=evolution")
    result = run(*asked)
    assert result.exit_code == 0, result.output
    plan = load_model(tmp_path / "m.pt").network.division.plan
    assert plan.nested
    assert plan.stages == 3
    assert result.stdout.startswith("3 widths")
    assert "cost of each width" in result.stdout
    _, *tried = lines_of(tmp_path / "m.run/plans.jsonl")
    assert len(tried) == 12
    assert (tmp_path / "m.run/frontier.svg").stat().st_size > 1000
    (tmp_path / "m.pt").unlink()
    again = run(*asked)
    assert again.exit_code == 0, again.output
    assert lines_of(tmp_path / "m.run/plans.jsonl")[1:] == tried
    assert load_model(tmp_path / "m.pt").network.division.plan == plan


def test_widths_in_turn_are_searched_for_by_the_average_cost(weights, tmp_path):
    result = run(*options(weights, tmp_path / "m.pt", "--plan-kind=in-turn", "--strategy=evolution"))
    assert result.exit_code == 0, result.output
    plan = load_model(tmp_path / "m.pt").network.division.plan
    assert plan.in_turn
    assert "cost up to each exit" in result.stdout
    _, *tried = lines_of(tmp_path / "m.run/plans.jsonl")
    assert len(tried) == 12
    for trial in tried:
        costs, share = trial["exit_cost"], trial["exit_share"]
        assert costs == sorted(costs)
        if trial["fits"]:
            assert trial["cost"] == pytest.approx(sum(c * s for c, s in zip(costs, share, strict=True)))


def test_of_widths_that_cost_too_much_it_is_told_before_the_work(weights, tmp_path):
    asked = options(weights, tmp_path / "m.pt", "--plan-kind=widths", "--evaluations=2", "--strategy=random")
    result = run(*asked, "--target=0.01")
    assert result.exit_code == 2
    assert "no plan keeps to --target 0.01: the thinnest width there is costs" in result.stderr
    assert not (tmp_path / "m.run/plans.jsonl").exists()


def test_without_a_target_widths_get_one_that_can_be_kept(weights, tmp_path):
    own = ("--target", "--stages")
    words = [each for each in options(weights, tmp_path / "m.pt") if not each.startswith(own)]
    words += ["--plan-kind=widths", "--stages=8"]
    result = run(*words)
    assert result.exit_code == 0, result.output
    target = float(result.stderr.split("--target ")[1].split(":")[0])
    assert target > 0.5**7  # each half of the next: no width is so thin
    assert load_model(tmp_path / "m.pt").network.division.plan.stages == 8
    again = run(*words)
    assert "is there already, from this very run" in again.stderr


def test_where_no_widths_fit_it_is_told_what_would(weights, tmp_path):
    asked = options(weights, tmp_path / "m.pt", "--plan-kind=widths", "--evaluations=1", "--strategy=random")
    result = run(*asked, "--stages=3", "--target=0.06")
    assert result.exit_code == 2, result.output
    assert "the widths of the best cost" in result.stderr
    assert "would do for it" in result.stderr
