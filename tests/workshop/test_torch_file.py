"""Torch files from anyone's hands: read as torch reads them, or refused in a line, whatever they claim."""

import _codecs
import io
import os
import pickle
import resource
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from s2dnas_deploy.errors import CheckpointError
from s2dnas_deploy.files import inert_pickle
from s2dnas_deploy.workshop.network.torch_file import read_torch_file

MEGABYTE = 2**20


def both_forms(document, folder):
    """The document as torch writes it now, and as it wrote it before archives."""
    for name, as_archive in (("archive.pt", True), ("legacy.pt", False)):
        torch.save(document, folder / name, _use_new_zipfile_serialization=as_archive)
        yield folder / name


def peak_resident_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def refused(path):
    """The line in which the file is refused, which takes little memory."""
    before = peak_resident_bytes()
    with pytest.raises(CheckpointError) as caught:
        read_torch_file(path)
    assert peak_resident_bytes() - before < 200 * MEGABYTE
    line = str(caught.value)
    assert line.startswith(str(path))
    assert len(line) < 1000
    assert "\n" not in line
    return line


# --- what torch writes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool],
)
def test_numbers_of_every_kind_are_read_as_torch_reads_them(tmp_path, dtype):
    tensor = torch.arange(12).reshape(3, 4).to(dtype)
    for path in both_forms({"w": tensor}, tmp_path):
        read = read_torch_file(path)["w"]
        assert read.dtype == dtype
        assert torch.equal(read, torch.load(path, weights_only=True)["w"])


def test_views_parameters_and_empty_tensors_are_read_as_torch_reads_them(tmp_path):
    base, tagged = torch.randn(4, 6), nn.Parameter(torch.randn(3))
    tagged.note = "an attribute of its own"
    document = {
        "whole": base,
        "part": base[1:3, 2:],
        "turned": base.t(),
        "one": torch.tensor(3.0),
        "none": torch.zeros(0, 3),
        "repeated": torch.zeros(3).expand(4, 3),
        "trained": nn.Parameter(torch.randn(2)),
        "tagged": tagged,
        "last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
    }
    for path in both_forms(document, tmp_path):
        read, expected = read_torch_file(path), torch.load(path, weights_only=True)
        assert list(read) == list(expected)
        for name, tensor in read.items():
            assert torch.equal(tensor, expected[name])
            assert tensor.stride() == expected[name].stride()
        assert read["part"].untyped_storage().data_ptr() == read["whole"].untyped_storage().data_ptr()


def test_the_state_of_an_optimizer_is_read_as_torch_reads_it(tmp_path):
    network = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.zeros(1, 2)).sum().backward()
    optimizer.step()
    for path in both_forms(optimizer.state_dict(), tmp_path):
        read = read_torch_file(path)
        assert read["param_groups"] == optimizer.state_dict()["param_groups"]
        assert torch.equal(read["state"][1]["momentum_buffer"], torch.ones(2))


# --- what it does not ---------------------------------------------------------------------------------------


@dataclass
class Storage:
    """A storage as a file may claim it."""

    count: object
    kind: object = torch.FloatStorage
    key: object = "0"


@dataclass
class View:
    """A tensor as a file may claim it."""

    storage: object
    size: object
    stride: object
    offset: object = 0
    others: tuple = (False, OrderedDict())

    def __reduce__(self):
        arguments = (self.storage, self.offset, self.size, self.stride, *self.others)
        return torch._utils._rebuild_tensor_v2, arguments


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            return ("storage", obj.kind, obj.key, "cpu", obj.count)
        return None


def pickled(document):
    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(document)
    return stream.getvalue()


def write_archive(path, document, records=(("data/0", bytes(4)),), compression=zipfile.ZIP_STORED):
    content = document if isinstance(document, bytes) else pickled(document)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("weights/data.pkl", content)
        for name, record in records:
            archive.writestr(f"weights/{name}", record)
    return path


