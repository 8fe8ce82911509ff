"""The Open Inference Protocol over gRPC: what clients send, and what they get."""

import io
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from PIL import Image
from served import IMAGES, SIZE, SOON, Held, Server

from s2dnas_deploy.serve.grpc.messages import MESSAGES, PACKAGE, SERVICE


class Client(Server):
    """The application, and what a client of it does."""

    def __init__(self, *given, **options):
        super().__init__(*given, **options)
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}")

    def call(self, name, /, **fields):
        method = self.channel.unary_unary(
            f"/{PACKAGE}.{SERVICE}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=MESSAGES[f"{name}Response"].FromString,
        )
        return method(MESSAGES[f"{name}Request"](**fields), timeout=SOON)

    def infer(self, request):
        method = self.channel.unary_unary(
            f"/{PACKAGE}.{SERVICE}/ModelInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=MESSAGES["ModelInferResponse"].FromString,
        )
        return method.future(request, timeout=SOON)

    def close(self):
        self.channel.close()
        super().close()


def request_of(images, outputs=(), parameters=None, *, version="", raw=True):
    request = MESSAGES["ModelInferRequest"](model_name="net", model_version=version, id="7")
    for name, value in (parameters or {}).items():
        kind = {str: "string_param", int: "int64_param", float: "double_param"}[type(value)]
        setattr(request.parameters[name], kind, value)
    for name in outputs:
        request.outputs.add(name=name)
    if isinstance(images, list):
        tensor = request.inputs.add(name="image", datatype="BYTES", shape=[len(images)])
        if raw:
            items = b"".join(len(each).to_bytes(4, "little") + each for each in images)
            request.raw_input_contents.append(items)
        else:
            tensor.contents.bytes_contents.extend(images)
        return request
    tensor = request.inputs.add(name="image", datatype="UINT8", shape=images.shape)
    if raw:
        request.raw_input_contents.append(images.tobytes())
    else:
        tensor.contents.uint_contents.extend(images.ravel().tolist())
    return request


def answers_in(response):
    assert (response.model_name, response.model_version, response.id) == ("net", "1", "7")
    found = {}
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        kind = {"INT64": np.int64, "FP32": np.float32}.get(tensor.datatype)
        found[tensor.name] = raw if kind is None else np.frombuffer(raw, kind).reshape(tensor.shape)
    return found


@pytest.fixture(scope="module")
def server(bundle):
    server = Client({"net": bundle})
    yield server
    server.close()


def check(found, said):
    np.testing.assert_array_equal(found["label"], said.label)
    np.testing.assert_array_equal(found["exit"], said.exit)
    np.testing.assert_allclose(found["confidence"], said.confidence, atol=1e-5)


@pytest.mark.parametrize("raw", [True, False])
def test_answers_are_those_of_predict(server, cascade, raw):
    check(answers_in(server.infer(request_of(IMAGES[:20], raw=raw)).result()), cascade.predict(IMAGES[:20]))


@pytest.mark.parametrize("raw", [True, False])
def test_files_are_read_as_everywhere(server, cascade, raw, tmp_path):
    files = []
    for k, image in enumerate(IMAGES[:4]):
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        files.append(stream.getvalue())
        (tmp_path / f"{k}.png").write_bytes(files[-1])
    said = cascade.predict([tmp_path / f"{k}.png" for k in range(4)])
    check(answers_in(server.infer(request_of(files, raw=raw)).result()), said)


def test_many_at_once_get_each_their_own(server, cascade):
    parts = [IMAGES[k : k + 1 + k % 4] for k in range(36)] * 3
    asked = [server.infer(request_of(part)) for part in parts]
    for part, each in zip(parts, asked, strict=True):
        check(answers_in(each.result()), cascade.predict(part))


def test_parameters_and_outputs_are_as_over_http(server, cascade):
    wanted = request_of(IMAGES[:5], ("probabilities", "exit"), {"thresholds": "2,2", "deadline_ms": 60000.0})
    found = answers_in(server.infer(wanted).result())
    said = cascade.predict(IMAGES[:5], thresholds=(2.0, 2.0), probabilities=True)
    assert list(found) == ["probabilities", "exit"]
    np.testing.assert_allclose(found["probabilities"], said.probabilities, atol=1e-5)
    assert set(found["exit"]) == {2}


def test_a_stream_is_answered_in_its_order_and_errors_have_their_place(server, cascade):
    method = server.channel.stream_stream(
        f"/{PACKAGE}.{SERVICE}/ModelStreamInfer",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=MESSAGES["ModelStreamInferResponse"].FromString,
    )
    requests = [request_of(IMAGES[k : k + 2]) for k in range(30)]
    requests[7].inputs[0].name = "img"
    for k, each in enumerate(method(iter(requests), timeout=SOON)):
        if k == 7:
            assert "expected the input 'image'" in each.error_message
        else:
            check(answers_in(each.infer_response), cascade.predict(IMAGES[k : k + 2]))
    assert k == 29


