"""The signature of a bundle: made with a private key, and what it vouches for, by the public one.

Part of the bridge. The format is that of the OpenSSF's model-signing (a Sigstore bundle around the sha256 of
every file), so that its own command signs and verifies bundles as well. Digests go in and digests come out:
which bytes they are of is for `bundle` and `saving` to say, which hold them. So a signature is never about
files that are read again later, and nothing here knows a folder.

model-signing keeps what does this below its public functions, which read files themselves: therefore the
extra [signing] names a release, and an import that fails is told as a package that is missing.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from s2dnas_deploy.errors import BundleError, OptionError, S2dnasError
from s2dnas_deploy.files.plain_file import read_file
from s2dnas_deploy.quoting import in_a_line

SIGNATURE = "bundle.sig"
PASSWORD = "S2DNAS_KEY_PASSWORD"  # noqa: S105 - where it is found, not what it is
LARGEST_BYTES = 2**20  # of a signature; that of three stages has 4 kB
_LARGEST_KEY_BYTES = 2**16
_CURVES = "on the curve P-256, P-384 or P-521"


class Signer:
    """A private key, found fit to sign with before the work whose result it is to sign."""

    def __init__(self, key: Path) -> None:
        self._signer = _private(key)

    def sign(self, digests: Mapping[str, str]) -> bytes:
        """A signature of files by their names and sha256."""
        with _extra_is_there():
            from model_signing import manifest
            from model_signing._hashing.hashing import Digest
            from model_signing._signing.signing import Payload
        how = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": [SIGNATURE]}
        items = [
            manifest.FileManifestItem(
                path=PurePosixPath(name), digest=Digest("sha256", bytes.fromhex(sha256))
            )
            for name, sha256 in digests.items()
        ]
        payload = Payload(
            manifest.Manifest("s2dnas-bundle", items, manifest.SerializationType.from_args(how))
        )
        signed: str = self._signer.sign(payload).bundle.to_json()
        return signed.encode()


class Trusted:
    """A public key, found fit before a signature is looked for: what its owner vouches for may run."""

    def __init__(self, key: Path) -> None:
        self._key, self._verifier = key, _public(key)

    def vouched(self, signature: bytes) -> dict[str, str]:
        """The sha256 of every file that a signature vouches for, which must be by the owner of the key.

        Whatever the library raises over a signature from anyone's hands, it has not verified it.
        """
        with _extra_is_there():
            from cryptography.exceptions import InvalidSignature
            from model_signing._signing.sign_sigstore_pb import Signature
            from sigstore_models.bundle.v1 import Bundle
        try:
            read = Bundle.from_json(signature)
            hint = read.verification_material.public_key.hint
        except Exception as error:
            raise BundleError(f"{SIGNATURE} is damaged, or is no signature by a key") from error
        if not hint:  # of a release before 1.0, whose reader would print to stdout
            raise BundleError(f"{SIGNATURE} does not say which key it is by; sign the bundle again")
        other = f"{SIGNATURE} is not by the key {self._key}"
        try:
            files = list(self._verifier.verify(Signature(read)).resource_descriptors())
        except InvalidSignature as error:
            raise BundleError(f"{other}, or was changed after it was made") from error
        except Exception as error:
            raise BundleError(f"{other}: {in_a_line(error)}") from error
        if any(file.digest.algorithm != "sha256" for file in files):
            raise BundleError(f"{SIGNATURE} is not about the sha256 of whole files; sign the bundle again")
        return {file.identifier: file.digest.digest_hex for file in files}


def _private(key: Path) -> Any:
    with _extra_is_there():
        from model_signing._signing.sign_ec_key import Signer as KeySigner
    expected = f"expected a private key to sign with, PEM, {_CURVES}"
    if (reason := _no_file(key)) is not None:
        raise OptionError(f"{expected}, {reason}")
    try:
        return KeySigner(key)
    except TypeError:
        password = os.environ.get(PASSWORD)  # for it is encrypted
    except Exception as error:
        raise OptionError(f"{expected}, which {key} is not: {_why(error)}") from error
    if password is None:
        raise OptionError(f"the key {key} is encrypted: put its password into ${PASSWORD}")
    try:
        return KeySigner(key, password.encode())
    except Exception as error:
        raise OptionError(
            f"{expected}, which {key} with the password in ${PASSWORD} is not: {_why(error)}"
        ) from error


def _public(key: Path) -> Any:
    with _extra_is_there():
        from model_signing._signing.sign_ec_key import Verifier
    expected = f"expected a public key to trust, PEM, {_CURVES}"
    if (reason := _no_file(key)) is not None:
        raise BundleError(f"{expected}, {reason}")
    try:
        return Verifier(key)
    except Exception as error:
        raise BundleError(f"{expected}, which {key} is not: {_why(error)}") from error


def _no_file(key: Path) -> str | None:
    """Why a key cannot be read, if it cannot; the library would wait for a pipe, and read any size."""
    try:
        read_file(key, _LARGEST_KEY_BYTES)
    except FileNotFoundError:
        return f"found no file {key}"
    except OSError as error:
        return f"which {key} is not: {error.strerror}"
    return None


def _why(error: Exception) -> str:
    """What was wrong with a key; one of another kind only shows in an attribute that it has not."""
    return in_a_line(error) if isinstance(error, (OSError, ValueError)) else "it is of another kind"


@contextmanager
def _extra_is_there() -> Iterator[None]:
    """To import what does the work; without it nothing is signed, and nothing is taken for signed."""
    try:
        yield
    except ImportError as problem:
        raise S2dnasError(
            "signed bundles need model-signing: pip install 's2dnas-deploy[signing]', or in its checkout "
            f"pip install -e '.[signing]' ({in_a_line(problem)})"
        ) from problem
