"""`hart generate` and `hart reconstruct`: images from a model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import Field

from hart.commands.console import (
    NumberedFiles,
    model_name,
    note,
    print_path,
    progress,
    prompt_notes,
    scale_reporter,
    with_suffixes,
    writable_folder,
    write_new,
)
from hart.commands.from_config import options_from_config
from hart.commands.options import ASPECT_HELP, SIZE_HELP, sampling_options
from hart.config import Config
from hart.errors import HartError
from hart.files import read_text, user_path
from hart.strict import Listed, clipped

if TYPE_CHECKING:
    from hart.generation.metadata import ImageRecord, ImageSettings
    from hart.generation.outputs import HartOutput
    from hart.pipeline import HartPipeline

DEFAULT_MODEL = "emoji"
SLUG_LENGTH = 40
GRID_PIXELS = 2**28
"""Largest contact sheet."""


class ModelOptions(Config, kw_only=True):
    """Which model runs where. None is the default, or with --like what the image was made with."""

    model: str | None = None
    """Shipped model, folder or Hugging Face id; by default emoji."""
    device: str | None = None
    """cpu, cuda, cuda:1 or mps; by default CUDA if there is one, else the CPU."""
    dtype: str | None = None
    """float32, bfloat16 or float16; by default bfloat16 on CUDA, else float32."""
    out: Path = Path("outputs")
    """Folder for the images."""


class GenerateOptions(ModelOptions, kw_only=True):
    """What to generate. None is the default, or with --like what the image was made with."""

    prompts: Annotated[Listed[str], Field(json_schema_extra={"positional": True})] = ()
    """What to generate: text, or class numbers for a class model."""
    negative_prompt: str | None = None
    """What guidance steers away from, for all images."""
    images_per_prompt: Annotated[
        int | None, Field(ge=1, json_schema_extra={"flags": ["-n", "--images-per-prompt"]})
    ] = None
    """Images per prompt; by default 1."""
    seed: Annotated[int | None, Field(ge=0)] = None
    """Seed of the first image, by default 0; image i has the seed plus i."""
    size: Annotated[int | str | None, Field(description=SIZE_HELP, json_schema_extra={"metavar": "PX|WxH"})] = None
    aspect: Annotated[str | None, Field(description=ASPECT_HELP, json_schema_extra={"metavar": "W:H"})] = None
    batch_size: Annotated[int | None, Field(ge=1)] = None
    """Images generated together; by default 1 on a CPU, 4 on a GPU."""
    lora: Listed[Path] = ()
    """Folder of a LoRA adapter to merge; repeat it to add several."""
    lora_scale: float | None = None
    """Strength of the adapters; 1 is as trained."""
    random_weights: Annotated[bool, Field(json_schema_extra={"flags": ["--random-weights"]})] = False
    """Use random weights in place of the model's: for timings, not for images."""


NOTHING = GenerateOptions()


@sampling_options
@options_from_config
def generate(
    options: GenerateOptions,
    settings: Any,
    prompts_file: Annotated[Path | None, typer.Option(help="Text file with one prompt per line.")] = None,
    like: Annotated[
        Path | None, typer.Option(help="Generate this image again, with whatever else you give changed.")
    ] = None,
    grid: Annotated[bool, typer.Option("--grid", help="Also write a contact sheet of all images.")] = False,
) -> None:
    """Generate images and print their paths. Settings that are not given are the model's own."""
    wanted = [*options.prompts, *(read_prompts(prompts_file) if prompts_file is not None else [])]
    if not wanted and like is None:
        raise HartError("nothing to generate: give a prompt, --prompts-file or --like")
    if any(not prompt.strip() for prompt in wanted):
        raise HartError("a prompt is empty: describe what to generate")
    writable_folder(options.out)
    from hart.generation.contact_sheet import SMALLEST_SHOWN
    from hart.generation.metadata import read_record
    from hart.sizes import requested_schedule, size_of_grid, trained_sizes

    # links stay as given
    loras = tuple(Path(os.path.abspath(user_path(folder))) for folder in options.lora)  # noqa: PTH100
    options = options.replace(prompts=tuple(wanted), lora=loras)
    sampling, row, given = None, None, options
    if like is not None:
        record = read_record(like)
        options, row = _like(record, options)
        sampling = record.settings.sampling
    if given.lora_scale is not None and not options.lora:
        raise HartError("--lora-scale is the strength of an adapter: give --lora too")
    total = 1 if row is not None else len(options.prompts) * (options.images_per_prompt or 1)
    writer = ImageWriter(options, total, row, keep=grid)
    with says_what_is_kept(writer), progress(f"loading {options.model or DEFAULT_MODEL}") as report, prompt_notes():
        pipe = _open(options)
        if pipe.num_classes is None:
            _hint_at_quotes(given.prompts)
        schedule = requested_schedule(pipe.config, size=options.size, aspect=options.aspect)
        image_size = size_of_grid(schedule.final, pipe.config.tokenizer.downsampling)
        if grid and total * max(*image_size, SMALLEST_SHOWN) ** 2 > GRID_PIXELS:
            raise HartError(f"--grid: {total} images of {image_size} px are too many for one sheet")
        if image_size not in (known := trained_sizes(pipe.config)):
            note(f"this model was trained at {', '.join(map(str, known))} px: images of {image_size} may look worse")
        negative = options.negative_prompt
        pipe(
            _prompts_for(pipe, options.prompts),
            negative_prompt=None if negative is None else _prompts_for(pipe, [negative]),
            num_images_per_prompt=options.images_per_prompt or 1,
            seed=options.seed or 0,
            size=str(image_size),
            batch_size=options.batch_size,
            sampling=sampling,
            callback_on_scale=scale_reporter(report),
            callback_on_batch=lambda batch: writer.write(batch, pipe),
            collect=False,
            **settings,
        )
    if grid:
        print_path(writer.write_grid())


