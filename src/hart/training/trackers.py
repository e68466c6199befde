"""Where figures and pictures of a run go: a JSONL file always, TensorBoard and Weights & Biases where asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from hart.errors import missing_package
from hart.files import atomic_write, open_regular
from hart.training.task import Picture

LOG_FILE = "metrics.jsonl"


class Tracker(Protocol):
    """One destination."""

    def figures(self, step: int, values: Mapping[str, float]) -> None: ...

    def pictures(self, step: int, values: Mapping[str, Picture]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """`metrics.jsonl`, a line a report, and `samples/` with a PNG a picture."""

    def __init__(self, folder: Path, step: int, note: Callable[[str], None]) -> None:
        """Drops lines after `step`, which the run is about to write again, and such as are none.

        note: called with how many were none; one that a killed run has cut short is not worth a word.
        """
        self.folder = folder
        self.path = folder / LOG_FILE
        if not self.path.exists():
            return
        with open_regular(self.path) as file:
            lines = file.readlines()
        kept = [(line, _step_of(line)) for line in lines]
        broken = sum(found is None for _, found in kept[:-1])
        if broken:
            note(f"{self.path}: {broken} damaged lines are left out")
        whole = b"".join(line for line, found in kept if found is not None and found <= step)
        if whole != b"".join(lines):
            atomic_write(self.path, lambda file: file.write(whole))

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def pictures(self, step: int, values: Mapping[str, Picture]) -> None:
        (self.folder / "samples").mkdir(exist_ok=True)
        for name, picture in values.items():
            picture.save(self.folder / "samples" / f"step-{step:08d}-{name}.png")

    def close(self) -> None: ...


class TensorBoard:
    """Event files in `tensorboard/`."""

    def __init__(self, folder: Path, step: int) -> None:
        import tensorboard  # noqa: F401 - torch's own message would not name the package
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def pictures(self, step: int, values: Mapping[str, Picture]) -> None:
        import numpy as np

        for name, picture in values.items():
            self._writer.add_image(name, np.asarray(picture), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run named after the folder, gone on with when the folder is."""

    def __init__(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ModuleNotFoundError:
            raise missing_package("wandb", "wandb") from None
        self._wandb: Any = wandb
        name = folder.resolve().name
        self._run = wandb.init(project="hart", name=name, id=name, dir=folder, config=dict(recipe), resume="allow")

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def pictures(self, step: int, values: Mapping[str, Picture]) -> None:
        self._run.log({name: self._wandb.Image(picture) for name, picture in values.items()}, step=step)

    def close(self) -> None:
        self._run.finish()


def _step_of(line: bytes) -> int | None:
    """Of a whole line of the log; None for anything else."""
    try:
        values = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    step = values.get("step") if isinstance(values, dict) else None
    return step if type(step) is int else None


def open_trackers(
    names: Sequence[str], folder: Path, step: int, recipe: Mapping[str, Any], note: Callable[[str], None]
) -> list[Tracker]:
    """The JSONL file and the trackers called `names`, for a run that stands at `step`. note: see `JsonLines`."""
    trackers: list[Tracker] = [JsonLines(folder, step, note)]
    for name in names:
        trackers.append(TensorBoard(folder, step) if name == "tensorboard" else WeightsAndBiases(folder, recipe))
    return trackers
