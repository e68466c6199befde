"""The memory that images need besides the model, estimated in advance, so that no work is started in vain.

Keys and values grow with the tokens of all scales, the last scale's activations with its tokens, the decoder's maps
with the pixels (or their patches, if `patch_size` is more than 1). Scales and decoding follow each other, so the larger
of the two counts. The factors of activations and maps are those of the largest models at 256 to 2048 px, measured by
what PyTorch allocates.

Shapes: R rows (one per image, one more with guidance, one more with a second prompt), S context tokens, L tokens of
all scales, N of the last one, C width, M MLP width, V codes, W width of the diffusion.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hart.config import HartConfig
from hart.devices import free_memory
from hart.errors import HartError
from hart.generation.last_scale import last_call
from hart.grids import ScaleSchedule
from hart.inference.components import Components
from hart.inference.speed import Speed
from hart.sizes import size_of_schedule
from hart.strict import byte_count
from hart.tokenizer.tiling import STRIP_PIXELS

FLOAT32 = 4
SAVING: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {"--cache int8": {"cache": "int8"}, "--tiled": {"tiled": True}}
)
"""Command options that take less memory, and what they change in a `Speed`."""


@dataclass(frozen=True)
class Memory:
    """Memory in bytes. cache: keys and values. scale: the rest of the last scale. decoder: to decode one image."""

    cache: int
    scale: int
    decoder: int

    @property
    def most(self) -> int:
        """Return the most bytes needed at once."""
        return max(self.cache + self.scale, self.decoder)


def image_memory(
    config: HartConfig, parts: Components, schedule: ScaleSchedule, rows: int, speed: Speed, *, eager: bool = False
) -> Memory:
    """Return the memory of R rows together, in the types of a model's parts.

    eager: for the loop of `hart.benchmark.published`, which also keeps the last scale's keys and values, has several
    copies of all logits, and decodes its R / 2 images together.
    """
    number, decoded = parts.dtype.itemsize, parts.tokenizer.post_quant_conv.weight.dtype.itemsize
    sizes = config.transformer
    seen = sizes.context_tokens + schedule.total_tokens - 1
    last = 0 if eager else last_call(config, schedule, config.sampling.maskgit_steps)
    kept = rows * (seen - last) * sizes.width
    of_head = FLOAT32 / (sizes.width // sizes.heads)  # one scale per token and head
    cached = {"model": number, "bfloat16": 2, "int8": 1 + of_head}[speed.cache]
    tokens = rows * schedule.final.tokens
    diffusion = 0 if config.diffusion is None else 8 * config.diffusion.width
    of_layer = 2 * rows * seen * sizes.width * (cached + (FLOAT32 if speed.cache == "int8" else 0))
    block = 8 * number * tokens * sizes.width + of_layer
    mlp = number * tokens * (4 * sizes.width + 2 * sizes.mlp_width)
    logits = FLOAT32 * (4 if eager else 1.5) * sizes.codebook_size
    sampling = tokens * (number * (4 * sizes.width + diffusion) + logits)
    places = schedule.final.tokens * config.tokenizer.map_downsampling**2
    maps = 2 * places + 3 * min(places, STRIP_PIXELS) if speed.tiled else 5 * places
    return Memory(
        cache=round(2 * sizes.depth * kept * cached),
        scale=round(max(block, mlp, sampling)),
        decoder=decoded * maps * config.tokenizer.base_channels * (rows // 2 if eager else 1),
    )


def require_memory(
    config: HartConfig,
    parts: Components,
    schedule: ScaleSchedule,
    images: int,
    branches: int,
    savings: Collection[str] = SAVING,
    *,
    besides: int = 0,
    eager: bool = False,
) -> None:
    """Raise `HartError` if `images` images together need more memory than the device has left.

    branches: rows per image. savings: the options that the caller can offer. besides: bytes for a copy of the weights
    made before. eager: see `image_memory`. If the system does not say what is left, nothing is checked.
    """
    free = free_memory(parts.device)
    if free is None:
        return

    def needed(images: int, **changes: object) -> Memory:
        return image_memory(config, parts, schedule, branches * images, parts.speed.replace(**changes), eager=eager)

    need, left = needed(images), free - besides
    if need.most <= left:
        return
    for chosen in ((), *((name,) for name in savings), tuple(savings)):
        changes = {key: value for name in chosen for key, value in SAVING[name].items()}
        if fits := bisect_right(range(1, images + 1), left, key=lambda batch: needed(batch, **changes).most):
            batch = [f"--batch-size {fits}"] if fits < images else []
            advice = f"choose {' '.join([*batch, *chosen])} or a smaller --size"
            break
    else:
        advice = "choose a smaller --size"
    model = f"the model and a copy of its weights of {byte_count(besides)}" if besides else "the model"
    asked = "an image" if images == 1 else f"{images} images together"
    raise HartError(
        f"{asked} of {size_of_schedule(config, schedule)} px would take about {byte_count(need.most)} of memory "
        f"besides {model} ({byte_count(need.cache + need.scale)} for the tokens, {byte_count(need.cache)} of it keys "
        f"and values, then {byte_count(need.decoder)} for the decoder), and {byte_count(free)} are free: {advice}"
    )