@options_from_config
def reconstruct(
    options: ModelOptions,
    images: Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)],
) -> None:
    """Encode and decode images with a model's tokenizer: input, discrete and hybrid side by side, with PSNR in dB."""
    from hart.data.images import open_image
    from hart.generation.metadata import save_png

    for path in images:
        open_image(path)
    writable_folder(options.out)
    from hart.generation.contact_sheet import side_by_side
    from hart.pipeline import HartPipeline

    name = options.model or DEFAULT_MODEL
    files = NumberedFiles(options.out, len(images))
    with progress(f"loading {name}") as report:
        pipe = HartPipeline.from_pretrained(name, device=options.device, dtype=options.dtype)
        for i, path in enumerate(images):
            report(i, len(images), f"reconstructing {path.name}")
            result = pipe.reconstruct(open_image(path))
            row = side_by_side([result.original, result.discrete, result.hybrid])
            file = files.write(f"{slug(path.stem)}-reconstruction", partial(save_png, image=row, overwrite=False))
            print_path(file, f"  discrete {result.discrete_psnr:.2f} dB  hybrid {result.hybrid_psnr:.2f} dB")


def read_prompts(path: Path) -> list[str]:
    """The lines of a UTF-8 text file that are not blank. Raises `HartError` when there are none."""
    prompts = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not prompts:
        raise HartError(f"{path}: holds no prompt: write one per line")
    return prompts


def slug(text: str) -> str:
    """A short piece of a file name: letters and digits of any script, all else as single dashes."""
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return "-".join(words)[:SLUG_LENGTH].strip("-") or "image"


def _like(record: ImageRecord, given: GenerateOptions) -> tuple[GenerateOptions, int | None]:
    """The options that generate a recorded image again, changed by what was given; and its row in the result."""
    from hart import __version__

    if record.version != __version__:
        note(f"generated by hart {record.version}, this is {__version__}: the image may come out differently")
    settings, changes = record.settings, dict[str, Any]()
    if not given.prompts and (given.images_per_prompt, given.seed, given.batch_size) == (None, None, None):
        changes["batch_size"] = 1
        if settings.batch is not None:
            together, row = settings.batch.prompts, settings.batch.row
            if not 0 <= row < len(together):
                raise HartError("--like: the image's settings name a row that its batch does not have")
            changes |= {"prompts": together, "seed": settings.batch.seed, "batch_size": len(together)}
    recorded: dict[str, Any] = {
        "prompts": (record.prompt,),
        "negative_prompt": settings.negative_prompt,
        "seed": record.seed,
        "device": settings.device,
        "dtype": settings.dtype,
    }
    if given.model is None:
        recorded |= {"model": record.model, "random_weights": settings.random_weights}
        if given.aspect is None:
            recorded["size"] = settings.size
        if not given.lora:
            recorded |= {"lora": tuple(map(Path, settings.loras)), "lora_scale": settings.lora_scale}
    kept = {name: value for name, value in recorded.items() if getattr(given, name) == getattr(NOTHING, name)}
    return given.replace(**kept | changes), settings.batch.row if settings.batch and "prompts" in changes else None


