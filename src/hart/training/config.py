"""Training settings, read strictly from TOML recipes and `key.subkey=value` arguments of the command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from hart.config import (
    Aspect,
    Config,
    Fraction,
    LoraTarget,
    Rank,
    ResidualDiffusionConfig,
    SamplingConfig,
    Seed,
    Style,
    TokenizerConfig,
    TransformerConfig,
)
from hart.data.kinds import Condition, Kind
from hart.errors import HartError
from hart.files import AnyPath, FileError, read_json, read_toml, user_path
from hart.losses.config import (
    LARGEST,
    AdversarialConfig,
    PerceptualConfig,
    TokenizerLossConfig,
    TransformerLossConfig,
    Weight,
)
from hart.sizes import aspect_sizes
from hart.strict import ConfigError, Listed, counted, require
from hart.training.overrides import apply_override

# Bounds of the numbers in a recipe, far above what runs use: larger ones are assumed to be typing errors.
Steps = Annotated[int, Field(ge=1, le=10**9)]
StepsOrNone = Annotated[int, Field(ge=0, le=10**9)]
Images = Annotated[int, Field(ge=1, le=10**6)]
Decay = Annotated[float, Field(ge=0, lt=1)]
"""Decay of a running average."""
Rate = Annotated[float, Field(gt=0, le=LARGEST)]


RECIPE_LIMIT = 2**20
"""Largest recipe in bytes."""
TRAIN_FIRST = "; train it first, or give another by tokenizer=MODEL"
"""End of an error about a transformer's tokenizer."""
MAIN_TABLES = ("transformer", "tokenizer")
"""Stages of this package: a recipe has a table named after its stage."""


@contextmanager
def named_by(key: str, advice: str = "") -> Iterator[None]:
    """While opening what a key of the recipe names: errors name the key and end with the advice."""
    try:
        yield
    except HartError as error:
        raise HartError(f"{key} of the recipe: {error}{advice}") from None


class OptimizerConfig(Config):
    """AdamW or Muon; the rate warms up linearly, then stays or falls to `final_fraction` of itself."""

    learning_rate: Rate
    kind: Literal["adamw", "muon"] = "adamw"
    """muon: orthogonalised momentum for the matrices of the blocks (Jordan et al., 2024), AdamW for the rest."""
    warmup_steps: StepsOrNone = 100
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """linear: held for a twentieth of the steps, then falling evenly (VAR)."""
    final_fraction: Fraction = 0.05
    weight_decay: Weight = 0.05
    """Weight decay of matrices and convolutions; biases, norms, embeddings and tables do not decay."""
    final_weight_decay: Rate | None = None
    """Weight decay of the last step, reached along half a cosine; None keeps `weight_decay` throughout."""
    beta1: Decay = 0.9
    beta2: Decay = 0.95
    """AdamW's decay of squared gradients; also Muon's momentum."""
    gradient_clip: Weight = 1.0
    """Largest norm of the gradient; 0 turns clipping off."""

    def __post_init__(self) -> None:
        require(
            self.final_weight_decay is None or self.weight_decay > 0,
            "final_weight_decay: weight_decay must then be above 0 too, or leave it out",
        )


