"""`hart generate`: images from a model."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from hart.checkpoint.folders import local_folder, model_name
from hart.commands.console import (
    NumberedFiles,
    Report,
    hint_at_files,
    hint_at_quotes,
    importing,
    needs_extra,
    note,
    print_path,
    progress,
    prompt_notes,
    require_output,
    says_when_stopped,
    scale_reporter,
    slug,
    write_new,
)
from hart.commands.from_config import options_from_config
from hart.commands.options import DEFAULT_FOLDER, GenerateOptions, ImageOptions, SamplingSettings
from hart.commands.program import STANDARD_STREAM
from hart.config import Config, HartConfig, SamplingConfig
from hart.errors import HartError
from hart.files import STANDARD_INPUT, read_standard_input, read_text, text_lines, user_path
from hart.grids import ScaleSchedule
from hart.sizes import ImageSize, requested_schedule, size_of_schedule, trained_sizes, untrained_remark
from hart.strict import clipped, counted, require

if TYPE_CHECKING:
    import torch

    from hart.generation.edits import PromptMix
    from hart.generation.metadata import ImageRecord, ImageSettings, MixSettings
    from hart.generation.outputs import HartOutput
    from hart.pipeline import HartPipeline

NOTHING = GenerateOptions()
GRID_PIXELS = 2**28
"""Most pixels of a contact sheet."""
TABLES = frozenset({".csv", ".tsv", ".json", ".jsonl"})
"""Files whose lines are not texts: column heads, numbers, quotes and braces would be generated too."""


class RunOptions(Config, kw_only=True):
    """Where prompts come from, and who generates."""

    prompts_file: Annotated[str | None, Field(json_schema_extra={"metavar": "PATH"})] = None
    """Text file with one prompt per line, or - for standard input; the same command continues a stopped run."""
    like: Path | None = None
    """Generate this image again, with any other given options changed."""
    grid: bool = False
    """Also write a contact sheet of all images."""
    workers: Annotated[int | None, Field(ge=1)] = None
    """Processes that share the prompts of a file; by default one per GPU, or one."""
    ray: bool = False
    """Share the prompts of a file among the machines of a Ray cluster."""

    def __post_init__(self) -> None:
        shared = self.workers is not None or self.ray
        no_file = "--workers and --ray share the prompts of a file: give --prompts-file"
        require(self.prompts_file is not None or not shared, no_file)


@options_from_config
def generate(options: GenerateOptions, settings: SamplingSettings, how: RunOptions) -> None:
    """Generate images and print their paths. Settings that are not given are the model's own."""
    prompts_file, grid = how.prompts_file, how.grid
    if prompts_file is not None and options.out is None:
        named = "standard-input" if prompts_file == STANDARD_STREAM else Path(prompts_file).stem.strip(".") or "prompts"
        options = options.replace(out=DEFAULT_FOLDER / named)  # its own: other commands write nothing there
    if grid or prompts_file is not None:
        require_output(options.place, single=False)
    if not options.prompts and prompts_file is None and how.like is None:
        raise HartError("nothing to generate: give a prompt, --prompts-file or --like")
    # before waiting for prompts
    record = None if how.like is None else _recorded(how.like)
    options.credentials()
    if prompts_file is not None:
        options = options.replace(prompts=(*options.prompts, *read_prompts(prompts_file)))
    given, row, like, mix = options, None, None, None
    if record is not None:
        options, row = _like(record, options)
        like, mix = record.settings, record.settings.mix
        if mix is not None and given.prompts:
            note(f'--like: the image mixes two prompts, and so do these: the second is "{clipped(mix.prompt, 40)}"')
    if prompts_file is not None:
        from hart.commands.jobs.running import run_job

        run_job(options, settings, how, like)
        return
    writer = ImageWriter(options, 1 if row is not None else options.count, row, keep=grid)
    writer.made_with["mix"] = mix
    settings["sampling"] = None if like is None else like.sampling
    with opened(writer) as (pipe, report):
        if pipe.num_classes is None:
            hint_at_quotes(given.prompts)
            hint_at_files(given.prompts)
        schedule = asked_schedule(pipe.config, options, mix)
        if grid:
            require_one_sheet(writer.total, size_of_schedule(pipe.config, schedule))
        check_size(pipe, schedule, options, options.count * options.candidates, mixed=mix is not None, **settings)
        generate_images = generator_of(pipe, options)
        asked = writer.arguments(pipe, report) | options.shape
        generate_images(options.prompts, mix=prompt_mix(mix), **asked, **settings)
    if writer.kept is not None:
        print_path(write_grid(writer.kept, options))


