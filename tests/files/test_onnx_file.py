"""No graph leads out of its file, however it is said: each way is refused before onnxruntime sees it.

`SECRET` stands for somebody's file. That the ways are real is a test, too: onnxruntime does read it.
"""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from wire import disguised, field, tag, varint

from s2dnas_deploy.errors import BundleError
from s2dnas_deploy.files.onnx_file import read_signature
from s2dnas_deploy.sessions.providers import CPU, make_session

SECRET = "secret"  # noqa: S105
COUNT = 256  # onnxruntime's optimizers look into smaller ones, and stumble
OLD = Path(__file__).parents[2] / ".venv-old" / "bin" / "python"

ENTRY = field(1, b"location") + field(2, SECRET.encode())
EXTERNAL = field(1, COUNT) + field(2, 1) + field(8, b"w") + field(13, ENTRY) + field(14, 1)
WHOLE = field(1, COUNT) + field(2, 1) + field(8, b"w") + field(9, bytes(4 * COUNT))
VALUES = [
    field(1, name) + field(2, field(1, field(1, 1) + field(2, field(1, field(1, COUNT)))))
    for name in (b"x", b"y")
]
SIGNATURE = field(11, VALUES[0]) + field(12, VALUES[1])
NODE = field(1, b"x") + field(1, b"w") + field(2, b"y") + field(4, b"Mul")
HEAD = field(1, 8) + field(8, field(2, 17))


def model(*parts: bytes) -> bytes:
    """A graph that multiplies x by w, as far as it is not among the parts."""
    return HEAD + field(7, field(1, NODE) + field(2, b"g") + b"".join(parts) + SIGNATURE)


def node(attribute: bytes, operator: bytes = b"Constant") -> bytes:
    return field(2, b"w") + field(4, operator) + field(5, field(1, b"value") + attribute)


CONSTANT = node(field(5, EXTERNAL) + field(20, 4))  # its value is external
INNER = field(1, CONSTANT) + field(2, b"inner") + field(12, field(1, b"w"))
BRANCH = field(4, b"If") + field(5, field(1, b"then_branch") + field(6, INNER))
BRANCH_IN_BRANCH = field(4, b"If") + field(5, field(1, b"else_branch") + field(6, field(1, BRANCH)))
FUNCTION = field(1, b"f") + field(10, b"own")
READ_BY_ONNXRUNTIME = {
    "plainly": model(field(5, EXTERNAL)),
    "a disguised field 13": model(
        field(
            5,
            field(1, COUNT) + field(2, 1) + field(8, b"w") + disguised(13, ENTRY) + field(14, 1),
        )
    ),
    "a disguised initializer": model(disguised(5, EXTERNAL)),
    "a disguised graph, merged with the first": HEAD
    + field(7, field(1, NODE) + field(2, b"g") + SIGNATURE)
    + disguised(7, field(5, EXTERNAL)),
    "a second graph, merged with the first": HEAD
    + field(7, field(1, NODE) + field(2, b"g") + SIGNATURE)
    + field(7, field(5, EXTERNAL)),
    "a place that is said twice": model(field(5, field(14, 0) + EXTERNAL)),
    "a place of 2**32 + 1": model(
        field(
            5,
            field(1, COUNT) + field(2, 1) + field(8, b"w") + field(13, ENTRY) + field(14, 2**32 + 1),
        )
    ),
    "a tag that is longer than need be": model(field(5, EXTERNAL, tagged=varint(5 << 3 | 2, 5))),
    "a length that is longer than need be": model(tag(5) + varint(len(EXTERNAL), 5) + EXTERNAL),
}
REFUSED = READ_BY_ONNXRUNTIME | {
    "no place, but a file": model(field(5, EXTERNAL.replace(field(14, 1), b""))),
    "a place, but no file": model(field(5, EXTERNAL.replace(field(13, ENTRY), b""))),
    "a constant": model(field(1, CONSTANT)),
    "a branch": model(field(1, BRANCH)),
    "a branch in a branch": model(field(1, BRANCH_IN_BRANCH)),
    "tensors of an attribute": model(field(1, node(field(10, EXTERNAL)))),
    "graphs of an attribute": model(field(1, node(field(11, INNER)))),
    "a sparse attribute": model(field(1, node(field(22, field(1, EXTERNAL))))),
    "sparse attributes": model(field(1, node(field(23, field(2, EXTERNAL))))),
    "an attribute's tensor said twice": model(field(1, node(field(5, WHOLE) + field(5, b"")))),
    "a sparse initializer": model(field(15, field(1, EXTERNAL))),
    "indices of a sparse initializer": model(field(15, field(2, EXTERNAL))),
    "a function": model() + field(25, FUNCTION + field(7, CONSTANT)),
    "a branch in a function": model() + field(25, FUNCTION + field(7, BRANCH)),
    "an attribute of a function": model() + field(25, FUNCTION + field(11, field(5, EXTERNAL))),
    "training": model() + field(20, field(1, INNER)),
    "a group": model(tag(5, 3) + EXTERNAL + tag(5, 4)),
    "a group in a tensor": model(field(5, WHOLE + tag(13, 3) + ENTRY + tag(13, 4))),
    "a place in four bytes": model(field(5, WHOLE + tag(14, 5) + b"\1\0\0\0")),
    "a place in eight bytes": model(field(5, WHOLE + tag(14, 1) + b"\1\0\0\0\0\0\0\0")),
    "a place that is packed": model(field(5, WHOLE + field(14, b"\1"))),
    "a wire type that does not exist": model(field(5, WHOLE + tag(13, 6) + b"\0")),
    "field 0": model(field(5, WHOLE) + b"\2\0"),
    "field 2**29": model(varint(2**29 << 3 | 2, 5) + varint(len(EXTERNAL)) + EXTERNAL),
    "an unknown field of a tensor": model(field(5, WHOLE + field(99, EXTERNAL))),
    "an unknown field of the model": model(field(5, WHOLE)) + field(7 + 2**25, EXTERNAL),
    "a number of eleven bytes": model(field(5, WHOLE + tag(14, 0) + b"\x80" * 10 + b"\1")),
    "a number above 64 bits": model(field(5, WHOLE + tag(14, 0) + b"\xff" * 9 + b"\x7f")),
    "a type of 2**32 + 1": model(field(5, WHOLE.replace(field(2, 1), field(2, 2**32 + 1)))),
    "memory of this process": model(field(5, EXTERNAL.replace(b"secret", b"*/_ORT_MEM_ADDR_/*"))),
    "a compiled context": model(field(1, node(b"", b"EPContext"))),
    "a format of onnxruntime's own": field(2, b"\0\0ORTM" + bytes(58)) + model(field(5, WHOLE)),
}


