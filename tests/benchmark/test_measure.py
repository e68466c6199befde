"""What a benchmark says of a model: parts that add up, floors that are there, files that can be read again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Thread
from time import perf_counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from command_line import refused, run
from hart import HartPipeline
from hart.benchmark import machine, measure
from hart.benchmark.machine import host_clock, machine_facts, peak_memory, product_rate
from hart.benchmark.parts import GenerationTimer, Stopwatch, part_work
from hart.benchmark.published import PublishedLoop, PublishedTimer
from hart.benchmark.report import table
from hart.config import HartConfig
from hart.generation.guidance_and_sampling import Candidates
from hart.generation.noise import SeededNoise
from hart.inference.graphs import BlockGraphs
from hart.inference.speed import Speed
from helpers import tiny_class_config, tiny_text_config

CPU = torch.device("cpu")
TEXT = tiny_text_config()
CONFIGS = {
    "text": TEXT,
    "MaskGIT": TEXT.replace(sampling=TEXT.sampling.replace(maskgit_steps=2)),
    "no guidance": TEXT.replace(sampling=TEXT.sampling.replace(guidance_scale=0.0)),
    "masked last scale": tiny_text_config(masked_last_scale=True),
    "class": tiny_class_config(),
}


@pytest.fixture(autouse=True)
def _small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SQUARES", {"cpu": (32,)})
    monkeypatch.setattr(machine, "COPY_BYTES", {"cpu": 2**12})


def timer_of(config: HartConfig, size: str | None = None) -> GenerationTimer:
    return GenerationTimer(HartPipeline.from_config(config, device=CPU), host_clock(), size)


def test_fewer_bits_move_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hart.inference.speed.is_slow", lambda dtype, device: False)
    pipe = HartPipeline.from_config(TEXT, device=CPU)
    exact = part_work(GenerationTimer(pipe, host_clock()), 1)
    pipe.optimize(Speed(weights="plain", cache="int8", decoder="bfloat16", diffusion_steps=1))
    less = part_work(GenerationTimer(pipe, host_clock()), 1)
    for part in ("context", "scale 4 (16 tokens)", "residual diffusion", "decoder"):
        assert less[part].moved < exact[part].moved
    assert less["residual diffusion"].flops < exact["residual diffusion"].flops


@pytest.mark.parametrize(("name", "size"), [*((name, None) for name in CONFIGS), ("text", "12x8")])
def test_the_parts_are_the_whole(name: str, size: str | None) -> None:
    timer = timer_of(CONFIGS[name], size)
    generation = timer.generate(2)
    work = part_work(timer, 2)
    assert list(work) == list(generation.parts)
    assert sum(generation.parts.values()) == pytest.approx(generation.seconds)
    assert all(seconds >= 0 for seconds in generation.parts.values())
    needed = 4 * (timer.cost.total_macs - timer.cost.null_macs)
    assert sum(part.flops for part in work.values()) == pytest.approx(needed)
    assert all(part.moved > 0 for part in work.values())


def test_calls_of_several_threads_at_once_are_one() -> None:
    times, inside, outside = iter(range(100)), Barrier(2), Barrier(2)

    class Layer(nn.Module):
        def forward(self, first: bool) -> None:
            inside.wait()
            if not first:
                outside.wait()  # until the first has left

    layer, watch = Layer(), Stopwatch(host_clock(lambda: next(times)))
    with watch.watching({"layer": (layer, layer)}):
        layer.register_forward_hook(lambda _, arguments, __: outside.wait() if arguments == (True,) else None)
        for call in range(2):
            other = Thread(target=layer, args=(False,))
            other.start()
            layer(True)
            other.join()
            assert watch.calls["layer"][call:] == [[2 * call, 2 * call + 1]]


def test_recorded_scales_are_timed_as_a_whole() -> None:
    """Also the call that records them: a mark inside would belong to the recording."""
    marks = list[float]()

    def mark() -> float:
        marks.append(perf_counter())
        return marks[-1]

    timer = GenerationTimer(HartPipeline.from_config(TEXT, device=CPU), host_clock(mark))
    detailed = part_work(timer, 1)

    def recorded(work: Callable[[], Tensor], *_: Any) -> tuple[Callable[[], object], Tensor, None]:
        before = len(marks)
        result = work()
        assert len(marks) == before
        return lambda: result.copy_(work()), result, None

    timer.pipe.components.hart.transformer.graphs = BlockGraphs(recorded)
    generation, work = timer.generate(), part_work(timer, 1)
    assert list(work) == list(generation.parts)
    assert list(work) == ["context", *(f"scale {k} ({k * k} tokens)" for k in (2, 3, 4)), "decoder", "rest"]
    assert sum(generation.parts.values()) == pytest.approx(generation.seconds)
    for quantity in ("flops", "moved"):
        assert sum(getattr(part, quantity) for part in work.values()) == pytest.approx(
            sum(getattr(part, quantity) for part in detailed.values())
        )


def test_the_null_text_is_counted_once_as_it_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hooks on the first block: in the context the prompts' tokens and one more."""
    timer = timer_of(TEXT)
    tokens: list[int] = []
    block = timer.pipe.components.hart.transformer.blocks[0]
    block.register_forward_pre_hook(lambda _, given: tokens.append(given[0].shape[:2].numel()))
    timer.generate(1)
    assert TEXT.transformer.text is not None
    assert tokens[:2] == [TEXT.transformer.text.tokens, 1]
    without = GenerationTimer(HartPipeline.from_config(CONFIGS["no guidance"], device=CPU), host_clock())
    one_row, needed = without.cost.step_macs[0], timer.cost.step_macs[0] - timer.cost.null_macs
    assert one_row < needed < one_row + timer.cost.null_macs
    assert without.cost.null_macs == timer_of(CONFIGS["class"]).cost.null_macs == 0


