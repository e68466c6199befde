"""Content credentials (C2PA): a signed manifest in an image that states its origin and reveals any later change.

It states the same as the XMP. Signatures depend on time and chance: images signed twice differ in bytes, not pixels.
Nothing here needs PyTorch.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from hart.errors import HartError, missing_package
from hart.files import read_text, user_path
from hart.strict import Config

if TYPE_CHECKING:
    from hart.generation.metadata import ImageRecord

TRIAL_SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicMedia"
ALGORITHMS = {"secp256r1": b"es256", "secp384r1": b"es384", "secp521r1": b"es512"}


class SigningFailed(HartError):
    """Raised if an image could not be signed; the message says why."""


AbsolutePath = Annotated[Path, AfterValidator(lambda path: Path(os.path.abspath(user_path(path))))]  # noqa: PTH100
"""Absolute, for processes with another working directory and for records; links stay as given."""


class SigningOptions(Config, kw_only=True):
    """The certificate and key that images are signed with."""

    c2pa_certificate: AbsolutePath | None = None
    """PEM file with the certificate chain, the signer's first: finished images are signed by C2PA."""
    c2pa_key: AbsolutePath | None = None
    """The signer's private key in PEM, without a password."""

    def credentials(self) -> ContentCredentials | None:
        """Return the signer of images, None if they are not signed. Raises `HartError` for one file alone, or for
        files that cannot sign."""
        if self.c2pa_certificate is None and self.c2pa_key is None:
            return None
        if self.c2pa_certificate is None or self.c2pa_key is None:
            raise HartError("--c2pa-certificate and --c2pa-key go together: give both")
        return ContentCredentials(self.c2pa_certificate, self.c2pa_key)


class ContentCredentials:
    """Signs images with one certificate."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Both in PEM. certificate: the signer's, then those that vouch for it; must allow signing of e-mails or
        documents. key: of the first certificate, without a password. Raises `HartError` for files that cannot sign.
        """
        try:
            import c2pa
        except ModuleNotFoundError as error:
            raise missing_package(error.name, "c2pa") from None
        from PIL import Image

        chain, secret = (read_text(user_path(file)).encode() for file in (certificate, key))
        self._c2pa = c2pa
        self._signer = c2pa.C2paSignerInfo(_algorithm(key, secret), chain, secret, None)
        # a thumbnail would be several times as large as the image
        self._context = c2pa.Context(c2pa.Settings.from_dict({"builder": {"thumbnail": {"enabled": False}}}))
        trial = io.BytesIO()
        Image.new("RGB", (1, 1)).save(trial, "PNG")
        try:
            self._signed(trial.getvalue(), "png", {"name": "trial"}, {"digitalSourceType": TRIAL_SOURCE})
        except SigningFailed as error:
            raise HartError(f"{certificate} and {key}: {error}") from None

    def signed(self, content: bytes, form: str, made_by: ImageRecord) -> bytes:
        """Return the file with its manifest. form: png, jpeg or webp. Raises `SigningFailed`."""
        from hart.generation.metadata import SOFTWARE

        software = {"name": SOFTWARE, "version": made_by.version}
        said = {"digitalSourceType": made_by.digital_source, "description": f"model {made_by.model}"}
        return self._signed(content, form, software, said)

    def _signed(self, content: bytes, form: str, software: dict[str, str], said: dict[str, str]) -> bytes:
        """said: details of the action by which the software made the image."""
        actions = [{"action": "c2pa.created", "softwareAgent": software, **said}]
        manifest = {
            "claim_generator_info": [software],
            "assertions": [{"label": "c2pa.actions", "data": {"actions": actions}}],
        }
        written = io.BytesIO()
        try:
            with (
                self._c2pa.Signer.from_info(self._signer) as signer,
                self._c2pa.Builder(manifest, self._context) as builder,
            ):
                builder.sign(signer, f"image/{form}", io.BytesIO(content), written)
        except self._c2pa.C2paError as error:
            raise SigningFailed(f"the image cannot be signed: {' '.join(str(error).split())}") from None
        return written.getvalue()


def _algorithm(file: Path, key: bytes) -> bytes:
    """Return C2PA's name for the algorithm that this private key signs with."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    unsuited = HartError(
        f"{file}: C2PA signs with ECDSA (P-256, P-384, P-521), Ed25519 or RSA keys, not with this kind"
    )
    try:
        found = load_pem_private_key(key, password=None)
    except (TypeError, ValueError):
        raise HartError(f"{file}: not a private key in PEM format without a password") from None
    except UnsupportedAlgorithm:
        raise unsuited from None
    if isinstance(found, Ed25519PrivateKey):
        return b"ed25519"
    if isinstance(found, RSAPrivateKey):
        return b"ps256"
    if isinstance(found, EllipticCurvePrivateKey) and found.curve.name in ALGORITHMS:
        return ALGORITHMS[found.curve.name]
    raise unsuited
