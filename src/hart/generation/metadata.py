"""What a generated image records about itself: PNG text chunks from which it can be generated again.

Chunks: `prompt`, `seed`, `model`, `settings` (JSON), `Software` ("hart" and its version), and XMP, by which programs
that know IPTC's vocabulary recognise a generated image. A contact sheet has `images` in place of the first two: a JSON
list of objects with prompt and seed.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

from PIL import Image, PngImagePlugin

from hart.config import MAX_SEED, CacheType, SamplingConfig
from hart.data.images import open_image
from hart.errors import HartError
from hart.files import atomic_write, parse_json
from hart.generation.signing import ContentCredentials
from hart.strict import Config, Listed, printable, shown

SOFTWARE = "hart"


class BatchPlace(Config):
    """The batch that an image was generated in, which affects how its values are rounded.

    prompts: of all images in the batch; seed: the first one; row: this image's position.
    """

    prompts: Listed[str]
    seed: int
    row: int


class EditSource(Config):
    """The files that an image was edited from, by name and digest; their content is not recorded.

    The same command on the same files reproduces the image.
    """

    image: str
    image_sha256: str
    mask: str | None = None
    mask_sha256: str | None = None
    source_prompt: str | None = None
    kept_scales: int = 0
    followed_scales: int = 0
    style_strength: float = 0.0
    style: str | None = None
    style_sha256: str | None = None


class MixSettings(Config):
    """The second prompt of an image, and its share at each scale."""

    prompt: str
    weights: Listed[float]


class ImageSettings(Config):
    """Everything that determines an image besides prompt, seed and model. Decoding in strips and offloading the text
    encoder are not included: they depend on the machine, and are chosen anew when the image is made again."""

    sampling: SamplingConfig
    size: int | str
    """Size in pixels: a number for a square, else e.g. `192x128`, width x height."""
    device: str
    dtype: str
    speed: str | None = None
    """The values of `hart generate --speed` and `--cache`."""
    cache: CacheType | None = None
    negative_prompt: str | None = None
    random_weights: bool = False
    """Whether random weights stood in for the model's."""
    loras: Listed[str] = ()
    """Folders of the merged adapters, all at strength `lora_scale`."""
    lora_scale: float = 1.0
    batch: BatchPlace | None = None
    """None: generated alone."""
    edit: EditSource | None = None
    mix: MixSettings | None = None


@dataclass(frozen=True)
class ImageRecord:
    """The origin of one image. prompt: the text, or the class number in digits; version: of hart."""

    prompt: str
    seed: int
    model: str
    settings: ImageSettings
    version: str

    @property
    def digital_source(self) -> str:
        """Digital source type in IPTC's vocabulary: whether a model made the whole image or changed another."""
        kind = "trainedAlgorithmicMedia" if self.settings.edit is None else "compositeWithTrainedAlgorithmicMedia"
        return f"http://cv.iptc.org/newscodes/digitalsourcetype/{kind}"


XMP_CHUNK = "XML:com.adobe.xmp"


def xmp(record: ImageRecord) -> str:
    """Return XMP that states, by IPTC's digital source type, that a model made the image, and which."""
    attributes = {
        "rdf:about": "",
        "xmlns:xmp": "http://ns.adobe.com/xap/1.0/",
        "xmlns:Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
        "xmp:CreatorTool": f"{SOFTWARE} {record.version}",
        "Iptc4xmpExt:DigitalSourceType": record.digital_source,
        "Iptc4xmpExt:AISystemUsed": printable(record.model),
    }
    said = " ".join(f"{name}={quoteattr(value)}" for name, value in attributes.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description {said}/></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    )


def is_image_name(path: Path) -> bool:
    """Return whether a file name has the suffix of an image format that Pillow knows."""
    return path.suffix.lower() in Image.registered_extensions()


