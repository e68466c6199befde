"""The text encoder of the shipped model has tensors of first names, which others may have too."""

from pathlib import Path

from hart import HartPipeline
from hart.checkpoint.storage import FIRST_NAMES, read_safetensors, write_safetensors
from models import save_tiny_text_model


def test_a_text_encoder_of_first_names_opens_and_is_the_same(tmp_path: Path) -> None:
    folder = save_tiny_text_model(tmp_path)
    expected = HartPipeline.from_pretrained(folder, device="cpu")
    weights = folder / "text_encoder.safetensors"
    tensors = read_safetensors(weights)
    assert set(FIRST_NAMES) <= set(tensors)
    write_safetensors(weights, {FIRST_NAMES.get(name, name): value for name, value in tensors.items()})
    opened = HartPipeline.from_pretrained(folder, device="cpu")
    assert opened("a cat", seed=1).images[0].tobytes() == expected("a cat", seed=1).images[0].tobytes()
    assert opened.fingerprints() == expected.fingerprints()
