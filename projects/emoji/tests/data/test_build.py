"""The emoji data set: complete, repeatable, honestly split."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from hart import HartError
from hart.data import open_dataset, open_source
from hart_emoji.data import build, build_emoji, plan
from hart_emoji.data.build import render
from hart_emoji.data.catalogue import Concept, Icon
from hart_emoji.data.npm import NpmPackage, fetch_package, read_json

SQUARE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}"><rect width="{w}" height="{h}" fill="red"/></svg>'
)


def read(directory: Path) -> dict[str, dict[str, Any]]:
    """Key -> record, with the name of the split."""
    records = {}
    for shard in directory.glob("*.tar"):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    stream = tar.extractfile(member)
                    assert stream is not None
                    records[member.name.removesuffix(".json")] = json.load(stream) | {"split": shard.name.split("-")[0]}
    return records


@pytest.fixture(scope="module")
def built(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole set, to which no test writes."""
    folder = tmp_path_factory.mktemp("built") / "set"
    build_emoji(folder, size=16, cache=cache)
    return folder


def test_set_holds_every_visible_icon_with_its_captions(tmp_path: Path, cache: Path, built: Path) -> None:
    summary = build_emoji(tmp_path / "set", size=16, cache=cache)
    for file in built.iterdir():
        assert file.read_bytes() == (tmp_path / "set" / file.name).read_bytes(), "two builds are alike"
    records = read(tmp_path / "set")
    assert len(records) == summary.train + summary.val
    assert summary.skipped == 7  # one blank icon in each of the seven sets
    apple = records["noto-red-apple"]
    assert [apple[key] for key in ("concept", "style", "skin_tone", "group")] == [
        "red-apple",
        "noto",
        None,
        "food-drink",
    ]
    assert "a red apple" in apple["captions"]
    assert not any("old-icon" in key or "red-hair" in key for key in records)
    data = open_dataset(tmp_path / "set", "train", 16)
    assert len(data) == summary.train
    assert not data.damaged
    corner_is_white = data.pixels[0][:, 0, 0].tolist() == [255, 255, 255]
    assert corner_is_white


def test_skin_tones_are_told_and_weigh_little_and_mixed_ones_are_left_out(built: Path) -> None:
    hands = {k: r for k, r in read(built).items() if k.startswith("noto-waving-hand")}
    assert len(hands) == 6
    assert sum(record["weight"] for record in hands.values()) == pytest.approx(1.5)
    dark = hands["noto-waving-hand-dark"]
    assert dark["skin_tone"] == "dark"
    assert all("dark skin" in caption for caption in dark["captions"])
    assert not any("skin" in caption for caption in hands["noto-waving-hand"]["captions"])


def test_held_out_images_have_their_concept_in_training(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "HELD_OUT_STYLES", 0.8)
    monkeypatch.setattr(plan, "HELD_OUT_TONES", 0.5)
    build_emoji(tmp_path / "set", size=16, cache=cache)
    records = read(tmp_path / "set").values()
    held = [record for record in records if record["split"] == "val"]
    trained = [record for record in records if record["split"] == "train"]
    assert {record["held_out"] for record in held} == {"style", "tone"}
    assert {record["concept"] for record in held} <= {record["concept"] for record in trained}
    styles = {(r["concept"], r["style"]) for r in held if r["held_out"] == "style"}
    tones = {(r["concept"], r["skin_tone"]) for r in held if r["held_out"] == "tone"}
    assert not any((r["concept"], r["style"]) in styles or (r["concept"], r["skin_tone"]) in tones for r in trained)


def test_drawing_that_two_concepts_share_is_never_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "HELD_OUT_STYLES", 1.0)
    flags = [Concept("flag-norway", "flag: Norway", "flags"), Concept("flag-bouvet", "flag: Bouvet", "flags")]
    icons = [Icon(flag, "a", None, "<svg/>") for flag in flags] + [Icon(flag, "b", None, flag.slug) for flag in flags]
    assert {image.key: image.held_out for image in plan.plan_images(icons)} == {
        "a-flag-norway": None,
        "a-flag-bouvet": None,
        "b-flag-norway": "style",
        "b-flag-bouvet": "style",
    }


def test_leaving_a_style_out_moves_no_other_image_to_the_other_split(cache: Path) -> None:
    icons = build.read_icons(cache, lambda *_: None)
    everything = {image.key: image.held_out for image in plan.plan_images(icons)}
    few = plan.plan_images([icon for icon in icons if icon.style != "fxemoji"])
    assert len(few) < len(everything)
    assert all(everything[image.key] == image.held_out for image in few)


def test_held_out_images_alone_are_those_of_the_whole_set(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "HELD_OUT_STYLES", 0.5)
    build_emoji(tmp_path / "all", size=16, cache=cache)
    summary = build_emoji(tmp_path / "part", size=16, cache=cache, held_out_only=True)
    assert summary.train == 0
    assert summary.val > 0
    assert [path.name for path in (tmp_path / "part").glob("*.tar")] == ["val-0000.tar"]
    assert (tmp_path / "part" / "val-0000.tar").read_bytes() == (tmp_path / "all" / "val-0000.tar").read_bytes()
    with pytest.raises(HartError, match="other settings"):
        build_emoji(tmp_path / "part", size=16, cache=cache)