def write_image(
    path: Path,
    image: Image.Image,
    record: ImageRecord,
    credentials: ContentCredentials | None = None,
    chunks: PngImagePlugin.PngInfo | None = None,
) -> None:
    """Write a new PNG with the image's record, signed if credentials are given; the file appears whole or not at all.

    chunks: replace those that hold the record. Raises `FileExistsError` if the file exists, `SigningFailed`.
    """
    content = io.BytesIO()
    image.save(content, "PNG", pnginfo=png_chunks(record) if chunks is None else chunks)
    written = content.getvalue()
    if credentials is not None:
        written = credentials.signed(written, "png", record)
    atomic_write(path, lambda file: file.write(written), overwrite=False)


def write_sheet(
    path: Path, sheet: Image.Image, records: Sequence[ImageRecord], credentials: ContentCredentials | None = None
) -> None:
    """Write a contact sheet like `write_image`; the records of its images differ only in prompt and seed."""
    first = records[0]
    images = [{"prompt": record.prompt, "seed": record.seed} for record in records]
    chunks = _chunks({"images": json.dumps(images, ensure_ascii=False)}, first, first.settings.replace(batch=None))
    write_image(path, sheet, first, credentials, chunks)


def png_chunks(record: ImageRecord) -> PngImagePlugin.PngInfo:
    """Return the PNG chunks that hold a record."""
    return _chunks({"prompt": record.prompt, "seed": str(record.seed)}, record, record.settings)


def _chunks(which: dict[str, str], record: ImageRecord, settings: ImageSettings) -> PngImagePlugin.PngInfo:
    """which: the chunks that distinguish images of the same model and settings."""
    chunks = PngImagePlugin.PngInfo()
    texts = {
        **which,
        "model": record.model,
        "settings": json.dumps(settings.to_dict(), ensure_ascii=False),
        "Software": f"{SOFTWARE} {record.version}",
    }
    for name, text in texts.items():
        # folder names may contain bytes that are not UTF-8
        chunks.add_text(name, text.encode("utf-8", "backslashreplace").decode())
    chunks.add_itxt(XMP_CHUNK, xmp(record))
    return chunks


def save_png(path: Path, image: Image.Image, *, overwrite: bool = True) -> None:
    """Save `image` without a record; the file appears whole or not at all.

    overwrite: if False, raises `FileExistsError` if the file exists.
    """
    atomic_write(path, lambda file: image.save(file, "PNG"), overwrite=overwrite)


def read_record(path: Path) -> ImageRecord:
    """Read the record of an image that `write_image` saved. Raises `HartError` for any other file."""
    return read_image(path)[0]


def read_image(path: Path) -> tuple[ImageRecord, Image.Image]:
    """Read the record and the image itself; see `read_record`."""
    image = open_image(path)
    if not isinstance(image, PngImagePlugin.PngImageFile):
        raise HartError(f"{path}: is {image.format}: only PNG files hold settings (from a server: output_format png)")
    chunks = image.text
    if "images" in chunks:
        raise HartError(f"{path}: is a contact sheet: give one of its images")
    if missing := [name for name in ("prompt", "seed", "model", "settings", "Software") if name not in chunks]:
        raise HartError(
            f"{path}: lacks {', '.join(missing)}: not generated by hart, or its PNG text chunks were removed"
        )
    if not re.fullmatch("[0-9]{1,19}", chunks["seed"]) or int(chunks["seed"]) > MAX_SEED:
        raise HartError(f"{path}: its seed is {shown(chunks['seed'])}: seeds go from 0 to {MAX_SEED}")
    try:
        settings = ImageSettings.from_dict(parse_json(chunks["settings"].encode(), "their JSON"))
    except HartError as error:
        raise HartError(f"{path}: its settings cannot be read: {error}") from None
    record = ImageRecord(
        prompt=chunks["prompt"],
        seed=int(chunks["seed"]),
        model=chunks["model"],
        settings=settings,
        version=chunks["Software"].removeprefix(f"{SOFTWARE} "),
    )
    return record, image
