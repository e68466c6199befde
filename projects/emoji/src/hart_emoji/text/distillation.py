"""Stage `text-encoder`: distils the compact text encoder from a sentence encoder. It keeps nearly the same meanings
with a sixth of the parameters, and is an example of a custom stage for hart's trainer.

The student's [CLS] feature learns the teacher's sentence embedding, and its other features learn the teacher's states
of the same words. The teacher encodes all texts once; training then samples them by weight.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from hart import HartError
from hart.checkpoint import fingerprint
from hart.evaluation import TENSORS, Cache
from hart.files import default_cache
from hart.text_encoder import (
    SPECIAL_PIECES,
    CompactTextEncoder,
    TextEncoderConfig,
    build_tokenizer,
    save_text_encoder,
)
from hart.training import Microbatch, OptimizedModule, Origin, StageRecipe, Task
from hart_emoji.text.corpus import Phrase, build_corpus, read_emoji_words, read_wordnet
from hart_emoji.text.teacher import SentenceTeacher

TARGETS_FOLDER = "targets"
Weight = Annotated[float, Field(ge=0, le=1e9)]


class TextDistillationRecipe(StageRecipe, kw_only=True):
    """One distillation run: the student's sizes, the sources of its words, and how long it trains."""

    stage: ClassVar[str] = "text-encoder"

    encoder: TextEncoderConfig
    teacher: str
    """Folder of a BERT-like sentence encoder (mean pooling), or name of a Python package that has one in `model/`."""
    wordnet: str
    """Folder of the WordNet database files."""
    emoji_packages: str = ""
    """Folder of the npm archives of `emojibase-data` and `emojilib`; empty for the emoji data set's cache."""
    combinations: Annotated[int, Field(ge=1, le=10**6)] = 80_000
    """Number of phrases made from templates."""
    sentence_weight: Weight = 1.0
    token_weight: Weight = 0.5
    relation_weight: Weight = 0.5
    """Weight of matching similarities within the batch."""
    temperature: Annotated[float, Field(gt=0, le=1e9)] = 0.05

    def __post_init__(self) -> None:
        if self.encoder.kind != "compact":
            raise HartError("encoder.kind must be 'compact'")