class OurNoise:
    """In place of what the published manner draws from a generator: the numbers of seeds 0, 1, ..."""

    def __init__(self, images: int) -> None:
        self.noise, self.images, self.scales = SeededNoise(range(images), CPU), images, 0

    def multinomial(self, probabilities: Tensor, *_: Any, **__: Any) -> Tensor:
        """Of one scale after the other, (BN, V)."""
        logits = probabilities.log().unflatten(0, (self.images, -1))
        places = torch.arange(logits.shape[1]).unsqueeze(0)
        to_sample, self.to_mix = self.noise.gumbel(self.scales, places, Candidates(logits, None))
        self.scales += 1
        return (logits + to_sample).argmax(dim=-1).view(-1, 1)

    def exponential(self, **_: Any) -> Tensor:
        return self.to_mix.neg().exp()

    def normal(self, steps: int, images: int, tokens: int, channels: int, **_: Any) -> Tensor:
        return self.noise.residual(torch.arange(tokens).unsqueeze(0), channels, steps)


@pytest.mark.parametrize(
    ("name", "sampling"),
    [
        ("text", {"top_k": 12, "top_p": 0.8}),
        ("text", {"gumbel_smoothing": False}),
        ("class", {"top_p": 0.7}),
        ("masked last scale", {"top_k": 12, "top_p": 0.8}),
    ],
)
def test_the_published_manner_samples_what_ours_does(
    monkeypatch: pytest.MonkeyPatch, name: str, sampling: dict[str, Any]
) -> None:
    """Given the same noise."""
    config = CONFIGS[name]
    pipe = HartPipeline.from_config(
        config.replace(sampling=config.sampling.replace(guidance_scale=3.0, **sampling)), device=CPU, speed="plain"
    )
    timer, noise = PublishedTimer(pipe, host_clock()), OurNoise(2)
    context = pipe.encode_prompt(timer.prompts(2))
    ours = pipe(prompt_embeds=context, batch_size=2).images
    with monkeypatch.context() as patch:
        patch.setattr(torch, "multinomial", noise.multinomial)
        patch.setattr(torch.Tensor, "exponential_", noise.exponential)
        patch.setattr(torch, "randn", noise.normal)
        theirs = PublishedLoop(timer)(context)
    assert noise.scales == len(timer.schedule)
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max() <= 1


