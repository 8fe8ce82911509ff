"""A signature vouches for every byte of a bundle that is read, and for no byte that is not."""

import base64
import json
import os
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from dying_writes import die_at_write
from keys import key_pair
from scored_bundle import scored_bundle

from s2dnas_deploy.bench.workers.job import Job
from s2dnas_deploy.bench.workers.subjects import CASCADE, load_subject
from s2dnas_deploy.bundle import bundle as bundle_module
from s2dnas_deploy.bundle import signature as signature_module
from s2dnas_deploy.bundle.bundle import load_bundle, source_digest, verify_bundle
from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.bundle.saving import check_replaceable, replace_manifest, save_bundle
from s2dnas_deploy.bundle.signature import SIGNATURE, Signer
from s2dnas_deploy.errors import BundleError, OptionError, S2dnasError
from s2dnas_deploy.runtime.cascade import Cascade


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> tuple[Path, Path]:
    return key_pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def made(tmp_path_factory, keys) -> Path:
    folder = tmp_path_factory.mktemp("made") / "bundle"
    bundle = scored_bundle(folder)
    replace_manifest(bundle, bundle.manifest, Signer(keys[0]))
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def refused(folder: Path, key: Path, reason: str) -> None:
    with pytest.raises(BundleError, match=reason) as problem:
        load_bundle(folder, key)
    assert "\n" not in str(problem.value)
    assert len(str(problem.value)) < 1000


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- what is signed, loads ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["p256", "p384", "p521"])
def test_a_bundle_that_is_saved_signed_is_loaded_by_whoever_trusts(kind, folder, tmp_path):
    private, public = key_pair(tmp_path, kind=kind)
    files = {
        name: content for name, content in files_of(folder).items() if name not in (SIGNATURE, "SHA256SUMS")
    }
    save_bundle(files, folder, Signer(private))  # in place of one with another signature
    bundle = load_bundle(folder, public)
    assert bundle.graphs == load_bundle(folder).graphs
    assert bundle.trust == public
    assert SIGNATURE not in (folder / "SHA256SUMS").read_text()
    assert verify_bundle(folder, public).manifest == bundle.manifest


def test_a_bundle_that_replaces_a_signed_one_has_no_signature_of_it(folder, keys):
    files = {
        name: content for name, content in files_of(folder).items() if name not in (SIGNATURE, "SHA256SUMS")
    }
    check_replaceable(folder)
    save_bundle(files, folder)
    assert not (folder / SIGNATURE).exists()
    refused(folder, keys[1], "it is not signed")


def test_model_signing_itself_accepts_what_is_signed_here(folder, keys):
    from model_signing import verifying

    config = verifying.Config().use_elliptic_key_verifier(public_key=keys[1])
    config.verify(folder, folder / SIGNATURE)
    (folder / "labels.txt").write_text("other\n")
    with pytest.raises(ValueError, match=r"labels\.txt"):
        config.verify(folder, folder / SIGNATURE)


def test_what_model_signing_itself_signs_is_accepted_here(folder, keys):
    from model_signing import hashing, signing

    (folder / SIGNATURE).unlink()
    ignoring = hashing.Config().set_ignored_paths(paths=[SIGNATURE])
    config = signing.Config().use_elliptic_key_signer(private_key=keys[0]).set_hashing_config(ignoring)
    config.sign(folder, folder / SIGNATURE)
    load_bundle(folder, keys[1])
    config.set_hashing_config(hashing.Config().use_file_serialization(hashing_algorithm="blake3"))
    (folder / SIGNATURE).unlink()
    config.sign(folder, folder / SIGNATURE)
    refused(folder, keys[1], "is not about the sha256 of whole files")


def test_what_a_write_left_that_was_killed_does_not_count(folder, keys):
    (folder / ".manifest.json.x.part").write_text("{")
    load_bundle(folder, keys[1])


# --- what is not, does not ---------------------------------------------------------------------------------


