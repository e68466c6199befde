"""The Qwen2 encoder, with a tiny random model and a tiny tokenizer made here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from hart.config import TextEncoderConfig
from hart.errors import HartError
from hart.text_encoder import load_text_encoder
from hart.text_encoder.qwen2 import Qwen2TextEncoder, enhancement_instruction
from language_models import save_language_model, save_tokenizer

TOKENS = 12


@pytest.fixture(params=["right", "left"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    save_language_model(tmp_path, request.param)
    return tmp_path


def load(folder: Path, instruction: bool) -> Qwen2TextEncoder:
    config = TextEncoderConfig(kind="qwen2", tokens=TOKENS, source=str(folder), instruction=instruction)
    encoder = load_text_encoder(config, None)
    assert isinstance(encoder, Qwen2TextEncoder)
    return encoder


def test_features_are_the_states_after_the_final_norm(folder: Path) -> None:
    encoder = load(folder, instruction=False)
    context = encoder.encode(["a red apple"])
    assert context.embeddings.shape == (1, TOKENS, encoder.width) and context.mask.sum() == 11
    causal = Qwen2ForCausalLM.from_pretrained(folder)
    ids = encoder.tokenizer("a red apple", padding="max_length", max_length=TOKENS, return_tensors="pt")
    with torch.no_grad():
        states = causal(**ids, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(context.embeddings[context.mask], states[context.mask])


def test_the_instruction_is_read_and_its_tokens_are_cut_off(folder: Path) -> None:
    encoder = load(folder, instruction=True)
    context = encoder.encode(["a red apple", "cat"])
    assert context.embeddings.shape == (2, TOKENS, encoder.width)
    assert context.mask.sum(1).tolist() == [11, 3]
    plain = load(folder, instruction=False).encode(["a red apple", "cat"])
    assert torch.equal(plain.mask, context.mask)
    assert not torch.allclose(plain.embeddings[plain.mask], context.embeddings[context.mask])
    if encoder.tokenizer.padding_side == "right":  # then the text model reads one unbroken text
        text = f"{enhancement_instruction()}a red apple"
        whole = encoder.model(encoder.tokenizer(text, return_tensors="pt")["input_ids"]).last_hidden_state
        torch.testing.assert_close(context.embeddings[0, :11], whole[0, -11:])


def test_a_prompt_does_not_depend_on_its_batch(folder: Path) -> None:
    encoder = load(folder, instruction=True)
    together, alone = encoder.encode(["a red apple", "cat"]), encoder.encode(["cat"])
    torch.testing.assert_close(together.embeddings[1:][alone.mask], alone.embeddings[alone.mask])


def test_long_prompts_are_cut(folder: Path) -> None:
    encoder = load(folder, instruction=True)
    context = encoder.encode(["cat " * 50])
    assert context.mask.all() and context.embeddings.shape[1] == TOKENS
    assert encoder.to(torch.device("cpu"), torch.bfloat16).encode(["cat"]).embeddings.dtype == torch.bfloat16


def test_the_instruction_is_the_golden_text() -> None:
    text = enhancement_instruction()
    assert text.startswith("Given a user prompt") and text.endswith("User Prompt:\n")


def test_a_tokenizer_without_padding_token_is_refused(tmp_path: Path) -> None:
    save_tokenizer(tmp_path, "right", pad_token=None)
    tokenizer = Qwen2Tokenizer.from_pretrained(tmp_path)
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                         num_attention_heads=2, num_key_value_heads=2))  # fmt: skip
    with pytest.raises(HartError, match="padding token"):
        Qwen2TextEncoder(TextEncoderConfig(kind="qwen2", tokens=4, source="here"), model, tokenizer)


def test_what_transformers_cannot_load_is_named(tmp_path: Path) -> None:
    with pytest.raises(HartError, match="text encoder '/absent/model': there is no such folder"):
        load_text_encoder(TextEncoderConfig(kind="qwen2", tokens=4, source="/absent/model"), None)
    with pytest.raises(HartError, match="transformers cannot load it"):
        load_text_encoder(TextEncoderConfig(kind="qwen2", tokens=4, source=str(tmp_path)), None)
    # neither has sizes of the text model at the top: by Qwen2's defaults a model of 7B would be made before
    for kind in ("bert", "qwen2_vl"):
        (tmp_path / "config.json").write_text(f'{{"model_type": "{kind}"}}')
        with pytest.raises(HartError, match=rf"it is a '{kind}' model"):
            load_text_encoder(TextEncoderConfig(kind="qwen2", tokens=4, source=str(tmp_path)), None)


def test_an_encoder_that_was_copied_in_part_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_language_model(tmp_path)
    file, missing = tmp_path / "model.safetensors", "model.layers.0.mlp.up_proj.weight"
    whole = load_file(file)
    save_file({name: whole[name] for name in whole if name != missing}, file, {"format": "pt"})
    capfd.readouterr()
    with pytest.raises(
        HartError, match=r"only a part of one: it lacks layers\.0\.mlp\.up_proj\.weight: give the folder"
    ):
        load(tmp_path, instruction=False)
    assert capfd.readouterr().err == "", "the error says all of it"
    save_file(whole, file, {"format": "pt"})
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(HartError, match="has no vocabulary: copy the files of its tokenizer"):
        load(tmp_path, instruction=False)