def check(result: dict[str, Any], batches: list[int]) -> None:
    """The figures follow from each other, and no floor is missing."""
    fastest = max(result["products_gflops"]["float32"].values())
    assert [[row["batch"] for row in level["batches"]] for level in result["levels"]] == [batches] * 2
    for row in result["levels"][1]["batches"]:
        parts = row["parts"].values()
        assert 1 <= len(row["latencies_s"]) <= 2
        assert row["images_per_s"] == pytest.approx(row["batch"] / row["median_s"])
        assert row["ratio"] == pytest.approx(row["median_s"] / row["floor_s"])
        assert row["floor_s"] == pytest.approx(sum(part["floor_s"] for part in parts))
        for part in parts:
            bounds = {"products": part["gflop"] / fastest, "memory": part["gb"] / result["copy_gb_s"]}
            assert part["floor_s"] == pytest.approx(max(bounds.values())) and part["floor_s"] > 0
            assert part["bound"] == max(bounds, key=bounds.__getitem__)


def test_the_command_writes_what_it_prints(tmp_path: Path, text_model: Path) -> None:
    config, figures, text = tmp_path / "config.json", tmp_path / "a" / "figures.json", tmp_path / "figures.md"
    config.write_text(TEXT.to_json())
    options = ["--size", "12x8", "--speed", "published", "--speed", "plain", "--device", "cpu"]
    options += ["--batch-size", "1,2", "--repeats", "2", "--seconds", "1e-3"]
    result = run("benchmark", config, *options, "--output", figures, "--output", text)
    assert result.exit_code == 0, result.output
    assert text.read_text() == result.stdout
    written = json.loads(figures.read_text())
    check(written, [1, 2])
    assert [level["level"] for level in written["levels"]] == ["published", "plain"]
    assert written["size"] == "12x8" and written["weights"] == "random"
    assert written["machine"]["torch"] == torch.__version__
    result = run("benchmark", text_model, *options, "--output", figures)
    assert result.exit_code == 0, result.output
    written = json.loads(figures.read_text())
    check(written, [1, 2])
    assert written["weights"] == "stored"
    assert next(iter(written["levels"][1]["batches"][0]["parts"])) == "text encoder"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("emoji", "--output", "figures.txt"), "figures.txt: give a file that ends in .json or .md"),
        (("emoji", "--clock", "cpu"), "--threads 1"),
        (("emoji", "--batch-size", "0"), "--batch-size"),
        (("emoji", "--threads", "100000"), "--threads 100000: this machine has"),
        (("no-such-model",), "no-such-model"),
        (("emoji", "--speed", "int8", "--speed", "exact"), "8 bits go last"),
    ],
)
def test_the_command_refuses_in_one_line(options: tuple[str, ...], message: str) -> None:
    assert message in refused(run("benchmark", *options))


def test_processor_time_is_not_measured_on_a_gpu_that_nobody_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert "--device cpu" in refused(run("benchmark", "emoji", "--clock", "cpu", "--threads", "1"))


@pytest.mark.parametrize(
    ("place", "message"), [("there.json", "there.json: is a folder"), ("file/figures.md", "file: cannot write there")]
)
def test_where_figures_cannot_be_written_nothing_is_measured(
    place: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there.json").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(HartPipeline, "from_pretrained", lambda *_, **__: pytest.fail("opened"))
    assert message in refused(run("benchmark", "emoji", "--output", tmp_path / place))


def test_rates_of_products_are_operations_per_second() -> None:
    times = iter([0.0, 0.5, 10.0, 10.25, 20.0, 20.5, 30.0, 30.5, 40.0, 40.5])
    clock = host_clock(lambda: next(times))
    assert product_rate((2, 3, 4), torch.float32, CPU, clock, seconds=1.0) == 2 * 2 * 3 * 4 / 0.25


def test_what_the_machine_is() -> None:
    facts = machine_facts(CPU)
    assert facts["processor"] and facts["threads"] == torch.get_num_threads()
    peak = peak_memory(CPU)
    assert peak() is None or 0.01 < peak() < 1000


def test_tables_have_columns_of_one_width() -> None:
    assert table(["part", "ms"], [["a|b", 1.23456], ["c", None], ["d", 12345.6]]) == [
        "| part |    ms |",
        "| ---- | ----: |",
        "| a/b  | 1.235 |",
        "| c    |     - |",
        "| d    | 12346 |",
    ]
    assert table(["part"], []) == []
