"""`Worker`: takes tasks from the queue and has them handled, for threads and for asyncio.

The loop waits for one thing alone, the next event: a handler has ended, there may be work, somebody
asks to stop. It asks the database for nothing else than claims, renewals and the ends of tasks.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from queue import Empty, SimpleQueue
from random import uniform
from typing import Any, TypeVar

from hopper_data.database import Database, proxy, using
from hopper_data.errors import DatabaseError, DatabaseUnavailable, LeaseLost, ValidationError
from hopper_data.fields import shorten
from hopper_data.repository import check_count
from hopper_data.routing.arguments import seconds, texts
from hopper_data.routing.models import Task
from hopper_data.routing.readiness import Selection, Texts
from hopper_data.routing.repositories.queue import LEASE, check_owner, error_text
from hopper_data.routing.repositories.tasks import TaskRepository
from hopper_data.routing.waiting import waiting_for
from hopper_data.session import open_session

__all__ = ["GiveBack", "Worker"]

logger = logging.getLogger("hopper_data.worker")

Duration = timedelta | float
T = TypeVar("T")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0
_SHORT_WAIT_S = _LONGEST_WAIT_S = 1.0
_THREADS = 4
_STUBBORN_S = 5.0  # for a handler that goes on although it is cancelled


class GiveBack(Exception):  # it is no error
    """Raised by a handler to give its task back: pending again, and no attempt used up.

    Nobody is offered it for a second, or before `retry_in` is over, a timedelta or seconds; the
    same worker would be the first.
    """

    def __init__(self, *args: object, retry_in: Duration = 1.0) -> None:
        super().__init__(*args)
        self.retry_in_s = seconds(retry_in, "retry_in")


class Worker:
    """Claims tasks, has them handled, and says how each ended.

        Worker("agent-1", capabilities=["python"]).run(handle)

    `handle(task)` does the work, outside of any transaction, in a thread of its own. What it
    returns is the task's feedback, None for none; what it raises makes the task fail, to be tried
    again later for as long as it has attempts left, and `GiveBack` gives it back. While it works,
    its lease is renewed.

    `projects`, `capabilities` and `tags` choose the tasks, as for `claim_next`. `concurrency` tasks
    are handled at once. `lease` is how long a dead worker keeps a task from the others, `heartbeat`
    how often it is renewed, a third of it by default. `grace` is how long a worker that is stopped
    waits for its handlers; then it gives their tasks back. Lengths are timedeltas or seconds.
    """

    def __init__(
        self,
        owner: str,
        *,
        projects: Texts = None,
        capabilities: Texts = None,
        tags: Texts = None,
        concurrency: int = 1,
        lease: Duration = LEASE,
        heartbeat: Duration | None = None,
        grace: Duration = timedelta(seconds=30),
        database: Database | None = None,
    ) -> None:
        self.owner = check_owner(owner)
        given = {"projects": projects, "capabilities": capabilities, "tags": tags}
        self.choice: dict[str, Texts] = {
            name: None if value is None else texts(value, name) for name, value in given.items()
        }
        self.selection = Selection.of(**self.choice)
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise ValidationError(
                f"concurrency is {shorten(concurrency)}; it must be 1 or more", "concurrency"
            )
        self.concurrency = concurrency
        self.lease_s = seconds(lease, "lease", minimum=0.001)
        self.heartbeat_s = (
            self.lease_s / 3
            if heartbeat is None
            else seconds(heartbeat, "heartbeat", minimum=0.0001)
        )
        if self.heartbeat_s >= self.lease_s:
            raise ValidationError(
                f"the lease of {self.lease_s:g} s is not longer than the heartbeat of "
                f"{self.heartbeat_s:g} s; it would end before it is renewed",
                "lease",
            )
        self.grace_s = seconds(grace, "grace")
        self.database = database
        self._run: _Run | None = None
        self._stopped_early = False

    def __repr__(self) -> str:
        return f"<Worker {self.owner}>"

    def run(
        self,
        handle: Callable[[Task], Any],
        *,
        until_empty: bool = False,
        max_tasks: int | None = None,
    ) -> int:
        """Work until SIGTERM, SIGINT or `stop()`; the number of tasks that were handled.

        Then no more is claimed, and what runs may end, within the grace; a second signal gives
        it back at once. `until_empty` ends when nothing can be claimed and nothing runs,
        `max_tasks` after so many. A database that goes away is waited for.
        """
        if _is_coroutine_function(handle):
            raise ValidationError(
                "the handler is a coroutine function: await worker.run_async(handle)", "handle"
            )
        run = _ThreadRun(self, handle, until_empty=until_empty, max_tasks=max_tasks)
        with self._running(run):
            run.work()
        return run.handled

    async def run_async(
        self,
        handle: Callable[[Task], Awaitable[Any]],
        *,
        until_empty: bool = False,
        max_tasks: int | None = None,
    ) -> int:
        """The same for asyncio: each task has a coroutine, `await handle(task)`.

        A handler whose lease is lost, or that has not ended when the grace has, is cancelled.
        """
        if not _is_coroutine_function(handle):
            raise ValidationError(
                "the handler is not a coroutine function: worker.run(handle)", "handle"
            )
        run = _AsyncRun(self, handle, until_empty=until_empty, max_tasks=max_tasks)
        with self._running(run):
            await run.work()
        return run.handled

    def stop(self) -> None:
        """Claim no more, and end `run()` when the handlers have ended; called twice, at once.

        May be called from any thread, also just before `run()`, which then ends at once.
        """
        run = self._run
        if run is None:
            self._stopped_early = True
        else:
            run.stop()

    def abandon(self) -> None:
        """Called before the tasks of handlers that have not ended are given back.

        For a subclass that can end what its handlers have begun.
        """

    @property
    def stopping(self) -> bool:
        """Whether this worker has been told to stop; a long handler may look."""
        run = self._run
        return run is None or run.stopping

    def holds(self, task: Task) -> bool:
        """Whether this worker still has the lease of a task; a long handler may ask.

        What a handler does after it is lost, another worker does as well.
        """
        run = self._run
        held = run.held.get(task.id) if run is not None else None
        return held is not None and held.token == task.lease_token and held.is_valid()

    @contextmanager
    def _running(self, run: _Run) -> Iterator[None]:
        if self._run is not None:
            raise DatabaseError(f"{self!r} is running already")
        self._run = run
        run.stopping, self._stopped_early = self._stopped_early, False
        try:
            with _signals_stop(run), using(run.database):
                logger.info("%s begins on %s", self.owner, run.database.label)
                yield
        finally:
            self._run = None
            logger.info("%s ends; %d tasks handled", self.owner, run.handled)


def _is_coroutine_function(handle: Any) -> bool:
    called = getattr(handle, "__call__", None)  # noqa: B004  # an object may have one of its own
    return inspect.iscoroutinefunction(handle) or inspect.iscoroutinefunction(called)


_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_stoppable: list[_Run] = []
_handlers_before: dict[int, Any] = {}


@contextmanager
def _signals_stop(run: _Run) -> Iterator[None]:
    """SIGTERM and SIGINT stop the run, and others that go on at the same time.

    Only the main thread may say what a signal does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if not _stoppable:
        _handlers_before.update({number: signal.signal(number, _stop_all) for number in _SIGNALS})
    _stoppable.append(run)
    try:
        yield
    finally:
        # Several on one event loop may end in another order than they began in.
        _stoppable.remove(run)
        if not _stoppable:
            for number, handler in _handlers_before.items():
                signal.signal(number, handler)