@pytest.mark.parametrize("way", REFUSED)
def test_a_graph_that_leads_out_of_its_file_is_refused(way):
    with pytest.raises(BundleError) as refused:
        read_signature(REFUSED[way])
    assert len(str(refused.value)) < 1000
    assert "\n" not in str(refused.value)


def test_one_that_does_not_is_read():
    signature = read_signature(model(field(5, WHOLE)))
    assert [value.name for value in signature.inputs] == ["x"]
    assert signature.outputs[0].shape == (COUNT,)
    assert signature.outputs[0].type == "float32"


def run_on_plain_onnxruntime(python: str, graphs: Path) -> dict[str, bool]:
    """For each graph in a folder, whether onnxruntime gave the secret away; it lies there, too."""
    script = (
        "import glob, numpy, onnxruntime\n"
        "options = onnxruntime.SessionOptions()\n"
        "options.log_severity_level = 4\n"
        f"ones = {{'x': numpy.ones({COUNT}, numpy.float32)}}\n"
        "for file in sorted(glob.glob('*.onnx')):\n"
        "    try:\n"
        "        session = onnxruntime.InferenceSession(open(file, 'rb').read(), options)\n"
        f"        print(file, bool((session.run(None, ones)[0] == numpy.arange({COUNT})).all()))\n"
        "    except Exception as error:\n"
        "        print(file, False)\n"
    )
    done = subprocess.run(
        [python, "-c", script], cwd=graphs, capture_output=True, text=True, check=True, timeout=120
    )
    return {file: said == "True" for file, said in (line.split() for line in done.stdout.splitlines())}


@pytest.mark.parametrize(
    "python",
    [sys.executable, pytest.param(str(OLD), marks=pytest.mark.slow)],
    ids=["current", "old"],
)
def test_the_ways_are_real(python, tmp_path):
    """What is refused is no fancy: onnxruntime reads the secret through these, if it is left to it."""
    (tmp_path / SECRET).write_bytes(np.arange(COUNT, dtype=np.float32).tobytes())
    for number, graph in enumerate(READ_BY_ONNXRUNTIME.values()):
        (tmp_path / f"{number:02}.onnx").write_bytes(graph)
    given_away = run_on_plain_onnxruntime(python, tmp_path)
    assert all(given_away.values()), given_away


