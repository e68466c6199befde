"""`hart reconstruct`, `hart info`, `hart convert`, `hart verify`: what a model on disk is and does."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field

from hart.benchmark.report import table
from hart.checkpoint.folders import local_folder
from hart.commands.console import NumberedFiles, note, print_path, progress, slug
from hart.commands.from_config import options_from_config
from hart.commands.options import DEFAULT_MODEL, AspectRatio, LoraOptions, ModelOptions, Size
from hart.config import Config, HartConfig
from hart.grids import ScaleSchedule
from hart.sizes import requested_schedule, size_of_schedule
from hart.strict import counted


@options_from_config
def reconstruct(
    options: ModelOptions, images: Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)]
) -> None:
    """Encode and decode images with the tokenizer of a model, or a tokenizer alone: input, discrete and hybrid side by
    side, with PSNR in dB."""
    from hart.data.images import open_image
    from hart.generation.metadata import save_png

    files = NumberedFiles(options.place, len(images))
    for path in images:
        open_image(path)
    from hart.checkpoint.loading import load_tokenizer
    from hart.devices import resolve_device, resolve_dtype, slow_remarks
    from hart.generation.contact_sheet import side_by_side
    from hart.inference.components import Coder, prepared_tokenizer
    from hart.inference.speed import EXACT

    device = resolve_device(options.device)
    dtype = resolve_dtype(options.dtype, device)
    for remark in slow_remarks(dtype, device):
        note(remark)
    with progress(f"loading {options.source}") as report:
        tokenizer = prepared_tokenizer(load_tokenizer(options.source), device, dtype, EXACT)
        coder = Coder(tokenizer.requires_grad_(False), device, dtype)
        for i, path in enumerate(images):
            report(i, len(images), f"reconstructing {path.name}")
            result = coder.reconstruct(open_image(path))
            row = side_by_side([result.original, result.discrete, result.hybrid])
            file = files.write(f"{slug(path.stem)}-reconstruction", partial(save_png, image=row, overwrite=False))
            print_path(file, f"  discrete {result.discrete_psnr:.2f} dB  hybrid {result.hybrid_psnr:.2f} dB")


class InfoOptions(Config, kw_only=True):
    """Options of `hart info`."""

    model: Annotated[str, Field(json_schema_extra={"positional": True})] = DEFAULT_MODEL
    """Shipped model, folder, Hugging Face id, preset or config.json."""
    size: Size = None
    aspect: AspectRatio = None


@options_from_config
def info(options: InfoOptions) -> None:
    """Show a model's scales, and its parameters and multiply-accumulates (MACs) per image, part by part."""
    from hart.checkpoint.loading import load_config
    from hart.devices import dtype_name
    from hart.inference.cost import model_cost
    from hart.inference.packing import PACKED_DTYPES, packing_refusal

    config = load_config(options.model)
    schedule = requested_schedule(config, size=options.size, aspect=options.aspect)
    guided = config.sampling.guidance_scale > 0
    cost = model_cost(config, schedule, guided=guided)
    facts = _facts(config, schedule)
    # the number types whose linear layers are packed on this machine, and why others are not
    facts |= {f"{dtype_name(dtype)} packed on CPU": packing_refusal(dtype) or "yes" for dtype in PACKED_DTYPES}
    lines = [f"# {options.model}", "", *(f"- {name}: {value}" for name, value in facts.items())]
    macs = f"MACs of one image, guidance {'on' if guided else 'off'}"
    for title, counts in (("parameters", cost.parameters), (macs, cost.macs)):
        lines += ["", *table(["part", title], [*counts.items(), ("total", sum(counts.values()))])]
    typer.echo("\n".join(lines))


class ConvertOptions(LoraOptions, kw_only=True):
    """Options of `hart convert`."""

    source: Annotated[str, Field(json_schema_extra={"metavar": "SRC", "positional": True})]
    """Shipped model, folder in any layout, or Hugging Face id."""
    destination: Annotated[Path, Field(json_schema_extra={"metavar": "DST", "positional": True})]
    """Folder to write."""
    dtype: str = "float32"
    """How weights are stored: float32, bfloat16, float16, or int8 for large layers."""
    tokenizer: str | None = None
    """Tokenizer to write in place of the model's own, with the same codes: one with only its decoder trained."""


@options_from_config
def convert(options: ConvertOptions) -> None:
    """Write a model, with adapters merged, in this project's own layout: a folder that needs nothing else."""
    import torch

    from hart.checkpoint.loading import load_model, resolve_model, with_decoder
    from hart.checkpoint.lora import base_remark, merge_lora
    from hart.devices import resolve_stored_dtype
    from hart.inference.components import Components, require_new_model

    source, destination = options.source, options.destination
    stored = resolve_stored_dtype(options.dtype)
    in_memory = torch.float32 if options.lora or stored == torch.int8 else stored
    require_new_model(destination, local_folder(source))
    options.require_files()
    with progress(f"reading {source}"):
        folder = resolve_model(source)
        # adapters are merged and weights rounded to 8 bits in float32, whatever the stored type
        model = load_model(folder, in_memory)
        if options.tokenizer is not None:
            model = with_decoder(model, options.tokenizer)
        # for all of them, before the first changes the weights
        for remark in [base_remark(model.hart, adapter, source) for adapter in options.lora]:
            if remark is not None:
                note(remark)
        for adapter in options.lora:
            merge_lora(model.hart, adapter, options.strength, model=source)
        parts = Components(model.tokenizer, torch.device("cpu"), in_memory, model.hart)
        parts.save(destination, model.config, folder, stored, adapted=bool(options.lora))
    typer.echo(destination)


def verify(
    folder: Annotated[Path, typer.Argument(help="A checkpoint with case.json and golden.safetensors beside it.")],
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps; by default the CPU.")] = None,
) -> None:
    """Recompute what a golden file records, one line per quantity; exit code 1 if any differs too much."""
    from hart.checkpoint.verification import verify as compare
    from hart.devices import resolve_device

    place = resolve_device(device or "cpu")
    with progress(f"recomputing {folder}"):
        results = compare(folder, device=place)
    for result in results:
        verdict = "ok  " if result.passed else "FAIL"
        remark = f"  ({result.remark})" if result.remark else ""
        typer.echo(
            f"{verdict} {result.name}  largest difference {result.difference:.1e}  "
            f"tolerance {result.tolerance:.1e}{remark}"
        )
    failed = [result.name for result in results if not result.passed]
    if failed:
        typer.echo(f"quantities that differ, {len(failed)} of {len(results)}: {', '.join(failed)}", err=True)
        raise typer.Exit(1)


def _facts(config: HartConfig, schedule: ScaleSchedule) -> dict[str, str]:
    sizes, image = config.transformer, size_of_schedule(config, schedule)
    if sizes.text is not None:
        context = f"text, {counted(sizes.text.tokens, 'token')} of width {sizes.text.width}"
    else:
        assert sizes.classes is not None
        context = counted(sizes.classes.num_classes, "class")
    encoder = config.text_encoder
    facts = {
        "image": f"{image.width} x {image.height} px",
        "scales": str(schedule),
        "tokens per scale": ", ".join(map(str, schedule.token_counts)),
        "tokens": str(schedule.total_tokens),
        "tokens are": "discrete + continuous (hybrid)" if config.hybrid else "discrete",
        "context": context,
        "transformer": f"width {sizes.width}, depth {sizes.depth}, heads {sizes.heads}",
    }
    if encoder is not None:
        compact = encoder.kind == "compact"
        facts["text encoder"] = encoder.kind if compact else f"{encoder.kind} {encoder.source} (not counted below)"
    return facts
