"""Training by classes: they are handed on from every kind of set, and those that the model lacks are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hart.data.encoded import EncodedSet
from hart.data.opening import open_source
from hart.data.transforms import ImageTransform
from hart.errors import HartError
from hart.training.config import ReadingConfig
from hart.training.encode_options import EncodeOptions
from hart.training.encoding import Encoders, encode_dataset
from hart.training.image_sources import EncodedImages, image_source, open_training_data
from hart.training.task import Microbatch
from hart.training.token_sources import token_source
from hart.types import ClassContext
from helpers import tiny_class_config, tiny_model
from image_files import captioned, class_folders, numbered
from toy_training import class_recipe, recipe, tiny_transformer_recipe

CPU = torch.device("cpu")
WHOLE = Microbatch(0, 0, 4, slice(0, 4))


def test_classes_are_handed_on(tmp_path: Path) -> None:
    """From memory, from a loader and from an encoded set."""
    for name in ("ant", "bee"):
        (tmp_path / "set" / "train" / name).mkdir(parents=True)
        for n in range(3):
            (tmp_path / "set" / "train" / name / f"{n}.png").write_bytes(numbered(100 * (name == "bee") + n))
    tokenizer = tiny_model(tiny_class_config())[0].requires_grad_(False)
    encode_dataset(
        open_source(tmp_path / "set"),
        ImageTransform(8),
        Encoders(tokenizer, None, CPU),
        tmp_path / "codes",
        "train",
        EncodeOptions(),
    )
    sizes = tiny_class_config().transformer
    for address, reading in (("set", {}), ("set", {"memory_gb": 0.0}), ("codes", {})):
        given = tiny_transformer_recipe(recipe(data=str(tmp_path / address)), tmp_path).replace(
            transformer=sizes, text_encoder="", diffusion=None, reading=ReadingConfig(**reading)
        )
        data = open_training_data(given, 8)
        source = token_source(data, given, tokenizer, None, CPU)
        _, classes = source.batch(WHOLE)
        assert isinstance(classes, ClassContext) and classes.labels.dtype == torch.int64
        if not isinstance(data, EncodedImages):
            red = image_source(data).images(WHOLE, CPU)[:, 0, 0, 0]
            assert classes.labels.tolist() == (red > -0.5).int().tolist()
        assert source.first(4).labels.tolist() == [0, 0, 0, 1]
        assert source not in {token_source(data, given, tokenizer, None, CPU)}, "each is itself, not what it holds"


@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
def test_a_folder_of_more_classes_than_the_model_has_is_refused_before_it_is_read(
    memory_gb: float, tmp_path: Path
) -> None:
    folder = class_folders(tmp_path, 4)
    for image in folder.rglob("*.png"):
        image.write_bytes(b"no image")
    said = rf"{folder}/3/.\.png: its class has the number 3, but transformer\.classes\.num_classes is 3: set it to .* 4"
    with pytest.raises(HartError, match=said):
        open_training_data(class_recipe(folder, memory_gb=memory_gb), 8)


def test_a_class_that_only_an_image_s_notes_tell_is_named_with_its_file(tmp_path: Path) -> None:
    folder = captioned(tmp_path / "set", 9)
    for number in range(9):
        (folder / f"{number}.cls").write_text("3" if number == 7 else "1")
    tokenizer = tiny_model(tiny_class_config())[0].requires_grad_(False)
    said = rf"{folder}/7\.png: its class has the number 3, but .* at least 4, or fix the label"
    for memory_gb in (4.0, 0.0):
        given = class_recipe(folder, memory_gb=memory_gb)
        with pytest.raises(HartError, match=said):  # noqa: PT012 - at the start where the images are in memory
            source = token_source(open_training_data(given, 8), given, tokenizer, None, CPU)
            for step in range(9):
                source.batch(Microbatch(0, step, 4, slice(0, 4)))


def test_an_encoded_set_of_more_classes_than_the_model_has_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny_model(tiny_class_config())[0].requires_grad_(False)
    folder, encoders = class_folders(tmp_path / "set", 4), Encoders(tokenizer, None, CPU)
    encode_dataset(
        open_source(folder), ImageTransform(8), encoders, tmp_path / "codes", "train", EncodeOptions(shard_size=5)
    )
    given = class_recipe(tmp_path / "codes")
    with pytest.raises(HartError, match=r"train-00001\.safetensors, image 4: its class has the number 3, but .* is 3"):
        token_source(open_training_data(given, 8), given, tokenizer, None, CPU)


def test_encoded_sets_that_number_other_classes_are_not_mixed(tmp_path: Path) -> None:
    tokenizer = tiny_model(tiny_class_config())[0].requires_grad_(False)
    folders = []
    for name, classes in {"one": "ant bee", "same": "ant bee", "other": "bee cat"}.items():
        for kind in classes.split():
            captioned(tmp_path / f"{name} images" / kind, 2, bare=(0, 1))
        source, folder = open_source(tmp_path / f"{name} images"), tmp_path / name
        encode_dataset(source, ImageTransform(8), Encoders(tokenizer, None, CPU), folder, "train", EncodeOptions())
        folders.append(folder)
    assert len(EncodedSet(folders[0], also=folders[1:2])) == 8
    with pytest.raises(HartError, match=r"other differs from .*one in classes: encode both in the same way"):
        EncodedSet(folders[0], also=folders[2:])
