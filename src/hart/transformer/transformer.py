"""The scalable-resolution transformer (paper, section 3.2): predicts the next scale from a context and earlier scales.

Every scale is one step: all its tokens are predicted at once, from the context and all earlier scales. Training
computes all scales in one pass; generation caches keys and values and computes one scale per call. Both use the same
embedding and the same blocks. The caller chooses the grids of the scales, by default the configured square ones.

Shapes: B batch, K scales, S context tokens, N tokens of one scale, L tokens of all scales, C width,
D latent channels, V codes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hart.config import TransformerConfig
from hart.grids import ScaleSchedule
from hart.layers.embedding import SinusoidalMLP
from hart.layers.kv_cache import KeptToken, KVCache
from hart.layers.linear import without_autocast
from hart.layers.norm import SiluLinear, modulate
from hart.layers.rope import Rotation, cat_rotations, rotation_1d, rotation_2d, rotation_of_rows
from hart.layers.sharing import Share, last, whole
from hart.transformer.block import Block, build_norm
from hart.transformer.condition import ClassEmbedder, EmbeddedContext, TextEmbedder
from hart.types import Context, Rows


class BlockGraphs(Protocol):
    """Records the work of all blocks and replays it; see `hart.inference.graphs.BlockGraphs`."""

    def lend(self, kind: Hashable, make: Callable[[], KVCache]) -> KVCache: ...

    def run(self, work: Callable[[Sequence[Tensor]], Tensor], inputs: Sequence[Tensor], cache: KVCache) -> Tensor: ...


class LevelTable(nn.Module):
    """One learned vector per scale."""

    def __init__(self, scales: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(scales, width)

    def forward(self, levels: Tensor) -> Tensor:
        return self.embedding(levels)


@dataclass(frozen=True)
class Conditioning(Rows):
    """A context, prepared once for all scales.

    Holds its embedding, each block's modulation (B, 6, C) or None, and the head's (B, 2, C).
    """

    context: EmbeddedContext
    modulations: tuple[Tensor | None, ...]
    head_modulation: Tensor

    def first_token(self) -> Conditioning:
        """Return only the first of the context's tokens, under the same condition."""
        tokens, positions = self.context.tokens[:, :1], self.context.position_ids[:, :1]
        return replace(self, context=replace(self.context, tokens=tokens, position_ids=positions))


class ModulatedHead(nn.Module):
    """Norm, modulation by the pooled condition, and a linear layer to the codes, which computes in float32."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = build_norm(config)
        self.modulation = SiluLinear(config.width, 2 * config.width)
        self.linear = nn.Linear(config.width, config.codebook_size)

    def modulated(self, hidden: Tensor, modulation: Tensor) -> Tensor:
        """Return what the linear layer reads, (B, N, C), for hidden (B, N, C) and `modulation`'s (B, 2, C)."""
        scale, shift = modulation.unsqueeze(2).unbind(1)
        return modulate(self.norm(hidden), scale, shift)

    def forward(self, hidden: Tensor, modulation: Tensor) -> Tensor:
        """Map hidden (B, N, C), modulation (B, 2, C) to logits (B, N, V) in float32."""
        return self.logits(self.modulated(hidden, modulation))

    def logits(self, h: Tensor) -> Tensor:
        """Map (B, N, C) from `modulated` to logits (B, N, V) in float32."""
        # always in float32: guidance and low temperatures amplify the rounding of logits. The weights are converted at
        # each call, so that they are stored and moved like all others.
        with without_autocast(h.device.type):
            linear: Callable[[Tensor], Tensor] = self.linear
            if self.linear.bias.dtype != torch.float32:
                linear = partial(F.linear, weight=self.linear.weight.float(), bias=self.linear.bias.float())
            h = h.float()
            if h.shape[1] > 1 or h.device.type != "cpu":
                return linear(h)
            # single tokens one by one on a CPU, where products of few rows round differently for other numbers of rows
            return torch.cat([linear(row) for row in h.split(1)])


