"""The scheduler with a stand-in engine and a clock that moves by hand: no threads, no waiting."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hart.serving.metrics import OUTCOMES, Metrics
from hart.serving.scheduler import Event, Job, Scheduler, State
from hart.serving.schemas import ApiError, Generation
from stand_in_engine import SCALES, SIZES, StandInEngine, drawn

FAR = 1e9


@dataclass
class Bench:
    """A scheduler whose clock stands still but for a second a scale, and what came of the jobs."""

    batch_size: int = 4
    queue_size: int = 100
    join_seconds: float = 0.0
    engine: StandInEngine = field(default_factory=StandInEngine)
    events: dict[Job, list[Event]] = field(default_factory=lambda: defaultdict(list))

    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(
            batch_size=self.batch_size,
            queue_size=self.queue_size,
            join_seconds=self.join_seconds,
            clock=lambda: self.engine.clock[0],
            metrics=self.metrics,
        )

    @property
    def outcomes(self) -> Counter[str]:
        """Images by outcome, of those that there were."""
        value = self.metrics.registry.get_sample_value
        found = {how: int(value("hart_images_total", {"outcome": how}) or 0) for how in OUTCOMES}
        return Counter({how: count for how, count in found.items() if count})

    def ask(self, *seeds: int, client: str = "a", size: int = 0, prompt: str = "x", **options: Any) -> Job:
        """Submit a job of one row for each seed."""
        rows = [self.engine.row(Generation(prompt=prompt, seed=seed), SIZES[size]) for seed in seeds]
        deadline: float = options.pop("deadline", FAR)
        previews: Collection[int] = options.pop("previews", ())
        job = Job(self.engine, rows, client, deadline, [].append, previews)
        job.deliver = self.events[job].append
        self.scheduler.submit(job)
        return job

    def run(self, steps: int | None = None) -> None:
        """So many steps, or all there are."""
        while steps is None or steps > 0:
            if self.scheduler.step() is None:
                return
            steps = None if steps is None else steps - 1

    def previews(self, job: Job) -> list[State]:
        return [event for event in self.events[job] if isinstance(event, State) and not event.is_finished]

    def batches(self) -> list[list[int]]:
        return [[row.seed for row in rows] for rows in self.engine.batches]

    def answer(self, job: Job) -> list[Any]:
        """The images of a job that is done, by row; checks that each came once and is the one that a row gives."""
        states = [event for event in self.events[job] if isinstance(event, State)]
        done = {state.row: state.image for state in states if state.is_finished}
        assert len(self.events[job]) == len(self.previews(job)) + len(job.rows)
        for number, row in enumerate(job.rows):
            assert done[number].tobytes() == drawn(row, SCALES - 1).tobytes()
        return [done[i] for i in range(len(job.rows))]


def test_requests_of_different_people_share_a_batch() -> None:
    bench = Bench()
    jobs = [bench.ask(seed, client=name) for seed, name in enumerate("abc")]
    bench.run()
    assert bench.batches() == [[0, 1, 2]]
    for job in jobs:
        bench.answer(job)


def test_who_cancels_one_request_keeps_its_turn_for_the_others() -> None:
    bench = Bench(batch_size=1)
    gone = bench.ask(0, client="a")
    kept, other = bench.ask(1, client="a"), bench.ask(2, client="b")
    bench.scheduler.cancel(gone)
    bench.run()
    assert bench.batches() == [[1], [2]]
    for job in (kept, other):
        bench.answer(job)


def test_new_requests_join_at_the_next_batch() -> None:
    bench = Bench()
    bench.ask(0)
    bench.run(2)
    late = bench.ask(1)
    bench.run()
    assert bench.batches() == [[0], [1]]
    bench.answer(late)


def test_the_first_waits_for_others_a_moment_only() -> None:
    bench = Bench(join_seconds=0.5, batch_size=2)
    bench.ask(0)
    assert bench.scheduler.step() == 0.5
    bench.engine.clock[0] = 0.2
    assert bench.scheduler.step() == pytest.approx(0.3)
    bench.ask(1)  # the batch is full
    assert bench.scheduler.step() == 0
    assert bench.batches() == [[0, 1]]
    bench.run(1)
    late = bench.ask(2)  # waits during a scale for longer than that
    bench.run()
    assert bench.batches() == [[0, 1], [2]] and late.waited == SCALES - 2


def test_clients_take_turns_whatever_they_ask_for() -> None:
    bench = Bench(batch_size=2)
    bench.ask(*range(6), client="greedy")
    bench.ask(10, 11, client="b")
    bench.ask(20, client="c")
    bench.run()
    assert bench.batches() == [[0, 10], [20, 1], [11, 2], [3, 4], [5]]


def test_another_size_has_its_turn_too() -> None:
    bench = Bench(batch_size=2)
    bench.ask(0, 1, 2, client="a")
    bench.ask(10, client="b", size=1)
    bench.ask(20, client="c", size=1)
    bench.run()
    assert bench.batches() == [[0, 1], [10, 20], [2]]


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    bench = Bench(batch_size=2, queue_size=5)
    bench.ask(0, 1)
    bench.run()  # 4 scales of a second for 2 images: 2 seconds an image
    bench.ask(*range(4))
    assert bench.metrics.registry.get_sample_value("hart_waiting_images") == 4
    with pytest.raises(ApiError, match="no room for 2 more images: try again later") as refused:
        bench.ask(7, 8)
    assert refused.value.headers == {"Retry-After": "8"}
    bench.ask(9)
    bench.run()
    assert bench.outcomes == {"finished": 7}


def test_who_leaves_frees_the_queue_at_once_and_a_batch_before_the_next_scale() -> None:
    bench = Bench(batch_size=2, queue_size=2)
    gone, stays = bench.ask(0), bench.ask(1)
    bench.run(1)
    waiting = bench.ask(2, 3, client="b")
    bench.scheduler.cancel(waiting)
    assert bench.scheduler.waiting == 0
    bench.scheduler.cancel(gone)
    bench.scheduler.cancel(gone)
    bench.run()
    assert bench.engine.sampled == [[0, 1], [1], [1], [1]]
    bench.answer(stays)
    assert not bench.events[gone] and not bench.events[waiting]
    assert bench.outcomes == {"cancelled": 3, "finished": 1}


def test_a_batch_that_everybody_left_ends() -> None:
    bench = Bench()
    job = bench.ask(0, 1)
    bench.run(1)
    bench.scheduler.cancel(job)
    bench.run()
    assert len(bench.engine.sampled) == 1


def test_an_image_that_everybody_left_during_its_last_scale_is_not_decoded() -> None:
    bench = Bench()
    job = bench.ask(0)
    bench.run(SCALES - 1)
    leaving: Any = SimpleNamespace(wait=lambda _: bench.scheduler.cancel(job) is None)
    bench.engine.open_gate = leaving
    bench.run()
    assert len(bench.engine.sampled) == SCALES and bench.outcomes == {"cancelled": 1}
    assert bench.metrics.registry.get_sample_value("hart_seconds_count", {"part": "decode"}) == 0


@pytest.mark.parametrize(("steps", "sampled"), [(0, 0), (2, 2)])
def test_a_deadline_ends_a_request_in_the_queue_and_in_a_batch(steps: int, sampled: int) -> None:
    bench = Bench()
    job = bench.ask(0, 1, deadline=10)
    bench.run(steps)
    bench.engine.clock[0] = 10
    bench.run()
    (failed,) = bench.events[job]
    assert isinstance(failed, ApiError) and "time" in str(failed)
    assert len(bench.engine.sampled) == sampled
    assert bench.outcomes == {"late": 2}


def test_previews_come_after_the_scales_that_were_asked_for() -> None:
    bench = Bench()
    job, other = bench.ask(5, previews=(0, 2)), bench.ask(6)
    bench.run()
    assert [state.k for state in bench.previews(job)] == [0, 2]
    assert all(state.image.tobytes() == drawn(job.rows[0], state.k).tobytes() for state in bench.previews(job))
    assert len(bench.events[other]) == 1


def test_too_little_memory_splits_the_batch_and_is_remembered() -> None:
    bench = Bench(batch_size=8, engine=StandInEngine(capacity=3))
    jobs = [bench.ask(seed, client=str(seed)) for seed in range(8)]
    bench.run()
    assert [len(batch) for batch in bench.batches()] == [8, 4, 2, 2, 2, 2]
    assert bench.metrics.registry.get_sample_value("hart_seconds_count", {"part": "queue"}) == 8
    assert bench.outcomes == {"finished": 8, "split": 8 + 4}
    for job in jobs:
        bench.answer(job)
    again = [bench.ask(seed, client=str(seed)) for seed in range(4)]
    bench.run()
    assert [len(batch) for batch in bench.batches()[6:]] == [2, 2]
    for job in again:
        bench.answer(job)


def test_one_image_too_large_for_the_memory_is_told_so() -> None:
    bench = Bench(engine=StandInEngine(capacity=0))
    job = bench.ask(0)
    bench.run()
    (failed,) = bench.events[job]
    assert isinstance(failed, MemoryError)


def test_a_row_that_fails_takes_no_other_with_it_and_repeats_no_preview() -> None:
    bench = Bench(batch_size=4)
    sound = [bench.ask(seed, client=str(seed), previews=range(SCALES)) for seed in range(3)]
    broken = bench.ask(9, client="z", prompt="broken")
    bench.run()
    (failed,) = bench.events[broken]
    assert isinstance(failed, RuntimeError)
    for job in sound:
        bench.answer(job)
        assert [state.k for state in bench.previews(job)] == [0, 1, 2]


def test_closing_finishes_what_was_accepted() -> None:
    bench = Bench(join_seconds=5, batch_size=2)
    jobs = [bench.ask(0), bench.ask(1, 2)]
    bench.scheduler.close()
    with pytest.raises(ApiError, match="stopping"):
        bench.ask(3)
    bench.run()
    for job in jobs:
        bench.answer(job)


def test_when_the_sampling_thread_dies_everybody_is_told() -> None:
    bench = Bench(batch_size=2)
    jobs = [bench.ask(seed, client=str(seed), prompt="fatal") for seed in range(4)]
    bench.scheduler.run()  # which such a prompt ends
    assert all([type(event) for event in bench.events[job]] == [ApiError] for job in jobs)
    with pytest.raises(ApiError, match="must be started again"):
        bench.ask(5)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(1, 5), st.sampled_from("abc"), st.sampled_from((0, 1)), st.booleans()),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("step"), st.integers(1, 6)),
    ),
    max_size=40,
)


@given(ACTIONS, st.integers(1, 5), st.integers(1, 4))
def test_whatever_happens_each_row_is_answered_once_and_right(
    actions: list[tuple[Any, ...]], batch_size: int, capacity: int
) -> None:
    bench = Bench(batch_size, 12, engine=StandInEngine(capacity))
    jobs: list[Job] = []
    left: set[Job] = set()
    seed = 0
    do: dict[str, Callable[..., None]] = {}

    def ask(count: int, client: str, size: int, late: bool) -> None:
        nonlocal seed
        try:
            deadline = bench.engine.clock[0] + 6 if late else FAR
            jobs.append(
                bench.ask(*range(seed, seed + count), client=client, size=size, deadline=deadline, previews=(1,))
            )
        except ApiError:
            assert bench.scheduler.waiting + count > 12
        seed += count

    def cancel(number: int) -> None:
        if number < len(jobs) and not jobs[number].over:
            left.add(jobs[number])
            bench.scheduler.cancel(jobs[number])

    do.update(ask=ask, cancel=cancel, step=bench.run)
    for name, *arguments in actions:
        do[name](*arguments)
    bench.run()
    assert bench.scheduler.waiting == 0
    assert all(job.over for job in jobs)
    for job in jobs:
        last = bench.events[job][-1:]
        if job in left:
            assert not any(isinstance(event, Exception) for event in bench.events[job])
        elif isinstance(last[0], State):
            bench.answer(job)
        else:
            assert "time" in str(last[0])
    assert sum(bench.outcomes[how] for how in ("finished", "cancelled", "late")) == sum(len(job.rows) for job in jobs)
