"""`hart generate` and `hart reconstruct`: pictures from a model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hart.commands.console import model_name, note, print_path, progress, prompt_notes, scale_reporter, writable_folder
from hart.commands.new_files import NumberedFiles, with_suffixes, write_new
from hart.commands.options import DeviceOption
from hart.errors import HartError
from hart.files import read_text, user_path
from hart.strict import clipped

if TYPE_CHECKING:
    from hart.config import SamplingConfig
    from hart.generation.metadata import PictureRecord, PictureSettings
    from hart.generation.outputs import HartOutput
    from hart.pipeline import HartPipeline

DEFAULT_MODEL = "emoji"
DEFAULT_OUT = Path("outputs")
SLUG_LENGTH = 40
GRID_PIXELS, SMALLEST_SHOWN = 2**28, 128
"""Pixels of a contact sheet at most; it enlarges pictures below 128 px."""

ModelOption = Annotated[
    str | None, typer.Option(help=f"Shipped name, folder or hub id; {DEFAULT_MODEL} by default.", show_default=False)
]
OutOption = Annotated[Path, typer.Option(help="Folder for the pictures.")]
DtypeOption = Annotated[
    str | None,
    typer.Option(help="float32, bfloat16 or float16; bfloat16 on cuda by default, else float32.", show_default=False),
]


@dataclass(frozen=True)
class Job:
    """What to draw, once options and a picture's record are put together. `only`: keep this row of the result."""

    prompts: list[str]
    images_per_prompt: int
    seed: int
    model: str
    device: str | None
    dtype: str | None
    size: int | None
    batch_size: int | None
    sampling: SamplingConfig | None
    random_weights: bool
    loras: tuple[str, ...]
    lora_scale: float
    only: int | None = None


def generate(
    prompts: Annotated[
        list[str] | None, typer.Argument(help="What to draw; a class number for class models.", show_default=False)
    ] = None,
    model: ModelOption = None,
    images_per_prompt: Annotated[
        int | None, typer.Option("-n", "--images-per-prompt", help="Pictures a prompt; 1 by default.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the first picture; 0 by default.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; 0 turns it off.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Codes kept at a draw; 0 keeps all.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Probability kept at a draw; 1 keeps all.")] = None,
    smooth: Annotated[bool | None, typer.Option(help="Mix codes instead of taking the drawn one.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds in which the last scale is drawn.")] = None,
    diffusion_steps: Annotated[int | None, typer.Option(help="Steps of the residual diffusion.")] = None,
    discrete_only: Annotated[bool | None, typer.Option(help="Leave the residual tokens out.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the pictures in pixels.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Pictures drawn together; 1 on a CPU by default, 4 on a GPU.")
    ] = None,
    out: OutOption = DEFAULT_OUT,
    grid: Annotated[bool, typer.Option("--grid", help="Also write a contact sheet of all pictures.")] = False,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    prompts_file: Annotated[Path | None, typer.Option(help="Text file with a prompt a line.")] = None,
    like: Annotated[
        Path | None, typer.Option(help="Draw this picture again; whatever else is given is changed.")
    ] = None,
    lora: Annotated[
        list[Path] | None, typer.Option(help="Folder of an adapter to draw with; several add up.", show_default=False)
    ] = None,
    lora_scale: Annotated[float | None, typer.Option(help="Strength of the adapters; 1 is as trained.")] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Use the model's sizes with random weights.")
    ] = False,
) -> None:
    """Draw pictures and print their paths. What is not given is taken from the model's own settings."""
    wanted = [*(prompts or []), *(read_prompts(prompts_file) if prompts_file is not None else [])]
    if not wanted and like is None:
        raise HartError("nothing to draw: give a prompt, --prompts-file or --like")
    if any(not prompt.strip() for prompt in wanted):
        raise HartError("a prompt is empty: describe what to draw")
    writable_folder(out)
    from hart.generation.metadata import read_record

    record = read_record(like) if like is not None else None
    job = Job(
        prompts=wanted,
        images_per_prompt=1 if images_per_prompt is None else images_per_prompt,
        seed=0 if seed is None else seed,
        model=DEFAULT_MODEL if model is None else model,
        device=device,
        dtype=dtype,
        size=size,
        batch_size=batch_size,
        sampling=None,
        random_weights=random_weights,
        loras=tuple(os.path.abspath(user_path(folder)) for folder in lora or ()),  # noqa: PTH100 - links stay as given
        lora_scale=1.0 if lora_scale is None else lora_scale,
    )
    if record is not None:
        again = not wanted and (images_per_prompt, seed, batch_size) == (None, None, None)
        job = _like(
            record,
            job,
            keep_seed=seed is None,
            keep_model=model is None,
            keep_batch=again,
            keep_lora_scale=lora_scale is None,
        )
    if lora_scale is not None and not job.loras:
        raise HartError("--lora-scale is the strength of adapters, and there is none: give --lora too")
    total = len(job.prompts) * job.images_per_prompt if job.only is None else 1
    writer = PictureWriter(out, job, total, keep=grid)
    with says_what_is_kept(writer), progress(f"loading {job.model}") as report, prompt_notes():
        pipe = _open(job)
        if pipe.num_classes is None:
            _hint_at_quotes(prompts or [])
        if grid and total * max(pipe.image_size, SMALLEST_SHOWN) ** 2 > GRID_PIXELS:
            raise HartError(f"--grid: {total} pictures of {pipe.image_size} px are too many for one sheet")
        pipe(
            _prompts_for(pipe, job.prompts),
            num_images_per_prompt=job.images_per_prompt,
            seed=job.seed,
            guidance_scale=guidance,
            top_k=top_k,
            top_p=top_p,
            smooth=smooth,
            rounds=rounds,
            diffusion_steps=diffusion_steps,
            discrete_only=discrete_only,
            size=job.size,
            batch_size=job.batch_size,
            sampling=job.sampling,
            callback_on_scale=scale_reporter(report),
            callback_on_batch=lambda batch: writer.write(batch, pipe),
            collect=False,
        )
    if grid:
        print_path(writer.write_grid())