class HartTransformer(nn.Module):
    """Context tokens, embedded scales, blocks and head. Independent of tokenizer and sampling."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        if config.text is not None:
            self.context_embedder: nn.Module = TextEmbedder(config.text, width, config.modulation_pooling)
        elif config.classes is not None:
            self.context_embedder = ClassEmbedder(
                config.classes.num_classes, width, shared_modulation=config.modulation == "shared"
            )
        self.word_embed = nn.Linear(config.latent_channels, width)
        self.level_embedding = (
            SinusoidalMLP(width) if config.level_embedding == "sinusoidal" else LevelTable(config.levels, width)
        )
        self.positions = (
            nn.Parameter(nn.init.normal_(torch.empty(config.schedule.total_tokens, width), std=0.02))
            if config.position == "absolute"
            else None
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head = ModulatedHead(config)
        # for generation, set by `hart.inference`. cache_type: of keys and values; None is the weights' type. share:
        # splits the rows of a scale for the blocks. null_token: None computes it for every image
        self.cache_type: torch.dtype | None = None
        self.null_token: KeptToken | None = None
        self.graphs: BlockGraphs | None = None
        self.share: Share = whole

    def __getstate__(self) -> dict[str, Any]:
        """Restore the defaults: copies and pickles may go to any machine, and their weights may change."""
        return super().__getstate__() | {"share": whole, "null_token": None, "graphs": None}

    @property
    def head_width(self) -> int:
        return self.config.width // self.config.heads

    def condition(self, context: Context) -> Conditioning:
        """Embed a context of batch B and compute the blocks' modulations."""
        embedded = self.context_embedder(context)
        blocks = [cast(Block, block) for block in self.blocks]
        modulations = tuple(block.modulation(embedded.block_condition) for block in blocks)
        return Conditioning(embedded, modulations, self.head.modulation(embedded.head_condition).unflatten(1, (2, -1)))

    def embed_context(self, conditioning: Conditioning) -> tuple[Tensor, Rotation | None]:
        """Return the context's tokens (B, S, C) with level (and absolute position) added, and their rotation."""
        context = conditioning.context
        tokens = context.tokens + self._level(0, context.tokens)
        if self.positions is not None:
            return tokens + self.positions[:1], None
        return tokens, rotation_1d(context.position_ids, self.head_width)

    def embed_scale(
        self,
        k: int,
        scale_input: Tensor,
        conditioning: Conditioning,
        positions: Tensor | None = None,
        schedule: ScaleSchedule | None = None,
        given: Tensor | None = None,
    ) -> tuple[Tensor, Rotation | None]:
        """Return the tokens of scale k (0-based, k > 0) of `schedule`, and their rotation.

        scale_input: (B, N, D), the running sum of the scales before, resized to this one.
        positions: (B, M) raster positions, if `scale_input` (B, M, D) does not hold all N tokens.
        given: (B, N) bool, tokens of the last scale whose codes are already in that sum; they have their own level.
        """
        schedule = self._served(schedule)
        tokens = self.embed_tokens(scale_input)
        level = self._level(k, tokens)
        if given is not None:
            level = torch.where(given.unsqueeze(-1), self._level(self.config.given_level, tokens), level)
        tokens = tokens + level
        grid, final = schedule.grids[k], schedule.final
        if positions is None:
            positions = torch.arange(grid.tokens, device=tokens.device).unsqueeze(0)
        if self.positions is not None:
            return tokens + self.positions[schedule.span(k)][positions], None
        start = conditioning.context.last_position.unsqueeze(1)
        span = self.config.position_span / final.equal_square if self.config.position_span else 1.0
        rows = (positions // grid.width).float() * (span * final.height / grid.height) + start
        columns = (positions % grid.width).float() * (span * final.width / grid.width) + start
        return tokens, rotation_2d(rows, columns, self.head_width)

    def forward(
        self,
        context: Context,
        teacher_forcing_input: Tensor,
        last_positions: Tensor | None = None,
        schedule: ScaleSchedule | None = None,
        given: Tensor | None = None,
    ) -> HartHidden:
        """Compute all scales at once in block-causal order, for training.

        teacher_forcing_input: (B, L - 1, D), see `hart.types.TokenMaps`.
        last_positions: (B, M) raster positions of the last scale that are computed; None computes all.
        given: see `embed_scale`.
        """
        schedule = self._served(schedule)
        conditioning = self.condition(context)
        scales = list(teacher_forcing_input.split(list(schedule.token_counts[1:]), dim=1))
        if last_positions is not None:
            scales[-1] = gather_tokens(scales[-1], last_positions)
        parts = [self.embed_context(conditioning)]
        for k, scale_input in enumerate(scales, start=1):
            of_last = (last_positions, schedule, given) if k == len(schedule) - 1 else (None, schedule)
            parts.append(self.embed_scale(k, scale_input, conditioning, *of_last))
        segments = [tokens.shape[1] for tokens, _ in parts]
        rotations = [rotation for _, rotation in parts if rotation is not None]
        x, rotation = torch.cat([tokens for tokens, _ in parts], dim=1), cat_rotations(rotations) if rotations else None
        for block, modulation in zip(self.blocks, conditioning.modulations, strict=True):
            x = block(x, rotation, modulation, segments=segments)
        # the context's last position predicts scale 1
        return HartHidden(x[:, segments[0] - 1 :], (1, *segments[1:]), conditioning)

    def new_cache(self, batch: int, schedule: ScaleSchedule | None = None, unkept: int = 0) -> KVCache:
        """Return an empty cache for the context and all scales of `batch` images, except the last `unkept` tokens."""
        capacity = self.config.context_tokens + self._served(schedule).total_tokens - 1 - unkept
        weight, shape = self.word_embed.weight, (len(self.blocks), batch, self.config.heads, capacity, self.head_width)

        def make() -> KVCache:
            dtype, device = weight.dtype, weight.device
            return KVCache(shape, dtype=dtype, device=device, kept=self.cache_type, unkept=unkept)

        return make() if self.graphs is None else self.graphs.lend((batch, capacity, unkept), make)

    def embed_tokens(self, embeddings: Tensor) -> Tensor:
        """Project code embeddings, or sums of them, (..., D) to the transformer's width and type: (..., C)."""
        return self.word_embed(embeddings.to(self.word_embed.weight.dtype))

    def first_scale(self, conditioning: Conditioning, cache: KVCache, null_rows: int = 0) -> Tensor:
        """Run the context and return the hidden state (B, 1, C) that predicts scale 1's token.

        null_rows: this many rows at the end are the null context of guidance. The tokens of a null text are all equal,
        in features and in position, and stay equal through attention in every layer: one token of one row is
        computed for all of them, exactly, and only once for all images if `null_token` keeps it.
        """
        rows, tokens = conditioning.context.tokens.shape[:2]
        if null_rows == 0 or tokens == 1:
            return self._run_context(conditioning, cache)
        given, null = slice(0, rows - null_rows), slice(rows - null_rows, rows)
        hidden = self._run_context(conditioning.rows(given), cache.rows(given))
        kept = KeptToken() if self.null_token is None else self.null_token
        if kept.found is None:
            one = cache.for_one_token()
            first = conditioning.rows(slice(null.start, null.start + 1)).first_token()
            kept.found = one, self._run_context(first, one)
        one, null_hidden = kept.found
        cache.rows(null).append_copies(one, tokens)
        cache.advance(tokens)
        return torch.cat([hidden, null_hidden.expand(null_rows, -1, -1)])

    def _run_context(self, conditioning: Conditioning, cache: KVCache) -> Tensor:
        tokens, rotation = self.embed_context(conditioning)
        return self._cached_blocks(tokens, rotation, conditioning, cache)[:, -1:]

    def next_scale(
        self,
        k: int,
        scale_input: Tensor,
        conditioning: Conditioning,
        cache: KVCache,
        positions: Tensor | None = None,
        schedule: ScaleSchedule | None = None,
        given: Tensor | None = None,
    ) -> Tensor:
        """Return hidden states (B, N, C) of scale k; arguments as in `embed_scale`, earlier tokens in the cache."""
        tokens, rotation = self.embed_scale(k, scale_input, conditioning, positions, schedule, given)
        if self.graphs is None:
            return self._cached_blocks(tokens, rotation, conditioning, cache)
        return self._graphed(self.graphs, tokens, rotation, conditioning, cache)

    def logits(self, hidden: Tensor, conditioning: Conditioning) -> Tensor:
        """Map hidden states (B, N, C) to logits (B, N, V) in float32."""
        return self.head(hidden, conditioning.head_modulation)

    def _served(self, schedule: ScaleSchedule | None) -> ScaleSchedule:
        """Return `schedule`, by default the configured one. Raises `ConfigError` if this model cannot serve it."""
        if schedule is None:
            return self.config.schedule
        self.config.check_schedule(schedule)
        return schedule

    def _level(self, k: int, like: Tensor) -> Tensor:
        return self.level_embedding(torch.full((1,), k, device=like.device))

    def _cached_blocks(
        self, x: Tensor, rotation: Rotation | None, conditioning: Conditioning, cache: KVCache
    ) -> Tensor:
        """Run all blocks on tokens (B, N, C), which are appended to the cache."""

        def work(rows: slice) -> Iterator[Tensor]:
            turn = None if rotation is None else rotation_of_rows(rotation, rows)
            modulations = [None if m is None else m[rows] for m in conditioning.modulations]
            return self._layers(x[rows], turn, modulations, cache.rows(rows))

        hidden = self.share(work, *x.shape[:2])
        cache.advance(x.shape[1])
        return hidden

    def _graphed(
        self, graphs: BlockGraphs, x: Tensor, rotation: Rotation | None, conditioning: Conditioning, cache: KVCache
    ) -> Tensor:
        """Run the blocks like `_cached_blocks`, recorded once and replayed."""
        here, turned = cache.rows(slice(None)), 0 if rotation is None else 2
        modulations = [m for m in conditioning.modulations if m is not None]

        def work(inputs: Sequence[Tensor]) -> Tensor:
            x, *others = inputs
            turn = (others[0], others[1]) if turned else None
            return last(self._layers(x, turn, others[turned:] or [None] * len(self.blocks), here))

        hidden = graphs.run(work, [x, *(rotation or ()), *modulations], cache)
        cache.advance(x.shape[1])
        return hidden

    def _layers(
        self, x: Tensor, rotation: Rotation | None, modulations: Sequence[Tensor | None], cache: KVCache
    ) -> Iterator[Tensor]:
        """Yield the tokens (B, N, C) after each block."""
        for layer, (block, modulation) in enumerate(zip(self.blocks, modulations, strict=True)):
            x = block(x, rotation, modulation, cache=cache.layer(layer))
            yield x


@dataclass(frozen=True)
class HartHidden:
    """A training pass: hidden states (B, L', C), the tokens of each scale in them, and the conditioning."""

    hidden: Tensor
    segments: tuple[int, ...]
    conditioning: Conditioning

    @property
    def last_scale(self) -> Tensor:
        """Return (B, M, C), the computed tokens of the last scale."""
        return self.hidden[:, -self.segments[-1] :]


def gather_tokens(x: Tensor, positions: Tensor) -> Tensor:
    """Return rows `positions` (B, M) of x (B, N, ...)."""
    index = positions.view(*positions.shape, *(1,) * (x.dim() - 2)).expand(*positions.shape, *x.shape[2:])
    return x.gather(1, index)
