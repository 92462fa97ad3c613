"""What became of mutating calls, by request id; read without locks.

One statement, so that all of an answer is as of one moment: a request id and the reservations it was answered are
written together, and no reader may see the one without the other.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from service_kit.database.database import Database
from service_kit.database.json_table import Columns, join, microseconds, row, text, unpack
from stockwarden_client.v1 import warehouse_pb2 as pb
from warehouse.rpc import wire
from warehouse.stock.records import HeldLine, Reservation
from warehouse.writing.statements import LINE, RESERVATION

_REQUEST: Columns = (("request_id", text(64)),)
# The positions in an answer are those of the fields of `commands.Answer`, and of the reservations in it.
READ = f"""
    SELECT t.request_id, {microseconds("t.created_at")}, JSON_EXTRACT(t.answer, '$[3]') IS NOT NULL
             AND JSON_TYPE(JSON_EXTRACT(t.answer, '$[3]')) <> 'NULL',
           IF(r.reservation_id IS NULL, NULL, {row(RESERVATION, alias="r", more=", JSON_ARRAY()")}),
           (SELECT JSON_ARRAYAGG({row(LINE, alias="l")}) FROM reservation_lines AS l
            WHERE l.reservation_id = r.reservation_id)
    FROM {unpack("requests", _REQUEST)} {join("request_ids")} ON t.request_id = j.request_id
    LEFT JOIN JSON_TABLE(t.answer, '$[0][*]' COLUMNS (
      reservation_id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin PATH '$[0]')) AS told ON TRUE
    LEFT JOIN reservations AS r ON r.reservation_id = told.reservation_id"""
_read_reservation = msgspec.json.Decoder(Reservation).decode
_read_lines = msgspec.json.Decoder(list[HeldLine]).decode
Row = tuple[str, int, int, str | None, str | None]


class RequestReader:
    """Looks request ids up. Raises: DatabaseFault."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def outcomes(self, request_ids: Sequence[str], bytes_max: int) -> list[pb.RequestOutcome]:
        """What became of each call, in the order asked for; fewer where they would be more than `bytes_max` together,
        but at least one.
        """
        document = msgspec.json.encode([[request_id] for request_id in request_ids]).decode()

        async def read(connection: AsyncConnection) -> list[Row]:
            return [tuple(row) for row in await connection.exec_driver_sql(READ, {"requests": document})]

        rows: dict[str, list[Row]] = {}
        for found in await self._database.run_in_transaction(read):
            rows.setdefault(found[0], []).append(found)
        return list(_fitting((_outcome(one, rows.get(one, ())) for one in request_ids), bytes_max))


def _fitting(outcomes: Iterable[pb.RequestOutcome], bytes_max: int) -> Iterable[pb.RequestOutcome]:
    size = 0
    for position, outcome in enumerate(outcomes):
        size += outcome.ByteSize() + 8  # its length and tag in the message around it
        if position and size > bytes_max:
            return
        yield outcome


def _outcome(request_id: str, rows: Sequence[Row]) -> pb.RequestOutcome:
    if not rows:
        return pb.RequestOutcome(request_id=request_id)
    return pb.RequestOutcome(
        request_id=request_id,
        answered_at=wire.timestamp(rows[0][1]),
        fenced=bool(rows[0][2]),
        reservations=[wire.reservation(_reservation(head, lines)) for *_, head, lines in rows if head is not None],
    )


def _reservation(head: str, lines: Any) -> Reservation:
    held = sorted(_read_lines(lines), key=lambda line: line.key) if lines else []
    return msgspec.structs.replace(_read_reservation(head), lines=tuple(held))
