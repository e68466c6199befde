"""Detector, namer of colours and answerer: what goes in and out, with tiny networks of random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import CLIPModel

from clip_models import save_tiny_clip
from hart.errors import HartError
from hart.evaluation.judges.answers import BlipAnswers
from hart.evaluation.judges.objects import (
    COLOURS,
    OBJECTS,
    WORDINGS,
    ClipColours,
    Found,
    Mask2FormerDetector,
    cut_out,
    instances,
    object_names,
)
from judge_models import LABELS, save_answerer, save_detector

CPU = torch.device("cpu")


def logits(*rows: tuple[int, float]) -> torch.Tensor:
    """Class logits (Q, 4) of three classes and "nothing", with a given probability for one class each."""
    table = torch.empty(len(rows), 4)
    for row, (label, probability) in enumerate(rows):
        table[row] = (1 - probability) / 3
        table[row, label] = probability
    return table.log()


def blocks(*boxes: tuple[int, int, int, int], image_size: int = 8, sure: float = 50.0) -> torch.Tensor:
    """Mask logits (Q, side, side): sure inside a box, sure outside."""
    masks = torch.full((len(boxes), image_size, image_size), -sure)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = sure
    return masks


NAMES = {0: "dog", 1: "cat"}


def test_instances_have_the_class_the_box_and_the_mask() -> None:
    found = instances(logits((0, 0.9), (1, 0.7)), blocks((2, 1, 6, 5), (0, 4, 8, 8)), NAMES, 8, 8)
    assert [(item.name, item.box) for item in found] == [("dog", (2, 1, 6, 5)), ("cat", (0, 4, 8, 8))]
    assert [round(item.score, 4) for item in found] == [0.9, 0.7]
    assert found[0].mask is not None and int(found[0].mask.sum()) == 16


def test_boxes_are_in_pixels_of_the_image() -> None:
    (item,) = instances(logits((0, 0.9)), blocks((2, 2, 6, 6)), NAMES, 32, 64)
    assert item.mask is not None and item.mask.shape == (64, 64)
    assert all(abs(got - wanted) <= 1 for got, wanted in zip(item.box, (16, 16, 48, 48), strict=True))


def test_unsure_masks_lower_the_score_and_empty_ones_are_dropped() -> None:
    masks = blocks((2, 2, 6, 6), sure=0.4)
    (item,) = instances(logits((0, 0.9)), masks, NAMES, 8, 8)
    assert item.score == pytest.approx(0.9 * torch.tensor(0.4).sigmoid().item())
    assert instances(logits((0, 0.5)), masks, NAMES, 8, 8) == []  # 0.5 * 0.6 is too little
    assert instances(logits((0, 0.9)), blocks((0, 0, 0, 0)), NAMES, 8, 8) == []


def test_other_classes_nothing_and_the_unlikely_are_left_out() -> None:
    masks = blocks((2, 2, 6, 6), (2, 2, 6, 6), (2, 2, 6, 6))
    assert instances(logits((2, 0.9), (3, 0.9), (0, 0.29)), masks, NAMES, 8, 8) == []


def test_one_query_may_tell_two_classes() -> None:
    classes = torch.tensor([[0.5, 0.4, 0.05, 0.05]]).log()
    found = instances(classes, blocks((2, 2, 6, 6)), NAMES, 8, 8)
    assert [item.name for item in found] == ["dog", "cat"]


def test_names_of_classes() -> None:
    named = object_names(dict(enumerate(LABELS)), "x")
    assert set(named.values()) == OBJECTS
    assert named[LABELS.index("tvmonitor")] == "tv" and named[LABELS.index("mouse")] == "computer mouse"
    # others, such as the stuff of panoptic sets, are no objects
    assert object_names(dict(enumerate([*LABELS, "sky"])), "x") == named
    with pytest.raises(HartError, match="lacks airplane, apple, backpack: give one that was trained on COCO"):
        object_names({0: "dog"}, "x")


def test_the_detector_is_fed_at_its_image_size(tmp_path: Path) -> None:
    detector = Mask2FormerDetector(str(save_detector(tmp_path / "mask2former-tiny")), CPU, image_size=64)
    assert detector.name == "mask2former-tiny" and len(detector.weights) == 64
    seen = []
    detector.network.register_forward_pre_hook(
        lambda _m, _a, given: seen.append(given["pixel_values"]), with_kwargs=True
    )
    images = [Image.new("RGB", (16, 16), (255, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 255))]
    found = detector(images)
    assert len(found) == 2 and seen[0].shape == (2, 3, 64, 64)
    red = (torch.tensor([1.0, 0, 0]) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(seen[0][0, :, 5, 5], red)


def test_objects_are_cut_out_on_grey() -> None:
    image = Image.new("RGB", (8, 8), (255, 0, 0))
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:6, 2:6] = True
    mask[2, 2] = False
    crop = cut_out(image, Found("dog", (2, 2, 6, 6), 0.9, mask))
    assert crop.size == (4, 4)
    assert crop.getpixel((0, 0)) == (153, 153, 153) and crop.getpixel((1, 1)) == (255, 0, 0)


def test_colours_are_the_nearest_words(tmp_path: Path) -> None:
    folder = save_tiny_clip(tmp_path / "clip-tiny")
    namer = ClipColours(str(folder), CPU)
    assert namer.name == "clip-tiny"
    image = Image.effect_mandelbrot((24, 24), (-2, -1.5, 1, 1.5), 20).convert("RGB")
    whole = torch.ones(24, 24, dtype=torch.bool)
    items = [Found("dog", box, 0.9, whole) for box in ((0, 0, 16, 16), (4, 4, 24, 12))]
    got = namer(image, "dog", items)
    model = CLIPModel.from_pretrained(folder).eval()
    with torch.no_grad():
        pixels = namer._images([cut_out(image, item) for item in items], return_tensors="pt")["pixel_values"]
        vectors = model.get_image_features(pixels).pooler_output
        likeness = []
        for colour in COLOURS:
            texts = [wording.format(colour=colour, name="dog") for wording in WORDINGS]
            tokens = [namer.tokenizer(text, return_tensors="pt")["input_ids"] for text in texts]
            each = [model.get_text_features(word).pooler_output[0] for word in tokens]
            direction = torch.stack([vector / vector.norm() for vector in each]).mean(dim=0)
            likeness.append(torch.nn.functional.cosine_similarity(vectors, direction[None], dim=1))
    assert got == [COLOURS[i] for i in torch.stack(likeness, dim=1).argmax(dim=1).tolist()]


def test_answers_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    answerer = BlipAnswers(str(save_answerer(tmp_path / "blip-tiny")), CPU)
    image = Image.effect_mandelbrot((24, 24), (-2, -1.5, 1, 1.5), 20).convert("RGB")
    questions = ["is there a cat?", "is the cat red?", "cat?"]
    together = answerer(image, questions)
    assert all(together) and together == [answerer(image, [question])[0] for question in questions]
