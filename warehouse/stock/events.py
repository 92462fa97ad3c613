"""What events say: JSON objects with words, ids and RFC 3339 times. Pure."""

from warehouse.stock.records import Level, Movement, Reservation, rfc3339


def describe_reservation(reservation: Reservation) -> dict[str, object]:
    return {
        "reservation_id": reservation.reservation_id,
        "order_id": reservation.order_id,
        "state": reservation.state,
        "lines": [
            {
                "product_id": line.product_id,
                "warehouse_id": line.warehouse_id,
                "quantity": line.quantity,
                "committed_quantity": line.committed_quantity,
            }
            for line in reservation.lines
        ],
        "expires_at": rfc3339(reservation.expires_at),
        "reason": reservation.reason,
    }


def describe_level(level: Level) -> dict[str, int]:
    return {
        "product_id": level.product_id,
        "warehouse_id": level.warehouse_id,
        "on_hand": level.on_hand,
        "reserved": level.reserved,
        "version": level.version,
    }


def describe_movement(movement: Movement) -> dict[str, object]:
    return {
        "type": movement.type,
        "quantity": movement.quantity,
        "sequence": movement.sequence,
        "reference": movement.reference,
        "actor": movement.actor,
    }