class DistillationTask(Task):
    """One optimisation step of the student; see `hart.training.Task`."""

    shardable = False

    def __init__(self, recipe: TextDistillationRecipe, folder: Path) -> None:
        """folder: keeps the teacher's features until `remove_targets`. Raises `HartError` for invalid sources."""
        self.recipe = recipe
        self.device = torch.device(recipe.trainer.device)
        self.teacher = SentenceTeacher(recipe.teacher)
        width, size = self.teacher.model.config.hidden_size, recipe.encoder
        if size.output_width != width:
            raise HartError(f"encoder.output_width must be the teacher's {width}, not {size.output_width}")
        rank = {piece: position for position, piece in enumerate(self.teacher.pieces) if piece.isalpha()}
        seed = recipe.trainer.seed
        self.corpus = build_corpus(
            read_emoji_words(Path(recipe.emoji_packages) if recipe.emoji_packages else default_cache()),
            read_wordnet(Path(recipe.wordnet), rank),
            recipe.combinations,
            random.Random(seed),
        )
        if recipe.trainer.batch_size > len(self.corpus):
            raise HartError(f"trainer.batch_size is more than the {len(self.corpus)} phrases: lower it")
        pieces = choose_pieces(self.teacher.tokenizer, self.corpus, size.vocabulary_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.module = CompactTextEncoder(size, build_tokenizer(pieces, size.tokens))
        initialise_token_embedding(self.module, self.teacher)
        self.optimized = {"model": OptimizedModule(self.module.to(self.device), recipe.optimizer)}
        self._kept = folder / TARGETS_FOLDER

    @property
    def sources(self) -> dict[str, Origin]:
        return {
            "teacher": Origin(fingerprint(self.teacher.model), self.recipe.teacher),
            "words": Origin(_digest(self.corpus), f"{len(self.corpus)} phrases"),
        }

    def prepare(self) -> None:
        """Let the teacher encode all phrases, or read its kept features."""
        facts = {name: source.digest for name, source in self.sources.items()}
        kept = Cache(self._kept, TENSORS, facts)
        entry = kept.get(
            kept.key(self.module.tokenizer.to_str()),
            lambda: vars(_make_targets(self.teacher, self.module.tokenizer, self.corpus)),
        )
        self.targets = _Targets(**entry)

    def remove_targets(self) -> None:
        """Remove the teacher's features, which take most of a gigabyte."""
        shutil.rmtree(self._kept, ignore_errors=True)

    def batch(self, microbatch: Microbatch) -> Tensor:
        """Return rows of phrases."""
        generator = microbatch.generator("phrases")
        return microbatch.mine(torch.multinomial(self.targets.weights, microbatch.batch_size, generator=generator))

    def loss(self, name: str, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        recipe, targets = self.recipe, self.targets
        order = batch[targets.lengths[batch].argsort()]
        features, token_losses = [], []
        for chunk in order.chunk(4):  # similar lengths together need little padding
            length = int(targets.lengths[chunk].max())
            mask = torch.arange(length) < targets.lengths[chunk][:, None]
            found = self.module(targets.ids[chunk, :length].to(self.device), mask.to(self.device))
            state_row = targets.state_row[chunk, :length]
            has_target = state_row >= 0
            wanted = targets.states[state_row[has_target]].to(self.device, torch.float32)
            features.append(found[:, 0])
            token_losses.append(1 - F.cosine_similarity(found[has_target.to(self.device)], wanted, dim=-1))
        sentence = F.normalize(torch.cat(features), dim=-1)
        wanted = targets.sentence[targets.sentence_row[order]].to(self.device, torch.float32)
        losses = {
            "sentence": (1 - (sentence * wanted).sum(-1)).mean(),
            "token": torch.cat(token_losses).mean(),
            "relation": F.kl_div(
                F.log_softmax(sentence @ wanted.T / recipe.temperature, dim=-1),
                F.log_softmax(wanted @ wanted.T / recipe.temperature, dim=-1),
                reduction="batchmean",
                log_target=True,
            ),
        }
        total = (
            recipe.sentence_weight * losses["sentence"]
            + recipe.token_weight * losses["token"]
            + recipe.relation_weight * losses["relation"]
        )
        return total, losses

    def save(self, folder: Path, module: nn.Module) -> None:
        assert isinstance(module, CompactTextEncoder)
        save_text_encoder(folder, module)


def choose_pieces(teacher: Tokenizer, corpus: Sequence[Phrase], size: int) -> list[str]:
    """Return `size` pieces: ASCII characters, symbols, and those of the teacher's that the corpus uses most.

    Single characters are included so that words outside the corpus still have pieces.
    """
    plain = [phrase for phrase in corpus if not phrase.meaning]
    counts: defaultdict[str, float] = defaultdict(float)
    for phrase, encoding in zip(plain, teacher.encode_batch([p.text for p in plain]), strict=True):
        for piece in encoding.tokens:
            counts[piece] += phrase.weight
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    inside = ["##" + character for character in characters if character.isalnum()]
    symbols = sorted({c for phrase in corpus if phrase.meaning for c in phrase.text if ord(c) > 0x2000})
    symbols = [c for c in symbols if c not in "\u200d\ufe0f\u20e3" and not 0xE0000 <= ord(c) < 0xE0080]
    chosen = dict.fromkeys([*SPECIAL_PIECES, *characters, *inside, *symbols])
    common = [piece for piece in sorted(counts, key=lambda piece: -counts[piece]) if not piece.startswith("[")]
    by_rank = sorted(teacher.get_vocab().items(), key=lambda item: item[1])
    for piece in [*common, *(piece for piece, _ in by_rank if piece.isalpha() and piece.isascii())]:
        if len(chosen) >= size:
            break
        chosen[piece] = None
    if len(chosen) != size:
        raise HartError(f"vocabulary_size {size}: {len(chosen)} pieces are needed or available; change the size")
    return list(chosen)


@dataclass(frozen=True)
class _Targets:
    """The teacher's features. N phrases, S tokens, T teacher width.

    ids (N, S) and lengths (N,) of the student's tokens; sentence (M, T) and `sentence_row` (N,) into it;
    states (R, T) and `state_row` (N, S) into it, -1 where a token has no target; weights (N,).
    """

    ids: Tensor
    lengths: Tensor
    sentence: Tensor
    sentence_row: Tensor
    states: Tensor
    state_row: Tensor
    weights: Tensor


def _make_targets(teacher: SentenceTeacher, tokenizer: Tokenizer, corpus: Sequence[Phrase]) -> _Targets:
    texts = list(dict.fromkeys(phrase.meaning or phrase.text for phrase in corpus))
    row_of = {text: row for row, text in enumerate(texts)}
    sentence, states, first = teacher.encode_words(texts)
    words = torch.cat([first[1:], torch.tensor([len(states)])]) - first
    sentence_row = torch.tensor([row_of[phrase.meaning or phrase.text] for phrase in corpus])
    encodings = tokenizer.encode_batch([phrase.text for phrase in corpus])
    state_row = torch.full((len(corpus), len(encodings[0].ids)), -1)
    for i, (phrase, encoding) in enumerate(zip(corpus, encodings, strict=True)):
        row = row_of[phrase.meaning or phrase.text]
        for position, word in enumerate(encoding.word_ids):
            if word is None:
                continue
            if phrase.meaning:  # the tokens of a symbol mean its name as a whole
                state_row[i, position] = len(states) + row
            elif word < words[row]:
                state_row[i, position] = first[row] + word
    return _Targets(
        ids=torch.tensor([e.ids for e in encodings]),
        lengths=torch.tensor([sum(e.attention_mask) for e in encodings]),
        sentence=sentence,
        sentence_row=sentence_row,
        states=torch.cat([states, sentence]),
        state_row=state_row,
        weights=torch.tensor([phrase.weight for phrase in corpus]),
    )


@torch.no_grad()
def initialise_token_embedding(student: CompactTextEncoder, teacher: SentenceTeacher) -> None:
    """Initialise the word-piece table with the main directions of the teacher's embedding of each piece alone.

    Synonyms then start close together, even those that training rarely samples. Pieces that the teacher
    does not have keep their usual initial values.
    """
    vocabulary = teacher.tokenizer.get_vocab()
    start, end = vocabulary["[CLS]"], vocabulary["[SEP]"]
    pieces = student.tokenizer.get_vocab()
    known = sorted((row, vocabulary[piece]) for piece, row in pieces.items() if piece in vocabulary)
    ids = torch.tensor([[start, piece, end] for _, piece in known])
    meaning = torch.cat([teacher.states(chunk, torch.ones_like(chunk).bool())[0] for chunk in torch.split(ids, 512)])
    _, _, directions = torch.linalg.svd(meaning - meaning.mean(0), full_matrices=False)
    reduced = meaning @ directions[: student.config.embedding_width].T
    student.token_embedding.weight[[row for row, _ in known]] = reduced / reduced.std()


def _digest(corpus: Sequence[Phrase]) -> str:
    digest = hashlib.sha256()
    for phrase in corpus:
        digest.update(repr((phrase.text, phrase.meaning, phrase.weight)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
