"""Content credentials of images, read again by C2PA's own library."""

from __future__ import annotations

import base64
import datetime
import io
import json
from pathlib import Path
from typing import Any

import pytest

from command_line import outputs, refused, run
from edited_images import picture
from hart.errors import HartError
from hart.generation.metadata import read_record
from hart.generation.signing import ContentCredentials
from serving_app import image_of, png, running

c2pa = pytest.importorskip("c2pa")
x509 = pytest.importorskip("cryptography.x509")
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: E402

NOW, DAY = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
SOURCES = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def certificate(name: str, key: Any, issuer: str, issuer_key: Any) -> bytes:
    """In PEM; of an authority if it is its own issuer."""
    own = name == issuer
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, one)]) for one in (name, issuer)]
    uses = x509.KeyUsage(not own, False, False, False, False, own, own, False, False)
    builder = x509.CertificateBuilder(*reversed(names), key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(NOW - DAY).not_valid_after(NOW + DAY)
    builder = builder.add_extension(x509.BasicConstraints(own, None), critical=True).add_extension(uses, critical=True)
    for extension in (
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
        x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION]),
    ):
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def private(key: Any) -> bytes:
    form, whole = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(form, whole, serialization.NoEncryption())


def unheard_of() -> bytes:
    """A private key on a curve that is not known: X9.62's prime239v1 by its number."""
    key, form = ec.generate_private_key(ec.SECP256R1()), serialization.Encoding.DER
    whole = key.private_bytes(form, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    other = whole.replace(bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030104"))
    return b"-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(other) + b"-----END PRIVATE KEY-----\n"


def files(folder: Path, key: Any) -> tuple[Path, Path]:
    """A certificate that an authority made for this key, with the authority's, and the key."""
    authority, chain, secret = ec.generate_private_key(ec.SECP256R1()), folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(certificate("me", key, "root", authority) + certificate("root", authority, "root", authority))
    secret.write_bytes(private(key))
    return chain, secret


@pytest.fixture
def credentials(tmp_path: Path) -> ContentCredentials:
    return ContentCredentials(*files(tmp_path, ec.generate_private_key(ec.SECP256R1())))


def manifest(content: bytes, form: str) -> dict[str, Any]:
    with c2pa.Reader(f"image/{form}", io.BytesIO(content)) as reader:
        return json.loads(reader.json())


def source_type(read: dict[str, Any]) -> str:
    (made,) = read["manifests"][read["active_manifest"]]["assertions"]
    return made["data"]["actions"][0]["digitalSourceType"].removeprefix(SOURCES)


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_finished_images_are_signed_and_partial_ones_are_not(credentials: ContentCredentials, form: str) -> None:
    with running(credentials=credentials) as server:
        *partial, event = server.openai.images.generate(
            prompt="a cat", stream=True, output_format=form, extra_body={"seed": 1}
        )
    content = base64.b64decode(event.b64_json)
    read = manifest(content, form)
    assert read["validation_state"] == "Valid" and source_type(read) == "trainedAlgorithmicMedia"
    assert len(partial) == 3
    with pytest.raises(c2pa.C2paError):
        manifest(base64.b64decode(partial[0].b64_json), form)


def test_a_signed_png_has_the_same_pixels_and_settings_and_shows_changes(
    credentials: ContentCredentials, tmp_path: Path
) -> None:
    found = []
    for signer in (credentials, None):
        with running(credentials=signer) as server:
            found.append(server.post(prompt="a cat", seed=1).json()["data"][0]["b64_json"])
    signed, plain = found
    assert image_of(signed).tobytes() == image_of(plain).tobytes()
    file = tmp_path / "signed.png"
    file.write_bytes(base64.b64decode(signed))
    assert read_record(file).prompt == "a cat"
    assert b"trainedAlgorithmicMedia" in image_of(signed).info["xmp"]
    changed = base64.b64decode(signed).replace(b"a cat", b"a dog")
    assert manifest(changed, "png")["validation_state"] == "Invalid"


def test_an_edit_is_a_composite(credentials: ContentCredentials) -> None:
    with running(credentials=credentials) as server:
        answer = server.http.post(
            "/v1/images/edits", data={"prompt": "a cat"}, files=[("image", ("a.png", png(), "image/png"))]
        )
    encoded = answer.json()["data"][0]["b64_json"]
    assert source_type(manifest(base64.b64decode(encoded), "png")) == "compositeWithTrainedAlgorithmicMedia"
    assert b"compositeWithTrainedAlgorithmicMedia" in image_of(encoded).info["xmp"]


def test_an_image_that_cannot_be_signed_any_more_is_one_sentence(
    credentials: ContentCredentials, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise c2pa.C2paError("Signature: the certificate\nhas expired")

    monkeypatch.setattr(c2pa.Builder, "sign", fail)
    with running(credentials=credentials) as server:
        answer = server.post(prompt="a cat")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "signing_failed")
    said = "the image cannot be signed: Signature: the certificate has expired"
    assert answer.json()["error"]["message"] == said and said in caplog.text


@pytest.mark.parametrize(
    "key",
    [
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
    ],
    ids=["ed25519", "rsa", "P-384"],
)
def test_keys_of_other_kinds_sign_too(tmp_path: Path, key: Any) -> None:
    ContentCredentials(*files(tmp_path, key))


def test_files_that_cannot_sign_are_one_line(tmp_path: Path) -> None:
    chain, key = files(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    for content, message in [
        (b"nonsense", "not a private key in PEM"),
        (private(ec.generate_private_key(ec.SECP256K1())), "not with this kind"),
        (unheard_of(), "not with this kind"),
        (private(ec.generate_private_key(ec.SECP256R1())), "key.pem: the image cannot be signed"),
    ]:
        key.write_bytes(content)
        with pytest.raises(HartError, match=message):
            ContentCredentials(chain, key)
    own = ec.generate_private_key(ec.SECP256R1())
    chain.write_bytes(certificate("me", own, "me", own))
    key.write_bytes(private(own))
    with pytest.raises(HartError, match="self-signed"):
        ContentCredentials(chain, key)


def test_every_command_signs_what_it_writes(text_model: Path, tmp_path: Path) -> None:
    chain, key = files(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    picture().save(tmp_path / "cat.png")
    (tmp_path / "prompts.txt").write_text("a cat\n")
    signed = ("--model", text_model, "--c2pa-certificate", chain, "--c2pa-key", key)
    for number, (arguments, source) in enumerate(
        [
            (("generate", "a cat"), "trainedAlgorithmicMedia"),
            (("generate", "--prompts-file", tmp_path / "prompts.txt"), "trainedAlgorithmicMedia"),
            (("mix", "a cat", "a dog"), "trainedAlgorithmicMedia"),
            (("edit", tmp_path / "cat.png", "a dog", "--size", "16x8"), "compositeWithTrainedAlgorithmicMedia"),
            (("vary", tmp_path / "cat.png"), "compositeWithTrainedAlgorithmicMedia"),
        ]
    ):
        result = run(*arguments, *signed, "--out", tmp_path / str(number))
        (written,) = outputs(result, notes=arguments[0] == "edit")  # that its size is not that of training
        read = manifest(written.read_bytes(), "png")
        assert read["validation_state"] == "Valid" and source_type(read) == source
    _, sheet = outputs(run("generate", "a cat", "--grid", *signed, "--out", tmp_path / "sheet"))
    assert manifest(sheet.read_bytes(), "png")["validation_state"] == "Valid"
    key.write_bytes(b"nonsense")
    for command in ("generate", "mix"):
        assert "not a private key" in refused(run(command, "a cat", "a dog", *signed, "--out", tmp_path / "none"))
    assert "--c2pa-certificate and --c2pa-key go together" in refused(run("generate", "a cat", *signed[:4]))
