"""Named sizes: what papers and released files say about them."""

from __future__ import annotations

from hart.presets import PRESETS


def test_a_preset_has_the_size_in_its_name() -> None:
    for name, preset in PRESETS.items():
        assert preset().tokenizer.image_size == int(name.rsplit("-", 1)[1])


def test_the_text_to_image_model_has_the_released_sizes() -> None:
    for name in ("hart-0.7b-256", "hart-0.7b-512", "hart-0.7b-1024"):
        config = PRESETS[name]()
        transformer = config.transformer
        assert (transformer.width, transformer.depth, transformer.heads) == (1536, 24, 24)
        assert transformer.mlp_width == 4096
        assert config.hybrid
        # paper, table 3: 10 steps at 256 and 512 px, 14 at 1024
        assert len(transformer.scales) == (14 if name.endswith("1024") else 10)
        # one text encoder feeds all: its features fit
        assert config.text_encoder is not None and transformer.text is not None
        assert (config.text_encoder.tokens, transformer.text.width) == (transformer.text.tokens, 1536)