def test_a_stopped_build_goes_on_and_a_complete_one_is_left_alone(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "SHARD_SIZE", 20)
    whole = build_emoji(tmp_path / "whole", size=16, cache=cache)

    class Stopped(Exception):
        pass

    def stop(done: int, total: int, what: str) -> None:
        if what.startswith("rendering") and done == 50:
            raise Stopped

    with pytest.raises(Stopped):
        build_emoji(tmp_path / "set", size=16, cache=cache, progress=stop)
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == [
        "building.json",
        "train-0000.tar",
        "train-0001.tar",
    ]
    for address, kind in ((tmp_path / "set", None), (tmp_path / "set" / "train-0000.tar", "stream")):
        with pytest.raises(HartError, match="not finished: run the command that builds it again"):
            open_source(address, kind=kind)
    seen: list[int] = []
    resumed = build_emoji(
        tmp_path / "set", size=16, cache=cache, progress=lambda d, _, what: seen.append(d) if "render" in what else None
    )
    assert seen[0] == 40
    assert (resumed.train, resumed.val, resumed.skipped) == (whole.train, whole.val, whole.skipped)
    assert read(tmp_path / "set") == read(tmp_path / "whole")
    again = build_emoji(tmp_path / "set", size=16, cache=tmp_path / "nothing-here")
    assert again.reused
    assert again.train == whole.train


def test_a_folder_with_another_set_is_refused(tmp_path: Path, cache: Path, built: Path) -> None:
    with pytest.raises(HartError, match="other settings"):
        build_emoji(built, size=32, cache=cache)
    for number, name in enumerate(("holiday.tar", "holiday.png", "2025/holiday.png")):
        mine = tmp_path / f"mine-{number}"
        (mine / name).parent.mkdir(parents=True)
        (mine / name).write_bytes(b"")
        with pytest.raises(HartError, match=r"mine-.*: holds other files \((holiday|2025)"):
            build_emoji(mine, size=16, cache=cache)
        assert [path.relative_to(mine).as_posix() for path in mine.rglob("*") if path.is_file()] == [name]


def test_a_missing_shard_is_noticed(tmp_path: Path, cache: Path, built: Path) -> None:
    shutil.copytree(built, tmp_path / "set")
    (tmp_path / "set" / "train-0000.tar").unlink()
    with pytest.raises(HartError, match="missing"):
        build_emoji(tmp_path / "set", size=16, cache=cache)


def test_dataset_json_names_licences_and_held_out_words(built: Path) -> None:
    info = json.loads((built / "dataset.json").read_text())
    assert info["styles"]["twemoji"]["licence"] == "CC-BY-4.0"
    assert info["size"] == 16
    assert info["split_rule"]
    used = [caption for record in read(built).values() for caption in record["captions"]]
    assert not any(word in caption.split() for word in info["held_out_keywords"] for caption in used)


@pytest.mark.parametrize("size", [8, 5000])
def test_absurd_sizes_are_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(HartError, match="16 to 1024"):
        build_emoji(tmp_path / "set", size=size)


def test_render_keeps_proportions_and_reports_blank_or_broken_documents() -> None:
    wide = render(SQUARE.format(w=20, h=10), 16)
    assert wide is not None
    assert wide.size == (16, 16)
    assert wide.getpixel((8, 1)) == (255, 255, 255)
    assert wide.getpixel((8, 8)) == (255, 0, 0)
    assert render('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"></svg>', 16) is None
    assert render("this is no image", 16) is None


def test_missing_npm_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HartError, match="install Node"):
        fetch_package(NpmPackage("@scope/thing", "1.0.0"), tmp_path / "cache")


def install_npm(folder: Path, commands: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of this name that does something else."""
    npm = folder / "npm"
    folder.mkdir()
    npm.write_text(f"#!/bin/sh\n{commands}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_failing_npm_is_explained_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_npm(tmp_path / "bin", "echo 'npm error 404 no such thing' >&2\nexit 1", monkeypatch)
    with pytest.raises(HartError, match="404 no such thing"):
        fetch_package(NpmPackage("@scope/thing", "1.0.0"), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_package_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_npm(tmp_path / "bin", 'echo x >> "$LOG"\necho made > "$5/scope-thing-1.0.0.tgz"', monkeypatch)
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    for _ in range(2):
        archive = fetch_package(NpmPackage("@scope/thing", "1.0.0"), tmp_path / "cache")
    assert archive.read_text() == "made\n"
    assert (tmp_path / "log").read_text() == "x\n"


def test_damaged_archive_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a.tgz").write_bytes(b"\x1f\x8bnonsense")
    with pytest.raises(HartError, match="delete it"):
        read_json(tmp_path / "a.tgz", "icons.json")
