"""HART: the transformer that draws discrete tokens and the diffusion that draws what they leave out. Read this first.

    context -> transformer, scale by scale -> logits of the discrete tokens
    hidden state of the last scale + its sampled code -> condition -> residual diffusion -> continuous tokens

The paper is arXiv 2410.10812; "plain VAR" is this model without the second line.

Shapes: B batch, N tokens, C width, D latent channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hart.config import HartConfig
from hart.diffusion.denoiser import ResidualDenoiser
from hart.diffusion.process import DiffusionLoss, DiffusionProcess, respaced_steps
from hart.diffusion.sampler import sample_residual
from hart.layers.norm import RMSNorm
from hart.transformer.transformer import HartTransformer


class ResidualHead(nn.Module):
    """The residual diffusion with the norm in front of it."""

    def __init__(self, config: HartConfig) -> None:
        super().__init__()
        if config.diffusion is None:
            raise ValueError("a residual head needs HartConfig.diffusion")
        self.config = config.diffusion
        self.norm = RMSNorm(config.transformer.width)
        self.denoiser = ResidualDenoiser(self.config, config.transformer.latent_channels, config.transformer.width)
        steps = self.config.training_steps
        self.process = DiffusionProcess(steps)
        self.sampling_process = self._respaced(self.config.sampling_steps)

    def loss(self, condition: Tensor, target: Tensor, timesteps: Tensor, noise: Tensor) -> DiffusionLoss:
        """Per-token loss at given timesteps (N,) and noise (N, D).

        condition: (N, C) from `Hart.residual_condition`; target: (N, D) residual tokens in latent units.
        """
        process = self.process.to(target.device)
        x0 = target.float() / self.config.tokens_scale
        x = process.noised(x0, timesteps, noise)
        output = self.denoiser(x, timesteps, self.denoiser.embed_condition(condition))
        return process.loss(output, x0, x, timesteps, noise)

    def sample(
        self,
        condition: Tensor,
        null_condition: Tensor | None,
        guidance: float,
        start: Tensor,
        draw_noise: Callable[[], Tensor],
        steps: int | None = None,
    ) -> Tensor:
        """Residual tokens (N, D) in latent units in `steps` steps, by default the configured ones.

        The other arguments as in `sample_residual`.
        """
        process = (self.sampling_process if steps is None else self._respaced(steps)).to(start.device)
        tokens = sample_residual(self.denoiser, process, condition, null_condition, guidance, start, draw_noise)
        return tokens * self.config.tokens_scale

    def _respaced(self, steps: int) -> DiffusionProcess:
        training_steps = self.config.training_steps
        return DiffusionProcess(training_steps, respaced_steps(training_steps, steps))


class Hart(nn.Module):
    """Transformer and residual head; `residual` is None in a discrete-only model."""

    def __init__(self, config: HartConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = HartTransformer(config.transformer)
        self.residual = ResidualHead(config) if config.diffusion is not None else None

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.word_embed.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.transformer.word_embed.weight.device

    def residual_condition(self, hidden: Tensor, code_embeddings: Tensor) -> Tensor:
        """What the diffusion is conditioned on: norm(hidden + word_embed(code)), (B, N, C).

        hidden: (B, N, C) of the last scale; code_embeddings: (B, N, D) of its codes.
        """
        if self.residual is None:
            raise ValueError("this model draws discrete tokens only: it has no residual diffusion")
        embedded = self.transformer.word_embed(code_embeddings.to(self.dtype))
        return self.residual.norm(hidden + embedded)