class TrainerConfig(Config):
    """How long, how often, where, and with which seed."""

    steps: Steps
    batch_size: Images
    """Images per step, over all processes and microbatches."""
    seed: Seed = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the forward pass in autocast: faster on GPUs and on processors with AMX or AVX-512 bf16, slower on
    others."""
    device: str = "cpu"
    """cpu, cuda or mps. With several processes, each uses the GPU of its own number."""
    distributed: Literal["auto", "none", "ddp", "fsdp2"] = "auto"
    """How several processes share the work. auto: as `accelerate launch` is configured, by default DDP."""
    accumulate: Images = 1
    """Microbatches in which a process computes its share of a batch: less memory, the same result."""
    activation_checkpointing: bool = False
    """Keep only the inputs of the repeated blocks and recompute the rest in the backward pass: less memory."""
    compile: bool = False
    """Use torch.compile for the repeated blocks."""
    ema_decay: Decay = 0.999
    """Decay of the weight average; warmed up as (1 + step) / (10 + step)."""
    log_every: Steps = 50
    checkpoint_every: Steps = 500
    keep_checkpoints: Steps = 2
    """Number of checkpoints kept; if the newest is damaged, the run can resume from the previous one."""
    sample_every: StepsOrNone = 0
    """Steps between sample images in `samples/`; 0 turns them off."""
    trackers: Listed[Literal["tensorboard", "wandb"]] = ()
    """Where to send figures and images besides `metrics.jsonl`."""
    peak_tflops: Weight = 0.0
    """Peak of one device, to report the share that the run uses (MFU); 0 measures it with a matrix product."""


class ReadingConfig(Config):
    """How the images of `data` are read; see `docs/data.md`. An encoded set takes only the settings in `OF_ENCODED`."""

    OF_ENCODED: ClassVar[frozenset[str]] = frozenset({"kind", "split", "aspects", "workers", "also", "weights"})
    """Settings that matter for an encoded set; `also` and `weights` are for such sets only."""

    kind: Literal["auto", Kind] = "auto"
    """Format of the set. auto: detected from the address."""
    image_column: str = ""
    """Field of JSONL, Parquet and Hugging Face records that holds the image, if its name is unusual."""
    caption_column: str = ""
    label_column: str = ""
    split: str = "auto"
    """Part of the set, as for `hart.data.opening.open_source`. auto: train; to train adapters, which need no held-out
    images, all of an undivided set."""
    fit: Literal["crop", "pad"] = "crop"
    """crop: fill the square and cut off the rest. pad: the whole image, on white."""
    crop: Literal["center", "random"] = "center"
    shorter_side: Annotated[float, Field(ge=1, le=8)] = 1.0
    """Shorter side before the crop, as a multiple of the image size."""
    flip: Fraction = 0.0
    """Probability of a mirror image."""
    aspects: Listed[Aspect] = ()
    """Shapes of the images, such as 1:1, 16:9 and 9:16, each with as many tokens as the square; by default the square.
    An image goes to the shape nearest to its own, and all images of a step have the same shape."""
    memory_gb: Weight = 4.0
    """Sets that can be read at random, without random crops or flips, are kept in memory up to this size (decoded);
    others are read in every step. 0: read all sets in every step."""
    on_device: bool = False
    """Keep a set that is in memory on the device, with its token maps and caption features (25 kB for a caption of 16
    tokens of width 384), so that no step waits for data: for GPUs that a small model would leave idle."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processes that read ahead, per training process."""
    max_damaged: Fraction = 0.05
    """Share of images that may be damaged."""
    shuffle_buffer: Images = 4096
    """Encoded images of a stream from which the next one is chosen."""
    also: Listed[str] = ()
    """Folders of further encoded sets to mix with that of `data`."""
    weights: Listed[Weight] = ()
    """Proportions of images from `data` and from each of `also`, in this order; only the ratios matter. Empty: as if
    all were one set."""

    def __post_init__(self) -> None:
        require(
            not self.weights or len(self.weights) == 1 + len(self.also),
            f"weights must be {counted(1 + len(self.also), 'number')}, one for data and one for each of also, "
            f"not {len(self.weights)}",
        )


class StageRecipe(Config):
    """Settings that the recipes of all stages have, including your own."""

    trainer: TrainerConfig
    optimizer: OptimizerConfig

    stage: ClassVar[str] = ""
    """Name of the stage, for messages."""

    @classmethod
    def read(cls, path: AnyPath, overrides: tuple[str, ...] = ()) -> Self:
        """Read the recipe in a TOML file, or in the `recipe.json` of a run. Raises `ConfigError`.

        overrides: key=value; texts and lists of texts need no quotes, other values are TOML.
        """
        path = user_path(path)
        try:
            values = (read_json if path.suffix == ".json" else read_toml)(path, RECIPE_LIMIT)
        except FileError as error:
            raise ConfigError(f"{error}; recipes/ and projects/emoji/recipes/ have examples") from None
        tables = [stage for stage in MAIN_TABLES if isinstance(values.get(stage), dict)]
        if cls.stage in MAIN_TABLES and tables and cls.stage not in tables:
            raise ConfigError(f"{path}: this recipe is for stage {tables[0]}: run hart train {tables[0]}")
        for override in overrides:
            apply_override(values, override, cls)
        return cls.from_dict(values, str(path))


