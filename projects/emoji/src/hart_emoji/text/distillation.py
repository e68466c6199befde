"""Distils the compact text encoder from a sentence encoder: nearly the same meanings, a sixth of the parameters.

The student's [CLS] feature learns the teacher's sentence embedding, its other features the teacher's states
of the same words. All texts are encoded by the teacher once; training then draws from them by weight.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from hart.checkpoint.starting import TEXT_ENCODER_CONFIG
from hart.checkpoint.storage import fingerprint
from hart.config import require
from hart.errors import HartError, Stopped
from hart.files import atomic_write, default_cache
from hart.text_encoder.compact import SPECIAL_PIECES, CompactTextEncoder, build_tokenizer
from hart.training.checkpoint import Identity
from hart.training.optimizer import CombinedOptimizer
from hart.training.stopping import StopSignal
from hart.training.task import Origin
from hart_emoji.text.corpus import Phrase, build_corpus, read_emoji_words, read_wordnet
from hart_emoji.text.files import RESUME_FILE, TARGETS_FILE, KeptFiles, check_resume, check_targets
from hart_emoji.text.recipe import TextDistillationRecipe

log = logging.getLogger(__name__)


class SentenceTeacher:
    """A frozen BERT-like sentence encoder: mean of the last states, normalised."""

    def __init__(self, source: str) -> None:
        """Raises `HartError` when `source` is neither a folder nor a package with a model that transformers loads."""
        from transformers import AutoModel
        from transformers import logging as transformers_logging

        folder = _teacher_folder(source)
        transformers_logging.disable_progress_bar()
        try:
            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self.model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
        except Exception as error:  # transformers and tokenizers raise many kinds
            raise HartError(f"{folder}: cannot be loaded as a teacher: {' '.join(str(error).split())}") from None
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(64)

    @property
    def pieces(self) -> list[str]:
        """The vocabulary in id order, which for word pieces is roughly the order of use."""
        vocabulary = self.tokenizer.get_vocab()
        return sorted(vocabulary, key=lambda piece: vocabulary[piece])

    @torch.no_grad()
    def states(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """ids and mask (B, s) -> normalised sentence embeddings (B, T) and last states (B, s, T)."""
        states = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return F.normalize(pooled, dim=-1), states

    def encode(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Normalised sentence embeddings (B, T)."""
        return self.encode_words(texts, batch_size)[0]

    def encode_words(self, texts: Sequence[str], batch_size: int = 256) -> tuple[Tensor, Tensor, Tensor]:
        """Sentence embeddings (B, T) and word states (W, T), both float16, and the first word of each text (B,).

        A word's state is the mean over its pieces; the words of text i follow each other from `first[i]`.
        """
        encodings = self.tokenizer.encode_batch(list(texts))
        words = [max((w for w in e.word_ids if w is not None), default=-1) + 1 for e in encodings]
        first = torch.tensor([0, *words]).cumsum(0)
        width = self.model.config.hidden_size
        sentences = torch.empty(len(texts), width, dtype=torch.float16)
        states = torch.empty(int(first[-1]), width, dtype=torch.float16)
        order = sorted(range(len(texts)), key=lambda i: len(encodings[i].ids))
        for start in range(0, len(order), batch_size):
            chunk = order[start : start + batch_size]
            ids, mask = _pad([encodings[i].ids for i in chunk])
            sentence, state = self.states(ids, mask)
            sentences[chunk] = sentence.half()
            rows, cells = [], []
            for row, i in enumerate(chunk):
                for column, word in enumerate(encodings[i].word_ids):
                    if word is not None:
                        rows.append(int(first[i]) + word)
                        cells.append(row * ids.shape[1] + column)
            unique, inverse, count = torch.tensor(rows).unique(return_inverse=True, return_counts=True)
            sums = torch.zeros(len(unique), width).index_add_(0, inverse, state.flatten(0, 1)[cells])
            states[unique] = (sums / count[:, None]).half()
            if start // batch_size % 100 == 0:
                log.info("teacher: %d of %d texts", start, len(texts))
        return sentences, states, first[:-1]


