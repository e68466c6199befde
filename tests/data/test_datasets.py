"""Reading captioned images, and the order that training sees them in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hart.data.datasets import open_dataset, read_all
from hart.data.kinds import Kind
from hart.data.opening import open_source
from hart.data.order import SampleOrder
from hart.data.samples import Sample
from hart.data.sources import iterate
from hart.data.transforms import ImageTransform
from hart.errors import HartError
from image_files import encoded_image, write_tar


@pytest.mark.parametrize("kind", ["shards", "stream"])
def test_the_class_of_an_image_is_no_caption_beside_its_own(tmp_path: Path, kind: Kind) -> None:
    """As in shards for both kinds of models: half of the captions would be numbers."""
    image = encoded_image("red")
    write_tar(
        tmp_path / "0.tar",
        {
            "0.png": image, "0.txt": b"a cat", "0.cls": b"3",
            "1.png": image, "1.json": b'{"caption": "a dog"}', "1.cls": b"dog",
            "2.png": image, "2.txt": b" \n", "2.cls": b"a bird",
        },
    )  # fmt: skip
    source = open_source(tmp_path / "0.tar", kind=kind)
    found = [sample for sample in iterate(source) if isinstance(sample, Sample)]
    assert [sample.captions for sample in found] == [("a cat",), ("a dog",), ("a bird",)]


def test_nothing_readable_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(HartError, match="does not exist"):
        open_dataset(tmp_path / "nowhere", "train", 8)
    with pytest.raises(HartError, match="no image could be read"):
        open_dataset(tmp_path, "train", 8)
    write_tar(tmp_path / "train-0.tar", {"bad.png": b"x"})
    with pytest.raises(HartError, match="1 damaged"):
        open_dataset(tmp_path, "train", 8)
    with pytest.raises(HartError, match="none for the split 'val'"):
        open_dataset(tmp_path, "val", 8)


def test_one_stray_image_beside_class_folders_is_told_by_how_the_set_was_read(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    for name in ("cats/1.png", "cats/2.png", "cover.png"):
        (tmp_path / name).write_bytes(encoded_image("red"))
    with pytest.raises(HartError, match=r"folder .*: 3 images.* no class number.*fix the set, or name its kind"):
        read_all(open_source(tmp_path, "all"), ImageTransform(8), "label")
    assert len(read_all(open_source(tmp_path, "all", kind="classes"), ImageTransform(8), "label")) == 2


def test_missing_captions_are_fine_until_text_is_trained(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", {"a.png": encoded_image("red"), "b.png": encoded_image("red"), "b.txt": b"red"})
    data = open_dataset(tmp_path, "train", 8)
    assert data.texts[0] == ()
    with pytest.raises(HartError, match="images without a caption: 1 of 2"):
        data.require_captions()
    with pytest.raises(HartError, match="images without a class number: 2 of 2"):
        data.require_labels()


def test_equal_weights_show_every_image_once_a_round() -> None:
    seen = torch.cat([SampleOrder(torch.ones(10), 0).batch(step, 4) for step in range(5)])
    assert sorted(seen[:10].tolist()) == list(range(10))
    assert sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()


def test_weights_set_how_often_an_image_comes() -> None:
    weights = torch.tensor([1.0, 0.5, 0.0, 2.5, 0.0])
    seen = torch.cat([SampleOrder(weights, 3).batch(step, 20) for step in range(200)])
    counts = torch.bincount(seen, minlength=5) / len(seen)
    assert torch.allclose(counts, weights / weights.sum(), atol=0.01)
    assert counts[2] == counts[4] == 0
    halves = SampleOrder(torch.tensor([0.5] * 8 + [1.5] * 8), 0)
    epochs = [set(halves.batch(step, 16).tolist()) for step in range(200)]
    # 4 of the 8 come in an epoch, whichever: two of them in 3 of 14
    assert 25 < sum({0, 1} <= seen for seen in epochs) < 60


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 40))
def test_batches_of_any_size_cut_one_and_the_same_stream(count: int, batch_size: int, step: int) -> None:
    weights = torch.ones(count)
    stream = torch.cat([SampleOrder(weights, 5).batch(n, 1) for n in range((step + 1) * batch_size)])
    batch = SampleOrder(weights, 5).batch(step, batch_size)
    assert batch.tolist() == stream[step * batch_size :].tolist()


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_senseless_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(HartError, match="weights"):
        SampleOrder(torch.tensor(weights), 0).batch(0, 2)
