"""Distillation and its corpus, on a tiny teacher and tiny sources made here."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import BertConfig, BertModel

from emoji_packages import write_package, write_wordnet
from hart import HartError
from hart.text_encoder import TextEncoderConfig, encoder_module, find_text_encoder, load_text_encoder
from hart.training import StepReport, Stopped, Trainer
from hart_emoji import RECIPES
from hart_emoji.data.build import KEYWORDS, NAMES
from hart_emoji.text.corpus import build_corpus, read_emoji_words, read_wordnet, with_article
from hart_emoji.text.distillation import DistillationTask, TextDistillationRecipe, choose_pieces
from hart_emoji.text.teacher import SentenceTeacher

TEACHER_TEXT = (
    "[PAD] [UNK] [CLS] [SEP] the dog cat puppy red apple a face skin tone dark with and emoji style noto image of "
    "an ##s car ##ness friend in young animal d o g c t p u y r e l f s k i n h w m j b v x z q"
)
TEACHER_PIECES = TEACHER_TEXT.split()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds emoji archives, WordNet files and a teacher."""
    folder = tmp_path_factory.mktemp("sources")
    dog = {"label": "Dog Face", "emoji": "\U0001f436", "tags": ["puppy"], "skins": []}
    dark = {"label": "hand: dark skin tone", "emoji": "\u270b\U0001f3ff"}
    hand = {"label": "hand", "emoji": "\u270b", "skins": [dark]}
    flag = {"label": "regional indicator A", "emoji": "\U0001f1e6"}
    write_package(folder, NAMES, {"en/data.json": [dog, hand, flag]})
    words = {"\U0001f436": ["dog_face", "dog", "a_friend", ":3"]}
    write_package(folder, KEYWORDS, {"dist/emoji-en-US.json": words})
    nouns = (
        "00000001 05 n 02 puppy 0 pup 0 000 | a young dog; loved by all  \n"
        "00000002 18 n 01 Paris 0 000 | a person of that name  \n"
        "00000003 07 n 01 redness 0 000 | the property of being red  \n"
    )
    index = (
        "puppy n 1 0 1 0 00000001  \npup n 1 0 1 0 00000001  \n"
        "paris n 1 0 1 0 00000002  \nredness n 1 0 1 0 00000003  \n"
    )
    more = {"index.adj": "red a 1 0 1 0 00000009  \n", "index.verb": "dog v 1 0 1 0 00000008  \n"}
    write_wordnet(folder, {"data.noun": nouns, "index.noun": index, **more})
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(TEACHER_PIECES)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(TEACHER_PIECES), **sizes)).save_pretrained(folder)
    return folder


def make_recipe(sources: Path, *, steps: int = 6, seed: int = 0, rate: float = 2e-3) -> TextDistillationRecipe:
    encoder = {"kind": "compact", "tokens": 8, "vocabulary_size": 130, "embedding_width": 8, "width": 16, "depth": 1,
               "heads": 2, "output_width": 16}  # fmt: skip
    trainer = {"steps": steps, "batch_size": 16, "ema_decay": 0, "checkpoint_every": 2, "seed": seed}
    optimizer = {"learning_rate": rate, "warmup_steps": 1}
    places = dict.fromkeys(("teacher", "emoji_packages", "wordnet"), str(sources))
    return TextDistillationRecipe.from_dict(
        {"encoder": encoder, "trainer": trainer, "optimizer": optimizer, "combinations": 40, **places}
    )


def distil(recipe: TextDistillationRecipe, out: Path, **options: Any) -> dict[str, Tensor]:
    """Train, and give the weights that were written."""
    Trainer(DistillationTask(recipe, out), recipe, out, **options).run()
    config, folder = find_text_encoder(str(out / "model"), tokens=0, instruction=False)
    encoder = load_text_encoder(config, folder)
    assert encoder.encode(["a red dog"]).embeddings.shape == (1, 8, 16)
    return dict(encoder_module(encoder).state_dict())


def test_emoji_words(sources: Path) -> None:
    words = read_emoji_words(sources)
    assert words.names == ("dog face", "hand")
    assert words.keywords == ("puppy", "dog", "a friend")
    assert ("\u270b\U0001f3ff", "hand: dark skin tone") in words.symbols


def test_wordnet_things_are_common_nouns_that_can_be_drawn(sources: Path) -> None:
    words = read_wordnet(sources, {"puppy": 5, "paris": 1, "redness": 2, "red": 0, "dog": 3})
    assert words.things == ("puppy", "pup")  # the second is not among the known words: rare
    assert words.nouns == ("paris", "redness", "puppy")
    assert words.adjectives == ("red",) and words.verbs == ("dog",)
    assert words.glosses == ("a young dog",)


@pytest.mark.parametrize("name", ["data.noun", "index.noun"])
def test_damaged_wordnet_is_named(sources: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(sources, tmp_path / "wordnet")
    (folder / name).write_text((folder / name).read_text()[:-80])
    with pytest.raises(HartError, match=r"noun: damaged at .* again"):
        read_wordnet(folder, {"puppy": 5})


def test_corpus_is_distinct_weighted_and_repeatable(sources: Path) -> None:
    emoji, wordnet = read_emoji_words(sources), read_wordnet(sources, {"puppy": 5, "red": 0, "dog": 3})
    corpus = build_corpus(emoji, wordnet, 100, random.Random(0))
    assert corpus == build_corpus(emoji, wordnet, 100, random.Random(0))
    assert len({(p.text, p.meaning) for p in corpus}) == len(corpus)
    assert all(p.weight > 0 for p in corpus)
    by_text = {p.text: p for p in corpus}
    assert by_text["\U0001f436"].meaning == "dog face"
    assert {"dog face", "a dog face", "puppy", "a young dog"} <= set(by_text)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("owl", "an owl"), ("dog", "a dog"), ("a dog", "a dog"), ("boots", "boots"), ("glass", "a glass")],
)
def test_articles(name: str, expected: str) -> None:
    assert with_article(name) == expected