def read_prompts(file: str) -> list[str]:
    """Return the non-blank lines of a UTF-8 text file, or of standard input for `-`. Raises `HartError` if there are
    none."""
    sent, path = file == STANDARD_STREAM, user_path(file)
    if sent and sys.stdin is not None and sys.stdin.isatty():
        note("type prompts, one per line; Ctrl-D (on Windows Ctrl-Z and Enter) ends them")
    if not sent and path.exists() and not path.is_file() and not path.is_dir():
        raise HartError(f"{path}: not a regular file: send prompts to standard input, with --prompts-file -")
    if not sent and path.suffix.lower() in TABLES:
        raise HartError(f"{path}: is a table: write its prompts into a text file, one per line")
    prompts = text_lines(read_standard_input() if sent else read_text(path))
    if not prompts:
        raise HartError(f"{STANDARD_INPUT if sent else path}: holds no prompt: write one per line")
    return prompts


def _recorded(like: Path) -> ImageRecord:
    """Return the record of an image that can be generated again. Raises `HartError`."""
    from hart.generation.metadata import read_record

    record = read_record(like)
    if record.settings.edit is not None:
        raise HartError(f"{like}: was made from {record.settings.edit.image}, which it does not hold: edit that again")
    return record


def _like(record: ImageRecord, given: GenerateOptions) -> tuple[GenerateOptions, int | None]:
    """Return the options that generate a recorded image again, changed as given; and its row in the result."""
    from hart import __version__
    from hart.hub import is_hub_id

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
    recorded: dict[str, Any] = {"prompts": (record.prompt,), "seed": record.seed}
    recorded |= {name: getattr(settings, name) for name in ("negative_prompt", "device", "dtype", "speed", "cache")}
    if given.model is None:
        if not (settings.random_weights or local_folder(record.model) or is_hub_id(record.model)):
            raise HartError(
                f"--like: the image was made by {record.model}, where no model is any more: give it with --model"
            )
        recorded |= {"model": record.model, "random_weights": settings.random_weights}
        if given.aspect is None or isinstance(settings.size, int):  # the square whose area an aspect has
            recorded["size"] = settings.size
        if settings.loras and not given.lora:
            recorded |= {"lora": tuple(map(Path, settings.loras)), "lora_scale": settings.lora_scale}
    kept = {name: value for name, value in recorded.items() if getattr(given, name) == getattr(NOTHING, name)}
    return given.replace(**kept | changes), settings.batch.row if settings.batch and "prompts" in changes else None


def open_model(options: ImageOptions) -> HartPipeline:
    """Open the model of the options, with its adapters."""
    with importing():
        from hart.pipeline import HartPipeline
    options.require_files()

    open_ = HartPipeline.from_config if options.random_weights else HartPipeline.from_pretrained
    pipe = open_(options.source, device=options.device, dtype=options.dtype, speed=options.speed)
    changes = {"cache": options.cache, "tiled": options.tiled, "offload": options.offload}
    if changes := {name: value for name, value in changes.items() if value}:
        pipe.optimize(pipe.speed.replace(**changes))
    for remark in pipe.speed_remarks(chosen=bool(options.speed or changes)):
        note(remark)
    for folder in options.lora:
        pipe.load_lora(folder, options.strength)
    return pipe


def generator_of(pipe: HartPipeline, options: GenerateOptions) -> Any:
    """Return what generates: the pipeline itself, or the best of some of its images."""
    if options.best_of is None:
        return pipe
    from hart.evaluation.reranking import best_of, open_scorer

    with needs_extra("evaluate"):
        scorer = open_scorer(options.scorer, pipe)
    return lambda prompts, **arguments: best_of(pipe, prompts, options.best_of, scorer, **arguments)


def prompt_mix(mix: MixSettings | None) -> PromptMix | None:
    """Return a recorded mixture of prompts, as a call takes it."""
    from hart.generation.edits import PromptMix

    return None if mix is None else PromptMix(mix.prompt, mix.weights)


class ImageWriter:
    """Writes batches as they are generated and prints their paths: a stopped run keeps what it has done."""

    def __init__(self, options: ImageOptions, total: int, row: int | None = None, *, keep: bool = False) -> None:
        """total: images to come. row: write only this one of the batch. keep: hold images for a contact sheet. Raises
        `HartError` for credentials that cannot sign."""
        self.options, self.row, self.total, self.done = options, row, total, 0
        self.made_with = dict[str, Any]()
        """`edit` and `mix` of `ImageSettings`."""
        self._files = NumberedFiles(options.place, total)
        self._model = model_name(options.source)
        self._credentials = options.credentials()
        self.kept: list[tuple[ImageRecord, Any]] | None = [] if keep else None

    def arguments(self, pipe: HartPipeline, report: Report) -> dict[str, Any]:
        """Return the arguments of every pipeline call for the options, so that its images come here."""
        return {
            "negative_prompt": self.options.negative_prompt or None,
            "num_images_per_prompt": self.options.each,
            "seed": self.options.seed or 0,
            "batch_size": self.options.batch_size,
            "callback_on_scale": scale_reporter(report),
            "callback_on_batch": lambda batch: self.write(batch, pipe),
            "collect": False,
        }

    def write(self, batch: HartOutput, pipe: HartPipeline) -> None:
        """Write the images of one batch, or only the requested row."""
        from hart import __version__
        from hart.generation.metadata import BatchPlace, ImageRecord, write_image

        together = tuple(map(str, batch.prompts))
        for row in range(len(batch.images)) if self.row is None else [self.row]:
            prompt = str(batch.prompts[row]) if batch.prompts else ""
            seed, image = batch.seeds[row], batch.images[row]
            place = BatchPlace(together, batch.seeds[0], row) if len(together) > 1 else None
            settings = image_settings(self.options, pipe.device, pipe.dtype, batch.sampling[row], image.size)
            settings = settings.replace(batch=place, **self.made_with)
            record = ImageRecord(prompt, seed, self._model, settings, __version__)
            of_image = Path(settings.edit.image).stem if settings.edit is not None else ""
            name = slug(prompt or of_image, *([] if settings.mix is None else [settings.mix.prompt]))
            write = partial(write_image, image=image, record=record, credentials=self._credentials)
            print_path(self._files.write(f"{name}-{seed}", write))
            self.done += 1
            if self.kept is not None:
                self.kept.append((record, image))


