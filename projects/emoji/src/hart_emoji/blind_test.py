"""A blind test: numbered images without prompts, to be named by somebody who has not seen the prompts.

    OUT/sheet-1.png, ...    the images, shuffled, `PAGE` to a sheet
    OUT/key.tsv             number, model and prompt of each

For each number, write down what the image shows and a mark from 1 (a smear) to 5 (as a designer would draw it), and
open the key afterwards. Prompts are names from the set, without flags and symbols; the seed alone chooses them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from hart import HartError, HartPipeline
from hart.evaluation import Progress, contact_sheet, counted, quiet_prompts
from hart.files import write_text
from hart_emoji.data.captions import with_article
from hart_emoji.suites.emoji_set import read_concepts
from hart_emoji.suites.prompts import LEFT_OUT

KEY_FILE = "key.tsv"
PAGE = 50
"""Images per sheet."""


def write_blind_test(out: Path, data: Path, models: Sequence[str], count: int, seed: int, progress: Progress) -> None:
    """Write images of `count` prompts from each of the models. data: the set that `hart-emoji data` built.

    Raises `HartError` if the folder already holds a test, the set has fewer names, or the models' image sizes differ.
    """
    if (out / KEY_FILE).exists():
        raise HartError(f"{out}: holds a blind test already: choose another folder")
    prompts = blind_prompts(data, count, seed)
    total = count * len(models)
    # load all of them before generating the first image
    pipes = [HartPipeline.from_pretrained(model) for model in models]
    if len({pipe.image_size for pipe in pipes}) > 1:
        raise HartError("the models' images differ in size, which tells them apart: give models of one size")
    made: list[tuple[Image.Image, str, str]] = []
    for model, pipe in zip(models, pipes, strict=True):
        for number, prompt in enumerate(prompts):
            progress(len(made), total, f"{len(made)} of {counted(total, 'image')} generated")
            with quiet_prompts():
                made.append((pipe(prompt, seed=number).images[0], model, prompt))
    random.Random(f"{seed}|order").shuffle(made)
    out.mkdir(parents=True, exist_ok=True)
    for first in range(0, total, PAGE):
        page = [[image] for image, _, _ in made[first : first + PAGE]]
        numbers = [str(first + place) for place in range(1, len(page) + 1)]
        contact_sheet(page, numbers).save(out / f"sheet-{first // PAGE + 1}.png")
    lines = (f"{number}\t{model}\t{prompt}\n" for number, (_, model, prompt) in enumerate(made, start=1))
    write_text(out / KEY_FILE, "".join(lines))


def blind_prompts(data: Path, count: int, seed: int) -> list[str]:
    """Return names of different concepts, with articles. Raises `HartError` if the set has fewer than `count`."""
    names = sorted(entry.names[0] for entry in read_concepts(data).values() if entry.group not in LEFT_OUT)
    if count > len(names):
        raise HartError(f"{data}: has {counted(len(names), 'concept')} to ask for, not {count}: lower --count")
    return [with_article(name) for name in random.Random(f"{seed}|blind test").sample(names, count)]
