"""Conditions of the transformer, text or class, from a recipe to a model that generates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from hart.checkpoint.loading import load_model, save_model, save_tokenizer
from hart.checkpoint.lora import add_lora
from hart.config import ConfigError, ResidualDiffusionConfig, TextConditioning, TextEncoderConfig
from hart.data.datasets import CaptionedImages
from hart.errors import HartError, PromptWarning
from hart.model import Hart
from hart.pipeline import HartPipeline
from hart.text_encoder import KnownWords, find_text_encoder
from hart.training.conditions import drop_condition, open_caption_encoder
from hart.training.config import LoraConfig, TransformerRecipe
from hart.training.dry_run import RehearsedTransformer, at_its_largest
from hart.training.task import Microbatch
from hart.training.trainer import Trainer
from hart.training.transformer_task import TransformerTask, start_from, starting_model
from hart.types import ClassContext, TextContext
from helpers import CLASSES, TEXT_TOKENS, TEXT_WIDTH, captioned_images, tiny_class_config, tiny_model, tiny_text_config
from helpers import transformer_recipe as recipe
from language_models import WIDTH as LANGUAGE_WIDTH
from language_models import save_language_model
from models import save_tiny_text_model

CPU = torch.device("cpu")
MICROBATCH = Microbatch(0, 0, 2, slice(0, 2))


def labelled(*labels: int) -> CaptionedImages:
    data = captioned_images(len(labels))
    count = len(labels)
    return CaptionedImages(data.pixels, ((),) * count, data.weights, data.records, labels=torch.tensor(labels))


def saved_tokenizer(folder: Path) -> str:
    save_tokenizer(folder, tiny_model(tiny_text_config())[0])
    return str(folder)


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> set[str]:
    assert first.keys() == second.keys()
    return {name for name in first if not torch.equal(first[name], second[name])}


def test_dropped_classes_become_the_class_for_none() -> None:
    given = ClassContext(torch.tensor([0, 3, 5]), CLASSES)
    result = drop_condition(given, torch.tensor([False, True, False]))
    assert isinstance(result, ClassContext)
    assert result.labels.tolist() == [0, CLASSES, 5]
    assert given.labels.tolist() == [0, 3, 5]


def test_a_recipe_has_the_text_encoder_that_its_condition_needs() -> None:
    with pytest.raises(ConfigError, match="text_encoder is missing"):
        recipe(tiny_text_config(), text_encoder="")
    with pytest.raises(ConfigError, match="for text-conditional models"):
        recipe(tiny_class_config(), text_encoder="somewhere")
    with pytest.raises(ConfigError, match="name it in init_from"):
        recipe(tiny_text_config(), lora=LoraConfig(2, 2))


def test_a_language_model_s_folder_is_a_text_encoder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    expected = TextEncoderConfig("qwen2", tokens=7, source=str(tmp_path.resolve()), instruction=True)
    assert find_text_encoder(str(tmp_path), tokens=7, instruction=True) == (expected, None)
    hub = TextEncoderConfig("qwen2", tokens=7, source="someone/qwen", instruction=False)
    assert find_text_encoder("someone/qwen", tokens=7, instruction=False) == (hub, None)


def test_a_model_s_own_text_encoder_keeps_its_settings(text_model: Path, tmp_path: Path) -> None:
    texts = open_caption_encoder(recipe(tiny_text_config(), text_encoder=str(text_model)), CPU)
    assert texts is not None
    assert texts.context(("a cat",)).embeddings.shape == (1, TEXT_TOKENS, TEXT_WIDTH)
    with pytest.raises(ConfigError, match="text_instruction = false"):
        find_text_encoder(str(text_model), tokens=TEXT_TOKENS, instruction=True)
    (tmp_path / "empty").mkdir()
    saved_tokenizer(tmp_path / "tokenizer")
    for name, message in {"empty": "no model here", "tokenizer": "holds a tokenizer alone"}.items():
        with pytest.raises(HartError, match=message):
            find_text_encoder(str(tmp_path / name), tokens=TEXT_TOKENS, instruction=False)


@pytest.mark.parametrize("hybrid", [True, False], ids=["hybrid", "discrete"])
def test_classes_train_a_model_that_generates_them(tmp_path: Path, hybrid: bool) -> None:
    config = tiny_class_config().replace(diffusion=ResidualDiffusionConfig(width=16, depth=1) if hybrid else None)
    given = recipe(config, tokenizer=saved_tokenizer(tmp_path / "tokenizer"), condition_dropout=0.0)
    task = TransformerTask(given, labelled(4, 4, 4))
    context = task.batch(MICROBATCH).context
    assert isinstance(context, ClassContext)
    assert context.labels.tolist() == [4, 4]
    Trainer(task, given, tmp_path / "run").run()
    assert task.samples(1, task.module)["generated"]
    pipe = HartPipeline.from_pretrained(str(tmp_path / "run" / "model"), device="cpu")
    assert pipe.config.hybrid is hybrid
    assert len(pipe([4, 0]).images) == 2
    with pytest.raises(HartError, match="images without a class number: 1 of 2"):
        TransformerTask(given, labelled(1, -1))


def test_the_discrete_ablation_trains_from_captions_and_draws(tmp_path: Path) -> None:
    config = tiny_text_config().replace(diffusion=None)
    base = save_tiny_text_model(tmp_path / "base")
    words = KnownWords.of(["a cat"], ("cat",))
    words.save(base)
    given = recipe(config, tokenizer=str(base), text_encoder=str(base))
    task = TransformerTask(given, captioned_images(3))
    batch = task.batch(MICROBATCH)
    assert batch.noise is None
    _, figures = task.loss("model", batch)
    assert "cross_entropy" in figures and not any("diffusion" in name for name in figures)
    Trainer(task, given, tmp_path / "run").run()
    model = load_model(tmp_path / "run" / "model")
    assert model.hart.residual is None
    assert KnownWords.load(model.folder) == replace(words, complete=False), "the captions may have had others"
    assert HartPipeline.from_pretrained(str(tmp_path / "run" / "model"), device="cpu")("a cat").images


def test_the_log_has_the_share_of_a_step_s_captions_that_are_cut(tmp_path: Path) -> None:
    base = str(save_tiny_text_model(tmp_path / "base"))
    data = replace(captioned_images(2), texts=(("a blob",), ("a cat " * TEXT_TOKENS,)))
    task = TransformerTask(recipe(tiny_text_config(), tokenizer=base, text_encoder=base), data)
    with pytest.warns(PromptWarning, match="captions_cut is the share of such captions"):
        batches = [task.batch(MICROBATCH), task.batch(replace(MICROBATCH, rows=slice(0, 1)))]
    whole, first = (float(task.loss("model", batch)[1]["captions_cut"]) for batch in batches)
    assert whole == 0.5 and first in (0.0, 1.0)


def test_a_qwen2_folder_conditions_training_and_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_language_model(tmp_path / "language")
    config = tiny_text_config(text=TextConditioning(width=LANGUAGE_WIDTH, tokens=9)).replace(diffusion=None)
    tokenizer = saved_tokenizer(tmp_path / "tokenizer")
    given = recipe(config, tokenizer=tokenizer, text_encoder="language", text_instruction=True, condition_dropout=0.0)
    task = TransformerTask(given, captioned_images(3))
    context = task.batch(MICROBATCH).context
    assert isinstance(context, TextContext)
    assert context.mask.sum(dim=1).tolist() == [len("a blob")] * 2
    Trainer(task, given, tmp_path / "run").run()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    pipe = HartPipeline.from_pretrained(str(tmp_path / "run" / "model"), device="cpu")
    assert pipe.config.text_encoder is not None and pipe.config.text_encoder.instruction
    assert pipe("a blob").images
    found = pipe.text_encoder.encode(["a blob", "a blob"])
    torch.testing.assert_close(found.embeddings, context.embeddings)
    wide = given.replace(transformer=given.transformer.replace(text=TextConditioning(width=16, tokens=9)))
    with pytest.raises(ConfigError, match=f"width {LANGUAGE_WIDTH} and tokens 9"):
        open_caption_encoder(wide.replace(text_encoder=str(tmp_path / "language")), CPU)


def test_the_residual_diffusion_starts_anew_where_the_other_model_has_none(tmp_path: Path) -> None:
    hybrid = tiny_text_config()
    discrete = hybrid.replace(diffusion=None)
    save_model(tmp_path / "discrete", discrete, *tiny_model(discrete))
    save_model(tmp_path / "hybrid", hybrid, *tiny_model(hybrid))
    fresh = starting_model(recipe(hybrid), hybrid).state_dict()
    begun = starting_model(recipe(hybrid, init_from=str(tmp_path / "discrete")), hybrid).state_dict()
    source = load_model(tmp_path / "discrete").hart.state_dict()
    assert all(torch.equal(begun[name], value) for name, value in source.items())
    assert differing(begun, fresh) <= source.keys(), "the diffusion is as in a model from scratch"
    narrowed = starting_model(recipe(discrete, init_from=str(tmp_path / "hybrid")), discrete)
    assert narrowed.residual is None
    theirs = load_model(tmp_path / "hybrid").hart.transformer.state_dict()
    assert not differing(narrowed.transformer.state_dict(), theirs)
    with pytest.raises(ConfigError, match="no residual diffusion to keep"):
        start_from(Hart(hybrid), str(tmp_path / "discrete"), frozen=True)


def test_an_adapter_is_trained_resumed_saved_and_drawn_with(text_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    base = str(text_model)
    given = recipe(
        tiny_text_config(), tokenizer=base, text_encoder=base, init_from=base, lora=LoraConfig(rank=2, alpha=8)
    )
    given = given.replace(trainer=given.trainer.replace(sample_every=given.trainer.steps))
    task = TransformerTask(given, captioned_images(3))
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    Trainer(task, given, tmp_path / "whole").run()
    changed = differing(before, task.module.state_dict())
    assert changed and all("lora_" in name for name in changed), "the model under the adapter stays as it is"

    (sheet,) = (tmp_path / "whole" / "samples").iterdir()
    whole = Image.open(sheet)
    above, below = (whole.crop((0, top, whole.width, top + whole.height // 2)) for top in (0, whole.height // 2))
    unadapted = TransformerTask(given.replace(lora=None), captioned_images(3))
    (plain,) = unadapted.samples(0, load_model(Path(base)).hart).values()
    assert above.tobytes() == plain.tobytes() != below.tobytes(), "what the model makes without the adapter is above"

    first = given.replace(trainer=given.trainer.replace(steps=1))
    Trainer(TransformerTask(first, captioned_images(3)), first, tmp_path / "parts").run()
    Trainer(TransformerTask(given, captioned_images(3)), given, tmp_path / "parts").run()
    files = [(tmp_path / run / "model" / "adapter_model.safetensors").read_bytes() for run in ("whole", "parts")]
    assert files[0] == files[1], "a run in two sittings ends as an unbroken one"
    wider = TransformerTask(given.replace(lora=LoraConfig(rank=3, alpha=8)), captioned_images(3))
    assert wider.sources["init_from"] == task.sources["init_from"], "what it starts from has no adapter yet"

    pipe = HartPipeline.from_pretrained(base, device="cpu")
    plain = pipe("a cat").images[0].tobytes()
    pipe.load_lora(tmp_path / "whole" / "model")
    assert pipe("a cat").images[0].tobytes() != plain


def counted(given: TransformerRecipe) -> tuple[int, int]:
    """Parameters of what a dry run makes, and how many are trained."""
    parameters = list(at_its_largest(given).optimized["model"].module.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def test_a_dry_run_takes_classes_and_counts_what_adapters_train() -> None:
    by_class = recipe(tiny_class_config())
    context = RehearsedTransformer(by_class, CPU).batch(MICROBATCH).context
    assert isinstance(context, ClassContext)
    everything, trained = counted(by_class)
    assert everything == trained == sum(p.numel() for p in Hart(tiny_class_config()).parameters())
    pytest.importorskip("peft")
    adapted = recipe(tiny_text_config(), init_from="somewhere", lora=LoraConfig(rank=2, alpha=2))
    hart = add_lora(Hart(tiny_text_config()), rank=2, alpha=2, generator=torch.Generator())
    sizes = [p.numel() for p in hart.parameters() if p.requires_grad]
    assert counted(adapted) == (sum(p.numel() for p in hart.parameters()), sum(sizes))
