"""The compact encoder with random weights and a tiny vocabulary."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hart.config import ConfigError, TextConditioning, TextEncoderConfig
from hart.errors import HartError
from hart.text_encoder import RandomTextFeatures, load_text_encoder
from hart.text_encoder.compact import SPECIAL_PIECES, CompactTextEncoder, build_tokenizer

TOKENS = 8
LETTERS = string.ascii_lowercase
PIECES = [
    *SPECIAL_PIECES,
    *LETTERS,
    *("##" + letter for letter in LETTERS),
    "cat",
    "red",
    "apple",
    "man",
    "'",
    "\u2605",
]
CONFIG = TextEncoderConfig(
    kind="compact", tokens=TOKENS, vocabulary_size=len(PIECES), embedding_width=8, width=16, depth=2, heads=4,
    output_width=12,
)  # fmt: skip


@pytest.fixture(scope="module")
def encoder() -> CompactTextEncoder:
    torch.manual_seed(0)
    return CompactTextEncoder(CONFIG, build_tokenizer(PIECES, TOKENS)).eval()


def test_shape_and_unit_features(encoder: CompactTextEncoder) -> None:
    context = encoder.encode(["red apple", ""])
    assert context.embeddings.shape == (2, TOKENS, encoder.width) and encoder.width == 12
    assert context.mask.sum(1).tolist() == [3, 1]  # [CLS] and the words
    squares = context.embeddings[context.mask].square().mean(-1)
    torch.testing.assert_close(squares, torch.ones_like(squares), atol=1e-3, rtol=0)


def test_padding_is_zero_and_changes_nothing(encoder: CompactTextEncoder) -> None:
    prompts = ["red apple", "cat", "a cat in a hat"]
    together = encoder.encode(prompts)
    assert not together.embeddings[~together.mask].any()
    for row, prompt in enumerate(prompts):
        torch.testing.assert_close(together.embeddings[row : row + 1], encoder.encode([prompt]).embeddings)
    ids, mask = encoder.tokenize(["cat"])
    with torch.no_grad():
        unpadded = encoder(ids[:, :2], mask[:, :2])
    torch.testing.assert_close(unpadded, together.embeddings[1:2, :2])


def test_long_prompts_are_cut_at_the_end(encoder: CompactTextEncoder) -> None:
    long = encoder.encode(["cat " * 7 + "red apple"])
    assert long.mask.all()
    assert torch.equal(long.embeddings, encoder.encode(["cat " * 7]).embeddings)


def test_case_accents_and_apostrophes_do_not_matter(encoder: CompactTextEncoder) -> None:
    plain = encoder.encode(["red apple man's"])
    assert torch.equal(encoder.encode(["Réd  APPLE man\u2019s"]).embeddings, plain.embeddings)


def test_symbols_are_words_of_their_own(encoder: CompactTextEncoder) -> None:
    star = encoder.tokenizer.token_to_id("\u2605")
    ids, _ = encoder.tokenize(["cat\u2605\u2605"])
    assert ids[0, 2:4].tolist() == [star, star]


@given(st.lists(st.text(max_size=40), min_size=1, max_size=3))
def test_any_unicode_is_encoded(encoder: CompactTextEncoder, prompts: list[str]) -> None:
    context = encoder.encode(prompts)
    assert context.embeddings.shape == (len(prompts), TOKENS, encoder.width)
    assert context.embeddings.isfinite().all() and context.mask[:, 0].all()


def test_one_text_is_no_list_of_prompts(encoder: CompactTextEncoder) -> None:
    for each in (encoder, RandomTextFeatures(TextConditioning(4, 5), seed=0)):
        for read in (each.encode, each.reading):
            with pytest.raises(HartError, match="prompts 'a cat': give a list"):
                read("a cat")


def test_saved_and_loaded_encoders_agree(encoder: CompactTextEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path, torch.float32)
    loaded = load_text_encoder(CONFIG, tmp_path)
    assert torch.equal(loaded.encode(["red apple"]).embeddings, encoder.encode(["red apple"]).embeddings)
    encoder.save(tmp_path)
    half = load_text_encoder(CONFIG, tmp_path).encode(["red apple"]).embeddings
    torch.testing.assert_close(half, encoder.encode(["red apple"]).embeddings, atol=2e-2, rtol=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["text_encoder.safetensors", "word_pieces.json"]
    moved = load_text_encoder(CONFIG, tmp_path).to(torch.device("cpu"), torch.bfloat16)
    assert moved.encode(["cat"]).embeddings.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["text_encoder.safetensors", "word_pieces.json"])
def test_missing_and_broken_files_are_named(encoder: CompactTextEncoder, tmp_path: Path, name: str) -> None:
    encoder.save(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:100])
    with pytest.raises(HartError, match=f"{name}: (not a|is not JSON)"):
        load_text_encoder(CONFIG, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(HartError, match=f"{name}: no such file"):
        load_text_encoder(CONFIG, tmp_path)


def test_weights_of_another_size_are_refused(encoder: CompactTextEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    with pytest.raises(HartError, match="does not fit the configuration"):
        load_text_encoder(CONFIG.replace(depth=3), tmp_path)
    with pytest.raises(HartError, match="word pieces"):
        load_text_encoder(CONFIG.replace(vocabulary_size=5), tmp_path)
    with pytest.raises(HartError, match="folder"):
        load_text_encoder(CONFIG, None)


def test_a_vocabulary_needs_the_special_pieces() -> None:
    with pytest.raises(HartError, match="starts with"):
        build_tokenizer(["cat"], TOKENS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "multiple of heads"),
        ({"output_width": 0}, "output_width"),
        ({"tokens": 0}, "tokens"),
        ({"source": "somewhere"}, "source"),
        ({"kind": "qwen2"}, "source"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CONFIG.replace(**changes)
