"""Stage `transformer`: token maps and text features to the transformer and the residual diffusion, trained jointly."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from hart.checkpoint.loading import save_model
from hart.config import ConfigError, HartConfig, TextEncoderConfig
from hart.data.datasets import CaptionedImages, batch_indices
from hart.data.transforms import to_signed
from hart.losses.hart_loss import draw_last_cells, hart_loss
from hart.model import Hart
from hart.text_encoder.compact import CompactTextEncoder
from hart.tokenizer.hybrid_tokenizer import HybridTokenizer
from hart.training.config import TransformerRecipe
from hart.training.initialization import initialize
from hart.training.tokenizer_task import load_tokenizer
from hart.types import TextContext, TokenMaps

ENCODE_BATCH = 64
TEXT_ENCODER_CONFIG = "text_encoder.json"


@torch.inference_mode()
def encode_all(tokenizer: HybridTokenizer, data: CaptionedImages, device: torch.device) -> TokenMaps:
    """Token maps of every picture of a set, kept on the CPU: the tokenizer runs once, on `device`, not every step."""
    parts = []
    for start in range(0, len(data), ENCODE_BATCH):
        rows = range(start, min(start + ENCODE_BATCH, len(data)))
        image = to_signed(torch.stack([data.image(i) for i in rows])).to(device)
        maps = tokenizer.token_maps(tokenizer.encode(image))
        parts.append(select(maps, torch.arange(len(rows), device=device), torch.device("cpu")))
    return TokenMaps(
        indices=tuple(torch.cat(maps) for maps in zip(*(part.indices for part in parts), strict=True)),
        teacher_forcing_input=torch.cat([part.teacher_forcing_input for part in parts]),
        last_scale_continuous=torch.cat([part.last_scale_continuous for part in parts]),
    )


def select(maps: TokenMaps, rows: Tensor, device: torch.device) -> TokenMaps:
    """Rows of token maps on a device."""
    return TokenMaps(
        tuple(index[rows].to(device) for index in maps.indices),
        maps.teacher_forcing_input[rows].to(device),
        maps.last_scale_continuous[rows].to(device),
    )


def drop_condition(context: TextContext, probability: float, generator: torch.Generator) -> TextContext:
    """Replace each context of the batch by the null context with `probability`; the given one is left as it is."""
    dropped = torch.rand(len(context), generator=generator, device=generator.device).to(context.mask.device)
    null = context.null()
    chosen = (dropped < probability).unsqueeze(1)
    return TextContext(
        torch.where(chosen.unsqueeze(2), null.embeddings, context.embeddings),
        torch.where(chosen, null.mask, context.mask),
    )


class TransformerTask:
    """One optimisation step of the transformer; see `hart.training.trainer.Task`."""

    def __init__(self, recipe: TransformerRecipe, data: CaptionedImages) -> None:
        data.require_captions()
        self.recipe = recipe
        self.data = data
        self.device = torch.device(recipe.trainer.device)
        self.tokenizer = load_tokenizer(Path(recipe.tokenizer)).requires_grad_(False).to(self.device)
        encoder_folder = Path(recipe.text_encoder)
        text_config = TextEncoderConfig.load(encoder_folder / TEXT_ENCODER_CONFIG)
        self.text_encoder = CompactTextEncoder.load(text_config, encoder_folder).to(self.device)
        text = recipe.transformer.text
        if text is None or (text.width, text.tokens) != (self.text_encoder.width, text_config.tokens):
            raise ConfigError(
                f"transformer.text must be width {self.text_encoder.width} and {text_config.tokens} tokens, "
                "what the text encoder gives"
            )
        self.config = HartConfig(
            tokenizer=self.tokenizer.config,
            transformer=recipe.transformer,
            diffusion=recipe.diffusion,
            text_encoder=text_config,
            sampling=recipe.sampling,
        )
        hart = Hart(self.config)
        initialize(hart, torch.Generator().manual_seed(recipe.trainer.seed))
        self.module: Hart = hart.to(self.device)
        self.codebook = self.tokenizer.quantizer.codebook
        self.maps = encode_all(self.tokenizer, data, self.device)

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        trainer = self.recipe.trainer
        rows = batch_indices(self.data.weights, trainer.batch_size, trainer.seed, step)
        maps = select(self.maps, rows, self.device)
        with torch.no_grad():
            context = self.text_encoder.encode(self._captions(rows, generator))
        context = drop_condition(context, self.recipe.condition_dropout, generator)
        cells = None
        if self.recipe.drop_last_scale:
            cells = draw_last_cells(len(rows), maps.indices[-1].shape[1], generator, self.device)
        total, parts = hart_loss(
            self.module,
            self.codebook,
            context,
            maps,
            cells,
            generator,
            diffusion_weight=self.recipe.diffusion_weight,
        )
        return total, {name: value.detach() for name, value in parts.items()}

    def after_step(self, step: int, generator: torch.Generator) -> dict[str, float]:
        return {}

    def save(self, folder: Path, module: nn.Module) -> None:
        assert isinstance(module, Hart)
        self.text_encoder.save(folder)
        save_model(folder, self.config, self.tokenizer, module)

    def _captions(self, rows: Tensor, generator: torch.Generator) -> list[str]:
        """One caption a picture, chosen evenly among its captions."""
        choices = [self.data.captions(i) for i in rows.tolist()]
        draws = torch.rand(len(rows), generator=generator, device=generator.device).tolist()
        return [captions[int(draw * len(captions))] for captions, draw in zip(choices, draws, strict=True)]
