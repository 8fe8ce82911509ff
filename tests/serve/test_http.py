"""The Open Inference Protocol over HTTP: what clients send, and what they get."""

import base64
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from served import IMAGES, SIZE, SOON, Held, Server


class Client(Server):
    """The application, and what a client of it does."""

    def ask(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SOON)
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response, content

    def json(self, method, path, body=None):
        response, content = self.ask(method, path, body)
        return response.status, json.loads(content) if content else None

    def infer(self, images, *, model="net", outputs=(), parameters=None, files=False):
        """As tritonclient does it: tensors in binary, both ways."""
        response, content = self.ask(
            "POST", f"/v2/models/{model}/infer", *request_of(images, outputs, parameters, files=files)
        )
        assert response.status == 200, content
        return answers_in(response, content)


def request_of(images, outputs=(), parameters=None, *, files=False):
    raw = b"".join(struct.pack("<I", len(each)) + each for each in images) if files else images.tobytes()
    shape, kind = ([len(images)], "BYTES") if files else (list(images.shape), "UINT8")
    tensor = {"name": "image", "shape": shape, "datatype": kind, "parameters": {"binary_data_size": len(raw)}}
    wanted = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    document = {"id": "7", "inputs": [tensor], "outputs": wanted, "parameters": parameters or {}}
    if not outputs:
        document["parameters"] = {**(parameters or {}), "binary_data_output": True}
        del document["outputs"]
    header = json.dumps(document).encode()
    return header + raw, {"Inference-Header-Content-Length": str(len(header))}


def answers_in(response, content):
    size = int(response.headers["Inference-Header-Content-Length"])
    document, at, found = json.loads(content[:size]), size, {}
    assert document["id"] == "7"
    assert document["model_version"] == "1"
    for tensor in document["outputs"]:
        raw = content[at : at + tensor["parameters"]["binary_data_size"]]
        at += len(raw)
        if tensor["datatype"] == "BYTES":
            found[tensor["name"]] = texts_in(raw)
        else:
            kind = {"INT64": np.int64, "FP32": np.float32}[tensor["datatype"]]
            found[tensor["name"]] = np.frombuffer(raw, kind).reshape(tensor["shape"])
    assert at == len(content)
    return found


def texts_in(raw):
    found = []
    while raw:
        size = struct.unpack("<I", raw[:4])[0]
        found.append(raw[4 : 4 + size].decode())
        raw = raw[4 + size :]
    return found


@pytest.fixture(scope="module")
def server(bundle):
    server = Client({"net": bundle})
    yield server
    server.close()


def check(found, said, cascade):
    np.testing.assert_array_equal(found["label"], said.label)
    np.testing.assert_array_equal(found["exit"], said.exit)
    np.testing.assert_allclose(found["confidence"], said.confidence, atol=1e-5)
    assert found["name"] == [cascade.labels[label] for label in said.label]


def test_answers_are_those_of_predict(server, cascade):
    said = cascade.predict(IMAGES)
    assert set(said.exit) == {0, 1, 2}
    check(server.infer(IMAGES), said, cascade)


def test_many_clients_at_once_get_each_their_own(server, cascade):
    parts = [IMAGES[k : k + 1 + k % 4] for k in range(36)] * 4
    with ThreadPoolExecutor(12) as clients:
        for part, found in zip(parts, clients.map(server.infer, parts), strict=True):
            check(found, cascade.predict(part), cascade)


def test_probabilities_come_if_they_are_asked_for_and_in_the_order_asked(server, cascade):
    found = server.infer(IMAGES[:3], outputs=("probabilities", "exit"))
    assert list(found) == ["probabilities", "exit"]
    wanted = cascade.predict(IMAGES[:3], probabilities=True)
    np.testing.assert_allclose(found["probabilities"], wanted.probabilities, atol=1e-5)
    np.testing.assert_array_equal(found["exit"], wanted.exit)


