"""A blind test: numbered drawings without their prompts, to be named by somebody who does not know them.

    python recipes/emoji/blind_test.py outputs/blind --data data/emoji128 --count 100 --seed 1
    python recipes/emoji/blind_test.py outputs/blind --model emoji --model runs/further/model ...

Write down what each number shows, and a mark from 1 (a smear) to 5 (as a designer draws it), before you open `key.tsv`:
number, model, prompt. Drawings of several models are shuffled. Prompts are names of the set, without flags and symbols,
chosen by the seed alone: take one that was not used before.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import typer

from hart import HartPipeline
from hart.contact_sheet import contact_sheet
from hart.data.emoji.captions import with_article
from hart.evaluation.emoji_prompts import LEFT_OUT

PAGE = 50
"""Drawings a sheet."""


def prompts(data: Path, count: int, seed: int) -> list[str]:
    concepts = json.loads((data / "concepts.json").read_text(encoding="utf-8"))
    names = sorted(concept["names"][0] for concept in concepts.values() if concept["group"] not in LEFT_OUT)
    return [with_article(name) for name in random.Random(f"{seed}|blind test").sample(names, count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="the set that hart data emoji built, for its names")
    parser.add_argument("--model", action="append", help="emoji by default; several are shuffled")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    drawn = []
    for model in given.model or ["emoji"]:
        pipe = HartPipeline.from_pretrained(model)
        for seed, prompt in enumerate(prompts(given.data, given.count, given.seed)):
            drawn.append((pipe(prompt, seed=seed).images[0], model, prompt))
    random.Random(f"{given.seed}|order").shuffle(drawn)
    given.out.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(drawn), PAGE):
        page = drawn[start : start + PAGE]
        numbers = [str(start + place) for place in range(1, len(page) + 1)]
        contact_sheet([[image] for image, _, _ in page], numbers).save(given.out / f"sheet-{start // PAGE + 1}.png")
    lines = [f"{number}\t{model}\t{prompt}\n" for number, (_, model, prompt) in enumerate(drawn, start=1)]
    (given.out / "key.tsv").write_text("".join(lines), encoding="utf-8")
    typer.echo(given.out)


if __name__ == "__main__":
    main()