def _stop_all(*_: object) -> None:
    for run in _stoppable:
        run.stop()


class _Held:
    """A task that this worker has claimed."""

    def __init__(self, task: Task, deadline: float) -> None:
        self.task = task
        self.token = str(task.lease_token)
        self.lost = self.given_back = False
        self.deadline = deadline

    def is_valid(self) -> bool:
        """Whether nobody else can have taken the task."""
        return not self.lost and time.monotonic() < self.deadline

    def __str__(self) -> str:
        return f"{self.task.id} ({shorten(self.task.title)})"


class _Run:
    """One run of a worker: what it holds, and what it asks of the database."""

    def __init__(
        self,
        worker: Worker,
        handle: Callable[[Task], Any],
        *,
        until_empty: bool,
        max_tasks: int | None,
    ) -> None:
        self.worker = worker
        self.handle = handle
        self.until_empty = until_empty
        self.left = None if max_tasks is None else check_count(max_tasks, "max_tasks")
        self.database: Database = worker.database or proxy.obj
        self.held: dict[str, _Held] = {}
        self.handled = 0
        self.stopping = self.hurrying = False
        self.pause_s = 0.0
        self._has_claimed = self._was_called = False
        self._misses = 0

    # -- the loop ---------------------------------------------------------------------------------

    def wake(self) -> None:
        """Have the loop look at what has changed; from any thread, and from a signal's handler."""
        raise NotImplementedError

    def stop(self) -> None:
        """Claim no more; the second time, wait for nobody."""
        self.hurrying = self.stopping
        self.stopping = True
        self.wake()

    def is_over(self) -> bool:
        """Whether nothing more is to be begun, and nothing runs."""
        return not self.held and (self.stopping or self.left == 0)

    def is_empty(self) -> bool:
        """Whether the queue is empty for now, and that is the end."""
        return self.until_empty and not self.held and not self.pause_s

    def looks_for_work(self) -> bool:
        """Whether the loop waits for tasks, or only for handlers."""
        return self._room() > 0 and not self.until_empty

    def _room(self) -> int:
        if self.stopping:
            return 0
        room = self.worker.concurrency - len(self.held)
        return room if self.left is None else min(room, self.left)

    def take(self) -> list[_Held]:
        """Claim as many tasks as there is room for; `pause_s` is for how long not to ask again."""
        room, self.pause_s = self._room(), 0.0
        if not room:
            return []
        try:
            claimed = self._claim(room)
        except DatabaseError as error:
            # The very first time it is a wrong URL rather than a passing trouble.
            if not self._has_claimed or not _may_pass(error):
                raise
            logger.warning("%s cannot claim: %s", self.worker.owner, error)
            self.pause_s = uniform(0.1, 0.5)  # noqa: S311  # no secret
            return []
        self._has_claimed = True
        if claimed:
            self._misses = 0
        elif self._was_called:
            # Others were faster, or the task is locked by a transaction that takes its time.
            self._misses += 1
            self.pause_s = uniform(0.5, 1) * min(0.02 * 2**self._misses, 1)  # noqa: S311
        self._was_called = False
        return claimed

    def _claim(self, limit: int) -> list[_Held]:
        worker = self.worker
        deadline = self._deadline()
        with open_session(self.database) as session:
            tasks = TaskRepository(session).claim_next(
                worker.owner, limit=limit, lease=worker.lease_s, **worker.choice
            )
        if self.left is not None:
            self.left -= len(tasks)
        claimed = [_Held(task, deadline) for task in tasks]
        self.held.update({held.task.id: held for held in claimed})
        return claimed

    @contextmanager
    def work_ahead(self) -> Iterator[None]:
        """Inside the block the loop is woken when there is a task to claim."""
        began = time.monotonic()
        with waiting_for(self.database, self.worker.selection, None) as answer:
            answer.add_done_callback(lambda _: self.wake())
            yield
            if time.monotonic() - began > _SHORT_WAIT_S:
                self._misses = 0
            self._was_called = answer.done()

    def forget(self, held: _Held) -> None:
        """Hold a task no longer."""
        if self.held.get(held.task.id) is held:
            del self.held[held.task.id]

    # -- leases -----------------------------------------------------------------------------------

    def renew(self) -> float:
        """Renew all leases; after how many seconds to do so again."""
        try:
            self._renew(list(self.held.values()))
        except DatabaseError as error:
            logger.warning("%s cannot renew its leases: %s", self.worker.owner, error)
            return self.worker.heartbeat_s / 4
        return self.worker.heartbeat_s

    def _deadline(self) -> float:
        # Counted from before the database is asked: never later than it counts itself.
        return time.monotonic() + self.worker.lease_s

    def _renew(self, leases: list[_Held]) -> None:
        if not leases:
            return
        deadline = self._deadline()
        with open_session(self.database) as session:
            settled = TaskRepository(session).heartbeat_many(
                [(held.task.id, held.token) for held in leases]
            )
        for held in leases:
            error = settled.lost.get(held.task.id)
            if error is None:
                held.deadline = deadline
            elif self.held.get(held.task.id) is held and not held.lost:
                logger.warning("%s lost %s: %s", self.worker.owner, held, error)
                self.lose(held)

    def lose(self, held: _Held) -> None:
        """Note that the lease of a task is lost."""
        held.lost = True

    # -- how a task ends --------------------------------------------------------------------------

    def complete(self, held: _Held, feedback: Any) -> None:
        """Complete a task, or fail it where its feedback cannot be stored."""
        try:
            done = self._settle(held, "complete", feedback)
        except ValidationError as error:
            self.fail(held, error)
            return
        if done:
            logger.info("%s completed %s", self.worker.owner, held)
            self.handled += 1

    def fail(self, held: _Held, error: BaseException) -> None:
        """Fail a task for what its handler raised."""
        if isinstance(error, GiveBack):
            self.release(held, error.retry_in_s)
        elif self._settle(held, "fail", error_text(error)):
            logger.warning("%s failed in %s: %s", self.worker.owner, held, error_text(error))
            self.handled += 1

    def release(self, held: _Held, retry_in_s: float | None = None) -> None:
        """Give a task back, at once or for later."""
        if self._settle(held, "release", retry_in_s):
            logger.info("%s gave %s back", self.worker.owner, held)

    def _settle(self, held: _Held, verb: str, *arguments: Any) -> bool:
        """Say how a task ended; False when that is no longer ours to say.

        Tried again while the database is away, until the lease is over.
        """
        pause_s = _FIRST_PAUSE_S
        while not held.lost and not held.given_back:
            try:
                with open_session(self.database) as session:
                    getattr(TaskRepository(session), verb)(held.task.id, held.token, *arguments)
            except LeaseLost as error:
                logger.warning("%s cannot %s %s: %s", self.worker.owner, verb, held, error)
                return False
            except DatabaseError as error:
                if not _may_pass(error):
                    raise
                logger.warning("%s cannot %s %s yet: %s", self.worker.owner, verb, held, error)
                late = time.monotonic() + pause_s > held.deadline
                if late or self.hurrying or verb == "release":
                    return False
            else:
                held.given_back = True
                return True
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return False