def write_pickles(path, document, storages=(bytes(4),)):
    """As torch wrote before archives; each storage is of 4-byte numbers."""
    parts = [pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {})]
    parts += [document if isinstance(document, bytes) else pickled(document)]
    parts += [pickle.dumps([str(number) for number in range(len(storages))], protocol=2)]
    for storage in storages:
        parts += [(len(storage) // 4).to_bytes(8, "little"), storage]
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize("write", [write_archive, write_pickles])
def test_the_files_of_these_tests_are_read_if_they_are_right(tmp_path, write):
    read = read_torch_file(write(tmp_path / "w.pt", {"w": View(Storage(1), (1, 1), (1, 1))}))
    assert torch.equal(read["w"], torch.zeros(1, 1))


CLAIMS = {
    "a terabyte by a stride of 0": View(Storage(1), (2**40,), (0,)),
    "more than the storage": View(Storage(1), (2, 2), (2, 1)),
    "gigabytes more than the storage": View(Storage(1), (2**32,), (1,)),
    "beyond by an offset": View(Storage(1), (1,), (1,), 1),
    "beyond by a stride": View(Storage(1), (2,), (2**62,)),
    "before by a stride": View(Storage(1), (2,), (-1,)),
    "before by an offset": View(Storage(1), (1,), (1,), -1),
    "a negative size": View(Storage(1), (-1,), (1,)),
    "a size that is no number": View(Storage(1), ("1",), (1,)),
    "a size that is none": View(Storage(1), 1, 1),
    "fewer strides": View(Storage(1), (1, 1), (1,)),
    "nothing, of an endless shape": View(Storage(1), (0, 2**62, 2**62), (1, 1, 1)),
    "thousands of dimensions": View(Storage(1), (1,) * 5000, (1,) * 5000),
    "a storage of a terabyte": View(Storage(2**38), (1,), (1,)),
    "a storage of a negative size": View(Storage(-1), (1,), (1,)),
    "a storage of no number": View(Storage("1"), (1,), (1,)),
    "a storage of another kind": View(Storage(1, torch.DoubleStorage), (1,), (1,)),
    "a storage of no kind": View(Storage(1, "FloatStorage"), (1,), (1,)),
    "a storage of no name": View(Storage(1, key=("0",)), (1,), (1,)),
    "a storage that is not there": View(Storage(1, key="1"), (1,), (1,)),
    "a storage outside": View(Storage(1, key="../../0"), (1,), (1,)),
    "no storage": View(None, (1,), (1,)),
    "negated values": View(Storage(1), (1,), (1,), 0, (False, OrderedDict(), {"neg": True})),
}


@pytest.mark.parametrize("write", [write_archive, write_pickles])
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_tensor_that_claims_what_the_file_does_not_hold_is_refused(tmp_path, claim, write):
    assert "is no torch file, or is damaged" in refused(write(tmp_path / "w.pt", {"w": CLAIMS[claim]}))


def test_many_views_of_one_storage_are_no_way_to_gigabytes(tmp_path):
    storage = Storage(2**18)
    views = {f"w{n}": View(storage, (2**18,), (1,)) for n in range(1000)}
    path = write_archive(tmp_path / "w.pt", views, [("data/0", bytes(MEGABYTE))])
    assert "claim many times more values than the file has" in refused(path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(3).to_sparse(),
        torch.eye(3).to_sparse_csr(),
        torch.empty(3, device="meta"),
        torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
        torch.fake_quantize_per_tensor_affine,  # no tensor at all, of torch's own
    ],
    ids=["sparse", "in rows", "without values", "nested", "a function"],
)
def test_tensors_that_are_not_dense_are_refused_by_name(tmp_path, tensor):
    for path in both_forms({"w": tensor}, tmp_path):
        assert "torch" in refused(path)


class Reduced:
    """Pickled as a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def chained(steps):
    """Text that is encoded as hexadecimal digits, and those again: twice as long with each step."""
    text = "x"
    for _ in range(steps):
        text = Reduced(_codecs.encode, (text, "hex"))
    return text


HOSTILE = {
    "encoded again and again": lambda: chained(40),
    "zeros": lambda: Reduced(bytearray, (Reduced(bytearray, (2**36,)),)),
    "a dtype that lies": lambda: Reduced(np.dtype, ("V8", False, True), (3, "|", None, ("a",), {}, 8, 1, 63)),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_stands_beside_weights_is_never_made(tmp_path, what):
    path = write_archive(tmp_path / "w.pt", {"beside": HOSTILE[what](), "w": View(Storage(1), (1,), (1,))})
    before = peak_resident_bytes()
    assert torch.equal(read_torch_file(path)["w"], torch.zeros(1))
    assert peak_resident_bytes() - before < 100 * MEGABYTE


TOUCHED = {
    "a call": b"cos\nsystem\n(S'true'\ntR.",
    "a name that is split": b"ctorch\nserialization.os.system\n(S'true'\ntR.",
    "a name off the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "an instance": b"(S'true'\nios\nsystem\n.",
    "an object": b"(cos\nsystem\nS'true'\no.",
    "an extension": b"\x82\x01.",
    "a set": b"\x80\x04\x8f(K\x01\x90.",
    "attributes of a class": b"cargparse\nNamespace\n}S'__setstate__'\nI1\nsb.",
    "attributes of a function": b"ctorch._utils\n_rebuild_tensor_v2\n(N}S'__defaults__'\n)stb.",
    "attributes of a list": b"]}S'a'\nI1\nsb.",
    "items of a list": b"](I0\nI1\nu.",
    "a number as a function": b"I1\n)R.",
    "text of an exabyte": b"\x80\x04\x8d" + (2**60).to_bytes(8, "little") + b"x.",
    "a number of a gigabyte": b"\x8b" + (2**30).to_bytes(4, "little") + b"x.",
    "a tuple in tuples as a key": b"})" + b"\x85" * 300_000 + b"Ns.",
    "a number as long as a page as a key": b"}\x8b" + (2000).to_bytes(4, "little") + b"\x7f" * 2000 + b"Ns.",
    "nothing on the stack": b"s.",
    "no end": b"}" * 1000,
    "a name of megabytes": b"c" + b"x" * (3 * MEGABYTE) + b"\ny\n.",
    "control characters": b"c\x1b[2Jos\nsy\rstem\n.",
}


@pytest.mark.parametrize("what", TOUCHED)
def test_a_pickle_of_other_things_is_refused_and_nothing_is_made_of_it(tmp_path, what):
    line = refused(write_archive(tmp_path / "w.pt", TOUCHED[what]))
    assert line.isprintable()


def test_a_number_for_the_memo_takes_no_gigabytes(tmp_path):
    before = peak_resident_bytes()
    assert read_torch_file(write_archive(tmp_path / "w.pt", b"}r\xff\xff\xff\xff.")) == {}
    assert peak_resident_bytes() - before < 100 * MEGABYTE


def test_lists_in_lists_very_deep_are_only_lists(tmp_path):
    path = write_archive(tmp_path / "w.pt", b"]" * 200_000 + b"a" * 199_999 + b".")
    assert isinstance(read_torch_file(path), list)


# --- archives -----------------------------------------------------------------------------------------------


ONE = {"w": View(Storage(1), (1,), (1,))}


def test_records_that_unpack_to_gigabytes_are_refused(tmp_path):
    records = [("data/0", bytes(64 * MEGABYTE))]
    document = {"w": View(Storage(2**24), (2**24,), (1,))}
    path = write_archive(tmp_path / "w.pt", document, records, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < MEGABYTE
    tracemalloc.start()
    assert "its records are compressed" in refused(path)
    assert tracemalloc.get_traced_memory()[1] < 10 * MEGABYTE
    tracemalloc.stop()


def test_records_that_claim_more_than_the_archive_are_refused(tmp_path):
    content = bytearray(write_archive(tmp_path / "w.pt", ONE).read_bytes())
    at = content.rindex(b"PK\x01\x02")
    content[at + 20 : at + 28] = (2**31).to_bytes(4, "little") * 2
    (tmp_path / "w.pt").write_bytes(content)
    assert "claim more bytes than the file has" in refused(tmp_path / "w.pt")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("records", "message"),
    [
        ((), "There is no item named"),
        ((("data/0", bytes(8)),), "has 8 bytes for 1 values"),
        ((("data/0", bytes(4)), ("data/0", bytes(4))), "two of its records have one name"),
        ((("data/0", bytes(4)), ("other/data.pkl", b"N.")), "2 records 'data.pkl', expected one"),
        ((("data/0", bytes(4)), ("byteorder", b"big")), "another byte order"),
        ((("data/0", bytes(4)), ("code/a.py", b"")), "TorchScript archive"),
        ((("data/\x00\x1b\n", bytes(4)), ("data/" + "x" * 60000, b"")), "There is no item named"),
    ],
)
def test_records_that_are_missing_or_odd_are_refused(tmp_path, records, message):
    assert message in refused(write_archive(tmp_path / "w.pt", ONE, records))


def test_a_value_that_was_flipped_is_noticed(tmp_path):
    content = bytearray(write_archive(tmp_path / "w.pt", ONE, [("data/0", b"\x00\x00\x80\x3f")]).read_bytes())
    content[content.index(b"\x00\x00\x80\x3f")] ^= 1
    (tmp_path / "w.pt").write_bytes(content)
    assert "Bad CRC-32" in refused(tmp_path / "w.pt")


# --- damage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"\x80", b"PK\x03\x04", b"hello", bytes(1000), b"\x80\x02" * 500])
def test_what_is_no_torch_file_is_told(tmp_path, content):
    (tmp_path / "w.pt").write_bytes(content)
    assert "is no torch file" in refused(tmp_path / "w.pt")


def test_a_folder_or_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("", "got a folder"), ("pipe", "got a pipe"), ("none", "no file ")):
        with pytest.raises(CheckpointError, match=reason):
            read_torch_file(tmp_path / name)


def test_a_file_that_is_cut_anywhere_is_refused(tmp_path):
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bool)}
    for path in both_forms({"state_dict": state, "epoch": 3}, tmp_path):
        content = path.read_bytes()
        for end in {*range(0, len(content), 7), *range(len(content) - 40, len(content))}:
            path.write_bytes(content[:end])
            refused(path)


def test_files_with_flipped_bytes_are_read_or_refused(tmp_path):
    rng = np.random.default_rng(0)
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": nn.Parameter(torch.ones(3, dtype=torch.half))}
    for path in both_forms({"state_dict": state, "lr": 0.1, "step": 7}, tmp_path):
        content = path.read_bytes()
        for _ in range(300):
            damaged = bytearray(content)
            for _ in range(rng.integers(1, 4)):
                damaged[rng.integers(len(damaged))] = rng.integers(256)
            path.write_bytes(damaged)
            with suppress(CheckpointError):
                read_torch_file(path)


def test_a_pickle_of_many_small_things_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(inert_pickle, "_MOST_OPCODES", 20_000)
    (tmp_path / "many.pth").write_bytes(b"\x80\x02" + b"]" * 80_000 + b".")
    with pytest.raises(CheckpointError, match="more than 20,000 opcodes"):
        read_torch_file(tmp_path / "many.pth")


@pytest.mark.slow
def test_a_pickle_of_millions_of_small_things_is_not_read_to_its_end(tmp_path):
    """Eight million empty lists would take a minute and a gigabyte."""
    (tmp_path / "many.pth").write_bytes(b"\x80\x02" + b"]" * 8_000_000 + b".")
    with pytest.raises(CheckpointError, match="more than 2,000,000 opcodes"):
        read_torch_file(tmp_path / "many.pth")


def test_an_archive_that_is_all_directory_is_refused_before_it_is_taken_apart(tmp_path):
    path = write_archive(tmp_path / "all.pth", {"w": 1})
    content = path.read_bytes()
    directory, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    entries = content[directory:end] * 40_000
    footer = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, len(entries), directory, 0)
    path.write_bytes(content[:directory] + entries + footer)
    assert "80,000 members, expected at most 65,536" in refused(path)


@pytest.mark.slow
def test_an_archive_of_fifty_thousand_tensors_is_read(tmp_path):
    torch.save({f"layer.{i}": torch.full((1,), float(i)) for i in range(50_000)}, tmp_path / "w.pt")
    assert read_torch_file(tmp_path / "w.pt")["layer.49999"].item() == 49_999
