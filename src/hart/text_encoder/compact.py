"""The text encoder of this project: a few million parameters, shipped with the model that uses it.

Word pieces -> factorised embedding + learned positions -> small bidirectional transformer -> text features.
The first token, [CLS], carries the meaning of the whole prompt; `projects/emoji` trains such an encoder.

Shapes: B prompts, S text tokens, D width, E output width.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Encoding, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from torch.nn import functional as F

from hart.checkpoint.folders import TEXT_ENCODER_FILE
from hart.checkpoint.storage import fill_module, save_module
from hart.config import TextEncoderConfig
from hart.devices import without_memory
from hart.errors import HartError
from hart.files import read_text, write_text
from hart.strict import reason
from hart.text_encoder.base import Reading, listed
from hart.text_encoder.emoji import named_emoji
from hart.text_encoder.known_words import KnownWords, Replaced, Thesaurus, WordReader
from hart.types import TextContext

PADDING, UNKNOWN, START = "[PAD]", "[UNK]", "[CLS]"
SPECIAL_PIECES = (PADDING, UNKNOWN, START)
PIECES_FILE = "word_pieces.json"
MEANINGS_BATCH = 256
USUAL = str.maketrans({"\u200b": " ", "\u2010": "-", "\u2013": " - ", "\u2014": " - ", "\u2015": " - "})
"""Maps zero-width spaces and dashes to what captions have in their place."""
_APOSTROPHE = re.compile(r"(?<=\w)\u2019(?=\w)")
"""An apostrophe; elsewhere this character is a quotation mark."""


def build_tokenizer(pieces: Sequence[str], tokens: int) -> Tokenizer:
    """Return a lower-casing word-piece tokenizer that puts [CLS] first and always returns `tokens` ids.

    pieces: the vocabulary in id order, starting with `SPECIAL_PIECES`; "##" marks a piece inside a word.
    Symbols such as emoji are separate words, even without spaces between them.
    """
    if tuple(pieces[: len(SPECIAL_PIECES)]) != SPECIAL_PIECES or len(set(pieces)) != len(pieces):
        raise HartError(f"a vocabulary holds distinct pieces and starts with {', '.join(SPECIAL_PIECES)}")
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace("\u2019", "'"), normalizers.BertNormalizer(lowercase=True, strip_accents=True)]
    )
    symbols = pre_tokenizers.Split(Regex(r"[\p{So}\p{Sk}]"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), symbols])
    tokenizer.post_processor = TemplateProcessing(single=f"{START} $A", special_tokens=[(START, vocabulary[START])])
    tokenizer.enable_truncation(tokens)
    tokenizer.enable_padding(pad_id=vocabulary[PADDING], pad_token=PADDING, length=tokens)
    return tokenizer


class _Block(nn.Module):
    """Pre-norm self-attention and MLP; padding is never attended to."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))  # (B, S, 3, heads, D / heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        x = x + self.projection(attended.transpose(1, 2).flatten(-2))
        x = x + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x))))
        return x