class Recipe(StageRecipe, kw_only=True):
    """What the stages of `hart train` have in common: images."""

    data: str
    """Images, or for stage `transformer` a set that `hart data encode` wrote: a folder, a file, a pattern or URLs of
    shards, or "hf:OWNER/NAME"."""
    reading: ReadingConfig = ReadingConfig()

    @property
    def condition(self) -> Condition:
        """Return what each image must come with."""
        return "none"

    @property
    def num_classes(self) -> int | None:
        """Return the bound that the images' classes must be below; None if classes are not used."""
        return None

    @property
    def holds_out(self) -> bool:
        """Return whether part of an undivided set is held out for evaluation, unless `reading.split` says otherwise."""
        return True


class DiscriminatorConfig(AdversarialConfig, kw_only=True):
    """The adversarial term and the training of its discriminator."""

    optimizer: OptimizerConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.optimizer.kind == "adamw",
            "optimizer.kind must be 'adamw': the discriminator has no repeated blocks for muon",
        )


class TokenizerRecipe(Recipe, kw_only=True):
    """Stage `tokenizer`: autoencoder and quantiser from scratch, or the decoder alone."""

    stage: ClassVar[str] = "tokenizer"
    tokenizer: TokenizerConfig
    loss: TokenizerLossConfig = TokenizerLossConfig()
    perceptual: PerceptualConfig | None = None
    """Perceptual loss and its weight; none without this table."""
    adversarial: DiscriminatorConfig | None = None
    """A discriminator trained along with the tokenizer; none without this table."""
    discrete_probability: Fraction = 0.5
    """Probability that a step decodes the codes instead of the continuous latent (paper, section 3.1)."""
    revive_every: StepsOrNone = 100
    """Steps after which codes that no token used are revived; 0 never revives dead codes. Codebook use per scale is
    reported over as many steps (with 0, over `trainer.checkpoint_every`)."""
    decoder_only: bool = False
    """Freeze encoder, quant_conv and quantiser, as the released recipe does."""
    code_corruption: Fraction = 0.0
    """Largest share of wrong codes in a discrete latent, with `decoder_only`: the decoder learns to make a clean image
    from codes that do not quite fit together, such as a transformer's."""
    residual_corruption: Fraction = 0.0
    """Largest share of wrong residual tokens in a continuous latent, which then has wrong codes as well; with
    `decoder_only`: the decoder learns to make a clean image from samples of the residual diffusion (decoders of noisy
    latents: RAE, 2510.11690)."""
    init_from: str = ""
    """A tokenizer to start from: one written by this stage, or that of any model with the same sizes."""

    def __post_init__(self) -> None:
        require(
            not self.decoder_only or bool(self.init_from),
            "decoder_only trains the decoder of a tokenizer, which keeps its codes: name it in init_from",
        )
        for name in ("code_corruption", "residual_corruption"):
            require(
                self.decoder_only or not getattr(self, name),
                f"{name} is for the decoder alone: set decoder_only = true, or leave it out",
            )
        require(
            not self.residual_corruption or self.discrete_probability < 1,
            "residual_corruption is for continuous latents: set discrete_probability below 1, or leave it out",
        )
        if self.adversarial is not None:
            layers, least = self.adversarial.layers, self.adversarial.smallest_image_size
            image_size = min(min(size) for size in aspect_sizes(self.tokenizer, self.reading.aspects))
            require(
                image_size >= least,
                f"adversarial.layers = {layers}: the discriminator then needs images of at least {least} px, "
                f"not {image_size}: set fewer",
            )

    @property
    def usage_window(self) -> int:
        """Return the number of steps over which codebook use is counted."""
        return self.revive_every or self.trainer.checkpoint_every


class LoraConfig(Config):
    """Low-rank adapters, trained instead of the weights; see `hart.checkpoint.lora.add_lora`."""

    rank: Rank
    alpha: Rank
    """The output of the adapters is scaled by alpha / rank."""
    targets: Annotated[Listed[LoraTarget], Field(min_length=1)] = ("attention", "mlp")


