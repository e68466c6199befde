"""Generation in the manner of the published program, with the same weights, for `hart benchmark` to compare levels
with.

A straightforward eager loop: both rows of guidance are computed in full, including the null text and the logits of all
context tokens; keys and values are concatenated to earlier ones at each scale; rotations and modulations are computed
in each block; filters and Gumbel noise range over all codes. Its images follow the same distribution as the engine's,
but are not the same: random numbers come from a generator. All tokens of the last scale are sampled at once.

Shapes: B images, N tokens of a scale, P tokens before it, C width, H heads, d head width, V codes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hart.benchmark.parts import Generation, GenerationTimer, quiet_prompts
from hart.data.transforms import pixels_to_pil, unit_to_pixels
from hart.generation.batch_settings import ratio_at
from hart.generation.guidance_and_sampling import gumbel_temperature, top_k_at
from hart.layers.rope import Rotation
from hart.tokenizer.quantizer import next_scale_input, to_map, with_given_codes
from hart.transformer.block import Block, SwiGLU
from hart.transformer.transformer import Conditioning
from hart.types import Context, Rows

PUBLISHED, REMARK = "published", "an eager loop in the manner of the published program"
"""The name that stands for this manner among levels of speed, and a remark about it."""


class PublishedTimer(GenerationTimer):
    """Times a pipeline at level "plain" that generates in the published manner; its parts are not measured."""

    def generate(self, count: int = 1) -> Generation:
        loop = PublishedLoop(self)
        with quiet_prompts():
            start = self.clock.mark()
            loop(self.pipe.encode_prompt(self.prompts(count)))
            end = self.clock.mark()
        self.clock.wait()
        return Generation(self.clock.between(start, end), {})


@dataclass(eq=False)
class PublishedLoop:
    """From contexts to PIL images, with the modules of a timer's pipeline."""

    timer: GenerationTimer
    cache: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Keys and values (2B, H, P, d) of each block."""

    def __post_init__(self) -> None:
        parts, self.config, self.schedule = self.timer.pipe.components, self.timer.config, self.timer.schedule
        self.hart, self.device, self.quantizer = parts.hart, parts.device, parts.tokenizer.quantizer
        self.random = torch.Generator(self.device).manual_seed(0)
        self.post_quant_conv = parts.tokenizer.post_quant_conv
        decoder = copy.deepcopy(parts.tokenizer.decoder)
        self.decoder = decoder.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    @torch.inference_mode()
    def __call__(self, context: Context) -> list[object]:
        transformer, settings = self.hart.transformer, self.config.sampling
        images, last = len(context), len(self.schedule) - 1
        both = Rows.cat([context, context.null()]).to(self.device)
        condition = transformer.condition(both)
        total = torch.zeros(images, self.quantizer.codebook.weight.shape[1], *self.schedule.final, device=self.device)
        for k, grid in enumerate(self.schedule.grids):
            x = self._hidden(k, total, condition)
            own, null = transformer.logits(x, condition)[:, -grid.tokens :].chunk(2)
            ratio = ratio_at(k, self.schedule, self.config)
            strength = settings.guidance_scale * ratio
            logits = (1 + strength) * own - strength * null
            codes = self._sampled(k, logits)
            tokens = self._mixed(logits, ratio) if settings.gumbel_smoothing else self.quantizer.codebook(codes)
            if k == last and self.config.hybrid:
                if self.config.transformer.masked_last_scale:
                    seen = slice(-grid.tokens)
                    self.cache = [(keys[:, :, seen], values[:, :, seen]) for keys, values in self.cache]
                    x = self._hidden(k, total, condition, codes)
                tokens = tokens + self._residual(x, codes, strength)
                total = total + to_map(tokens, self.schedule.final)
            else:
                total = total + self.quantizer.contribution(tokens, k, self.schedule)
        self.cache.clear()
        pixels = self.decoder(self.post_quant_conv(total.to(self.post_quant_conv.weight.dtype)))
        return [pixels_to_pil(one) for one in unit_to_pixels((pixels.clamp(-1, 1).float() + 1) / 2).cpu()]

    def _hidden(self, k: int, total: Tensor, condition: Conditioning, codes: Tensor | None = None) -> Tensor:
        """Return hidden states (2B, N, C) of scale k; its codes (B, N) are given if masked and already sampled."""
        transformer, given = self.hart.transformer, None
        if k == 0:
            x, rotation = transformer.embed_context(condition)
        else:
            x = next_scale_input(total, self.schedule.grids[k])
            if codes is not None:
                x = with_given_codes(x, codes, self.quantizer.codebook)
                given = torch.cat([codes, codes]) >= 0
            x, rotation = transformer.embed_scale(k, torch.cat([x, x]), condition, schedule=self.schedule, given=given)
        for number, block in enumerate(transformer.blocks):
            x = self._block(number, cast(Block, block), x, rotation, condition.context.block_condition)
        return x

    def _block(self, number: int, block: Block, x: Tensor, rotation: Rotation | None, condition: Tensor) -> Tensor:
        modulation = block.modulation(condition)
        for i, branch in enumerate((self._attention, self._mlp)):
            h = nn.RMSNorm.forward(block.norm, x) if isinstance(block.norm, nn.RMSNorm) else block.norm(x)
            if modulation is None:
                x = x + branch(number, block, h, rotation)
            else:
                gate, scale, shift = modulation.unsqueeze(2)[:, i::2].unbind(1)
                x = x + branch(number, block, h * (1 + scale) + shift, rotation) * gate
        return x

    def _attention(self, number: int, block: Block, x: Tensor, rotation: Rotation | None) -> Tensor:
        layer = block.attention
        bias = torch.cat([layer.q_bias, torch.zeros_like(layer.q_bias), layer.v_bias])
        qkv = F.linear(x, layer.qkv.weight, bias).unflatten(2, (3, layer.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if layer.log_scale is not None:
            gain = layer.log_scale.exp()[:, None, None]
            q, k = F.normalize(q, dim=-1) * gain, F.normalize(k, dim=-1)
        if rotation is not None:
            q, k = (_rotated(part, rotation) for part in (q, k))
        if number < len(self.cache):
            k, v = (torch.cat(pair, dim=2) for pair in zip(self.cache[number], (k, v), strict=True))
        self.cache[number : number + 1] = [(k, v)]
        out = F.scaled_dot_product_attention(q, k, v, scale=layer.scale)
        return layer.proj(out.transpose(1, 2).flatten(2))

    def _mlp(self, number: int, block: Block, x: Tensor, rotation: Rotation | None) -> Tensor:
        mlp = block.mlp
        return mlp.down(F.silu(mlp.gate(x)) * mlp.up(x)) if isinstance(mlp, SwiGLU) else mlp(x)

    def _sampled(self, k: int, logits: Tensor) -> Tensor:
        """Sample codes (B, N) by top-k and top-p from logits (B, N, V), which are filtered in place."""
        settings = self.config.sampling
        if (top_k := top_k_at(k, settings.top_k)) is not None:
            least = logits.topk(min(top_k, logits.shape[-1]), sorted=False)[0].amin(dim=-1, keepdim=True)
            logits.masked_fill_(logits < least, -torch.inf)
        if settings.top_p is not None:
            ordered, order = logits.sort(dim=-1)
            out = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - settings.top_p
            out[..., -1] = False
            logits.masked_fill_(out.scatter(-1, order, out), -torch.inf)
        rows = logits.softmax(dim=-1).flatten(0, 1)
        return torch.multinomial(rows, 1, generator=self.random).view(logits.shape[:2])

    def _mixed(self, logits: Tensor, ratio: float) -> Tensor:
        """Return mixtures (B, N, D) of all codes' embeddings."""
        noise = torch.empty_like(logits).exponential_(generator=self.random).log().neg()
        weights = (((1 + ratio) * logits + noise) / gumbel_temperature(ratio)).softmax(dim=-1)
        return weights @ self.quantizer.codebook.weight

    def _residual(self, x: Tensor, codes: Tensor, strength: float) -> Tensor:
        embeddings = self.quantizer.codebook(codes)
        own, null = self.hart.residual_condition(x, torch.cat([embeddings, embeddings])).chunk(2)
        steps = self.config.diffusion_steps(self.config.sampling)
        noise = torch.randn(steps, *embeddings.shape, generator=self.random, device=self.device)
        return self.hart.residual_head().sample(own, null, (1 + strength, strength), noise)


def _rotated(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate x (B, H, N, d) through a copy of the partners, as in the usual formula."""
    cos, signed_sin = (part.to(x.dtype) for part in rotation)
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * signed_sin