def _teacher_folder(source: str) -> Path:
    if Path(source).is_dir():
        return Path(source)
    import importlib.util

    spec = importlib.util.find_spec(source) if source.isidentifier() else None
    if spec is None or spec.origin is None:
        raise HartError(f"teacher {source!r}: neither a folder nor an installed package; install it or give a folder")
    return Path(spec.origin).parent / "model"


def _pad(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """ids (B, s) padded with 0, and the mask of real ones."""
    length = max(map(len, sequences))
    ids = torch.tensor([[*s, *[0] * (length - len(s))] for s in sequences])
    lengths = torch.tensor([len(s) for s in sequences])
    return ids, torch.arange(length) < lengths[:, None]


def choose_pieces(teacher: Tokenizer, corpus: Sequence[Phrase], size: int) -> list[str]:
    """A vocabulary of `size` pieces: the teacher's that the corpus uses most, ASCII characters, and symbols.

    With single characters inside, every word that the corpus did not have still has pieces.
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
    """What the teacher says. N phrases, S tokens, T teacher width.

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
def initialise_pieces(student: CompactTextEncoder, teacher: SentenceTeacher) -> None:
    """Starts the word-piece table at the main directions of what the teacher says of each piece alone.

    Synonyms then start beside each other, also those that training rarely draws. Pieces that the teacher
    does not have keep the table's usual start.
    """
    vocabulary = teacher.tokenizer.get_vocab()
    start, end = vocabulary["[CLS]"], vocabulary["[SEP]"]
    pieces = student.tokenizer.get_vocab()
    known = sorted((row, vocabulary[piece]) for piece, row in pieces.items() if piece in vocabulary)
    ids = torch.tensor([[start, piece, end] for _, piece in known])
    meaning = torch.cat([teacher.states(chunk, torch.ones_like(chunk).bool())[0] for chunk in torch.split(ids, 512)])
    _, _, directions = torch.linalg.svd(meaning - meaning.mean(0), full_matrices=False)
    reduced = meaning @ directions[: student.config.embedding_width].T
    student.pieces.weight[[row for row, _ in known]] = reduced / reduced.std()


def distil_step(
    student: CompactTextEncoder, targets: _Targets, rows: Tensor, recipe: TextDistillationRecipe
) -> dict[str, Tensor]:
    """Losses of one batch: `total` and its parts before weighting."""
    order = rows[targets.lengths[rows].argsort()]
    parts = []
    for chunk in order.chunk(4):  # similar lengths together: little padding
        length = int(targets.lengths[chunk].max())
        mask = torch.arange(length) < targets.lengths[chunk][:, None]
        features = student(targets.ids[chunk, :length], mask)
        state_row = targets.state_row[chunk, :length]
        has_target = state_row >= 0
        aligned = F.cosine_similarity(features[has_target], targets.states[state_row[has_target]].float(), dim=-1)
        parts.append((features[:, 0], 1 - aligned))
    sentence = F.normalize(torch.cat([cls for cls, _ in parts]), dim=-1)
    wanted = targets.sentence[targets.sentence_row[order]].float()
    token_loss = torch.cat([token for _, token in parts]).mean()
    sentence_loss = (1 - (sentence * wanted).sum(-1)).mean()
    relation_loss = F.kl_div(
        F.log_softmax(sentence @ wanted.T / recipe.temperature, dim=-1),
        F.log_softmax(wanted @ wanted.T / recipe.temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )
    total = (
        recipe.sentence_weight * sentence_loss
        + recipe.token_weight * token_loss
        + recipe.relation_weight * relation_loss
    )
    return {"total": total, "sentence": sentence_loss, "token": token_loss, "relation": relation_loss}


def distill_text_encoder(
    recipe: TextDistillationRecipe,
    out: Path,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    *,
    accept_changes: bool = False,
) -> CompactTextEncoder:
    """Runs the recipe on the CPU; leaves `word_pieces.json`, `text_encoder.safetensors`, `text_encoder.json` in `out`.

    A run that was interrupted goes on where it last saved when called again; with another recipe, teacher or words it
    raises `HartError`, unless `accept_changes`. Ctrl-C and SIGTERM save after the step in progress and raise `Stopped`.
    Returns the trained encoder, frozen.
    """
    out.mkdir(parents=True, exist_ok=True)
    teacher = SentenceTeacher(recipe.teacher)
    require(
        teacher.model.config.hidden_size == recipe.encoder.output_width,
        f"TextDistillationRecipe.encoder.output_width must be the teacher's {teacher.model.config.hidden_size}",
    )
    rank = {piece: position for position, piece in enumerate(teacher.pieces) if piece.isalpha()}
    corpus = build_corpus(
        read_emoji_words(Path(recipe.emoji_packages) if recipe.emoji_packages else default_cache()),
        read_wordnet(Path(recipe.wordnet), rank),
        recipe.combinations,
        random.Random(recipe.seed),
    )
    require(
        recipe.batch_size <= len(corpus),
        f"TextDistillationRecipe.batch_size {recipe.batch_size} is more than the {len(corpus)} phrases: lower it",
    )
    tokenizer = build_tokenizer(
        choose_pieces(teacher.tokenizer, corpus, recipe.encoder.vocabulary_size), recipe.encoder.tokens
    )
    sources = {
        "teacher": Origin(fingerprint(teacher.model), recipe.teacher),
        "words": Origin(_digest(corpus), f"{len(corpus)} phrases"),
    }
    kept = KeptFiles(out, Identity.of(recipe.stage, recipe, sources), accept_changes=accept_changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        student = CompactTextEncoder(recipe.encoder, tokenizer)
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    generator = torch.Generator().manual_seed(recipe.seed)
    step = 0
    saved = kept.read_resume(lambda state: check_resume(state, student, optimizer, generator, recipe.steps))
    if saved is None:
        initialise_pieces(student, teacher)
    else:
        student.load_state_dict(saved["student"])
        CombinedOptimizer([optimizer]).load_state_dict({"0": saved["optimizer"]})
        generator.set_state(saved["generator"])
        step = saved["step"]
        log.info("going on after step %d", step)
    sizes = (len(corpus), recipe.encoder.tokens, recipe.encoder.vocabulary_size, recipe.encoder.output_width)
    stored = kept.read_targets(lambda state: check_targets(state, *sizes))
    targets = _Targets(**stored["targets"]) if stored else _make_targets(teacher, tokenizer, corpus)
    if not stored:
        kept.write(TARGETS_FILE, {"targets": dataclasses.asdict(targets)})
    log.info("%d phrases, %.2fM parameters", len(corpus), sum(p.numel() for p in student.parameters()) / 1e6)

    student.train()
    stop = StopSignal()
    with stop.heard():
        for done in range(step + 1, recipe.steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _schedule(done - 1, recipe)
            rows = torch.multinomial(targets.weights, recipe.batch_size, replacement=False, generator=generator)
            losses = _take_step(student, optimizer, targets, rows, recipe)
            if on_step is not None:
                on_step(done, losses)
            if done < recipe.steps and (stop.number or done % recipe.save_every == 0):
                state = {"student": student.state_dict(), "optimizer": optimizer.state_dict()}
                kept.write(RESUME_FILE, {**state, "generator": generator.get_state(), "step": done})
                if stop.number:
                    where = f"{out / RESUME_FILE}; the same command goes on from there"
                    raise Stopped(f"stopped after step {done}: it is kept in {where}", stop.number)
    student.save(out)
    text = json.dumps(recipe.encoder.to_dict(), indent=2) + "\n"
    atomic_write(out / TEXT_ENCODER_CONFIG, lambda file: file.write(text.encode()))
    kept.remove()
    return student.eval().requires_grad_(False)


def _take_step(
    student: CompactTextEncoder,
    optimizer: torch.optim.Optimizer,
    targets: _Targets,
    rows: Tensor,
    recipe: TextDistillationRecipe,
) -> dict[str, float]:
    """Learn from one batch; the losses of `distil_step`."""
    losses = distil_step(student, targets, rows, recipe)
    optimizer.zero_grad(set_to_none=True)
    losses["total"].backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimizer.step()
    return {name: loss.item() for name, loss in losses.items()}


def _digest(corpus: Sequence[Phrase]) -> str:
    digest = hashlib.sha256()
    for phrase in corpus:
        digest.update(repr((phrase.text, phrase.meaning, phrase.weight)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _schedule(step: int, recipe: TextDistillationRecipe) -> float:
    """Linear warm-up, then half a cosine down to 0."""
    if step < recipe.warm_up:
        return (step + 1) / recipe.warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)))