class TransformerRecipe(Recipe, kw_only=True):
    """Stage `transformer`: cross entropy over the token maps plus residual diffusion, on frozen tokens and text.

    The condition is text if the recipe has `[transformer.text]`, the class if it has `[transformer.classes]`.
    """

    stage: ClassVar[str] = "transformer"
    tokenizer: str
    """Folder of the trained tokenizer."""
    text_encoder: str = ""
    """Text encoder of the captions: one trained by its own stage, that of any model, or the folder or hub id of a Qwen2
    language model. Omit it for a class-conditional model."""
    text_instruction: bool = False
    """Put the enhancement instruction before every caption, as the released weights expect; for Qwen2."""
    transformer: TransformerConfig
    diffusion: ResidualDiffusionConfig | None = None
    """Without it the model has discrete tokens only (VAR, and the paper's ablation)."""
    sampling: SamplingConfig = SamplingConfig()
    """How sample images are generated; these settings become the defaults of the resulting model."""
    styles: Listed[Style] = ()
    """Styles that captions name; the resulting model offers them."""
    loss: TransformerLossConfig = TransformerLossConfig()
    diffusion_weight: Weight = 1.0
    condition_dropout: Fraction = 0.1
    """Share of captions or classes replaced by the null condition, for classifier-free guidance."""
    text_noise: Weight = 0.0
    """Largest standard deviation of Gaussian noise on caption features, sampled between 0 and this for each caption, so
    that captions similar to those of training give the same images. The shipped text encoder's features have a root
    mean square of 1."""
    drop_last_scale: bool = True
    """Compute only a random part of the last scale's tokens (paper, section 3.4)."""
    augmentations: Annotated[int, Field(ge=1, le=1000)] = 1
    """Versions of every image: the image itself, and slightly turned, scaled and shifted ones
    (`hart.data.transforms.slightly_moved`). For images in memory, all are encoded before the first step; for images
    that are read in every step, all but the first are made anew each time. Encoded sets have one."""
    code_corruption: Fraction = 0.0
    """Largest share of wrong codes in the teacher-forcing input of augmented versions, and of all images of an encoded
    set. The targets of later scales compensate for them, so that the model learns to correct its own errors
    (self-correction; Han et al., 2024)."""
    gate_gain: Weight = 1e-3
    """Factor on the initial weights that give the gates of modulated branches (AdaLN); VAR's falls with the depth."""
    init_from: str = ""
    """A model to start from, of this resolution or a lower one, and of this depth or a smaller one."""
    lora: LoraConfig | None = None
    """Train adapters of this size for the frozen weights of `init_from`, and write them instead of a model."""

    @property
    def condition(self) -> Condition:
        return "caption" if self.num_classes is None else "label"

    @property
    def num_classes(self) -> int | None:
        return None if self.transformer.classes is None else self.transformer.classes.num_classes

    @property
    def holds_out(self) -> bool:
        return self.lora is None  # adapters are trained on a handful of images

    def __post_init__(self) -> None:
        if self.transformer.classes is None:
            require(
                bool(self.text_encoder),
                "text_encoder is missing: a text-conditional model needs one; for a "
                "class-conditional one give [transformer.classes] instead of [transformer.text]",
            )
        else:
            require(
                not self.text_encoder and not self.text_instruction,
                "text_encoder and text_instruction are for text-conditional models; leave them out, "
                "or give [transformer.text] instead of [transformer.classes]",
            )
        require(
            not self.transformer.masked_last_scale or not self.drop_last_scale,
            "transformer.masked_last_scale: all tokens of the last scale are computed; set drop_last_scale = false",
        )
        require(
            not self.text_noise or self.transformer.classes is None,
            "text_noise is for text-conditional models; leave it out",
        )
        require(
            not self.loss.cluster_weight or self.loss.clusters <= self.transformer.codebook_size,
            f"loss.clusters must be at most transformer.codebook_size ({self.transformer.codebook_size}), "
            f"not {self.loss.clusters}",
        )
        require(
            self.lora is None or bool(self.init_from),
            "lora trains adapters for the weights of a model: name it in init_from",
        )


StagedRecipe = TokenizerRecipe | TransformerRecipe
"""Recipe of a stage of `hart train`."""
