"""Several encoded sets, mixed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from hart.config import ConfigError
from hart.data.encoded import EncodedSet
from hart.errors import HartError
from hart.training.config import ReadingConfig
from hart.training.image_sources import EncodedImages, open_training_data
from hart.training.task import Microbatch
from hart.training.transformer_task import TransformerTask
from hart.types import TextContext
from toy_training import recipe, tiny_encoded_set, tiny_transformer_recipe


def test_encoded_sets_are_mixed_in_their_parts(tmp_path: Path) -> None:
    """Whatever their sizes, and in the same way for any number of processes."""
    encoded = tiny_encoded_set(tmp_path)
    folders = encoded / "codes", encoded / "twice"
    shutil.copytree(*folders)
    given = tiny_transformer_recipe(recipe(data=str(folders[0]), batch_size=8), encoded / "model")
    reading = ReadingConfig(also=(str(folders[1]),), weights=(3.0, 1.0))
    given = given.replace(reading=reading, text_noise=0.5)
    data = open_training_data(given, 8)
    assert isinstance(data, EncodedImages)
    alone = EncodedSet(folders[0])
    assert len(data.data) == 2 * len(alone) and "(75%) and" in data.description
    torch.testing.assert_close(float(data.data.weights[: len(alone)].sum() / data.data.weights.sum()), 0.75)
    assert torch.equal(data.data.codes(len(alone) + 1), alone.codes(1))
    assert data.digest() != alone.digest()
    task = TransformerTask(given, data)
    whole, part = (task.batch(Microbatch(0, 0, 8, rows)) for rows in (slice(0, 8), slice(4, 6)))
    assert isinstance(whole.context, TextContext) and isinstance(part.context, TextContext)
    assert torch.equal(part.context.embeddings, whole.context.embeddings[4:6]), "noise, too, is of the whole batch"
    plain = TransformerTask(given.replace(text_noise=0.0), data).batch(Microbatch(0, 0, 8, slice(0, 8)))
    assert isinstance(plain.context, TextContext)
    deviation = (whole.context.embeddings - plain.context.embeddings).flatten(1).std(dim=1)
    assert (deviation > 0).any() and deviation.max() < 0.6
    assert not (whole.context.embeddings * ~whole.context.mask.unsqueeze(-1)).any()
    index = folders[1] / "train.json"
    index.write_text(index.read_text().replace('"text_instruction": false', '"text_instruction": true'))
    with pytest.raises(HartError, match=r"twice differs from .*codes in text_instruction: encode both"):
        open_training_data(given, 8)
    with pytest.raises(HartError, match=r"reading\.also mixes encoded sets, and .*images is not one: encode it"):
        open_training_data(given.replace(data=str(encoded / "images")), 8)
    with pytest.raises(ConfigError, match=r"weights must be 2 numbers, one for data and one for each of also, not 1"):
        ReadingConfig(also=("a",), weights=(1.0,))
