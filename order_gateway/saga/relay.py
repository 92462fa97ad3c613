"""Finishes what was begun: steps whose request or process died, steps that failed, orders nobody paid.

Runs in every process of the service; a step is claimed for a while by one of them. Nothing is given up but
what has a deadline: an order that was not reserved or charged in time is cancelled. Time is the database's; from it
this process only counts on.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import datetime, timedelta

import structlog

from order_gateway.lifecycle import Order, Step, Way, is_open
from order_gateway.saga.parking import is_parked
from order_gateway.saga.pending_steps import PendingStep, PendingSteps
from order_gateway.saga.steps import PaymentAwaited, Saga, StepFault
from order_gateway.settings import OrdersSettings
from order_gateway.storage.store import Store
from service_kit.database.database import Fault
from service_kit.logging import call_lines, note_call

log = structlog.get_logger(__name__)
BACKOFF_EXPONENT_MAX = 16
Observe = Callable[[PendingStep], AbstractContextManager[object]]


class Relay:
    """A background task; start it with `run`, end it with `stop`.

    Args:
        observe: gives a context manager for each step, which sees how it ended.
    """

    def __init__(
        self, store: Store, intents: PendingSteps, saga: Saga, settings: OrdersSettings, observe: Observe = nullcontext
    ) -> None:
        self._store = store
        self._intents = intents
        self._saga = saga
        self._orders_settings = settings
        self._settings = settings.relay
        self._observe = observe
        self._stopping = False
        self._sweep_at = 0.0
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping

    def nudge(self) -> None:
        """There is work: don't wait for the next look."""
        self._wake.set()

    async def stop(self) -> None:
        """Claim nothing more; finish what is being done, for as long as a lease at most."""
        self._stopping = True
        self.nudge()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._settings.lease_seconds)

    async def run(self) -> None:
        """Work until stopped; failures of the database are waited out."""
        while not self._stopping:
            try:
                busy = await self.look()
            except Fault as fault:
                log.warning("relay_waits", error=str(fault))
                busy = False
            except Exception:
                log.exception("relay_failed")
                busy = False
            if not busy:
                await self._pause()

    async def look(self) -> bool:
        """Take what is due and free hands allow; whether there may be more right now."""
        await self._sweep()
        free = self._settings.concurrency - len(self._tasks)
        claimed = await self._intents.claim(free, self._settings.lease_seconds) if free else []
        for intent in claimed:
            task = asyncio.create_task(self.do(intent), name=f"step {intent.step} of order {intent.order_id}")
            self._tasks.add(task)
            task.add_done_callback(self._finished)
        return bool(claimed) and len(self._tasks) < self._settings.concurrency

    async def do(self, intent: PendingStep) -> None:
        """One step; if it fails it is due again later, and the failure stays with it."""
        with call_lines(order_id=intent.order_id, step=intent.step):
            try:
                with self._observe(intent):
                    await self._carry_out(intent)
            except Exception as error:
                if isinstance(error, PaymentAwaited):
                    log.info("payment_awaited", attempts=intent.attempts, note=str(error))
                elif isinstance(error, StepFault):
                    log.warning("step_failed", attempts=intent.attempts, error=str(error))
                else:
                    log.exception("step_failed", attempts=intent.attempts)
                # If this fails too the lease runs out by itself.
                with suppress(Fault):
                    await self._postpone(intent, error)

    async def _postpone(self, intent: PendingStep, error: Exception) -> None:
        settings = self._settings
        # A database that fails says nothing about the step.
        parked = not isinstance(error, Fault) and is_parked(
            intent.step,
            error.code if isinstance(error, StepFault) else "",
            intent.attempts,
            intent.claimed_at - intent.begun_at,
            tries=settings.park_tries,
            patience=timedelta(seconds=settings.park_patience_seconds),
        )
        if parked:
            log.error("step_parked", attempts=intent.attempts, error=str(error))
        delay = jittered(settings.parked_retry_seconds) if parked else self._backoff_seconds(intent.attempts)
        await self._intents.postpone(intent, delay, repr(error), is_parked=parked)

    async def _carry_out(self, intent: PendingStep) -> None:
        claimed = time.monotonic()
        order = await self._store.read(intent.order_id)
        note_call(correlation_id=order.correlation_id)
        if not is_open(order.state, intent.step):
            await self._intents.forget(intent)
            return
        if intent.step is Step.RESERVE and order.way is Way.GRPC:
            # The customer who waited for this hold has been told otherwise, or nothing.
            applied = await self._saga.abandon(order, intent.step, "the request ended before its answer")
        else:
            try:
                applied = await self._saga.conclude(order, intent.step)
            except StepFault as fault:
                now = intent.claimed_at + timedelta(seconds=time.monotonic() - claimed)
                if not self._is_over(order, intent.step, now):
                    raise
                applied = await self._saga.abandon(order, intent.step, str(fault))
        await self._saga.follow(applied)

    def _is_over(self, order: Order, step: Step, now: datetime) -> bool:
        if step is Step.RESERVE:
            return (now - order.created_at).total_seconds() > self._orders_settings.reservation_timeout_seconds
        if step is Step.CHARGE:
            return (now - order.payment_deadline).total_seconds() > self._orders_settings.hold_grace_seconds
        return False

    async def _sweep(self) -> None:
        """Cancel orders whose payment is overdue; once per poll, unless there are more than fit into one look."""
        now = asyncio.get_running_loop().time()
        if now < self._sweep_at:
            return
        overdue = await self._store.unpaid_past_deadline(self._settings.sweep_batch)
        await asyncio.gather(*map(self._expire, overdue))
        if len(overdue) < self._settings.sweep_batch:
            self._sweep_at = now + self._settings.poll_seconds

    async def _expire(self, order_id: int) -> None:
        try:
            await self._saga.expire(order_id)
        except Fault as fault:
            log.warning("order_not_expired", order_id=order_id, error=str(fault))
        except Exception:
            log.exception("order_not_expired", order_id=order_id)

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.poll_seconds * random.uniform(0.75, 1.25)):  # noqa: S311
                await self._wake.wait()
        self._wake.clear()

    def _backoff_seconds(self, attempts: int) -> float:
        grown = self._settings.retry_wait_initial_seconds * 2 ** min(attempts - 1, BACKOFF_EXPONENT_MAX)
        return jittered(min(grown, self._settings.retry_wait_max_seconds))

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Its lease runs out, and the step is tried again; it must not go unseen.
            log.error("step_died", task=task.get_name(), exc_info=error)
        if len(self._tasks) == self._settings.concurrency - 1:
            self.nudge()


def jittered(seconds: float) -> float:
    """About as long, so that what failed together does not come again together."""
    return float(seconds * random.uniform(0.75, 1.25))  # noqa: S311
