"""Sets encoded once: what is read back is what the encoders give, after any interruption, in any number of parts."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hart.checkpoint.storage import fingerprint
from hart.data.encoded import EncodedLoader, EncodedSet
from hart.data.loader import ImageLoader
from hart.data.opening import open_source
from hart.data.sources import Stream
from hart.data.transforms import ImageTransform, to_signed
from hart.errors import HartError
from hart.text_encoder import (
    CompactTextEncoder,
    KnownWords,
    Reading,
    TextEncoder,
    vocabulary_digest,
)
from hart.text_encoder.known_words import WordReader
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer
from hart.training.encode_options import EncodeOptions
from hart.training.encoding import EncodedSummary, Encoders, encode_dataset
from hart.types import TextContext
from helpers import TEXT_TOKENS, TEXT_WIDTH, random_tensor, randomize, tiny_class_config, tiny_model, tiny_text_config
from image_files import encoded_image, write_captioned_folder, write_numbered_shards, write_tar
from toy_training import tiny_encoders

TRANSFORM = ImageTransform(8)
OPTIONS = EncodeOptions(dtype="float32", shard_size=5, batch_size=3)


@pytest.fixture(scope="module")
def encoders(text_model: Path) -> Encoders:
    return tiny_encoders(text_model)


@pytest.fixture(scope="module")
def captioned_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("set") / "folder"
    write_captioned_folder(path, 12, damaged=(4,))
    return path


def encode(path: Path, encoders: Encoders, folder: Path, kind: Any = None, **changes: Any) -> EncodedSummary:
    options = replace(OPTIONS, max_damaged=0.2, **changes)
    return encode_dataset(open_source(path, kind=kind), TRANSFORM, encoders, folder, "train", options)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("base", [(), (1, 2, 3)])
def test_codes_residuals_and_text_are_those_of_the_encoders(
    base: tuple[int, ...], captioned_images: Path, encoders: Encoders, tmp_path: Path
) -> None:
    tokenizer = HybridTokenizer(encoders.tokenizer.config.replace(base_scales=base)).eval()
    tokenizer.load_state_dict(encoders.tokenizer.state_dict())
    encoders = replace(encoders, tokenizer=tokenizer)
    summary = encode(captioned_images, encoders, tmp_path)
    assert summary == EncodedSummary(images=11, captions=22, damaged=1, finished=True, cut=0)
    data = EncodedSet(tmp_path)
    source = open_source(captioned_images)
    assert len(data) == 11
    assert data.base_scales == base
    with pytest.raises(HartError, match="images without a class number: 11 of 11"):
        data.require_labels()
    kept = [row for row in range(12) if row != 4]
    assert not isinstance(source, Stream)
    samples = [source.read(row) for row in kept]
    image = to_signed(torch.stack([sample.pixels(TRANSFORM) for sample in samples]))
    with torch.inference_mode():
        expected = tokenizer.token_maps(tokenizer.encode(image), coarse=tokenizer.coarse_codes(image))
        batch = data.batch(range(11), [1] * 11)
        maps = encoders.tokenizer.token_maps_from_codes(batch.indices, batch.last_scale_continuous)
        assert encoders.text_encoder is not None
        text = encoders.text_encoder.encode([sample.captions[1] for sample in samples])
    for ours, theirs in zip(maps.indices, expected.indices, strict=True):
        assert torch.equal(ours, theirs)
    torch.testing.assert_close(maps.teacher_forcing_input, expected.teacher_forcing_input)
    torch.testing.assert_close(maps.last_scale_continuous, expected.last_scale_continuous)
    assert batch.text is not None
    torch.testing.assert_close(batch.text.embeddings, text.embeddings)
    assert torch.equal(batch.text.mask, text.mask)


def test_no_gradient_is_kept_for_the_encoders(
    captioned_images: Path, encoders: Encoders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, latents = encoders.tokenizer.encode, list[torch.Tensor]()
    monkeypatch.setattr(encoders.tokenizer, "encode", lambda image: latents.append(own(image)) or latents[-1])
    assert all(weight.requires_grad for weight in encoders.tokenizer.parameters())
    encode(captioned_images, encoders, tmp_path)
    assert latents and not any(latent.requires_grad for latent in latents)


def test_a_run_that_was_stopped_goes_on_and_writes_the_same(
    captioned_images: Path, encoders: Encoders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(captioned_images, encoders, tmp_path / "unbroken")
    broken = tmp_path / "broken"

    class Stop(Exception):
        pass

    def stop(done: int, total: int | None, what: str) -> None:
        raise Stop

    source, options = open_source(captioned_images), replace(OPTIONS, max_damaged=0.2)
    for _ in range(2):
        with pytest.raises(Stop):
            encode_dataset(source, TRANSFORM, encoders, broken, "train", options, stop)
        with pytest.raises(HartError, match="was not finished"):
            EncodedSet(broken)
    (broken / "train-00000.safetensors").write_bytes(b"torn")
    notes: list[str] = []
    encode_dataset(source, TRANSFORM, encoders, broken, "train", options, note=notes.append)
    assert notes == [
        f"{broken}/train-00000.safetensors: damaged, or of an earlier version of this package: encoded again"
    ]
    assert contents(broken) == contents(tmp_path / "unbroken")
    monkeypatch.setattr(encoders.tokenizer, "encode", None)
    moved = tmp_path / "moved"
    shutil.copytree(captioned_images, moved)  # as another machine has it
    assert encode(moved, encoders, broken).finished


def test_a_set_says_which_base_scales_its_codes_come_from(
    captioned_images: Path, encoders: Encoders, tmp_path: Path
) -> None:
    """As many coarse scales of another base size are other codes; a base that is no smaller decides nothing."""
    config = tiny_class_config().tokenizer.replace(scales=(1, 2, 4, 8))

    def encode_with(base: tuple[int, ...]) -> None:
        other = replace(encoders, tokenizer=HybridTokenizer(config.replace(base_scales=base)))
        other.tokenizer.load_state_dict(weights)
        source, options = open_source(captioned_images), replace(OPTIONS, max_damaged=0.2)
        encode_dataset(source, ImageTransform(16), other, tmp_path, "train", options)

    weights = HybridTokenizer(config).state_dict()
    encode_with((1, 2, 4))
    assert EncodedSet(tmp_path).base_scales == (1, 2, 4)
    for other in ((1, 2, 5), ()):
        with pytest.raises(HartError, match="with other encoders or options, or by another version of this package"):
            encode_with(other)
    for path in tmp_path.iterdir():
        path.unlink()
    encode_with((1, 2, 4, 8))
    encode_with(())
    assert EncodedSet(tmp_path).base_scales == ()


def test_parts_and_workers_write_the_same_set(captioned_images: Path, encoders: Encoders, tmp_path: Path) -> None:
    encode(captioned_images, encoders, tmp_path / "one")
    assert not encode(captioned_images, encoders, tmp_path / "two", part="2/2").finished
    with pytest.raises(HartError, match="was not finished"):
        EncodedSet(tmp_path / "two")
    assert encode(captioned_images, encoders, tmp_path / "two", part="1/2", workers=2).finished
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_another_tokenizer_set_or_option_is_not_mixed_in(
    captioned_images: Path, encoders: Encoders, tmp_path: Path
) -> None:
    encode(captioned_images, encoders, tmp_path)
    other = replace(encoders, tokenizer=tiny_model(tiny_text_config(), seed=5)[0])
    words = copy.deepcopy(encoders)
    assert isinstance(words.text_encoder, CompactTextEncoder)
    known = KnownWords.of(["cat"], ("cat",))
    words.text_encoder.reader = WordReader(known, None, words.text_encoder.meanings, tokens=16)
    for changed, options in (
        (other, {}),
        (words, {}),
        (encoders, {"residual": False}),
        (replace(encoders, text_encoder=None), {}),
    ):
        with pytest.raises(HartError, match=r"train-00000.safetensors was made .* empty folder"):
            encode(captioned_images, changed, tmp_path, **options)
    (captioned_images / "train" / "0001.txt").write_text("another caption")
    with pytest.raises(HartError, match=r"train-00000.safetensors was made from another set"):
        encode(captioned_images, encoders, tmp_path)
    (captioned_images / "train" / "0001.txt").write_text("first of 1\nsecond of 1\n")
    (tmp_path / "holiday.png").write_bytes(b"")
    with pytest.raises(HartError, match=r"holds other files \(holiday\.png\)"):
        encode(captioned_images, encoders, tmp_path)
    data = EncodedSet(tmp_path)
    ours, theirs = (fingerprint(one.tokenizer, HybridTokenizer.DECODING) for one in (encoders, other))
    text_encoder = encoders.text_encoder
    assert isinstance(text_encoder, CompactTextEncoder)
    data.require_made_by(tokenizer=ours, text_encoder=fingerprint(text_encoder))
    with pytest.raises(HartError, match="another tokenizer"):
        data.require_made_by(tokenizer=theirs)
    with pytest.raises(HartError, match="another text encoder"):
        data.require_made_by(text_encoder="")
    data.require_made_by(vocabulary=vocabulary_digest(text_encoder))
    with pytest.raises(HartError, match="another vocabulary"):
        data.require_made_by(vocabulary=vocabulary_digest(words.text_encoder))


def test_a_set_belongs_to_what_made_its_codes(captioned_images: Path, encoders: Encoders, tmp_path: Path) -> None:
    """Not to the decoder."""
    encode(captioned_images, encoders, tmp_path / "one")
    before = contents(tmp_path / "one")
    trained, other = copy.deepcopy(encoders.tokenizer), copy.deepcopy(encoders.tokenizer)
    for part in (trained.decoder, trained.post_quant_conv, other.encoder):
        randomize(part, seed=7)
    encode(captioned_images, replace(encoders, tokenizer=trained), tmp_path / "one")
    assert contents(tmp_path / "one") == before
    for name, tokenizer in (("two", trained), ("three", other)):
        encode(captioned_images, replace(encoders, tokenizer=tokenizer), tmp_path / name)
    assert len(EncodedSet(tmp_path / "one", also=[tmp_path / "two"])) == 2 * len(EncodedSet(tmp_path / "one"))
    with pytest.raises(HartError, match=r"three differs from .*one in tokenizer: encode both in the same way"):
        EncodedSet(tmp_path / "one", also=[tmp_path / "three"])


def test_a_stream_gives_a_shard_for_each_of_its_units(encoders: Encoders, tmp_path: Path) -> None:
    write_numbered_shards(tmp_path, shards=3, each=4, damaged=(5,))
    summary = encode(tmp_path, encoders, tmp_path / "stream", "stream", workers=1)
    assert (summary.images, summary.damaged, summary.finished) == (11, 1, True)
    assert len(list((tmp_path / "stream").glob("*.safetensors"))) == 3
    encode(tmp_path, encoders, tmp_path / "rows", "shards")
    stream, rows = EncodedSet(tmp_path / "stream"), EncodedSet(tmp_path / "rows")
    assert all(torch.equal(stream.codes(row), rows.codes(row)) for row in range(11))


def test_batches_follow_the_order_of_the_images_over_ranks_and_workers(encoders: Encoders, tmp_path: Path) -> None:
    write_captioned_folder(tmp_path / "set", 12)
    encode(tmp_path / "set", encoders, tmp_path / "codes")
    data = EncodedSet(tmp_path / "codes")
    images = ImageLoader(open_source(tmp_path / "set"), TRANSFORM, batch_size=4, seed=7, condition="caption")
    whole = EncodedLoader(data, batch_size=4, seed=7)
    ranks = [EncodedLoader(data, batch_size=4, seed=7, rank=rank, world=2, workers=rank) for rank in range(2)]
    for step in (0, 1, 5):
        batch = whole.batch(step)
        with torch.inference_mode():
            live = encoders.tokenizer.quantize(encoders.tokenizer.encode(images.batch(step).signed()))
            assert encoders.text_encoder is not None
            text = encoders.text_encoder.encode(images.batch(step).captions)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(batch.indices, live.indices, strict=True))
        assert batch.text is not None
        torch.testing.assert_close(batch.text.embeddings, text.embeddings)
        parts = [rank.batch(step) for rank in ranks]
        assert torch.equal(torch.cat([part.indices[-1] for part in parts]), batch.indices[-1])
        assert torch.equal(ranks[1].rows(step, slice(3, 4)).indices[-1], batch.indices[-1][3:])


def test_classes_without_text_and_codes_without_residual(encoders: Encoders, tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / "set" / "train" / name).mkdir(parents=True)
        (tmp_path / "set" / "train" / name / "x.png").write_bytes(encoded_image("red"))
    tokenizer = tiny_model(tiny_class_config())[0]
    plain = replace(encoders, tokenizer=tokenizer, text_encoder=None)
    encode(tmp_path / "set", plain, tmp_path / "codes", residual=False, dtype="float16")
    batch = EncodedSet(tmp_path / "codes").batch([0, 1], [0, 0])
    assert batch.labels.tolist() == [0, 1]
    assert batch.text is None and batch.last_scale_continuous is None
    maps = tokenizer.token_maps_from_codes(batch.indices)
    assert torch.equal(maps.last_scale_continuous, tokenizer.quantizer.codebook(maps.indices[-1]))


def test_captions_need_a_text_encoder(captioned_images: Path, encoders: Encoders, tmp_path: Path) -> None:
    with pytest.raises(HartError, match=r"no image has a class number.*give --text-encoder"):
        encode(captioned_images, replace(encoders, text_encoder=None), tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


class FeaturedPadding:
    """An encoder whose padding has features, as language models have."""

    def __init__(self, encoder: TextEncoder, factor: float = 1) -> None:
        self.config = encoder.config
        self.model = encoder
        self.width = encoder.width
        self.factor = factor

    def reading(self, prompts: list[str]) -> list[Reading]:
        return [Reading() for _ in prompts]

    def encode(self, prompts: list[str]) -> TextContext:
        features = random_tensor(len(prompts), TEXT_TOKENS, TEXT_WIDTH) * self.factor
        return TextContext(features, torch.arange(TEXT_TOKENS).expand(len(prompts), -1) >= 2)


def test_features_of_padding_are_kept_and_those_out_of_range_refused(
    captioned_images: Path, encoders: Encoders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hart.training.encoding.encoder_module", lambda encoder: encoder.model)
    assert encoders.text_encoder is not None
    padded: Any = FeaturedPadding(encoders.text_encoder)
    encode(captioned_images, replace(encoders, text_encoder=padded), tmp_path / "a", batch_size=1)
    text = EncodedSet(tmp_path / "a").text(3, 0)
    torch.testing.assert_close(text.embeddings, random_tensor(1, TEXT_TOKENS, TEXT_WIDTH))
    assert text.mask.tolist() == [[False, False] + [True] * (TEXT_TOKENS - 2)]
    loud: Any = FeaturedPadding(encoders.text_encoder, 1e6)
    with pytest.raises(HartError, match="not finite in float16"):
        encode(captioned_images, replace(encoders, text_encoder=loud), tmp_path / "b", dtype="float16")


def test_faults_of_a_set_are_said(captioned_images: Path, encoders: Encoders, tmp_path: Path) -> None:
    with pytest.raises(HartError, match="run hart data encode"):
        EncodedSet(tmp_path)
    options = replace(OPTIONS, max_damaged=0.05)
    with pytest.raises(HartError, match="more than 5% of the images are damaged, 1 of 12"):
        encode_dataset(open_source(captioned_images), TRANSFORM, encoders, tmp_path / "bad", "train", options)
    with pytest.raises(HartError, match="random crops"):
        encode_dataset(
            open_source(captioned_images), ImageTransform(8, flip=0.5), encoders, tmp_path / "bad", "train", options
        )
    write_tar(tmp_path / "empty.tar", {})
    empty = open_source(tmp_path / "empty.tar", kind="stream")
    with pytest.raises(HartError, match=r"empty\.tar: no image in it could be encoded"):
        encode_dataset(empty, TRANSFORM, encoders, tmp_path / "none", "train", options)
    assert not (tmp_path / "none" / "train.json").exists()
    encode(captioned_images, encoders, tmp_path / "good")
    (tmp_path / "good" / "train-00001.safetensors").unlink()
    with pytest.raises(HartError, match=r"missing shards: train-00001.safetensors"):
        EncodedSet(tmp_path / "good")