@pytest.mark.parametrize("nested", [False, True])
def test_json_alone_will_do(server, cascade, nested):
    data = IMAGES[:2].tolist() if nested else IMAGES[:2].ravel().tolist()
    tensor = {"name": "image", "shape": [2, SIZE, SIZE, 3], "datatype": "UINT8", "data": data}
    status, found = server.json("POST", "/v2/models/net/infer", json.dumps({"inputs": [tensor]}))
    assert status == 200
    said = {each["name"]: each["data"] for each in found["outputs"]}
    check(said, cascade.predict(IMAGES[:2]), cascade)
    assert (found["model_name"], found["model_version"]) == ("net", "1")


def encoded_as(form):
    found = []
    for image in IMAGES[:5]:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, form)
        found.append(stream.getvalue())
    return found


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_files_are_read_as_everywhere(server, cascade, form, tmp_path):
    files = encoded_as(form)
    paths = []
    for k, content in enumerate(files):
        paths.append(tmp_path / f"{k}.{form.lower()}")
        paths[-1].write_bytes(content)
    said = cascade.predict(paths)
    check(server.infer(files, files=True), said, cascade)
    texts = [base64.b64encode(content).decode() for content in files]
    tensor = {"name": "image", "shape": [5], "datatype": "BYTES", "data": texts}
    _, found = server.json("POST", "/v2/models/net/versions/1/infer", json.dumps({"inputs": [tensor]}))
    check({each["name"]: each["data"] for each in found["outputs"]}, said, cascade)


@pytest.mark.parametrize(
    ("parameters", "options"),
    [
        ({"thresholds": [2, 2]}, {"thresholds": (2.0, 2.0)}),
        ({"thresholds": "0,0"}, {"thresholds": (0.0, 0.0)}),
        ({"last_stage": 1}, {"last_stage": 1}),
        ({"deadline_ms": 60000}, {"deadline_ms": 60000}),
        ({"timeout": 60_000_000, "priority": 3, "triton_enable_empty_final_response": True}, {}),
    ],
)
def test_parameters_are_the_options_of_predict(server, cascade, parameters, options):
    check(server.infer(IMAGES, parameters=parameters), cascade.predict(IMAGES, **options), cascade)


def test_what_is_served_is_told(server, cascade):
    assert server.json("GET", "/v2")[1]["extensions"]
    assert server.json("GET", "/v2/health/live")[0] == server.json("GET", "/v2/health/ready")[0] == 200
    assert server.json("GET", "/v2/models/net/ready")[0] == 200
    for path in ("/v2/models/net", "/v2/models/net/versions/1"):
        status, told = server.json("GET", path)
        assert status == 200
        assert told["versions"] == ["1"]
        assert told["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, SIZE, SIZE, 3]}]
        assert {each["name"] for each in told["outputs"]} >= {"label", "probabilities"}
    config = server.json("GET", "/v2/models/net/config")[1]
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (8, [SIZE, SIZE, 3])
    index = server.json("POST", "/v2/repository/index", "{}")[1]
    assert index == [{"name": "net", "version": "1", "state": "READY", "reason": ""}]


def test_statistics_and_metrics_count_what_was_done(bundle, cascade):
    server = Client({"net": bundle})
    for _ in range(3):
        server.infer(IMAGES)
    said = cascade.predict(IMAGES)
    (stats,) = server.json("GET", "/v2/models/net/stats")[1]["model_stats"]
    assert stats["inference_count"] == 3 * len(IMAGES)
    assert list(stats["exits"].values()) == [3 * int((said.exit == k).sum()) for k in range(3)]
    assert {each["count"] for each in stats["inference_stats"].values()} == {0, 3}  # 0: failed
    assert server.json("GET", "/v2/models/stats")[1]["model_stats"] == [stats]
    text = server.ask("GET", "/metrics")[1].decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values['s2dnas_request_seconds_count{model="net",version="1"}']) == 3
    stage = 's2dnas_stage_batch_sum{model="net",version="1",stage="stage_2"}'
    assert float(values[stage]) == 3 * int((said.exit == 2).sum())
    bounds = [line for line in values if line.startswith("s2dnas_stage_batch_bucket") and "stage_0" in line]
    assert [float(values[line]) for line in bounds] == sorted(float(values[line]) for line in bounds)
    server.close()