def _may_pass(error: DatabaseError) -> bool:
    return error.retryable or isinstance(error, DatabaseUnavailable)


class _ThreadRun(_Run):
    """A run with a thread for each task, and one that renews the leases of all."""

    def __init__(self, worker: Worker, handle: Callable[[Task], Any], **options: Any) -> None:
        super().__init__(worker, handle, **options)
        # The handler of a signal may put into it at any moment, which no condition allows.
        self._events: SimpleQueue[None] = SimpleQueue()
        self._ended = threading.Event()

    def wake(self) -> None:
        self._events.put(None)

    def work(self) -> None:
        """Run until the end."""
        _start(self._keep_leases, "hopper-leases")
        try:
            while not self.is_over() and not self.stopping:
                for held in (begun := self.take()):
                    _start(self._handle, f"hopper-{held.task.id}", held)
                if self.is_empty() and not begun:
                    break
                if not begun:
                    self._wait()
            self._let_end()
        finally:
            self._ended.set()
            if self.held:
                self.worker.abandon()
            for held in list(self.held.values()):
                self.forget(held)
                self.release(held)

    def _wait(self) -> None:
        if self.pause_s or not self.looks_for_work():
            self._wait_for_event(self.pause_s or None)
            return
        with self.work_ahead():
            self._wait_for_event()

    def _wait_for_event(self, timeout_s: float | None = None) -> None:
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            with suppress(Empty):
                # Python handles a signal that comes right before a wait when the wait is over.
                self._events.get(timeout=min(left_s, _LONGEST_WAIT_S))
                break
        with suppress(Empty):
            while True:
                self._events.get_nowait()

    def _let_end(self) -> None:
        deadline = time.monotonic() + self.worker.grace_s
        while self.held and not self.hurrying and (left_s := deadline - time.monotonic()) > 0:
            self._wait_for_event(left_s)

    def _handle(self, held: _Held) -> None:
        try:
            with using(self.database):
                feedback = self.handle(held.task)
        except Exception as error:  # noqa: BLE001  # the handler's, whatever it is
            self._end(held, self.fail, error)
        except BaseException as error:  # noqa: BLE001  # it asks for the end of the process
            logger.warning("%s stops: %s in %s", self.worker.owner, type(error).__name__, held)
            self._end(held, self.release)
            self.stop()
        else:
            self._end(held, self.complete, feedback)

    def _end(self, held: _Held, how: Callable[..., None], *arguments: Any) -> None:
        try:
            how(held, *arguments)
        except Exception:
            # Its lease runs out, and somebody takes it.
            logger.exception("%s cannot say how %s ended", self.worker.owner, held)
        finally:
            self.forget(held)
            self.wake()

    def _keep_leases(self) -> None:
        pause_s = self.worker.heartbeat_s
        while not self._ended.wait(pause_s):
            pause_s = self.renew()


