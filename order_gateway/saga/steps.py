"""The steps of an order against the outside: each is written down first, then done here, then its outcome applied.

A step may be done more than once (by the request that began it, and by the relay in this or another process):
every one goes out under the same key each time, so the outside does it once, and gives the same answer again.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from msgspec.structs import replace

from order_gateway.allocation import undecided
from order_gateway.gateway.modes import Choice
from order_gateway.gateway.port import (
    Call,
    Done,
    GatewayFault,
    Refusal,
    StockLine,
    WarehouseGateway,
)
from order_gateway.lifecycle import Event, Illegal, NewOrder, Order, Reason, Step, Way
from order_gateway.payments import Bill, Charged, Payments, Pending, ProviderFault, Refunded
from order_gateway.saga.hold_check import HoldCheck
from order_gateway.saga.refusals import refusal_record
from order_gateway.saga.reserving import ReserveStep
from order_gateway.storage.applying import Applied, Change
from order_gateway.storage.creating import KeyClaim
from order_gateway.storage.store import Store
from service_kit.tracing import current_traceparent

log = structlog.get_logger(__name__)
AWAITED_RETRY_AFTER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class SagaSettings:
    """Time bounds of the steps, in seconds; and how often an order is sent to another warehouse."""

    hold_grace_seconds: float
    reserve_deadline_seconds: float
    step_deadline_seconds: float
    charge_timeout_seconds: float
    lease_margin_seconds: float
    warehouse_changes_max: int = 3


class StepFault(Exception):
    """A step could not be done, or its outcome is not known. It stays written down, and the relay does it.

    Attributes:
        code: for the caller of this service.
        retry_after_seconds: when asking again makes sense.
    """

    def __init__(self, code: str, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_seconds = retry_after_seconds


class PaymentAwaited(StepFault):
    """The payment provider has understood, and does not know the outcome yet: the relay looks again."""


class Saga:
    """What customers and the relay do with orders.

    Args:
        choose: how the next order goes to the warehouse; unless given, as the order says.

    Attributes:
        nudge: called when there is work for the relay.
    """

    def __init__(
        self,
        store: Store,
        gateway: WarehouseGateway,
        payments: Payments,
        settings: SagaSettings,
        choose: Callable[[], Choice] | None = None,
    ) -> None:
        self._store = store
        self._gateway = gateway
        self._payments = payments
        self._settings = settings
        self._choose = choose
        self._reserving = ReserveStep(store, gateway, settings.hold_grace_seconds, settings.warehouse_changes_max)
        self._hold_check = HoldCheck(gateway, settings.step_deadline_seconds)
        self.nudge: Callable[[], None] = _nobody

    async def create_order(self, new: NewOrder, key: KeyClaim | None = None) -> Order:
        """Make an order and hold its stock.

        Args:
            key: the Idempotency-Key of the request.

        Returns: the order, pending; or rejected, with the refusal in it; or cancelled, if someone was faster; or in
            pending_reservation, if it goes by the queue.

        Raises:
            StepFault: no order was made, or it is cancelled.
            ClaimLost: no order was made, because another request with the key has taken over.
        """
        choice = self.choose(new.way)
        if choice.may_defer and undecided(new.items):
            # What is free could not be found out a moment ago: nobody waits for that a second time.
            choice = Choice(Way.QUEUED)
        if new.way is not choice.way:
            new = replace(new, way=choice.way)
        if choice.way is Way.QUEUED:
            order = await self._store.create(new, 0, key)
            self.nudge()
            return order
        lease = self._settings.reserve_deadline_seconds + self._settings.lease_margin_seconds
        order = await self._store.create(new, lease, key)
        try:
            return (await self.conclude(order, Step.RESERVE)).order
        except StepFault as fault:
            if choice.may_defer:
                return await self._defer(order, str(fault))
            await self._store.apply(order.id, Change(Event.RESERVE_ABANDONED, note=str(fault)))
            self.nudge()
            raise

    def choose(self, way: Way = Way.GRPC) -> Choice:
        """How an order that comes now begins; as `way` says, if nothing else does. Raises: StepFault, if it can't."""
        try:
            return self._choose() if self._choose else Choice(way)
        except GatewayFault as fault:
            raise StepFault(fault.code, str(fault), fault.retry_after_seconds) from fault

    async def _defer(self, order: Order, why: str) -> Order:
        """Leave the hold to the relay, which asks for it under the same request id."""
        applied = await self._store.apply(order.id, Change(Event.DEFERRED, note=why))
        self.nudge()
        return applied.order

    async def pay(self, order_id: int, actor: str, method: str | None = None, reference: str | None = None) -> Applied:
        """Charge the customer and sell the stock; a declined payment cancels the order.

        If what was held is gone, which only somebody past this service can have done, nobody is charged, and the order
        is cancelled.

        Raises:
            OrderNotFound
            PaymentAwaited: the outcome comes later.
            StepFault: the provider's answer did not come: the relay asks again.
        """
        lease = self._settings.charge_timeout_seconds + self._step_lease
        wish = Change(
            Event.PAY,
            actor,
            payment_method=method,
            payment_reference=reference,
            payment_provider=self._payments.provider_name,
            lease_seconds=lease,
        )
        applied = await self._store.apply(order_id, wish)
        if isinstance(applied.result, Illegal):
            if applied.result.code == "PAYMENT_EXPIRED":
                await self.follow(await self._store.apply(order_id, self._change(Event.DEADLINE_PASSED)))
            return applied
        return await self.follow(await self.conclude(applied.order, Step.CHARGE))

    @property
    def is_paid_outside(self) -> bool:
        """Whether it is the caller who takes the money, and must name it by a reference."""
        return self._payments.are_external

    async def confirm_refund(self, order_id: int, actor: str, reference: str | None) -> Applied:
        """Note that the money of a cancelled order was given back by whoever took it. Raises: OrderNotFound."""
        return await self._store.apply(order_id, Change(Event.REFUND_CONFIRMED, actor, provider_reference=reference))

    async def cancel(self, order_id: int, actor: str, reason: Reason, note: str | None) -> Applied:
        """Cancel an order that has not been shipped. Raises: OrderNotFound."""
        change = Change(Event.CANCEL, actor, reason=reason, note=note, lease_seconds=self._step_lease)
        return await self.follow(await self._store.apply(order_id, change))

    async def move(self, order_id: int, event: Event, actor: str, note: str | None) -> Applied:
        """Ship or complete an order. Raises: OrderNotFound."""
        return await self._store.apply(order_id, Change(event, actor, note=note))

    async def expire(self, order_id: int) -> None:
        """Cancel an order whose payment deadline has passed, if it has, and its payment has not begun.

        The relay gives its stock back.
        """
        await self._store.apply(order_id, Change(Event.DEADLINE_PASSED))

    async def follow(self, applied: Applied) -> Applied:
        """Do the steps that an event began, now; what fails is left to the relay.

        Returns: the order as it is then, with what the first event did.
        """
        if isinstance(applied.result, Illegal):
            return applied
        order, steps = applied.order, list(applied.result.begins)
        while steps:
            step = steps.pop(0)
            try:
                next_applied = await self.conclude(order, step)
            except StepFault as fault:
                log.warning("step_left_to_relay", order_id=order.id, step=step, error=str(fault))
                continue
            order = next_applied.order
            if not isinstance(next_applied.result, Illegal):
                steps += next_applied.result.begins
        return Applied(order, applied.result)

    async def conclude(self, order: Order, step: Step) -> Applied:
        """Do one step and write down its outcome. Raises: StepFault."""
        try:
            if step is Step.RESERVE:
                call = await self._call(order, step, self._settings.reserve_deadline_seconds)
                return await self._reserving.conclude(order, call)
            change = await self._outcome(order, step)
        except GatewayFault as fault:
            raise StepFault(fault.code, str(fault), fault.retry_after_seconds) from fault
        except (ProviderFault, TimeoutError) as fault:
            message = "the payment provider has not answered; the order will show how it ended"
            raise StepFault("PAYMENT_PENDING", message, self._settings.charge_timeout_seconds) from fault
        return await self._store.apply(order.id, change, order)

    async def abandon(self, order: Order, step: Step, why: str) -> Applied:
        """Give up a RESERVE or CHARGE whose time is over; what it may have done is undone."""
        event = Event.RESERVE_ABANDONED if step is Step.RESERVE else Event.CHARGE_ABANDONED
        return await self._store.apply(order.id, Change(event, note=why, lease_seconds=self._step_lease))

    async def _outcome(self, order: Order, step: Step) -> Change:
        match step:
            case Step.CHARGE:
                return await self._charge(order)
            case Step.COMMIT:
                return await self._commit(order)
            case Step.CANCEL:
                return await self._cancel(order)
            case Step.REFUND:
                return await self._refund(order)
            case Step.GIVE_BACK:
                return await self._give_back(order)
            case Step.RESERVE:
                raise AssertionError("it writes its outcome itself, in several steps")

    async def _charge(self, order: Order) -> Change:
        if not await self._hold_check.can_be_sold(order):
            note = "its hold was released past this service, or is over and its stock gone"
            return replace(self._change(Event.HOLD_LOST), note=note)
        bill = await self._bill(order)
        async with asyncio.timeout(self._settings.charge_timeout_seconds):
            answer = await self._payments.take(bill, order.payment_provider)
        if isinstance(answer, Pending):
            raise _awaited("the payment is under way at the provider; the order will show how it ended")
        if isinstance(answer, Charged):
            return Change(Event.CHARGED, provider_reference=answer.provider_reference, lease_seconds=self._step_lease)
        refusal = refusal_record(Refusal("PAYMENT_DECLINED", answer.message))
        return Change(Event.DECLINED, refusal=refusal, lease_seconds=self._step_lease)

    async def _refund(self, order: Order) -> Change:
        bill = await self._bill(order)
        async with asyncio.timeout(self._settings.charge_timeout_seconds):
            answer = await self._payments.give_back(bill, order.payment_provider)
        if isinstance(answer, Pending):
            raise _awaited("the refund is under way at the provider")
        return self._change(Event.REFUNDED if isinstance(answer, Refunded) else Event.REFUND_REQUESTED)

    async def _bill(self, order: Order) -> Bill:
        key = await self._key(order, Step.CHARGE)
        amount = (order.total_amount, order.currency)
        return Bill(order.id, key, *amount, order.payment_method, order.payment_reference)

    async def _commit(self, order: Order) -> Change:
        call = await self._call(order, Step.COMMIT)
        answer = await self._gateway.commit(order.reservations[0].reservation_id, call)
        if isinstance(answer, Done):
            return self._change(Event.COMMITTED)
        _must_not_be_malformed(answer)
        record = refusal_record(answer)
        return Change(Event.COMMIT_REFUSED, note=answer.code, refusal=record, lease_seconds=self._step_lease)

    async def _cancel(self, order: Order) -> Change:
        call = await self._call(order, Step.CANCEL)
        reason = order.state.reason or ""
        answer = await self._gateway.cancel(await self._key(order, Step.RESERVE), reason, call)
        if isinstance(answer, Done):
            return self._change(Event.RELEASED)
        if answer.code == "RESERVATION_COMMITTED":
            return self._change(Event.RELEASE_FOUND_COMMITTED)
        raise GatewayFault("WAREHOUSE_ERROR", f"the warehouse does not cancel: {answer.code} {answer.message}")

    async def _give_back(self, order: Order) -> Change:
        reference = (await self._store.name(order)).in_warehouse
        for position, item in enumerate(order.items):
            if item.warehouse_id is None:
                # Nothing was ever asked for it.
                continue
            call = await self._call(order, Step.GIVE_BACK, position=position)
            line = StockLine(item.product_id, item.warehouse_id, item.quantity)
            await self._gateway.give_back(line, reference, call)
        return self._change(Event.RETURNED)

    async def _key(self, order: Order, step: Step) -> str:
        return (await self._store.name(order)).request_id(step)

    async def _call(
        self, order: Order, step: Step, deadline_seconds: float | None = None, position: int | None = None
    ) -> Call:
        return Call(
            (await self._store.name(order)).request_id(step, position),
            order.correlation_id,
            current_traceparent(),
            deadline_seconds=deadline_seconds or self._settings.step_deadline_seconds,
            actor=order.actor,
        )

    def _change(self, event: Event) -> Change:
        return Change(event, lease_seconds=self._step_lease)

    @property
    def _step_lease(self) -> float:
        return self._settings.step_deadline_seconds + self._settings.lease_margin_seconds


def _awaited(message: str) -> PaymentAwaited:
    return PaymentAwaited("PAYMENT_PENDING", message, AWAITED_RETRY_AFTER_SECONDS)


def _must_not_be_malformed(refusal: Refusal) -> None:
    if refusal.code == "INVALID_ARGUMENT":
        raise GatewayFault("WAREHOUSE_ERROR", f"the warehouse does not understand: {refusal.message}")


def _nobody() -> None:
    pass