def test_the_page_shows_what_is_going_on_and_loads_nothing_from_elsewhere(server):
    response, content = server.ask("GET", "/")
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert not re.search(rb"(src|href)=|https?://", content)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium to look at the page with")
def test_a_browser_shows_where_images_exit(bundle, tmp_path):
    server = Client({"net": bundle})
    server.infer(IMAGES)
    looks = ("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}")
    shown = subprocess.run(
        [*looks, "--virtual-time-budget=3000", "--dump-dom", f"http://127.0.0.1:{server.port}/"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    server.close()
    assert "net, version 1" in shown.stdout, shown.stderr
    assert f"{len(IMAGES)} images; a request took" in shown.stdout
    assert "stage_2" in shown.stdout


def changed(**parts):
    tensor = {"name": "image", "shape": [1, SIZE, SIZE, 3], "datatype": "UINT8", "data": [0] * (3 * SIZE**2)}
    return json.dumps({"inputs": [{**tensor, **parts}]})


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("", "the request"),
        ("{", "the request"),
        ("[]", "expected an object"),
        ('{"inputs": []}', "expected one input, got 0"),
        ('{"inputs": {}}', "expected a list"),
        ('{"inputs": [], "inputs": []}', "the request"),
        ('{"input": []}', "expected id, inputs, outputs, parameters, got 'input'"),
        (changed(name="img"), "expected the input 'image', got 'img'"),
        (changed(datatype="FP32"), "expected 'image' as UINT8 [N, 12, 12, 3] or as BYTES"),
        (changed(shape=[1, 3, 12, 12]), "expected 'image' as UINT8 [N, 12, 12, 3]"),
        (changed(shape=[0, 12, 12, 3]), "expected 'image' as UINT8"),
        (changed(shape=[-1, 12, 12, 3]), "expected a number of 0 or more"),
        (changed(shape=[2**39, 12, 12, 3]), "numbers of UINT8"),
        (changed(data=[0] * 7), "expected 432 numbers of UINT8, got 7"),
        (changed(data=[256] * 432), "expected numbers from 0 to 255"),
        (changed(data=[0.5] * 432), "expected 432 numbers of UINT8"),
        (changed(data=[[1], [1, 2]]), "all of one length"),
        (changed(data="x"), "numbers of UINT8"),
        (changed(parameters={"binary_data_size": 432}), "expected 432 bytes behind the JSON, got 0"),
        (changed(datatype="BYTES", shape=[1], data=["?"]), "expected files in base64"),
        (changed(datatype="BYTES", shape=[1], data=["AAAA"]), "image 0: no image that can be read"),
        (changed(datatype="BYTES", shape=[2], data=["AAAA"]), "expected 2 items of data, got 1"),
        (changed()[:-1] + ', "outputs": [{"name": "x"}]}', "expected outputs among label"),
        (changed()[:-1] + ', "parameters": {"threshold": 1}}', "expected parameters among thresholds"),
        (changed()[:-1] + ', "parameters": {"thresholds": [1]}}', "expected 2 thresholds"),
        (changed()[:-1] + ', "parameters": {"last_stage": 0.5}}', "expected a whole number"),
        (changed()[:-1] + ', "parameters": {"setting.width": "half"}}', "as a setting"),
        (changed()[:-1] + ', "id": 3}', "id: expected text"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(server, body, told):
    status, answer = server.json("POST", "/v2/models/net/infer", body)
    assert status == 400, answer
    assert told in answer["error"]


@pytest.mark.parametrize("length", ["x", "-1", "1000000", "9" * 30, "²"])
def test_a_header_that_cannot_be_is_refused(server, length):
    body, _ = request_of(IMAGES[:1])
    headers = {"Inference-Header-Content-Length": length.encode("latin-1", "replace").decode("latin-1")}
    response, content = server.ask("POST", "/v2/models/net/infer", body, headers)
    assert response.status == 400, content


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/models/none/infer", 404),
        ("POST", "/v2/models/net/versions/9/infer", 404),
        ("POST", "/v2/x/infer", 404),
        ("GET", "/v2/models/none", 404),
        ("GET", "/v2/models/net/versions/2/ready", 404),
        ("GET", "/nothing", 404),
        ("POST", "/v2/repository/models/none/load", 404),
        ("GET", "/v2/models/net/infer", 405),
    ],
)
def test_what_is_not_there_is_told(server, method, path, status):
    response, content = server.ask(method, path, "{}" if method == "POST" else None)
    assert response.status == status, content


def test_a_body_that_is_too_large_is_refused_before_it_is_read(bundle):
    server = Client({"net": bundle}, most_body=10_000)
    with socket.create_connection(("127.0.0.1", server.port), timeout=SOON) as client:
        client.sendall(b"POST /v2/models/net/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 413")
    head = b"POST /v2/models/net/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=SOON) as client:
        client.sendall(head + (b"%x\r\n" % 8000 + b"x" * 8000 + b"\r\n") * 2)
        assert client.recv(100).startswith(b"HTTP/1.1 413")
    body, headers = request_of(IMAGES[:1])
    assert server.ask("POST", "/v2/models/net/infer", body, headers)[0].status == 200
    server.close()


def test_bodies_without_a_length_are_read(server, cascade):
    body, headers = request_of(IMAGES[:4])
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SOON)
    connection.request(
        "POST", "/v2/models/net/infer", iter([body[:100], body[100:]]), headers, encode_chunked=True
    )
    response = connection.getresponse()
    check(answers_in(response, response.read()), cascade.predict(IMAGES[:4]), cascade)
    connection.close()


