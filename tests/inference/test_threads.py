"""Rows that have a thread each become what they become together; errors and interruptions end all of them."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
import torch
from torch import Tensor

from hart import HartError, HartPipeline
from hart.config import HartConfig
from hart.inference import packing
from hart.inference import threads as by_threads
from hart.inference.kernels import int8_range
from hart.inference.packing import packed_attend, packing_refusal
from hart.inference.threads import ByThreads, single_threads
from hart.layers.sharing import whole
from helpers import random_context, random_tensor, tiny_text_config
from waiting import PATIENCE

CONFIG = tiny_text_config(width=512, heads=4, depth=2)
needs_packing = pytest.mark.skipif(packing_refusal(torch.float32) is not None, reason="this processor does not pack")


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PyTorch computes with two, and parts of any size pay."""
    torch.set_num_threads(2)
    monkeypatch.setattr(by_threads, "FEWEST_TOKENS", 1)
    monkeypatch.setattr(by_threads, "FEWEST_MACS", 1)
    yield
    torch.set_num_threads(1)


def rows_by_thread(rows: int, tokens: int = 1) -> list[list[int]]:
    """Which rows each part gets, the first first."""
    parts = list[list[int]]()

    def work(some: slice) -> Iterator[Tensor]:
        result = torch.arange(rows)[some]
        parts.append(result.tolist())
        yield result

    with torch.inference_mode():
        assert ByThreads(1)(work, rows, tokens).tolist() == list(range(rows))
    return sorted(parts)


def test_equal_parts_in_the_order_of_the_rows(two_threads: None) -> None:
    assert rows_by_thread(4) == [[0, 1], [2, 3]]
    assert rows_by_thread(3) == [[0, 1, 2]]  # one of two threads would wait for the other


def test_small_parts_stay_together(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_threads, "FEWEST_TOKENS", 10)
    assert rows_by_thread(2, tokens=9) == [[0, 1]]
    assert rows_by_thread(2, tokens=10) == [[0], [1]]
    monkeypatch.setattr(by_threads, "FEWEST_MACS", 11)
    assert rows_by_thread(2, tokens=10) == [[0, 1]]


def test_rows_with_gradients_stay_in_their_thread(two_threads: None) -> None:
    weight = torch.ones(2, 1, requires_grad=True)

    def work(some: slice) -> Iterator[Tensor]:
        yield weight[some] @ torch.ones(1, 1)

    assert ByThreads(1)(work, 2, 1).requires_grad


@needs_packing
@pytest.mark.parametrize("speed", ["exact", "int8"])
def test_a_scale_is_that_of_all_rows_together(speed: str, two_threads: None) -> None:
    if speed == "int8" and not int8_range():
        pytest.skip("this processor has no 8-bit kernels")
    hart = HartPipeline.from_config(CONFIG, device="cpu", speed=speed).components.hart
    transformer, used, both = hart.transformer, set[int](), threading.Barrier(2, timeout=PATIENCE)

    def together(*_: object) -> None:
        """One thread may not do what is for the other, which has not begun yet."""
        used.add(threading.get_ident())
        both.wait()

    watched = transformer.blocks[0].register_forward_pre_hook(together)

    @torch.inference_mode()
    def hidden() -> list[Tensor]:
        """Of the context and the first two scales of two images and their null halves."""
        conditioning, cache = transformer.condition(random_context(CONFIG, 4)), transformer.new_cache(4)
        found = [transformer.first_scale(conditioning, cache)]
        for k, tokens in enumerate(CONFIG.transformer.schedule.token_counts[1:3], start=1):
            scale_input = random_tensor(4, tokens, CONFIG.transformer.latent_channels, seed=k)
            found.append(transformer.next_scale(k, scale_input, conditioning, cache))
        return found

    apart = hidden()
    watched.remove()
    assert len(used) == 2 and threading.get_ident() not in used
    assert copy.deepcopy(transformer).share is whole, "for another processor"
    transformer.share = whole
    torch.testing.assert_close(apart, hidden())


def steps(some: slice, given_up: list[int], *, fails: bool = False) -> Iterator[Tensor]:
    """They go on until somebody ends them; with `fails`, the second of two rows fails at the first of them."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if fails and some.start == 1:
            raise ValueError("of the second row")
        time.sleep(1e-3)
        yield torch.zeros(1)
    given_up.append(some.start)


@torch.inference_mode()
def test_an_error_ends_all_parts_and_reaches_the_caller(two_threads: None) -> None:
    given_up = list[int]()
    with pytest.raises(ValueError, match="of the second row"):
        ByThreads(1)(lambda some: steps(some, given_up, fails=True), 2, 1)
    assert not given_up
    assert rows_by_thread(2) == [[0], [1]]  # the threads go on working


@torch.inference_mode()
def test_an_interruption_of_the_caller_ends_all_parts(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(future: Future[Tensor]) -> Tensor:
        raise KeyboardInterrupt

    given_up = list[int]()
    monkeypatch.setattr(Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ByThreads(1)(lambda some: steps(some, given_up), 2, 1)
    assert not given_up


@pytest.fixture
def begun_anew() -> Iterator[None]:
    """No thread has begun yet."""
    single_threads.cache_clear()
    yield
    single_threads.cache_clear()


@needs_packing
@pytest.mark.parametrize("config", [CONFIG, tiny_text_config()], ids=["wide", "narrow"])
def test_threads_begin_with_the_model(
    config: HartConfig, threads: int, begun_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with the first image, while other threads of a server begin, which would then compute with one thread."""
    monkeypatch.setattr(packing, "attends_by_onednn", lambda: True)
    monkeypatch.setattr(by_threads, "FEWEST_MACS", 1)
    HartPipeline.from_config(config, device="cpu")
    changes = list[int]()
    monkeypatch.setattr(torch, "set_num_threads", changes.append)
    packed_attend(*(random_tensor(1, 4, 100, 16, seed=seed) for seed in range(3)), 1.0)
    rows_by_thread(threads, tokens=100)
    monkeypatch.undo()
    assert not changes


def test_threads_leave_the_number_of_others_alone(threads: int, begun_anew: None) -> None:
    single_threads(threads)
    found = list[int]()
    another = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    another.start()
    another.join()
    assert found == [threads] == [torch.get_num_threads()]


@pytest.mark.parametrize("failing", [(threading.Thread, "start"), (torch, "set_num_threads")])
def test_threads_that_cannot_begin_are_an_error_and_leave_none_waiting(
    failing: tuple[object, str], two_threads: None, begun_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    working, calls = getattr(*failing), list[object]()

    def second_fails(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise RuntimeError("can't start new thread")
        working(*arguments)

    before = threading.enumerate()
    monkeypatch.setattr(*failing, second_fails)
    with pytest.raises(HartError, match="let this process start more threads, or set OMP_NUM_THREADS=1"):
        single_threads(2)
    assert set(threading.enumerate()) <= set(before)
    assert torch.get_num_threads() == 2