def reconstruct(
    images: Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)],
    model: ModelOption = None,
    out: OutOption = DEFAULT_OUT,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Encode and decode images with a model's tokenizer: input, discrete and hybrid side by side, PSNR in dB."""
    from hart.generation.metadata import save_png
    from hart.images import open_image

    for path in images:
        open_image(path)
    writable_folder(out)
    from hart.generation.contact_sheet import side_by_side
    from hart.pipeline import HartPipeline

    name = DEFAULT_MODEL if model is None else model
    files = NumberedFiles(out, len(images))
    with progress(f"loading {name}") as report:
        pipe = HartPipeline.from_pretrained(name, device=device, dtype=dtype)
        for i, path in enumerate(images):
            report(i, len(images), f"reconstructing {path.name}")
            result = pipe.reconstruct(open_image(path))
            row = side_by_side([result.original, result.discrete, result.hybrid])
            file = files.write(f"{slug(path.stem)}-reconstruction", partial(save_png, image=row, overwrite=False))
            print_path(file, f"  discrete {result.discrete_psnr:.2f} dB  hybrid {result.hybrid_psnr:.2f} dB")


def read_prompts(path: Path) -> list[str]:
    """The lines of a UTF-8 text file that are not blank. Raises `HartError` when there are none to be had."""
    prompts = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not prompts:
        raise HartError(f"{path}: holds no prompt: write one a line")
    return prompts


def slug(text: str) -> str:
    """A short piece of a file name: letters and digits of any script, the rest as single dashes."""
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return "-".join(words)[:SLUG_LENGTH].strip("-") or "picture"


def _like(
    record: PictureRecord, given: Job, *, keep_seed: bool, keep_model: bool, keep_batch: bool, keep_lora_scale: bool
) -> Job:
    """The job that draws a recorded picture again, changed by whatever was given."""
    from hart import __version__

    if record.version != __version__:
        note(f"drawn by hart {record.version}, this is {__version__}: the picture may come out differently")
    settings = record.settings
    keep_loras = keep_model and not given.loras
    prompts, seed, batch_size, only = given.prompts, given.seed, given.batch_size, None
    if keep_seed:
        seed = record.seed
    if keep_batch and settings.batch is not None:
        prompts, seed, only = list(settings.batch.prompts), settings.batch.seed, settings.batch.row
        batch_size = len(prompts)
        if not 0 <= only < batch_size:
            raise HartError("--like: the picture's settings name a row that its batch does not have")
    elif keep_batch:
        batch_size = 1
    return Job(
        prompts=prompts or [record.prompt],
        images_per_prompt=given.images_per_prompt,
        seed=seed,
        model=record.model if keep_model else given.model,
        device=given.device or settings.device,
        dtype=given.dtype or settings.dtype,
        size=settings.size if given.size is None and keep_model else given.size,
        batch_size=batch_size,
        sampling=settings.sampling,
        random_weights=given.random_weights or (settings.random_weights and keep_model),
        loras=settings.loras if keep_loras else given.loras,
        lora_scale=settings.lora_scale if keep_loras and keep_lora_scale else given.lora_scale,
        only=only,
    )


