"""A request is a span where OpenTelemetry is installed, below that of whoever asked."""

import http.client
import json
from contextlib import closing

import pytest
from served import IMAGES, Server

trace = pytest.importorskip("opentelemetry.trace")
sdk = pytest.importorskip("opentelemetry.sdk.trace")

from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def spans():
    kept = InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    trace.set_tracer_provider(provider)
    return kept


def test_a_request_is_a_span(bundle, cascade, spans):
    tensor = {"name": "image", "shape": [4, *IMAGES.shape[1:]], "datatype": "UINT8"}
    body = json.dumps({"inputs": [{**tensor, "data": IMAGES[:4].ravel().tolist()}]})
    with closing(Server({"net": bundle})) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("POST", "/v2/models/net/infer", body, {"traceparent": PARENT})
        assert connection.getresponse().status == 200
    (span,) = spans.get_finished_spans()
    exits = cascade.predict(IMAGES[:4]).exit.tolist()
    assert span.name == "infer"
    assert span.attributes["s2dnas.images"] == 4
    assert span.attributes["s2dnas.stages"] == cascade.names
    assert span.attributes["s2dnas.exits"] == tuple(exits.count(k) for k in range(3))
    assert trace.format_span_id(span.parent.span_id) == PARENT.split("-")[2]
    assert 0 < span.end_time - span.start_time < 30e9