def test_a_graph_with_its_manifest_and_its_sums_made_to_fit_is_refused(folder, keys):
    model = onnx.load(folder / "stage_0.onnx")
    model.doc_string = "another"
    forged = model.SerializeToString()
    manifest = load_bundle(folder).manifest
    first, *others = manifest.stages
    sha256 = source_digest(forged).partition(":")[2]
    graph = replace(first.graph, sha256=sha256, size_bytes=len(forged))
    manifest = replace(manifest, stages=(replace(first, graph=graph), *others))
    files = files_of(folder)
    old = files.pop(SIGNATURE)
    del files["SHA256SUMS"]
    files |= {"stage_0.onnx": forged, "manifest.json": manifest.to_json().encode()}
    save_bundle(files, folder)
    (folder / SIGNATURE).write_bytes(old)
    load_bundle(folder)
    refused(folder, keys[1], "SHA256SUMS is not the file that was signed")


@pytest.mark.parametrize("name", ["labels.txt", "manifest.json", "README.md", "stage_1.onnx", "SHA256SUMS"])
def test_any_file_that_was_changed_is_refused(folder, keys, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(folder, keys[1], f"{name} is not the file that was signed")


def test_a_trusted_key_is_parsed_once_for_each_load(folder, keys, monkeypatch):
    real, parsed = signature_module._public, []
    monkeypatch.setattr(signature_module, "_public", lambda key: parsed.append(key) or real(key))
    load_bundle(folder, keys[1])
    assert parsed == [keys[1]]


def test_nothing_is_parsed_before_it_is_vouched_for(folder, keys, monkeypatch):
    (folder / "manifest.json").write_text("[" * 100_000)
    monkeypatch.setattr(Manifest, "from_json", lambda text: pytest.fail("it was parsed"))
    refused(folder, keys[1], r"manifest\.json is not the file that was signed")


def test_a_graph_that_is_replaced_after_the_signature_was_read_is_refused(folder, keys, monkeypatch):
    real = bundle_module.Trusted.vouched

    def racing(*arguments):
        signed = real(*arguments)
        (folder / "stage_0.onnx").write_bytes((folder / "stage_1.onnx").read_bytes())
        return signed

    monkeypatch.setattr(bundle_module.Trusted, "vouched", racing)
    refused(folder, keys[1], r"stage_0\.onnx is not the file that was signed")


def test_a_file_too_many_or_too_few_is_refused(folder, keys):
    (folder / "README.md").rename(folder / "read.me")
    refused(folder, keys[1], "'README.md' is missing, which is signed")
    (folder / "read.me").rename(folder / "README.md")
    load_bundle(folder, keys[1])
    (folder / "more").mkdir()
    refused(folder, keys[1], "it holds 'more', which is not signed")
    (folder / "more").rmdir()
    (folder / ("a\nb" + "x" * 200)).touch()
    refused(folder, keys[1], r"it holds 'a\\nbx+ … x+', which is not signed")


def test_no_signature_and_one_by_another_key_are_refused(folder, keys, tmp_path):
    _, other = key_pair(tmp_path, "other")
    refused(folder, other, rf"bundle.sig is not by the key {other}: Key mismatch")
    told = json.loads((folder / SIGNATURE).read_text())
    told["verificationMaterial"]["publicKey"]["hint"] = hint_of(other)
    (folder / SIGNATURE).write_text(json.dumps(told))
    refused(folder, other, rf"bundle.sig is not by the key {other}, or was changed")
    (folder / SIGNATURE).unlink()
    refused(folder, keys[1], "it is not signed, for it has no bundle.sig")


def hint_of(public: Path) -> str:
    return source_digest(public.read_bytes()).partition(":")[2]


def with_payload(signature: dict, change) -> dict:
    """Another statement under the old signature."""
    envelope = signature["dsseEnvelope"]
    payload = change(base64.b64decode(envelope["payload"]))
    return {**signature, "dsseEnvelope": {**envelope, "payload": base64.b64encode(payload).decode()}}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[:-20], "is damaged"),
        (lambda text: "", "is damaged"),
        (lambda text: "null", "is damaged"),
        (lambda text: "[" * 100_000 + "]" * 100_000, "is damaged"),
        (lambda text: '{"a":' * 100_000, "is damaged"),
        (lambda text: text + " " * 2**20, "expected at most"),
        (lambda text: text.replace("dsseEnvelope", "messageSignature"), "is damaged"),
        (lambda text: text.replace("publicKey", "certificate"), "is damaged"),
        (lambda text: text.replace("v0.3", "v0.2"), "is damaged"),
        (lambda text: text.replace("in-toto", "in-tata"), "is not by the key"),
        (
            lambda text: json.dumps(
                with_payload(json.loads(text), lambda p: p.replace(b"manifest", b"manifast"))
            ),
            "or was changed after it was made",
        ),
        (
            lambda text: json.dumps(with_payload(json.loads(text), lambda p: b"[" * 100_000)),
            "or was changed after it was made",
        ),
        (lambda text: json.dumps({**json.loads(text), "more": "\n" * 5000}), "is damaged"),
    ],
)
def test_a_damaged_or_hostile_signature_is_refused(folder, keys, damage, reason):
    path = folder / SIGNATURE
    path.write_text(damage(path.read_text()))
    refused(folder, keys[1], reason)


