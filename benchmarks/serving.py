"""What does a server make of survivors that share batches? Beside stream, and the static network served.

    python benchmarks/serving.py --bundle BUNDLE --static STATIC_BUNDLE --images DIR --record

BUNDLE is calibrated; STATIC_BUNDLE is the static network as a bundle of one stage. Images are sent one at a
time as binary tensors over HTTP, from the same machine (`clients.py`), to `s2dnas-serve` with its defaults.
In each of so many rounds: `Cascade.stream` in a process of its own; 64 requests in flight; and half of the
load that this comes to, at random times. Then the highest rate at which the 99th percentile stays below
20 ms, by halving. And 64 in flight once more, with four times as long to wait for others. With
`--pytriton PYTHON` and `--mlserver PYTHON`, Pythons of environments that have these, the static network is
served by them, too, in each round (`yardsticks.py`).
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from machine import machine
from pages import check_place, put_record

from s2dnas_deploy.runtime.answers.inputs import evenly, find_items
from s2dnas_deploy.runtime.cascade import Cascade

HERE = Path(__file__).parent
AT_ONCE, WITHIN_MS, PATIENT_MS = 64, 20.0, 200
_IMAGES, _HALVINGS, _LONGEST_START = 2000, 6, 60
_NAMES = {"pytriton": "PyTriton", "mlserver": "MLServer (JSON)"}
_STREAM = """
import sys, time, numpy as np
from s2dnas_deploy import Cascade
images = np.load(sys.argv[2])
with Cascade.load(sys.argv[1], provider="cpu") as cascade:
    for _ in cascade.stream(list(images[:200])): pass
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < float(sys.argv[3]):
        count += sum(1 for _ in cascade.stream(list(images)))
    print(count / (time.perf_counter() - begun))
"""


@click.command()
@click.option("--bundle", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--static", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--images", required=True, help="Images in folders of classes.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--seconds", default=10.0, show_default=True, help="Of each measurement.")
@click.option("--pytriton", type=click.Path(exists=True), help="A Python that has PyTriton.")
@click.option("--mlserver", type=click.Path(exists=True), help="A Python that has MLServer.")
@click.option("--record", is_flag=True, help="Also write the record and the table.")
def main(
    bundle: Path,
    static: Path,
    images: str,
    *,
    rounds: int,
    seconds: float,
    record: bool,
    **others: str | None,
) -> None:
    """Print throughput, batches and latencies."""
    if record:
        check_place("serving")
    with tempfile.TemporaryDirectory() as folder:
        pixels = Path(folder) / "images.npy"
        _write(bundle, images, pixels)
        rows = {
            name: _measured(path, pixels, rounds, seconds)
            for name, path in {"cascade": bundle, "static network": static}.items()
        }
        yardsticks = {
            name: [_yardstick(name, python, static, pixels, seconds) for _ in range(rounds)]
            for name, python in others.items()
            if python is not None
        }
    content = {"machine": machine(), "rows": rows, "yardsticks": yardsticks}
    click.echo(table(content))
    if record:
        put_record("serving", content, table(content))


def _write(bundle: Path, images: str, pixels: Path) -> None:
    """Real images, decoded, in an order without classes one after the other."""
    with Cascade.load(bundle, provider="cpu") as cascade:
        items = evenly(find_items((images,), cascade.labels).images, _IMAGES)
        order = np.random.default_rng(0).permutation(len(items))
        np.save(pixels, cascade.reader.batch([items[k].source for k in order]))


def _measured(bundle: Path, pixels: Path, rounds: int, seconds: float) -> dict[str, Any]:
    streams, full, half, patient = [], [], [], []
    with Cascade.load(bundle, provider="cpu") as cascade:
        said = cascade.predict(np.load(pixels)).label
    for _ in range(rounds):
        command = [sys.executable, "-c", _STREAM, str(bundle), str(pixels), str(seconds)]
        streams.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        with _server(bundle) as port:
            full.append(_clients(port, pixels, said, seconds=seconds, at_once=AT_ONCE))
            full[-1]["batches"] = _batches(port)
        with _server(bundle) as port:
            half.append(_clients(port, pixels, said, seconds=seconds, rate=full[-1]["a_second"] / 2))
            half[-1]["batches"] = _batches(port)
        with _server(bundle, "--max-wait-ms", str(PATIENT_MS)) as port:
            patient.append(_clients(port, pixels, said, seconds=seconds, at_once=AT_ONCE))
            patient[-1]["batches"] = _batches(port)
    rate = _highest(bundle, pixels, said, seconds)
    return {"stream": streams, "full": full, "half": half, "patient": patient, "rate": rate}


def _highest(bundle: Path, pixels: Path, said: Any, seconds: float) -> Any:
    """The highest rate at which the 99th percentile is in time, by halving between two that are known."""
    with _server(bundle) as port:
        full: float = _clients(port, pixels, said, seconds=seconds, at_once=AT_ONCE)["a_second"]
        low, high = 0.0, 1.5 * full
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            seen = _clients(port, pixels, said, seconds=seconds, rate=middle)
            is_in_time = seen["p99"] <= WITHIN_MS and not seen["refused"]
            low, high = (middle, high) if is_in_time else (low, middle)
    return low


@contextmanager
def _server(bundle: Path, *options: str) -> Iterator[int]:
    command = [sys.executable, "-m", "s2dnas_deploy.cli", "serve", f"net={bundle}", "--port", "0"]
    process = subprocess.Popen([*command, "--provider", "cpu", *options], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None, "it is a pipe"
        line = next(line for line in process.stderr if "serving on" in line)
        yield int(line.strip().rsplit(":", 1)[1])
    finally:
        process.terminate()
        process.wait()


def _yardstick(name: str, python: str, static: Path, pixels: Path, seconds: float) -> dict[str, Any]:
    """What another server makes of the static network."""
    graph = str(static / json.loads((static / "manifest.json").read_text())["stages"][0]["graph"]["file"])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [python, str(HERE / "yardsticks.py"), name, graph, str(port)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait_until_ready(port)
        # MLServer reads no binary tensors.
        return _clients(port, pixels, None, seconds=seconds, at_once=AT_ONCE, binary=name != "mlserver")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _wait_until_ready(port: int) -> None:
    until = time.monotonic() + _LONGEST_START
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/net/ready") as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"no model is ready after {_LONGEST_START} s")


def _clients(port: int, pixels: Path, said: Any, **how: float) -> dict[str, Any]:
    plan = json.dumps({"port": port, "images": str(pixels), "model": "net", **how})
    done = subprocess.run(
        [sys.executable, str(HERE / "clients.py"), plan], check=True, capture_output=True, text=True
    )
    seen: dict[str, Any] = json.loads(done.stdout)
    labels = seen.pop("labels")
    wrong = 0 if said is None else sum(said[number] != label for number, label in labels)
    assert not wrong, f"{wrong} answers are not those of predict"
    time.sleep(0.2)
    return seen


def _batches(port: int) -> list[float]:
    """The mean batch of each stage."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/net/stats") as answer:
        stages = json.load(answer)["model_stats"][0]["stages"]
    return [stage["samples"] / stage["runs"] if stage["runs"] else 0.0 for stage in stages]