@contextmanager
def opened(writer: ImageWriter) -> Iterator[tuple[HartPipeline, Report]]:
    """Open the model of a writer's options. Ctrl-C and SIGTERM report how many images were written, and where."""
    options = writer.options
    with (
        says_when_stopped(lambda: f"stopped: {writer.done} of {writer.total} in {options.place}"),
        progress(f"loading {options.source}") as report,
        prompt_notes(),
    ):
        yield open_model(options), report


def asked_schedule(config: HartConfig, options: ImageOptions, mix: MixSettings | None) -> ScaleSchedule:
    """Return the schedule of the images. mix: that of the image of `--like`. Raises `HartError` for sizes that the
    model cannot make, or whose number of scales differs from the mixture's."""
    schedule = requested_schedule(config, **options.shape)
    if mix is not None and len(mix.weights) != len(schedule):
        raise HartError(
            f"--like: the image mixes two prompts over {counted(len(mix.weights), 'scale')}, and images of "
            f"{size_of_schedule(config, schedule)} have {len(schedule)}: leave --size, --aspect and --model out, or "
            "mix the prompts again with hart mix"
        )
    return schedule


def check_size(
    pipe: HartPipeline, schedule: ScaleSchedule, options: ImageOptions, images: int, *, mixed: bool, **sampling: Any
) -> None:
    """Raise `HartError` if `images` images of this schedule need more memory than there is; then do `note_size`.

    mixed: with a second prompt. sampling: as for a call.
    """
    pipe.require_memory(schedule, images, batch_size=options.batch_size, second_prompt=mixed, **sampling)
    note_size(pipe, schedule)


def note_size(pipe: HartPipeline, schedule: ScaleSchedule) -> None:
    """Print a note if the model was not trained at the size of this schedule."""
    size = size_of_schedule(pipe.config, schedule)
    if (remark := untrained_remark(size, trained_sizes(pipe.config))) is not None:
        note(remark)


def image_settings(
    options: ImageOptions, device: torch.device, dtype: torch.dtype, sampling: SamplingConfig, size: tuple[int, int]
) -> ImageSettings:
    """Return the settings of an image that was generated alone, for its record."""
    from hart.devices import dtype_name
    from hart.generation.metadata import ImageSettings

    return ImageSettings(
        sampling=sampling,
        size=ImageSize(*size).stored,
        device=str(device),
        dtype=dtype_name(dtype),
        speed=options.speed,
        cache=options.cache,
        negative_prompt=options.negative_prompt,
        random_weights=options.random_weights,
        loras=tuple(map(str, options.lora)),
        lora_scale=options.strength,
    )


def require_one_sheet(total: int, size: ImageSize) -> None:
    """Raise `HartError` if `total` images are too many for a contact sheet."""
    from hart.generation.contact_sheet import SMALLEST_SHOWN

    if total * max(*size, SMALLEST_SHOWN) ** 2 > GRID_PIXELS:
        raise HartError(f"--grid: {total} images of {size} px are too many for one sheet")


def write_grid(images: Sequence[tuple[ImageRecord, Any]], options: ImageOptions) -> Path:
    """Write a contact sheet of all images of a command, one group per prompt, in the folder of the options."""
    from hart.generation.contact_sheet import contact_sheet
    from hart.generation.metadata import write_sheet
    from hart.text_encoder.emoji import named_emoji

    records, drawn = zip(*images, strict=True)
    labels = [named_emoji(record.prompt) for record in records[:: options.each]]
    sheet = contact_sheet([drawn[i : i + options.each] for i in range(0, len(drawn), options.each)], labels)
    name = f"grid-{slug(labels[0])}-{records[0].seed}"
    paths = (options.place / f"{name}{f'-{number}' if number > 1 else ''}.png" for number in itertools.count(1))
    write = partial(write_sheet, sheet=sheet, records=records, credentials=options.credentials())
    return write_new(paths, write)