def _open(options: GenerateOptions) -> HartPipeline:
    from hart.checkpoint.loading import load_config
    from hart.pipeline import HartPipeline

    name = options.model or DEFAULT_MODEL
    if options.random_weights:
        pipe = HartPipeline.from_config(load_config(name), device=options.device, dtype=options.dtype)
    else:
        pipe = HartPipeline.from_pretrained(name, device=options.device, dtype=options.dtype)
    for folder in options.lora:
        pipe.load_lora(folder, 1.0 if options.lora_scale is None else options.lora_scale)
    return pipe


def _prompts_for(pipe: HartPipeline, prompts: Sequence[str]) -> list[str | int]:
    """Text as it is; for a class model the numbers that it spells."""
    if pipe.num_classes is None:
        return list(prompts)
    try:
        return [int(prompt) for prompt in prompts]
    except ValueError:
        raise HartError(
            f"this model generates classes by number: give 0 to {pipe.num_classes - 1}, not words"
        ) from None


class ImageWriter:
    """Writes batches as they are generated and prints the paths: a run that is stopped keeps what it has done."""

    def __init__(self, options: GenerateOptions, total: int, row: int | None, *, keep: bool) -> None:
        """total: images to come. row: write only this one of the batch. keep: hold images for a contact sheet."""
        self.options, self.row, self.total, self.done = options, row, total, 0
        self._files = NumberedFiles(options.out, total)
        self._model = model_name(options.model or DEFAULT_MODEL)
        self._kept: list[tuple[str, int, Any]] | None = [] if keep else None

    def write(self, batch: HartOutput, pipe: HartPipeline) -> None:
        """Write the images of one batch, or only the row that is asked for."""
        from hart import __version__
        from hart.generation.metadata import ImageRecord, write_image

        for row in range(len(batch.images)) if self.row is None else [self.row]:
            prompt, seed, image = str(batch.prompts[row]), batch.seeds[row], batch.images[row]
            record = ImageRecord(prompt, seed, self._model, self._settings(batch, row, pipe), __version__)
            print_path(self._files.write(f"{slug(prompt)}-{seed}", partial(write_image, image=image, record=record)))
            self.done += 1
            if self._kept is not None:
                self._kept.append((prompt, seed, image))

    def write_grid(self) -> Path:
        """A contact sheet of all images, a group for every prompt."""
        from hart.generation.contact_sheet import contact_sheet
        from hart.generation.metadata import save_png

        assert self._kept, "only a writer that keeps images can show them"
        n = self.options.images_per_prompt or 1
        prompts, seeds, images = zip(*self._kept, strict=True)
        sheet = contact_sheet([images[i : i + n] for i in range(0, len(images), n)], prompts[::n])
        path = self.options.out / f"grid-{slug(prompts[0])}-{seeds[0]}.png"
        return write_new(with_suffixes(path), partial(save_png, image=sheet, overwrite=False))

    def _settings(self, batch: HartOutput, row: int, pipe: HartPipeline) -> ImageSettings:
        """The settings of one image; with its batch, unless it was alone in it."""
        from hart.devices import dtype_name
        from hart.generation.metadata import BatchPlace, ImageSettings
        from hart.sizes import ImageSize

        together = tuple(str(prompt) for prompt in batch.prompts)
        return ImageSettings(
            sampling=batch.sampling[row],
            size=ImageSize(*batch.images[row].size).stored,
            device=str(pipe.device),
            dtype=dtype_name(pipe.dtype),
            negative_prompt=self.options.negative_prompt,
            random_weights=self.options.random_weights,
            loras=tuple(map(str, self.options.lora)),
            lora_scale=1.0 if self.options.lora_scale is None else self.options.lora_scale,
            batch=BatchPlace(together, batch.seeds[0], row) if len(together) > 1 else None,
        )


@contextmanager
def says_what_is_kept(writer: ImageWriter) -> Iterator[None]:
    """On Ctrl-C, one line on stderr: how many images were written, and where."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"stopped: {writer.done} of {writer.total} in {writer.options.out}", err=True)
        raise


def _hint_at_quotes(prompts: Sequence[str]) -> None:
    """A note where the shell has probably split one prompt into several."""
    if len(prompts) > 1 and all(len(prompt.split()) == 1 for prompt in prompts):
        short = clipped(" ".join(prompts), SLUG_LENGTH)
        note(f'these are {len(prompts)} prompts of one word each; to generate them as one: hart generate "{short}"')