def _open(job: Job) -> HartPipeline:
    from hart.checkpoint.loading import load_config
    from hart.pipeline import HartPipeline

    if job.random_weights:
        pipe = HartPipeline.from_config(load_config(job.model), device=job.device, dtype=job.dtype)
    else:
        pipe = HartPipeline.from_pretrained(job.model, device=job.device, dtype=job.dtype)
    for folder in job.loras:
        pipe.load_lora(folder, job.lora_scale)
    return pipe


def _prompts_for(pipe: HartPipeline, prompts: list[str]) -> list[str | int]:
    """Words as they are; for a class model the numbers they spell."""
    if pipe.num_classes is None:
        return list(prompts)
    try:
        return [int(prompt) for prompt in prompts]
    except ValueError:
        raise HartError(f"this model draws classes by number: give 0 to {pipe.num_classes - 1}, not words") from None


class PictureWriter:
    """Writes batches as they are drawn and prints the paths: a run that is stopped leaves what it has done."""

    def __init__(self, out: Path, job: Job, total: int, *, keep: bool) -> None:
        """total: pictures to come. keep: hold them for a contact sheet."""
        self.out, self.job, self.total, self.done = out, job, total, 0
        self._files = NumberedFiles(out, total)
        self._model = model_name(job.model)
        self._kept: list[tuple[str, int, Any]] | None = [] if keep else None

    def write(self, batch: HartOutput, pipe: HartPipeline) -> None:
        """Write the pictures of one batch, or of a recorded one the picture that is asked for."""
        from hart import __version__
        from hart.generation.metadata import PictureRecord, write_picture

        for row in range(len(batch.images)) if self.job.only is None else [self.job.only]:
            prompt, seed, image = str(batch.prompts[row]), batch.seeds[row], batch.images[row]
            record = PictureRecord(prompt, seed, self._model, self._settings(batch, row, pipe), __version__)
            print_path(self._files.write(f"{slug(prompt)}-{seed}", partial(write_picture, image=image, record=record)))
            self.done += 1
            if self._kept is not None:
                self._kept.append((prompt, seed, image))

    def write_grid(self) -> Path:
        """A contact sheet of all pictures, a group for every prompt."""
        from hart.generation.contact_sheet import contact_sheet
        from hart.generation.metadata import save_png

        assert self._kept, "only a writer that keeps pictures can show them"
        n = self.job.images_per_prompt
        prompts, seeds, images = zip(*self._kept, strict=True)
        sheet = contact_sheet([images[i : i + n] for i in range(0, len(images), n)], prompts[::n])
        path = self.out / f"grid-{slug(prompts[0])}-{seeds[0]}.png"
        return write_new(with_suffixes(path), partial(save_png, image=sheet, overwrite=False))

    def _settings(self, batch: HartOutput, row: int, pipe: HartPipeline) -> PictureSettings:
        """The settings of one picture; with its batch, where it was not alone in it."""
        from hart.devices import dtype_name
        from hart.generation.metadata import BatchPlace, PictureSettings

        together = tuple(str(prompt) for prompt in batch.prompts)
        return PictureSettings(
            sampling=batch.sampling,
            size=pipe.image_size,
            device=str(pipe.device),
            dtype=dtype_name(pipe.dtype),
            random_weights=self.job.random_weights,
            loras=self.job.loras,
            lora_scale=self.job.lora_scale,
            batch=BatchPlace(together, batch.seeds[0], row) if len(together) > 1 else None,
        )


@contextmanager
def says_what_is_kept(writer: PictureWriter) -> Iterator[None]:
    """On Ctrl-C a line on stderr: how many of the pictures there are, and where."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"stopped: {writer.done} of {writer.total} in {writer.out}", err=True)
        raise


def _hint_at_quotes(prompts: list[str]) -> None:
    """A note where the shell has probably made several prompts of one."""
    if len(prompts) > 1 and all(len(prompt.split()) == 1 for prompt in prompts):
        short = clipped(" ".join(prompts), SLUG_LENGTH)
        note(f'these are {len(prompts)} prompts of one word each; to draw them as one: hart generate "{short}"')