def table(record: dict[str, Any]) -> str:
    """The record as a Markdown table; medians of the rounds."""
    lines = ["| | cascade | static network |", "| --- | ---: | ---: |"]
    both = [record["rows"][name] for name in ("cascade", "static network")]

    def line(what: str, of: Any) -> None:
        lines.append(f"| {what} | " + " | ".join(map(of, both)) + " |")

    def middle(row: dict[str, Any], load: str, key: str) -> Any:
        return median(each[key] for each in row[load])

    line("`Cascade.stream`, images a second", lambda row: f"{median(row['stream']):,.0f}")
    line(f"{AT_ONCE} requests in flight, a second", lambda row: f"{middle(row, 'full', 'a_second'):,.0f}")
    line("mean batch of each stage", lambda row: _batch(row["full"]))
    line(
        "50th and 99th percentile, ms",
        lambda row: _both(middle(row, "full", "p50"), middle(row, "full", "p99")),
    )
    line(
        "at half of that load, ms", lambda row: _both(middle(row, "half", "p50"), middle(row, "half", "p99"))
    )
    patient = f"{AT_ONCE} in flight, `--max-wait-ms {PATIENT_MS}`"
    line(f"{patient}, a second", lambda row: f"{middle(row, 'patient', 'a_second'):,.0f}")
    line(f"{patient}: mean batch of each stage", lambda row: _batch(row["patient"]))
    line(f"highest rate with a 99th percentile of {WITHIN_MS:g} ms", lambda row: f"{row['rate']:,.0f}")
    for name, rounds in record["yardsticks"].items():
        told, p50, p99 = (median(each[key] for each in rounds) for key in ("a_second", "p50", "p99"))
        lines.append(f"| {AT_ONCE} requests in flight, a second, by {_NAMES[name]} | | {told:,.0f} |")
        lines.append(f"| there, 50th and 99th percentile, ms | | {_both(p50, p99)} |")
    return "\n".join(lines) + "\n"


def _batch(rounds: Any) -> str:
    return " / ".join(f"{each:.1f}" for each in rounds[-1]["batches"])


def _both(p50: Any, p99: Any) -> str:
    return f"{p50:.1f}, {p99:.1f}"


if __name__ == "__main__":
    main()