def test_a_signature_that_names_no_key_is_refused_and_prints_nothing(folder, keys, capfd):
    told = json.loads((folder / SIGNATURE).read_text())
    told["verificationMaterial"]["publicKey"] = {"hint": ""}
    (folder / SIGNATURE).write_text(json.dumps(told))
    refused(folder, keys[1], "does not say which key it is by")
    assert capfd.readouterr().out == ""


def test_a_signature_elsewhere_is_none(folder, keys, tmp_path):
    shutil.move(folder / SIGNATURE, tmp_path / "elsewhere")
    (folder / SIGNATURE).symlink_to(tmp_path / "elsewhere")
    refused(folder, keys[1], "bundle.sig: expected a file, got a link, or what is no plain file")
    (folder / SIGNATURE).unlink()
    os.mkfifo(folder / SIGNATURE)
    refused(folder, keys[1], "it is not signed")


# --- keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rsa", "ed25519", "secp256k1"])
def test_keys_of_another_kind_are_refused(folder, tmp_path, kind):
    private, public = key_pair(tmp_path, kind=kind)
    with pytest.raises(OptionError, match=r"expected a private key to sign with.*which .*key\.pem is not"):
        Signer(private)
    refused(folder, public, r"expected a public key to trust, PEM, on the curve .* which .*key\.pub is not")


def test_files_that_are_no_key_are_refused(folder, keys, tmp_path):
    (tmp_path / "junk").write_bytes(b"\x00\xff" * 99)
    for key in (tmp_path / "junk", tmp_path, tmp_path / "nowhere"):
        refused(folder, key, "expected a public key to trust")
        with pytest.raises(OptionError, match="expected a private key to sign with"):
            Signer(key)
    refused(folder, keys[0], "expected a public key to trust")  # the private one
    with pytest.raises(OptionError, match="expected a private key to sign with"):
        Signer(keys[1])


def test_an_encrypted_key_needs_its_password(folder, tmp_path, monkeypatch):
    private, public = key_pair(tmp_path, "key", "p256", "open")
    monkeypatch.delenv("S2DNAS_KEY_PASSWORD", raising=False)
    with pytest.raises(
        OptionError, match=r"key\.pem is encrypted: put its password into \$S2DNAS_KEY_PASSWORD"
    ):
        Signer(private)
    monkeypatch.setenv("S2DNAS_KEY_PASSWORD", "shut")
    with pytest.raises(OptionError, match=r"with the password in \$S2DNAS_KEY_PASSWORD is not: Incorrect"):
        Signer(private)
    monkeypatch.setenv("S2DNAS_KEY_PASSWORD", "open")
    bundle = load_bundle(folder)
    replace_manifest(bundle, bundle.manifest, Signer(private))
    load_bundle(folder, public)


# --- changed afterwards ------------------------------------------------------------------------------------


def another(manifest: Manifest) -> Manifest:
    return replace(manifest, name="another")


def test_another_manifest_takes_the_signature_along_or_away(folder, keys):
    bundle = load_bundle(folder, keys[1])
    replace_manifest(bundle, another(bundle.manifest), Signer(keys[0]))
    bundle = load_bundle(folder, keys[1])
    assert bundle.manifest.name == "another"
    replace_manifest(bundle, replace(bundle.manifest, name="third"))
    assert load_bundle(folder).manifest.name == "third"
    refused(folder, keys[1], "it is not signed")