def test_past_the_bound_it_is_told_when_to_come_back_and_who_was_accepted_is_answered(
    bundle, cascade, monkeypatch
):
    said = cascade.predict(IMAGES[:10])
    server = Client({"net": bundle}, most_bytes=IMAGES[:20].nbytes)
    held = Held(monkeypatch)
    with ThreadPoolExecutor(4) as clients:
        accepted = [clients.submit(server.infer, IMAGES[:10]) for _ in range(2)]
        queue = server.app.house.service("net")[0].queue
        until = time.monotonic() + SOON
        while queue.held_bytes < IMAGES[:20].nbytes and time.monotonic() < until:
            time.sleep(0.001)
        body, headers = request_of(IMAGES[:1])
        response, content = server.ask("POST", "/v2/models/net/infer", body, headers)
        assert response.status == 503, content
        assert int(response.headers["Retry-After"]) >= 1
        held.go.set()
        for each in accepted:
            check(each.result(SOON), said, cascade)
    assert "s2dnas_refused_total" in server.ask("GET", "/metrics")[1].decode()
    server.close()


def test_who_hangs_up_frees_its_place(bundle, monkeypatch):
    server = Client({"net": bundle})
    held = Held(monkeypatch)
    body, headers = request_of(IMAGES)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    client = socket.create_connection(("127.0.0.1", server.port), timeout=SOON)
    head = f"POST /v2/models/net/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
    client.sendall(head.encode() + body)
    assert held.begun.wait(SOON)
    client.close()
    service = server.app.house.service("net")[0]
    time.sleep(0.3)  # the watch begins after a while
    held.go.set()
    until = time.monotonic() + SOON
    while service.queue.held_bytes and time.monotonic() < until:
        time.sleep(0.001)
    assert service.queue.held_bytes == 0
    assert service.counts.fill[0].sum < len(IMAGES)  # what had not begun was left
    server.close()


