"""What older versions stored still opens."""

import json
from pathlib import Path

from hart import HartPipeline
from hart.checkpoint.storage import read_safetensors, write_safetensors
from hart.config import SamplingConfig
from hart.strict import RENAMED_KEYS, Config
from hart.training.config import TokenizerRecipe, TransformerRecipe
from models import save_tiny_text_model

# old names
TENSORS = {
    "token_embedding.weight": "pieces.weight",
    "embed_proj.weight": "lift.weight",
    "embed_proj.bias": "lift.bias",
}
KEYS = {"gumbel_smoothing": "smooth", "maskgit_steps": "rounds"}
# end of old names


def test_a_model_of_old_names_opens_and_is_the_same(tmp_path: Path) -> None:
    folder = save_tiny_text_model(tmp_path)
    expected = HartPipeline.from_pretrained(folder, device="cpu")
    file = folder / "config.json"
    values = json.loads(file.read_text())
    values["sampling"] = {KEYS.get(key, key): value for key, value in values["sampling"].items()}
    file.write_text(json.dumps(values))
    weights = folder / "text_encoder.safetensors"
    write_safetensors(weights, {TENSORS.get(name, name): value for name, value in read_safetensors(weights).items()})
    opened = HartPipeline.from_pretrained(folder, device="cpu")
    assert opened.config == expected.config
    assert opened("a cat", seed=1).images[0].tobytes() == expected("a cat", seed=1).images[0].tobytes()
    assert opened.fingerprints() == expected.fingerprints()


def test_renamed_keys_lead_to_keys_of_today() -> None:
    kinds: dict[str, type[Config]] = {
        kind.__name__: kind for kind in (SamplingConfig, TokenizerRecipe, TransformerRecipe)
    }
    for name, renamed in RENAMED_KEYS.items():
        fields = kinds[name].__dataclass_fields__
        assert set(renamed.values()) <= set(fields) and not set(renamed) & set(fields)