class CompactTextEncoder(nn.Module):
    """A small bidirectional transformer over word pieces.

    Every real token's feature has unit root mean square; padding is zero, so that features do not depend on the amount
    of padding.
    """

    def __init__(
        self,
        config: TextEncoderConfig,
        tokenizer: Tokenizer,
        known: KnownWords | None = None,
        thesaurus: Thesaurus | None = None,
    ) -> None:
        """known: words that are read as they are, others as names; by default all are. thesaurus: names for some of the
        others; words that it lacks are read as the nearest name.

        Raises `HartError` if the tokenizer's vocabulary does not have the configured size.
        """
        super().__init__()
        if tokenizer.get_vocab_size() != config.vocabulary_size:
            raise HartError(
                f"the tokenizer has {tokenizer.get_vocab_size()} word pieces and the configuration says "
                f"{config.vocabulary_size}; use the word_pieces.json that was saved with the weights"
            )
        self.config = config
        self.tokenizer = tokenizer
        self.reader = None if known is None else WordReader(known, thesaurus, self.meanings, config.tokens)
        self.token_embedding = nn.Embedding(config.vocabulary_size, config.embedding_width)
        self.embed_proj = nn.Linear(config.embedding_width, config.width)
        self.positions = nn.Parameter(nn.init.normal_(torch.empty(config.tokens, config.width), std=0.02))
        self.blocks = nn.ModuleList(_Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.output = nn.Linear(config.width, config.output_width)

    @property
    def width(self) -> int:
        """Return E, the width of a token's feature."""
        return self.config.output_width

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids (B, S) int64 and mask (B, S) bool, true for real tokens, on the encoder's device.

        Emoji are read as their names, see `hart.text_encoder.emoji`, and unknown words as known ones.
        """
        return self._pieces([self._as_read(prompt)[0] for prompt in listed(prompts)])

    def _as_read(self, prompt: str) -> tuple[str, list[Replaced]]:
        """Return the text to be tokenized, and its unknown words."""
        text = _in_usual_characters(named_emoji(prompt))
        return (text, []) if self.reader is None else self.reader(text)

    def _pieces(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        encodings = self.tokenizer.encode_batch(list(texts))
        device = self.positions.device
        ids = torch.tensor([e.ids for e in encodings], dtype=torch.long, device=device)
        mask = torch.tensor([e.attention_mask for e in encodings], dtype=torch.bool, device=device)
        return ids.view(-1, self.config.tokens), mask.view(-1, self.config.tokens)

    @torch.no_grad()
    def meanings(self, texts: Sequence[str]) -> Tensor:
        """Return (B, E), the [CLS] features of texts whose words are all read as they are."""
        parts = []
        for at in range(0, len(texts), MEANINGS_BATCH):
            ids, mask = self._pieces(texts[at : at + MEANINGS_BATCH])
            longest = int(mask.sum(dim=1).max())
            parts.append(self(ids[:, :longest], mask[:, :longest])[:, 0])
        return torch.cat(parts)

    def reading(self, prompts: Sequence[str]) -> list[Reading]:
        """See `TextEncoder.reading`."""
        texts = [self._as_read(prompt) for prompt in listed(prompts)]
        encodings = self.tokenizer.encode_batch([text for text, _ in texts])
        known = None if self.reader is None else self.reader.known
        return [_reading(*text, read, known) for text, read in zip(texts, encodings, strict=True)]

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Map ids and mask (B, s) with s <= S to features (B, s, E)."""
        x = self.embed_proj(self.token_embedding(ids)) + self.positions[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, mask)
        features = F.rms_norm(self.output(self.norm(x)), (self.width,), eps=1e-6)
        return features * mask[..., None]

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TextContext:
        """Return features of B prompts; see `TextEncoder.encode`."""
        ids, mask = self.tokenize(prompts)
        return TextContext(self(ids, mask), mask)

    def save(self, folder: Path, dtype: torch.dtype | None = torch.float16, *, adapted: bool = False) -> None:
        """Write `word_pieces.json`, `text_encoder.safetensors` and, if there is one, the list of known words; each
        appears whole or not at all.

        dtype: how weights are stored, None as they are. adapted: whether the model beside it has learned captions that
        may have had other words.
        """
        write_text(folder / PIECES_FILE, self.tokenizer.to_str(pretty=True))
        save_module(folder / TEXT_ENCODER_FILE, self, dtype)
        if self.reader is not None:
            known = self.reader.known
            (replace(known, complete=False) if adapted else known).save(folder)
            if self.reader.thesaurus is not None:
                self.reader.thesaurus.save(folder)

    @classmethod
    def load(cls, config: TextEncoderConfig, folder: Path) -> CompactTextEncoder:
        """Read what `save` wrote, in float32. Raises `HartError` naming the file that does not fit."""
        tokenizer = _read_tokenizer(folder / PIECES_FILE, config.tokens)
        known = KnownWords.load(folder)
        with without_memory():
            encoder = cls(config, tokenizer, known, Thesaurus.load(folder))
        fill_module(encoder, folder / TEXT_ENCODER_FILE, torch.float32)
        return encoder.eval().requires_grad_(False)


def _in_usual_characters(text: str) -> str:
    """Convert text to the usual characters of captions: full-width letters, ligatures, dashes, dots and apostrophes.
    Invisible characters, such as a soft hyphen or a form feed, do not split a word or join two either, as they
    otherwise would in the tokenizer."""
    usual = _APOSTROPHE.sub("'", unicodedata.normalize("NFKC", text).translate(USUAL))
    kinds = ((character, unicodedata.category(character)) for character in usual)
    return "".join(" " if kind == "Cc" else character for character, kind in kinds if kind != "Cf")


def _reading(text: str, replaced: list[Replaced], read: Encoding, known: KnownWords | None) -> Reading:
    """Return how `text`, with its emoji named and words replaced, was read: from its tokens and those cut off."""
    end = len(text)
    if read.overflowing:
        cut = read.overflowing[0]
        places = zip(cut.offsets, cut.word_ids, strict=True)
        start, word = next((at, word) for (at, _), word in places if word is not None)
        # a word that was read in part counts as left out, and so do others that one stands for
        end = next((at for (at, _), own in zip(read.offsets, read.word_ids, strict=True) if own == word), start)
        end = next((words.start for words in replaced if words.start < end < words.end), end)
    tokens = zip(read.tokens, read.offsets, strict=True)
    unknown = (text[first:last] for token, (first, last) in tokens if token == UNKNOWN and first < end)
    # without punctuation and control characters
    named = (word for word in unknown if any(unicodedata.category(character)[0] not in "PZC" for character in word))
    complete = known is not None and known.complete  # otherwise a word without a name may be known
    others = {words.said: words.name for words in replaced if words.start < end and (words.name or complete)}
    parts = known.parts_in(text[:end]) if known is not None and complete else {}
    return Reading(_as_written(text, replaced, end), tuple(dict.fromkeys(named)), others, parts)


def _as_written(text: str, replaced: list[Replaced], start: int) -> str:
    """Return the rest of a text with the original words in place of their replacements."""
    written = ""
    for words in replaced:
        if words.start >= start:
            written += text[start : words.start] + words.said
            start = words.end
    return (written + text[start:]).strip()


def _read_tokenizer(path: Path, tokens: int) -> Tokenizer:
    """Return `build_tokenizer` of a file's vocabulary. Raises `HartError` if the file's own tokenizer would differ."""
    text = read_text(path)
    try:
        stored = Tokenizer.from_str(text)
        vocabulary = stored.get_vocab()
        tokenizer = build_tokenizer(sorted(vocabulary, key=vocabulary.__getitem__), tokens)
    except HartError as error:
        raise HartError(f"{path}: {error}") from None
    except Exception as error:  # tokenizers raises plain Exception for every error
        raise HartError(f"{path}: not a tokenizer file: {reason(error)}") from None
    # the configuration decides how long prompts may be
    lengths = {"truncation": None, "padding": None}
    if json.loads(stored.to_str()) | lengths != json.loads(tokenizer.to_str()) | lengths:
        raise HartError(f"{path}: it cuts words differently from the text encoders that this version of hart writes")
    return tokenizer