def _start(function: Callable[..., None], name: str, *arguments: Any) -> None:
    # A handler that does not end keeps no process alive.
    threading.Thread(target=function, args=arguments, name=name, daemon=True).start()


class _AsyncRun(_Run):
    """A run with a coroutine for each task. What is asked of the database is asked in threads."""

    def __init__(
        self, worker: Worker, handle: Callable[[Task], Awaitable[Any]], **options: Any
    ) -> None:
        super().__init__(worker, handle, **options)
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._threads = ThreadPoolExecutor(_THREADS, "hopper-worker")
        self._handlers: dict[_Held, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def wake(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._event.set)

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await self._loop.run_in_executor(self._threads, function, *arguments)

    async def work(self) -> None:
        """Run until the end."""
        keeper = asyncio.create_task(self._keep_leases())
        try:
            while not self.is_over() and not self.stopping:
                begun = await self._in_thread(self.take)
                for held in begun:
                    self._begin(held)
                if self.is_empty() and not begun:
                    break
                if not begun:
                    await self._wait()
            await self._let_end()
        finally:
            keeper.cancel()
            await self._give_all_back()

    def _begin(self, held: _Held) -> None:
        task = asyncio.create_task(self._handle(held), name=f"hopper-{held.task.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _wait(self) -> None:
        if self.pause_s or not self.looks_for_work():
            await self._wait_for_event(self.pause_s or None)
            return
        with self.work_ahead():
            await self._wait_for_event()

    async def _wait_for_event(self, timeout_s: float | None = None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        self._event.clear()

    async def _let_end(self) -> None:
        deadline = time.monotonic() + self.worker.grace_s
        while self.held and not self.hurrying and (left_s := deadline - time.monotonic()) > 0:
            await self._wait_for_event(left_s)

    async def _give_all_back(self) -> None:
        for held in list(self.held.values()):
            if held not in self._handlers:  # claimed in the moment in which all was cancelled
                self.forget(held)
                await self._in_thread(self.release, held)
        for handler in self._handlers.values():
            handler.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STUBBORN_S)
        for held in list(self.held.values()):
            self.forget(held)
            await self._in_thread(self.release, held)
        self._threads.shutdown(wait=False)

    async def _handle(self, held: _Held) -> None:
        handler = self._handlers[held] = asyncio.ensure_future(self.handle(held.task))
        await asyncio.wait({handler})
        try:
            if handler.cancelled():
                await self._in_thread(self.release, held)
            elif (error := handler.exception()) is not None:
                await self._in_thread(self.fail, held, error)
            else:
                await self._in_thread(self.complete, held, handler.result())
        except Exception:
            # Its lease runs out, and somebody takes it.
            logger.exception("%s cannot say how %s ended", self.worker.owner, held)
        finally:
            del self._handlers[held]
            self.forget(held)
            self._event.set()

    def lose(self, held: _Held) -> None:
        super().lose(held)
        self._loop.call_soon_threadsafe(self._cancel, held)

    def _cancel(self, held: _Held) -> None:
        handler = self._handlers.get(held)
        if handler is not None:
            handler.cancel()

    async def _keep_leases(self) -> None:
        pause_s = self.worker.heartbeat_s
        while True:
            await asyncio.sleep(pause_s)
            pause_s = await self._in_thread(self.renew)
