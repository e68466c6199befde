"""HART: a transformer predicts discrete tokens, a diffusion model what they leave out. Start reading here.

    text + token maps -> transformer, all scales -> logits of the discrete tokens
    hidden states of the last scale + its sampled codes -> condition -> residual diffusion -> continuous tokens

`Hart.forward` is the training pass; `hart.generation.next_scale` samples scale by scale from the same modules. The
paper is arXiv 2410.10812; plain VAR is this model without the second line.

Shapes: B batch, K scales, L' computed tokens of all scales, M of the last one, V codes, C width, D latent channels,
R timesteps sampled per token.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from hart.config import HartConfig
from hart.diffusion.denoiser import ResidualDenoiser, sample_residual
from hart.diffusion.process import DiffusionLoss, DiffusionProcess, respaced_steps
from hart.layers.norm import RMSNorm
from hart.transformer.transformer import HartTransformer, ModulatedHead
from hart.types import Context, TokenMaps


@dataclass(frozen=True)
class HartPrediction:
    """A training pass.

    head_input: (B, L', C), the input of the head's linear layer. hidden: (B, M, C) of the last scale.
    segments: the number of computed tokens of each of the K scales.
    """

    head_input: Tensor
    hidden: Tensor
    segments: tuple[int, ...]
    head: ModulatedHead

    @property
    def logits(self) -> Tensor:
        """Return (B, L', V) float32, computed anew at each call. The loss avoids it: see `hart.losses.code_loss`."""
        return self.head.logits(self.head_input)


class Hart(nn.Module):
    """Transformer and residual head; `residual` is None in a discrete-only model."""

    def __init__(self, config: HartConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = HartTransformer(config.transformer)
        self.residual = ResidualHead(config) if config.diffusion is not None else None

    def forward(self, context: Context, maps: TokenMaps, last_positions: Tensor | None = None) -> HartPrediction:
        """Predict every scale's tokens from the text and all coarser scales.

        last_positions: (B, M) raster positions of the last scale that are computed; None computes all.
        """
        given = None if maps.given is None else maps.given >= 0
        output = self.transformer(context, maps.teacher_forcing_input, last_positions, maps.schedule, given)
        head = self.transformer.head
        head_input = head.modulated(output.hidden, output.conditioning.head_modulation)
        return HartPrediction(head_input, output.last_scale, output.segments, head)

    def diffusion_loss(
        self, hidden: Tensor, code_embeddings: Tensor, latent: Tensor, timesteps: Tensor, noise: Tensor
    ) -> DiffusionLoss:
        """Return the residual diffusion's losses (B R M,) for M tokens of the last scale.

        hidden: (B, M, C), from `HartPrediction`. code_embeddings: (B, M, D) of codes sampled from the model's own
        logits, which the diffusion is conditioned on, as in generation. latent: (B, M, D), the sum of code embedding
        and residual. timesteps: (B, R, M). noise: (B, R, M, D).
        """
        condition = self.residual_condition(hidden, code_embeddings)
        return self.residual_head().loss(condition, latent - code_embeddings, timesteps, noise)

    def residual_condition(self, hidden: Tensor, code_embeddings: Tensor) -> Tensor:
        """Return the condition of the diffusion: norm(hidden + word_embed(code)), (B, M, C).

        hidden: (B, M, C) of the last scale. code_embeddings: (B, M, D) of its codes.
        """
        return self.residual_head().norm(hidden + self.transformer.embed_tokens(code_embeddings))

    def residual_head(self) -> ResidualHead:
        """Return `residual`. Raises `ValueError` for a discrete-only model."""
        if self.residual is None:
            raise ValueError("this model samples discrete tokens only: it has no residual diffusion")
        return self.residual


class ResidualHead(nn.Module):
    """The residual diffusion with the norm in front of it."""

    def __init__(self, config: HartConfig) -> None:
        super().__init__()
        if config.diffusion is None:
            raise ValueError("a residual head needs HartConfig.diffusion")
        self.config = config.diffusion
        self.norm = RMSNorm(config.transformer.width)
        self.denoiser = ResidualDenoiser(self.config, config.transformer.latent_channels, config.transformer.width)
        self.process = DiffusionProcess(self.config.training_steps)
        self.sampling_process = self._respaced(self.config.sampling_steps)

    def loss(self, condition: Tensor, target: Tensor, timesteps: Tensor, noise: Tensor) -> DiffusionLoss:
        """Return the losses (B R M,) of tokens that are noised R times each.

        condition: (B, M, C) from `Hart.residual_condition`. target: (B, M, D) residual tokens in latent units.
        timesteps: (B, R, M). noise: (B, R, M, D).
        """
        repeats = timesteps.shape[1]
        condition, target = (x.unsqueeze(1).expand(-1, repeats, -1, -1).flatten(0, 2) for x in (condition, target))
        timesteps, noise = timesteps.flatten(), noise.flatten(0, 2)
        x0 = target.float() / self.config.tokens_scale
        x = self.process.noised(x0, timesteps, noise)
        output = self.denoiser(x, timesteps, self.denoiser.embed_condition(condition))
        return self.process.loss(output, x0, x, timesteps, noise)

    def sample(
        self,
        condition: Tensor,
        null_condition: Tensor | None,
        guidance: tuple[Tensor | float, Tensor | float],
        noise: Tensor,
    ) -> Tensor:
        """Sample residual tokens (..., N, D) in latent units, one step per entry of `noise`; see `sample_residual`."""
        process = self.sampling_process
        if len(noise) != len(process):
            process = self._respaced(len(noise))
        tokens = sample_residual(self.denoiser, process, condition, null_condition, guidance, noise)
        return tokens * self.config.tokens_scale

    def _respaced(self, steps: int) -> DiffusionProcess:
        training_steps = self.config.training_steps
        return DiffusionProcess(training_steps, respaced_steps(training_steps, steps))