def test_what_is_served_is_told(server):
    assert server.call("ServerLive").live
    assert server.call("ServerReady").ready
    assert server.call("ModelReady", name="net").ready
    assert "statistics" in server.call("ServerMetadata").extensions
    told = server.call("ModelMetadata", name="net", version="1")
    assert [(each.name, each.datatype, list(each.shape)) for each in told.inputs] == [
        ("image", "UINT8", [-1, SIZE, SIZE, 3])
    ]
    config = server.call("ModelConfig", name="net").config
    assert (config.max_batch_size, list(config.input[0].dims)) == (8, [SIZE, SIZE, 3])
    assert config.input[0].data_type == 2  # TYPE_UINT8
    assert server.call("ModelStatistics").model_stats[0].name == "net"
    (model,) = server.call("RepositoryIndex", ready=True).models
    assert (model.name, model.version, model.state) == ("net", "1", "READY")


def test_models_are_loaded_and_unloaded(bundle):
    server = Client({"net": bundle})
    server.call("RepositoryModelUnload", model_name="net")
    assert not server.call("ModelReady", name="net").ready
    assert not server.call("ServerReady").ready
    with pytest.raises(grpc.RpcError) as refused:
        server.infer(request_of(IMAGES[:1])).result()
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    server.call("RepositoryModelLoad", model_name="net")
    assert len(answers_in(server.infer(request_of(IMAGES[:1])).result())["label"]) == 1
    server.close()


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (lambda r: setattr(r, "model_name", "none"), "NOT_FOUND", "expected net"),
        (lambda r: setattr(r, "model_version", "3"), "NOT_FOUND", "version"),
        (lambda r: r.inputs.add(), "INVALID_ARGUMENT", "expected one input, got 2"),
        (lambda r: r.ClearField("raw_input_contents"), "INVALID_ARGUMENT", "numbers of UINT8, got 0"),
        (lambda r: r.raw_input_contents.append(b""), "INVALID_ARGUMENT", "expected one raw content"),
        (lambda r: r.raw_input_contents.__setitem__(0, b"x"), "INVALID_ARGUMENT", "expected 432 bytes"),
        (lambda r: r.inputs[0].shape.append(1), "INVALID_ARGUMENT", "expected 'image' as UINT8"),
        (lambda r: r.outputs.add(name="x"), "INVALID_ARGUMENT", "expected outputs among"),
        (lambda r: setattr(r.parameters["y"], "bool_param", True), "INVALID_ARGUMENT", "got 'y'"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(server, change, code, told):
    request = request_of(IMAGES[:1])
    change(request)
    with pytest.raises(grpc.RpcError) as refused:
        server.infer(request).result()
    assert refused.value.code() == grpc.StatusCode[code]
    assert told in refused.value.details()


def test_past_the_bound_it_is_told_when_to_come_back(bundle, monkeypatch):
    server = Client({"net": bundle}, most_bytes=IMAGES[:10].nbytes)
    held = Held(monkeypatch)
    accepted = server.infer(request_of(IMAGES[:10]))
    assert held.begun.wait(SOON)
    with pytest.raises(grpc.RpcError) as refused:
        server.infer(request_of(IMAGES[:1])).result()
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(dict(refused.value.trailing_metadata())["retry-after"]) >= 1
    held.go.set()
    assert len(answers_in(accepted.result())["label"]) == 10
    server.close()


def test_who_cancels_frees_its_place(bundle, monkeypatch):
    server = Client({"net": bundle})
    held = Held(monkeypatch)
    asked = server.infer(request_of(IMAGES))
    assert held.begun.wait(SOON)
    asked.cancel()
    service = server.app.house.service("net")[0]
    time.sleep(0.2)  # until the server has heard of it
    held.go.set()
    until = time.monotonic() + SOON
    while service.queue.held_bytes and time.monotonic() < until:
        time.sleep(0.001)
    assert service.queue.held_bytes == 0
    assert service.counts.fill[0].sum < len(IMAGES)
    server.close()


def test_messages_beyond_the_bound_are_refused(bundle):
    server = Client({"net": bundle}, most_body=10_000)
    with pytest.raises(grpc.RpcError) as refused:
        server.infer(request_of(np.concatenate([IMAGES] * 2))).result()
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    with ThreadPoolExecutor(2) as clients:
        for each in clients.map(lambda k: server.infer(request_of(IMAGES[k : k + 1])).result(), range(6)):
            assert len(answers_in(each)["label"]) == 1
    server.close()