def test_pieces_spell_every_ascii_word_and_hold_the_symbols(sources: Path) -> None:
    corpus = build_corpus(read_emoji_words(sources), read_wordnet(sources, {"puppy": 5}), 20, random.Random(0))
    teacher = SentenceTeacher(str(sources)).tokenizer
    pieces = choose_pieces(teacher, corpus, 130)
    assert len(pieces) == 130 and {"z", "##z", "7", "##7", "!", "puppy", "\U0001f436", "\U0001f3ff"} <= set(pieces)
    with pytest.raises(HartError, match="vocabulary_size 50"):
        choose_pieces(teacher, corpus, 50)


def test_teacher_words_are_the_mean_of_their_pieces(sources: Path) -> None:
    teacher = SentenceTeacher(str(sources))
    sentences, states, first = teacher.encode_words(["red dogs", "cat"])
    assert first.tolist() == [0, 2] and len(states) == 3
    ids = torch.tensor([teacher.tokenizer.encode("red dogs").ids])
    sentence, expected = teacher.states(ids, torch.ones_like(ids, dtype=torch.bool))
    torch.testing.assert_close(states[1].float(), expected[0, 2:4].mean(0), atol=1e-2, rtol=0)
    torch.testing.assert_close(sentences[0].float(), sentence[0], atol=1e-3, rtol=0)


def test_distillation_brings_the_student_nearer_and_is_saved(sources: Path, tmp_path: Path) -> None:
    losses: list[float] = []
    distil(make_recipe(sources, steps=60, rate=5e-3), tmp_path,
           on_step=lambda report: losses.append(report.figures["sentence"]))  # fmt: skip
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_an_interrupted_run_ends_as_an_uninterrupted_one(sources: Path, tmp_path: Path) -> None:
    recipe = make_recipe(sources)
    whole = distil(recipe, tmp_path / "whole")

    def stop(report: StepReport) -> None:
        if report.step == 5:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped):
        distil(recipe, tmp_path / "broken", on_step=stop)
    with pytest.raises(HartError, match=r"another recipe: trainer\.seed \(0 there, 1 now\)"):
        distil(make_recipe(sources, seed=1), tmp_path / "broken")
    steps: list[int] = []
    (targets,) = (tmp_path / "broken" / "targets").iterdir()
    written = targets.stat().st_mtime_ns
    resumed = distil(recipe, tmp_path / "broken", on_step=lambda report: steps.append(report.step))
    assert steps == [6] and targets.stat().st_mtime_ns == written
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name
    targets.write_bytes(b"cut off")
    with pytest.raises(HartError, match=r"targets.*delete it, and it is computed again"):
        distil(make_recipe(sources, steps=8), tmp_path / "broken")


def test_another_teacher_is_refused_until_it_is_accepted(sources: Path, tmp_path: Path) -> None:
    shutil.copytree(sources, tmp_path / "sources")
    recipe = make_recipe(tmp_path / "sources", steps=2)
    distil(recipe, tmp_path / "run")
    teacher = BertModel.from_pretrained(tmp_path / "sources")
    with torch.no_grad():
        next(teacher.parameters()).mul_(1.01)
    teacher.save_pretrained(tmp_path / "sources")
    recipe = make_recipe(tmp_path / "sources", steps=4)
    with pytest.raises(HartError, match=r"other data or weights: teacher \(.*go on with --accept-changes"):
        distil(recipe, tmp_path / "run")
    assert distil(recipe, tmp_path / "run", accept_changes=True)


def test_missing_sources_are_named(tmp_path: Path) -> None:
    write_package(tmp_path, NAMES, {"other.json": []})
    with pytest.raises(HartError, match=r"emojibase-data.* has no en/data\.json"):
        read_emoji_words(tmp_path)
    with pytest.raises(HartError, match="wordnet-base"):
        read_wordnet(tmp_path, {})
    with pytest.raises(HartError, match="no_such_teacher"):
        SentenceTeacher("no_such_teacher")
    with pytest.raises(HartError, match="cannot be loaded as a teacher"):
        SentenceTeacher(str(tmp_path))


def test_recipes_are_read_strictly(sources: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    for content, said in (("steps = ", r"recipe\.toml"), ("stepps = 3", "stepps")):
        path.write_text(content)
        with pytest.raises(HartError, match=said):
            TextDistillationRecipe.read(path)
    own = RECIPES / "text_encoder.toml"
    assert TextDistillationRecipe.read(own, ("trainer.steps=3",)).trainer.steps == 3
    recipe = make_recipe(sources)
    with pytest.raises(HartError, match=r"encoder\.kind must be 'compact'"):
        recipe.replace(encoder=TextEncoderConfig(kind="random", tokens=8, output_width=16))
    with pytest.raises(HartError, match="output_width"):
        DistillationTask(recipe.replace(encoder=recipe.encoder.replace(output_width=8)), tmp_path)
    with pytest.raises(HartError, match="batch_size"):
        DistillationTask(recipe.replace(trainer=recipe.trainer.replace(batch_size=10**5)), tmp_path)
