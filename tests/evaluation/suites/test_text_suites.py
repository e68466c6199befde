"""Suites `mjhq` and `coco` through the entry point, on tiny sets in the published layouts, with real metrics."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from clip_models import save_tiny_clip
from command_line import evaluate, figures, refused
from hart.data.images import open_image
from hart.data.transforms import pil_to_pixels
from hart.errors import HartError
from hart.evaluation import published_files
from hart.evaluation.metrics.distances import Gaussian, frechet_distance
from hart.evaluation.metrics.features import open_extractor
from hart.evaluation.published_files import located
from hart.evaluation.suites.coco import open_coco
from hart.evaluation.suites.imagenet import REFERENCE
from hart.evaluation.suites.mjhq import open_mjhq
from helpers import unpadded
from image_files import numbered
from judge_models import save_text_tokenizer
from reward_models import SIZES, random_state, use

CATEGORIES = ("animals", "logo")
EACH = 5
FID = "FID (efficientnet-lite0)"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("models") / "clip-tiny")


@pytest.fixture
def mjhq(tmp_path: Path) -> Path:
    folder = tmp_path / "mjhq"
    entries = {}
    for place, category in enumerate(CATEGORIES):
        (folder / "mjhq30k_imgs" / category).mkdir(parents=True)
        for number in range(EACH):
            entries[f"{category[0]}{number:03d}"] = {"category": category, "prompt": f"{category} {number}"}
            file = folder / "mjhq30k_imgs" / category / f"{category[0]}{number:03d}.jpg"
            file.write_bytes(numbered(100 * place + number, (16, 16)))
    (folder / "meta_data.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    folder = tmp_path / "coco"
    (folder / "val2014").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images = [{"id": number, "file_name": f"COCO_val2014_{number:012d}.jpg"} for number in range(8)]
    captions = [
        {"image_id": number % 7, "id": number, "caption": f"caption {number // 7} of {number % 7}\n"}
        for number in range(14)
    ]
    for image in images:
        (folder / "val2014" / str(image["file_name"])).write_bytes(numbered(30 * int(str(image["id"])), (20, 12)))
    text = json.dumps({"images": images, "annotations": captions})
    (folder / "annotations" / "captions_val2014.json").write_text(text)
    return folder


def test_mjhq_overall_and_by_category(
    text_model: Path, clip: Path, mjhq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, reward = tmp_path / "out", tmp_path / "ImageReward.pt"
    torch.save(random_state(SIZES), reward)
    save_text_tokenizer(tmp_path / "words")
    use(SIZES, monkeypatch)
    result = evaluate("mjhq", "--model", text_model, "--data", mjhq, "--features", "efficientnet-lite0", "--clip", clip,
                      "--hps", clip, "--image-reward", reward, "--image-reward-tokenizer", tmp_path / "words",
                      "--reference-size", 16, "--limit", 9, "--resamples", 0, "--device", "cpu",
                      "--out", out)  # fmt: skip
    values = figures(result, out)
    assert set(values["figures"]) == {"generated", *CATEGORIES}
    assert {
        FID, "KID (efficientnet-lite0)", "CLIP score (clip-tiny)", "HPS v2 (clip-tiny)", "ImageReward",
    } == set(values["figures"]["logo"])  # fmt: skip
    assert "precision (efficientnet-lite0)" in values["figures"]["generated"]
    assert values["counts"] == {"generated": 9, "references": 10, "damaged": 0}
    # as published: the sampled code itself, with the model's own guidance
    assert values["settings"]["sampling"]["gumbel_smoothing"] is False
    assert any("guidance 4.5; the guidance of the published" in note for note in values["notes"])
    assert "fewer than 10,000" in result.stderr and "this set has 10 images (categories: 2)" in result.stderr
    table = unpadded((out / "table.md").read_text())
    assert "| HART 1024 | 732M | 1024 | 5.38 | 29.09 |" in table
    plan = json.loads((out / "images" / "plan.json").read_text())
    logos = [number for number, prompt in enumerate(plan["prompts"]) if "logo" in prompt]
    assert len(logos) in {4, 5}
    extractor = open_extractor("efficientnet-lite0", torch.device("cpu"))

    def gaussian(files: list[Path], size: int) -> Gaussian:
        pixels = torch.stack([pil_to_pixels(open_image(file), size) for file in files])
        return Gaussian.of(extractor(pixels).pooled)

    theirs = gaussian(sorted((mjhq / "mjhq30k_imgs" / "logo").iterdir()), 16)
    ours = gaussian([out / "images" / f"{number:06d}.png" for number in logos], 8)
    assert values["figures"]["logo"][FID]["value"] == pytest.approx(frechet_distance(theirs, ours), rel=1e-4)


def test_a_category_is_compared_with_its_own_images(mjhq: Path) -> None:
    benchmark = open_mjhq(mjhq, 4, 1)
    assert len(benchmark.prompts) == 4 and sorted(benchmark.categories) == ["animals"] * 2 + ["logo"] * 2
    assert all(prompt.startswith(name) for prompt, name in zip(benchmark.prompts, benchmark.categories, strict=True))
    # fewer prompts, but all images of the set
    assert len(benchmark.references) == 10
    for row in range(10):
        sample = benchmark.references.read(row)
        assert f"/{sample.record['category']}/" in f"/{sample.key.split(': ')[1]}"
    assert open_mjhq(mjhq, 4, 2).prompts != benchmark.prompts == open_mjhq(mjhq, 4, 1).prompts
    assert open_mjhq(mjhq, None, 1).prompts == tuple(f"{c} {n}" for c in CATEGORIES for n in range(EACH))


def test_the_archive_serves_as_well_as_the_folder(mjhq: Path, coco: Path, tmp_path: Path) -> None:
    for folder, name, archive, wrapped in (
        (mjhq, "mjhq30k_imgs", "mjhq30k_imgs.zip", ""),
        (coco, "val2014", "val2014.zip", "val2014/"),
        (coco, "annotations", "annotations_trainval2014.zip", "annotations/"),
    ):
        benchmark = (open_mjhq if folder == mjhq else open_coco)(folder, None, 0)
        expected = [benchmark.references.read(row).image for row in range(len(benchmark.references))]
        with zipfile.ZipFile(folder / archive, "w") as packed:
            for file in sorted((folder / name).rglob("*.j*")):
                packed.write(file, wrapped + file.relative_to(folder / name).as_posix())
        (folder / name).rename(tmp_path / f"moved-{name}")
        again = (open_mjhq if folder == mjhq else open_coco)(folder, None, 0)
        assert again.prompts == benchmark.prompts
        assert [again.references.read(row).image for row in range(len(again.references))] == expected


def test_coco_samples_a_caption_each_of_different_images(
    text_model: Path, clip: Path, coco: Path, tmp_path: Path
) -> None:
    prompts = open_coco(coco, None, 0).prompts
    # seven of eight images have captions; the line's end is no part of them
    assert len({prompt[-1] for prompt in prompts}) == 7 and all(prompt == prompt.strip() for prompt in prompts)
    assert open_coco(coco, None, 1).prompts != prompts
    out = tmp_path / "out"
    arguments = ("coco", "--model", text_model, "--data", coco, "--features", "efficientnet-lite0", "--clip", clip,
                 "--limit", 6, "--resamples", 0, "--device", "cpu", "--out", out)  # fmt: skip
    values = figures(evaluate(*arguments), out)
    assert values["counts"] == {"generated": 6, "references": 8, "damaged": 0}
    assert values["settings"]["compared_size"] == 256
    assert set(values["figures"]) == {"generated"}
    assert values["figures"]["generated"]["CLIP score (clip-tiny)"]["value"] >= 0
    assert figures(
        evaluate(*arguments, "--clip", "none", "--gumbel-smoothing", "--out", tmp_path / "other"), tmp_path / "other"
    )["settings"]["sampling"]["gumbel_smoothing"]


def test_weights_beside_the_set_serve_by_their_public_names(text_model: Path, mjhq: Path, tmp_path: Path) -> None:
    """As on a machine without network: the default CLIP lies in the folder of --data."""
    save_tiny_clip(mjhq / "clip-vit-large-patch14")
    out = tmp_path / "out"
    result = evaluate("mjhq", "--model", text_model, "--data", mjhq, "--features", "efficientnet-lite0",
                      "--reference-size", 16, "--limit", 8, "--resamples", 0, "--discrete-only", "--device", "cpu",
                      "--out", out)  # fmt: skip
    values = figures(result, out)
    assert "CLIP score (clip-vit-large-patch14)" in values["figures"]["generated"]
    # the paper's Table 5, right: without residual tokens
    assert values["settings"]["sampling"]["discrete_only"] is True
    assert "| 1024 px | 5.73 | 5.38 |" in unpadded((out / "table.md").read_text())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("mjhq", "--limit", "7"), "give --limit 8 or more"),
        (("coco", "--limit", "8"), "the set has 7 with captions"),
        (("coco", "--image-reward", "/absent.pt"), "/absent.pt: no such file: fetch it from https://huggingface.co/"),
    ],
)
def test_bad_input_is_one_line(
    given: tuple[str, ...], said: str, text_model: Path, mjhq: Path, coco: Path, tmp_path: Path
) -> None:
    data = mjhq if given[0] == "mjhq" else coco
    result = evaluate(given[0], "--clip", "none", "--model", text_model, "--data", data, "--features",
                 "efficientnet-lite0", "--device", "cpu", "--out", tmp_path / "out", *given[1:])  # fmt: skip
    assert said in refused(result, notes=True)
    assert not (tmp_path / "out" / "images").exists()


def test_missing_images_of_the_set_are_said_before_anything_is_generated(
    text_model: Path, mjhq: Path, tmp_path: Path
) -> None:
    """Thousands of images would be generated first."""
    lost = sorted(mjhq.rglob("*.jpg"))[0]
    lost.unlink()
    result = evaluate("mjhq", "--clip", "none", "--model", text_model, "--data", mjhq, "--limit", 8,
                 "--features", "efficientnet-lite0", "--device", "cpu", "--out", tmp_path / "out")  # fmt: skip
    assert f"no {lost.parent.name}/{lost.name} in it" in refused(result, notes=True)
    assert not (tmp_path / "out" / "images").exists()


def test_a_class_model_is_refused(class_model: Path, mjhq: Path, tmp_path: Path) -> None:
    result = evaluate("mjhq", "--clip", "none", "--model", class_model, "--data", mjhq,
                 "--features", "efficientnet-lite0", "--device", "cpu", "--out", tmp_path / "out")  # fmt: skip
    assert "give a text model" in refused(result, notes=True)


def test_what_is_missing_is_named_with_its_address(
    mjhq: Path, coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reachable_hub: None
) -> None:
    (mjhq / "meta_data.json").unlink()
    with pytest.raises(HartError, match=r"meta_data\.json: .*https://huggingface.co/datasets/playgroundai/MJHQ-30K"):
        open_mjhq(mjhq, None, 0)
    with pytest.raises(HartError, match=r"no mjhq30k_imgs/ and no mjhq30k_imgs\.zip: fetch it from https://"):
        open_mjhq(tmp_path, None, 0)
    (coco / "annotations" / "captions_val2014.json").write_text('{"images": []}')
    with pytest.raises(HartError, match="not in the form of COCO's captions: fetch it from http"):
        open_coco(coco, None, 0)
    with pytest.raises(HartError, match=r"has no annotations/ and no annotations_trainval2014\.zip: fetch it"):
        open_coco(tmp_path, None, 0)

    with pytest.raises(HartError, match=rf"VIRTUAL_imagenet256_labeled\.npz: .* fetch it from {REFERENCE.address}"):
        located(REFERENCE, tmp_path)

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.setattr(published_files, "urlopen", unreachable)
    for call, address in (
        (lambda: open_mjhq(None, None, 0), "huggingface.co/datasets/playgroundai/MJHQ-30K"),
        (lambda: open_coco(None, None, 0), "images.cocodataset.org"),
        (lambda: open_extractor("inception-v3-clean", torch.device("cpu")), "pt_inception-2015-12-05"),
        (lambda: located(REFERENCE, None), "openaipublic.blob.core.windows.net"),
    ):
        with pytest.raises(HartError, match=rf"{address}.*cannot be fetched \(no network\)"):
            call()
