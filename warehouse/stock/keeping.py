"""Units that come, go and are counted. Pure."""

from warehouse.stock import refusals
from warehouse.stock.commands import Answer, ChangeStock, CountStock, StockCommand
from warehouse.stock.draft import Cause, Draft
from warehouse.stock.events import describe_level, describe_movement
from warehouse.stock.records import Level, MovementType
from warehouse.stock.refusals import Reason, Refusal, Shortage


def change_stock(draft: Draft, command: ChangeStock) -> Answer | Refusal:
    """Put units on hand, opening the level if need be, or take free ones away."""
    level = draft.levels.get((command.product_id, command.warehouse_id))
    if level is None:
        if command.quantity < 0:
            return draft.level_not_found((command.product_id, command.warehouse_id))
        if refusal := _cannot_open_level(draft, command):
            return refusal
    elif command.quantity < 0 and -command.quantity > level.available:
        short = Shortage(level.product_id, level.warehouse_id, -command.quantity, level.available)
        return refusals.insufficient((short,))
    return _write_stock(draft, command, command.type, abs(command.quantity), command.quantity)


def count_stock(draft: Draft, command: CountStock) -> Answer | Refusal:
    """Set what is on hand to what was counted, never below what is held."""
    level = draft.levels.get((command.product_id, command.warehouse_id))
    if level is None and (refusal := _cannot_open_level(draft, command)):
        return refusal
    on_hand, reserved = (level.on_hand, level.reserved) if level else (0, 0)
    if command.reserved is not None and command.reserved != reserved:
        return refusals.reserved_mismatch(command.reserved, reserved)
    if command.on_hand < reserved:
        return refusals.insufficient((Shortage(command.product_id, command.warehouse_id, reserved, command.on_hand),))
    difference = command.on_hand - on_hand
    return _write_stock(draft, command, MovementType.ADJUSTMENT, difference, difference)


def _write_stock(draft: Draft, command: StockCommand, kind: MovementType, quantity: int, change: int) -> Answer:
    key = (command.product_id, command.warehouse_id)
    draft.check_ledger(key)
    if key not in draft.levels:
        draft.levels[key] = Level(*key, 0, 0, 0, draft.instant, draft.instant)
    cause = Cause(
        draft.next_id(),
        command.actor,
        command.correlation_id,
        command.traceparent,
        command.reference,
        command.notes,
    )
    draft.move(key, kind, quantity, change, 0, cause)
    level, movement = draft.levels[key], draft.movements[-1]
    data = {"movement": describe_movement(movement), "level": describe_level(level)}
    subject = f"products/{key[0]}/warehouses/{key[1]}"
    draft.emit(cause, "warehouse.stock.changed.v1", subject, data)
    return Answer(level=level, movement=movement)


def _cannot_open_level(draft: Draft, command: StockCommand) -> Refusal | None:
    refusal = draft.level_not_found((command.product_id, command.warehouse_id))
    return None if refusal.reason is Reason.STOCK_LEVEL_NOT_FOUND else refusal