def test_a_session_reads_no_other_file_even_if_the_check_had_missed_it(tmp_path, monkeypatch):
    (tmp_path / SECRET).write_bytes(np.arange(COUNT, dtype=np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="refuses a graph"):
        make_session(REFUSED["plainly"], CPU, threads=1)


def test_a_session_does_not_read_another_format():
    with pytest.raises(BundleError, match="protobuf"):
        make_session(REFUSED["a format of onnxruntime's own"][:40], CPU, threads=1)


@pytest.mark.parametrize("body", [b"\x40\x01", b"\x0a\x00", b"\x4a\x00"], ids=["numbers", "nodes", "empty"])
def test_a_file_of_tiny_fields_takes_a_second_not_a_minute(body):
    begun = time.process_time()
    with pytest.raises(BundleError):
        read_signature(HEAD + field(7, field(1, field(5, body * (8 * 2**20)))))
    assert time.process_time() - begun < 10


def test_messages_may_not_be_deeper_than_onnxruntime_reads():
    inner = b""
    for _ in range(2000):
        inner = field(5, field(6, field(1, inner)))
    with pytest.raises(BundleError, match="100 deep"):
        read_signature(model(field(1, inner)))


def test_a_large_graph_with_numbers_one_by_one_is_read():
    """Other writers do not pack: 100,000 weights, a field each, negative ones of ten bytes."""
    numbers = b"".join(tag(5, 0) + varint(2**64 - 1 - i) for i in range(50_000))
    floats = (tag(4, 5) + bytes(4)) * 50_000
    graph = model(
        field(5, WHOLE),
        field(5, field(1, 50_000) + field(2, 6) + field(8, b"i") + numbers),
        field(5, field(1, 50_000) + field(2, 1) + field(8, b"f") + floats),
    )
    assert onnx.load_from_string(graph).graph.initializer[1].int32_data[0] == -1
    read_signature(graph)


# --- whatever the bytes ------------------------------------------------------------------------------------


def everything_within(message: object) -> bool:
    """Whether a parsed message keeps its data in itself, all the way down."""
    for known, value in message.ListFields():
        if known.type != known.TYPE_MESSAGE:
            continue
        each = [value] if not hasattr(value, "__len__") else value
        if not all(everything_within(part) for part in each):
            return False
    return not isinstance(message, TensorProto) or not (message.external_data or message.data_location)


def a_model() -> bytes:
    weight = onnx.numpy_helper.from_array(np.ones(3, dtype=np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, 1, ["N", 3]) for name in "xy")
    inner = helper.make_graph([helper.make_node("Constant", [], ["y"], value=weight)], "inner", [], [y])
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["z"]),
        helper.make_node("If", ["b"], ["y"], then_branch=inner, else_branch=inner),
    ]
    condition = helper.make_tensor_value_info("b", TensorProto.BOOL, [])
    graph = helper.make_graph(nodes, "g", [x, condition], [y], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


WHOLE_MODEL = a_model()
PIECES = st.one_of(
    st.binary(max_size=12),
    st.builds(field, st.integers(0, 30), st.integers(0, 2**64)),
    st.builds(disguised, st.sampled_from([1, 5, 7, 13, 14]), st.sampled_from([ENTRY, EXTERNAL, b""])),
    st.sampled_from([field(5, EXTERNAL), field(13, ENTRY), field(14, 1), CONSTANT, field(25, FUNCTION)]),
)
CHANGES = st.lists(
    st.tuples(st.integers(0, len(WHOLE_MODEL)), st.integers(0, 4), PIECES), min_size=1, max_size=4
)


@given(CHANGES)
def test_what_is_read_is_what_others_read(changes):
    """Bytes put in or over a valid model: refused, or the same inputs and outputs as in onnx, all within."""
    content = WHOLE_MODEL
    for place, dropped, piece in changes:
        content = content[:place] + piece + content[place + dropped :]
    try:
        signature = read_signature(content)
    except BundleError:
        return
    try:
        graph = onnx.load_from_string(content).graph
    except Exception:  # a text that is none, which onnxruntime refuses as well
        return
    assert everything_within(onnx.load_from_string(content))
    assert [v.name for v in signature.inputs] == [v.name for v in graph.input]
    assert [v.name for v in signature.outputs] == [v.name for v in graph.output]


def test_the_schema_is_that_of_onnx():
    """Every field that is known here is one of onnx's own, of the same kind; what is left out is named."""
    from s2dnas_deploy.files.onnx_schema import MESSAGES

    left_out: set[str] = set()
    seen = {}

    def compare(kind: str, descriptor: object) -> None:
        if seen.setdefault(kind, descriptor.full_name) != descriptor.full_name or kind in compared:
            return
        compared.add(kind)
        fields = {each.number: each for each in descriptor.fields}
        left_out.update(f"{kind}.{fields[number].name}" for number in fields.keys() - MESSAGES[kind].keys())
        for number, known in MESSAGES[kind].items():
            other = fields[number]
            assert known.many == other.is_repeated, (kind, number)
            assert (known.message is None) == (other.message_type is None), (kind, number)
            if known.message is not None:
                compare(known.message, other.message_type)

    compared: set[str] = set()
    compare("model", onnx.ModelProto.DESCRIPTOR)
    assert compared == MESSAGES.keys()
    assert left_out == {
        "model.training_info",
        "model.configuration",
        "node.device_configurations",
        "tensor.segment",
        "tensor.external_data",
        "type.opaque_type",
    }
