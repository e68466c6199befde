"""Decides which rows are sampled next, and together: rows of different people share batches.

`submit` and `cancel` may be called by any thread; `step` does the next piece of work, one scale of a batch, in the
thread that owns the models, and `run` keeps stepping there. Nothing else here waits, or knows the time except by the
given `clock`, so that tests can step without threads.

- **Joining.** A batch takes waiting rows of one group. A first row waits a few milliseconds for others; then, and
  whenever a batch ends, the next one starts with the rows that are waiting.
- **Fairness.** Clients take turns, one row each. The client whose turn it is chooses the group, so none starves.
- **Leaving.** A row that is cancelled or past its deadline is dropped before the next scale.
- **Failing.** A batch that fails is repeated in halves, down to one row, which gets the error; after running out of
  memory, later batches of its image size keep to the smaller number.
- **Bounds.** No more than `queue_size` rows wait. What was accepted is answered exactly once.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from typing import TYPE_CHECKING

from hart.serving.engine import Row
from hart.serving.errors import where
from hart.serving.metrics import Metrics
from hart.serving.schemas import ApiError, timed_out
from hart.strict import counted

if TYPE_CHECKING:
    from PIL import Image

    from hart.serving.pipeline_engine import Batch, PipelineEngine

log = logging.getLogger(__name__)

PACE_WEIGHT = 0.2
"""Weight of the newest batch in the running mean of seconds per row."""


@dataclass(frozen=True)
class State:
    """Row `row` of a job after scale `k` (0-based), which may be the last one."""

    row: int
    k: int
    image: Image.Image
    is_finished: bool


Event = State | Exception
"""An error ends a job without the missing images."""


@dataclass(eq=False)
class Job:
    """What one request asks for.

    client: takes its turns. deadline: on the scheduler's clock. deliver: gets the job's events, in the thread that
    calls `step`; it must neither wait nor raise. previews: 0-based scales after which an image so far is delivered. The
    last event is an error, or the finished state of the last row; after `cancel` there is none.
    """

    engine: PipelineEngine
    rows: Sequence[Row]
    client: str
    deadline: float
    deliver: Callable[[Event], None]
    previews: Collection[int] = ()
    waited: float = field(default=0.0, init=False)
    """Seconds until the last of its rows first entered a batch."""
    over: bool = field(default=False, init=False)
    finished: int = field(default=0, init=False)
    shown: dict[int, int] = field(default_factory=dict, init=False)
    """Maps a row to the last scale shown of it: a repeated batch does not show one again."""


@dataclass(frozen=True)
class _Place:
    """A row of a job in the queue or in a batch."""

    job: Job
    number: int
    arrival: float
    group: Hashable

    @property
    def row(self) -> Row:
        return self.job.rows[self.number]

    @property
    def memory(self) -> Hashable:
        """Return a value that is equal for rows that take about the same memory."""
        return id(self.job.engine), self.row.size


@dataclass(eq=False)
class _Running:
    """A batch that is being sampled. places: the remaining ones, by their place in it; k: scales done."""

    places: dict[int, _Place]
    started: float
    batch: Batch | None = None
    k: int = 0


class Scheduler:
    """See the file's docstring."""

    def __init__(
        self,
        *,
        batch_size: int,
        queue_size: int,
        join_seconds: float,
        clock: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self._batch_size, self._queue_size, self._join_seconds = batch_size, queue_size, join_seconds
        self.clock, self._metrics = clock, metrics
        self._lock = threading.RLock()
        self._news = threading.Event()  # for a thread that waits
        self._jobs: dict[Job, None] = {}  # accepted and not finished, in the order of their arrival
        self._queues: OrderedDict[str, deque[_Place]] = OrderedDict()  # by client, the one whose turn it is first
        self._again: deque[list[_Place]] = deque()
        self._running: _Running | None = None
        self._limits: dict[Hashable, int] = {}
        self._seconds_a_row = 0.0
        self._closed: str | None = None
        metrics.waiting.set_function(lambda: self.waiting)

    @property
    def waiting(self) -> int:
        """Return the number of rows in the queue."""
        with self._lock:
            return sum(map(len, self._queues.values()))

    def submit(self, job: Job) -> None:
        """Accept a job. Raises `ApiError` if the queue is full or closed."""
        with self._lock:
            if self._closed is not None:
                raise ApiError(503, self._closed, code="stopping")
            if self.waiting + len(job.rows) > self._queue_size:
                wanted = counted(len(job.rows), "more image")
                said = f"the queue has no room for {wanted}: try again later"
                # after this time, the rows that wait now are probably done
                wait = min(60, max(1, math.ceil(self.waiting * self._seconds_a_row)))
                raise ApiError(429, said, code="queue_full", wait=wait)
            self._jobs[job] = None
            now = self.clock()
            queue = self._queues.setdefault(job.client, deque())
            for number, row in enumerate(job.rows):
                queue.append(_Place(job, number, now, (id(job.engine), job.engine.group(row))))
        self._news.set()

    def cancel(self, job: Job) -> None:
        """Drop a job whose client has left: waiting rows at once, those in a batch before the next scale."""
        self._end(job, "cancelled")

    def close(self, reason: str = "the server is stopping") -> None:
        """Accept nothing more; continue with what was accepted."""
        with self._lock:
            self._closed = reason
        self._news.set()

    def run(self) -> None:
        """Step until everything accepted before `close` is done. If that fails, everything accepted ends with an error,
        and nothing more is accepted."""
        try:
            while True:
                self._news.clear()
                closed = self._closed is not None
                seconds = self.step()
                if seconds is None and closed:
                    return
                if seconds != 0:
                    self._news.wait(seconds)
        except BaseException as error:
            log.error("sampling has ended by a %s", where(error))
            reason = "the server has failed and must be started again"
            self.close(reason)
            for job in list(self._jobs):
                self._end(job, "failed", ApiError(503, reason, code="stopping"))

    def step(self) -> float | None:
        """Do the next piece of work. Returns 0 if there may be more at once, the seconds after which a batch can start
        if nothing is to be done before, and None if nothing is left to do."""
        self._expire()
        if (run := self._running) is None:
            with self._lock:
                taken = self._take()
            if not isinstance(taken, list):
                return taken
            self._metrics.batch.observe(len(taken))
            run = self._running = _Running(dict(enumerate(taken)), self.clock())
        try:
            self._advance(run)
        except Exception as error:
            self._running = None
            self._failed(run.places, error)
        return 0

    def _expire(self) -> None:
        now = self.clock()
        with self._lock:
            late = [job for job in self._jobs if job.deadline <= now]
        for job in late:
            self._end(job, "late", timed_out())

    def _end(self, job: Job, how: str, error: Exception | None = None) -> None:
        """End a job before its images are done; `error` is its answer, None if nobody waits for one."""
        with self._lock:
            if job.over:
                return
            job.over = True
            del self._jobs[job]
            if rest := deque(place for place in self._queues.get(job.client, ()) if place.job is not job):
                self._queues[job.client] = rest  # its turn stays where it is
            else:
                self._queues.pop(job.client, None)
        self._metrics.images.labels(how).inc(len(job.rows) - job.finished)
        if error is not None:
            job.deliver(error)

    def _take(self) -> list[_Place] | float | None:
        """Return the rows of the next batch; or seconds to wait for more of them; or None if there are none."""
        while self._again:
            if places := [place for place in self._again.popleft() if not place.job.over]:
                limit = self._limit(places[0])
                if len(places) > limit:
                    self._again.appendleft(places[limit:])
                return places[:limit]
        if not self._queues:
            return None
        first = next(iter(self._queues.values()))[0]
        limit = self._limit(first)
        chosen = list(islice(self._in_turn(first.group), limit))
        if len(chosen) < limit:
            left = min(place.arrival for place in chosen) + self._join_seconds - self.clock()
            if left > 0 and self._closed is None:
                return left
        now = self.clock()
        for place in chosen:
            queue = self._queues.pop(place.job.client)
            queue.remove(place)
            if queue:
                self._queues[place.job.client] = queue  # behind all others
            place.job.waited = now - place.arrival
            self._metrics.seconds.labels("queue").observe(place.job.waited)
        return chosen

    def _limit(self, place: _Place) -> int:
        return self._limits.get(place.memory, self._batch_size)

    def _in_turn(self, group: Hashable) -> Iterator[_Place]:
        """Yield the waiting rows of a group, clients taking turns."""
        by_client = [[place for place in queue if place.group == group] for queue in self._queues.values()]
        for turn in zip_longest(*by_client):
            yield from (place for place in turn if place is not None)

    def _advance(self, run: _Running) -> None:
        """Sample one scale. Rows whose clients have left are dropped before it; after it, rows are decoded that
        somebody wants to see now, and after the last scale all that somebody still waits for."""
        first = next(iter(run.places.values()))
        if run.batch is None:
            run.batch = first.job.engine.start([place.row for place in run.places.values()])
        if gone := [i for i, place in run.places.items() if place.job.over]:
            run.places = {i: place for i, place in run.places.items() if i not in gone}
            run.batch.drop(gone)
        if not run.places:
            self._running = None
            return
        with self._metrics.seconds.labels("sample").time():
            run.batch.advance()
        k, run.k = run.k, run.k + 1
        last = run.k == first.row.scales
        wanted = [
            i
            for i, place in run.places.items()
            if not place.job.over and (last or (k in place.job.previews and k > place.job.shown.get(place.number, -1)))
        ]
        if wanted:
            with self._metrics.seconds.labels("decode" if last else "preview").time():
                images = run.batch.images(wanted)
            for i, image in zip(wanted, images, strict=True):
                self._deliver(run.places[i].job, State(run.places[i].number, k, image, last))
        if last:
            self._running = None
            seconds = (self.clock() - run.started) / len(run.places)
            self._seconds_a_row += (PACE_WEIGHT if self._seconds_a_row else 1.0) * (seconds - self._seconds_a_row)

    def _deliver(self, job: Job, state: State) -> None:
        with self._lock:
            if job.over:
                return
            job.shown[state.row] = state.k
            job.finished += state.is_finished
            if job.finished == len(job.rows):
                job.over = True
                del self._jobs[job]
        if state.is_finished:
            self._metrics.images.labels("finished").inc()
        job.deliver(state)

    def _failed(self, places: dict[int, _Place], error: Exception) -> None:
        """Repeat a batch in halves, or answer its only row with the error."""
        from hart.devices import is_out_of_memory  # imports PyTorch

        left = [place for place in places.values() if not place.job.over]
        if len(left) > 1:
            half = (len(left) + 1) // 2
            if is_out_of_memory(error):
                self._limits[left[0].memory] = half
            self._again.extendleft([left[half:], left[:half]])
            self._metrics.images.labels("split").inc(len(left))
        elif left:
            self._end(left[0].job, "failed", error)