def test_bundles_are_loaded_and_unloaded_while_others_answer(bundle, cascade, tmp_path):
    versions = tmp_path / "two"
    for version in ("1", "2", "10"):
        shutil.copytree(bundle, versions / version)
    server = Client({"net": bundle, "two": versions})
    assert server.json("GET", "/v2/models/two")[1]["versions"] == ["1", "2", "10"]
    body, headers = request_of(IMAGES[:2])
    found = server.ask("POST", "/v2/models/two/infer", body, headers)[1]
    assert b'"model_version": "10"' in found
    stop = threading.Event()

    def keep_asking():
        answered = 0
        while not stop.is_set():
            check(server.infer(IMAGES[:3]), cascade.predict(IMAGES[:3]), cascade)
            answered += 1
        return answered

    with ThreadPoolExecutor(3) as clients:
        asking = [clients.submit(keep_asking) for _ in range(3)]
        for _ in range(3):
            assert server.json("POST", "/v2/repository/models/net/load", "{}")[0] == 200
        assert server.json("POST", "/v2/repository/models/two/unload", "{}")[0] == 200
        stop.set()
        assert all(each.result(SOON) > 0 for each in asking)
    assert server.ask("POST", "/v2/models/two/infer", body, headers)[0].status == 404
    assert server.json("GET", "/v2/models/two/ready")[0] == 503
    assert server.json("GET", "/v2/health/ready")[0] == 503
    assert server.json("POST", "/v2/repository/models/two/load", "{}")[0] == 200
    assert server.json("GET", "/v2/models/two/ready")[0] == 200
    shutil.rmtree(versions / "2")
    (versions / "1" / "manifest.json").write_text("{")
    status, told = server.json("POST", "/v2/repository/models/two/load", "{}")
    assert status == 500
    assert "manifest" in told["error"]
    assert server.ask("POST", "/v2/models/two/infer", body, headers)[0].status == 200  # as before
    server.close()


def command(*arguments):
    return [sys.executable, "-m", "s2dnas_deploy.cli", "serve", *map(str, arguments)]


def test_a_process_serves_until_it_is_told_to_end_and_answers_what_it_accepted(bundle, cascade):
    process = subprocess.Popen(
        command(f"cats={bundle}", "--port", 0, "--threads", 1, "--max-wait-ms", 2000, "--provider", "cpu"),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    try:
        told = process.stderr.readline()
        assert "cats, version 1:" in told
        port = int(process.stderr.readline().rsplit(":", 1)[1])
        never = request_of(IMAGES[:4], parameters={"thresholds": "2,2"})
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SOON)
        connection.request("POST", "/v2/models/cats/infer", *never)
        time.sleep(0.5)  # it waits for company now
        process.send_signal(signal.SIGTERM)
        response = connection.getresponse()
        found = answers_in(response, response.read())
        check(found, cascade.predict(IMAGES[:4], thresholds=(2.0, 2.0)), cascade)
        assert process.wait(SOON) == 0
    finally:
        process.kill()
        process.wait()


DOCUMENT = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()


@pytest.mark.parametrize("line", re.findall(r"^s2dnas-serve .*", DOCUMENT, re.MULTILINE))
def test_the_commands_of_the_document_serve(bundle, tmp_path, line):
    for name in ("bundle", "other"):
        shutil.copytree(bundle, tmp_path / name)
    arguments = [*line.split()[1:], "--port", "0"]
    process = subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        told = [process.stderr.readline() for _ in range(line.count("/") + 1)]
        assert "serving on http://127.0.0.1:" in told[-1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(SOON) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["none/"], 2, "none"),
        (["a=none/", "a=none/"], 2, "two bundles called a"),
        (["b d=none/"], 2, "a bundle's name has letters"),
        (["x", "--port", "99999"], 2, "--port"),
    ],
)
def test_what_cannot_be_served_is_told_at_once(arguments, code, told, tmp_path):
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    assert told in done.stderr


def test_a_port_that_is_taken_is_told(bundle):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            command(bundle, "--port", port), capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 2
    assert f"--port {port}: " in done.stderr


def test_a_server_that_cannot_start_says_why(bundle):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for more, message in (
            (["--port", "0", "--grpc-port", port], "cannot listen on"),
            (["--port", port], "Address already in use"),
            (["--port", "8999", "--grpc-port", "8999"], "is --port, too"),
            (["--on-broken", "raise-thresholds"], "give --audit, too"),
        ):
            command = [sys.executable, "-m", "s2dnas_deploy.cli", "serve", str(bundle), *more]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == 2, done.stderr
            assert message in done.stderr
            assert "Traceback" not in done.stderr
