"""Images of several shapes: one shape a step, each image at its own, the same whatever the processes."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from hart.data.loader import ImageLoader
from hart.data.opening import open_source
from hart.data.order import BLOCK, BucketOrder, SampleOrder, buckets_of, nearest_shape, shape_of
from hart.data.samples import Damage, Sample
from hart.data.transforms import ImageTransform
from hart.errors import HartError
from image_files import numbered, write_numbered_shards

SHAPES = [(8, 8), (16, 4), (4, 16)]
SIZES = [(10, 10), (40, 12), (12, 40), (30, 9)]  # of image i: that of i % 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("set")
    for number in range(24):
        (path / f"{number:04d}.png").write_bytes(numbered(number, SIZES[number % 4]))
    return path


def load(folder: Path, **changes: object) -> ImageLoader:
    settings = {"batch_size": 4, "seed": 3, "shapes": SHAPES} | changes
    return ImageLoader(open_source(folder, "all"), ImageTransform(8), **settings)  # type: ignore[arg-type]


def test_a_step_has_one_shape_and_every_image_its_own(folder: Path) -> None:
    loader = load(folder)
    seen: Counter[int] = Counter()
    for step in range(60):
        images = loader.batch(step).images
        numbers = images[:, 0, 0, 0].tolist()
        seen.update(numbers)
        for number in numbers:
            assert images.shape[:1:-1] == SHAPES[[0, 1, 2, 1][number % 4]]
    assert set(seen) == set(range(24))


def test_steps_are_the_same_for_all_ranks_and_workers_and_after_a_stop(folder: Path) -> None:
    whole = [load(folder).batch(step) for step in range(7)]
    assert len({batch.images.shape for batch in whole}) > 1
    ranks = [load(folder, rank=rank, world=2, workers=rank) for rank in range(2)]
    for step in range(4):
        assert torch.equal(torch.cat([rank.batch(step).images for rank in ranks]), whole[step].images)
    assert torch.equal(load(folder).batch(6).images, whole[6].images)


def test_a_damaged_image_is_replaced_by_one_of_its_shape(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(numbered(number, SIZES[number % 2]))
    broken = tmp_path / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])  # its header is sound
    loader = load(tmp_path, max_damaged=1.0)
    batches = [loader.batch(step) for step in range(12)]
    assert len(loader.damaged) == 1
    for batch in batches:
        wide = [number % 2 == 1 for number in batch.images[:, 0, 0, 0].tolist()]
        assert wide == [batch.images.shape[-1] == 16] * 4


def test_a_stream_cannot_be_sorted(tmp_path: Path) -> None:
    write_numbered_shards(tmp_path, shards=2, each=4)
    with pytest.raises(HartError, match="cannot be sorted by the shape"):
        ImageLoader(open_source(tmp_path, kind="stream"), ImageTransform(8), batch_size=2, seed=0, shapes=SHAPES)


def test_one_bucket_is_the_usual_order() -> None:
    weights = torch.rand(30, generator=torch.Generator().manual_seed(0))
    order, usual = BucketOrder(torch.zeros(30, dtype=torch.int64), weights, 5), SampleOrder(weights, 5)
    for step in (0, 3, 17, BLOCK + 5):
        assert torch.equal(order.batch(step, 8), usual.batch(step, 8))
    assert order.anywhere(0.4, 9) == usual.anywhere(0.4)


def test_buckets_have_steps_by_their_weight_and_each_image_comes_equally_often() -> None:
    buckets = torch.tensor([0] * 6 + [2] * 3 + [5])
    weights = torch.tensor([1.0] * 9 + [0.0])
    order = BucketOrder(buckets, weights, 1)
    counts = Counter(order.bucket(step) for step in range(BLOCK))
    assert counts[0] + counts[2] == BLOCK and abs(counts[0] - 2 * counts[2]) <= 3
    rows = torch.cat([order.batch(step, 2) for step in range(BLOCK, BLOCK + 900)]).bincount(minlength=10)
    assert rows[9] == 0
    assert int(rows[:6].max() - rows[:6].min()) <= 1 and int(rows[6:9].max() - rows[6:9].min()) <= 1


@pytest.mark.parametrize(
    ("size", "shape"), [((100, 90), 0), ((300, 200), 0), ((250, 100), 1), ((1000, 10), 1), ((50, 120), 2)]
)
def test_an_image_goes_to_the_nearest_aspect_ratio(size: tuple[int, int], shape: int) -> None:
    assert nearest_shape(size, SHAPES) == shape


def test_the_shape_is_that_of_the_upright_image(tmp_path: Path) -> None:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (40, 10)).save(stream, "JPEG", exif=exif)
    assert shape_of(Sample("a.jpg", stream.getvalue()), SHAPES) == 2
    for unread in (Sample("b.jpg", b"no image"), Damage("c.jpg", "no such file")):
        assert shape_of(unread, SHAPES) == 0
    (tmp_path / "a.jpg").write_bytes(stream.getvalue())
    source = open_source(tmp_path, "all")
    assert buckets_of(source, SHAPES).tolist() == [2]  # type: ignore[arg-type]