def test_killed_at_any_write_it_has_no_signature_of_another_state(made, keys, tmp_path, monkeypatch):
    signer = Signer(keys[0])
    for survived in range(6):
        folder = Path(shutil.copytree(made, tmp_path / str(survived)))
        bundle = load_bundle(folder, keys[1])
        writes = die_at_write(survived, monkeypatch)
        if survived < 5:
            with pytest.raises(SystemExit):
                replace_manifest(bundle, another(bundle.manifest), signer)
            assert not (folder / SIGNATURE).exists()
        else:
            replace_manifest(bundle, another(bundle.manifest), signer)
            assert writes[-1] == SIGNATURE
        monkeypatch.undo()
        bundle = verify_bundle(folder)  # a whole one, old or new
        replace_manifest(bundle, another(bundle.manifest), signer)  # and it can be done again
        assert load_bundle(folder, keys[1]).manifest.name == "another"


def test_a_key_that_fails_changes_nothing(folder, keys):
    class Failing(Signer):
        def sign(self, digests):
            raise S2dnasError("the token was pulled out")

    before = files_of(folder)
    bundle = load_bundle(folder)
    with pytest.raises(S2dnasError, match="pulled out"):
        replace_manifest(bundle, another(bundle.manifest), Failing(keys[0]))
    assert files_of(folder) == before


def test_what_is_not_as_it_was_written_is_not_signed(folder, keys):
    bundle, before = load_bundle(folder), files_of(folder)
    (folder / "notes.txt").touch()
    with pytest.raises(BundleError, match=r"'notes\.txt' is not listed in SHA256SUMS"):
        replace_manifest(bundle, another(bundle.manifest), Signer(keys[0]))
    (folder / "notes.txt").unlink()
    (folder / "README.md").write_text("run me as root")
    with pytest.raises(BundleError, match=r"README\.md is not the file that was exported"):
        replace_manifest(bundle, another(bundle.manifest), Signer(keys[0]))
    assert files_of(folder) == {**before, "README.md": b"run me as root"}


def test_what_was_replaced_by_somebody_else_meanwhile_is_not_signed(folder, keys):
    bundle = load_bundle(folder, keys[1])
    replace_manifest(load_bundle(folder), another(bundle.manifest))
    with pytest.raises(BundleError, match="it is not signed"):
        replace_manifest(bundle, replace(bundle.manifest, name="third"), Signer(keys[0]))


# --- running -----------------------------------------------------------------------------------------------


def test_a_cascade_that_was_pickled_still_trusts_nobody_else(folder, keys, monkeypatch):
    monkeypatch.chdir(keys[1].parent)
    with Cascade.load(folder, provider="cpu", threads=1, trust=keys[1].name) as cascade:
        pickled = pickle.dumps(cascade)
    monkeypatch.chdir(folder)
    pickle.loads(pickled).close()  # noqa: S301 - of our own
    (folder / SIGNATURE).unlink()
    with pytest.raises(BundleError, match="it is not signed"):
        pickle.loads(pickled)  # noqa: S301


def test_processes_that_take_timings_trust_nobody_else(folder, keys):
    job = Job(
        kind="cold",
        bundle=str(folder),
        images="none.npy",
        static=None,
        mean=(0.0,),
        std=(1.0,),
        provider="cpu",
        threads=1,
        batch=1,
        trust=str(keys[1]),
    )
    load_subject(job, CASCADE)
    (folder / SIGNATURE).unlink()
    with pytest.raises(BundleError, match="it is not signed"):
        load_subject(job, CASCADE)


def test_without_the_extra_nothing_is_signed_and_nothing_is_trusted(folder, keys, monkeypatch):
    loaded = [name for name in sys.modules if name.partition(".")[0] == "model_signing"]
    for name in ("model_signing", *loaded):
        monkeypatch.setitem(sys.modules, name, None)
    for attempt in (lambda: load_bundle(folder, keys[1]), lambda: Signer(keys[0])):
        with pytest.raises(S2dnasError, match=r"pip install -e '\.\[signing\]'") as problem:
            attempt()
        assert problem.value.exit_code == 1
    load_bundle(folder)
