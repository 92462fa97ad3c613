"""How the audit cuts the tables into slices of about so many rows each."""

from collections.abc import AsyncGenerator, Mapping

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from warehouse.audit.queries import By

Slice = Mapping[str, int | str | None]
_ID_MAX = 2**63 - 1
_KEYS = {By.RESERVATION: ("reservations", "reservation_id"), By.REQUEST: ("request_ids", "request_id")}
# A level's version is the number of its movements, and a reservation makes one or two of each of its lines.
_SIZES = text("SELECT product_id, SUM(version) FROM stock_levels GROUP BY product_id ORDER BY product_id")
_MOVEMENTS = text("SELECT COALESCE(SUM(version), 0) FROM stock_levels")


async def slices(connection: AsyncConnection, by: By, rows: int) -> AsyncGenerator[Slice, None]:
    """Slices that together hold all rows, also those whose key is in no other table."""
    if by is By.HASH:
        parts = _parts(int((await connection.execute(_MOVEMENTS)).scalar_one()), rows)
        for part in range(parts):
            yield {"part": part, "parts": parts}
    elif by in _KEYS:
        table, column = _KEYS[by]
        low = ""
        while True:
            high = await _key_after(connection, table, column, low, rows)
            yield {"low": low, "high": high}
            if high is None:
                return
            low = high
    else:
        for first, last, size in await _product_ranges(connection, rows):
            parts = _parts(size, rows) if by is By.PRODUCT_AND_HASH else 1
            for part in range(parts):
                yield {"low": first, "high": last, "part": part, "parts": parts}


async def _product_ranges(connection: AsyncConnection, rows: int) -> list[tuple[int, int, int]]:
    """Ranges (low, high] of product ids with about so many movements each, and how many that are."""
    ranges: list[tuple[int, int, int]] = []
    low, size, last = -1, 0, -1
    for product_id, count in await connection.execute(_SIZES):
        if size and size + int(count) > rows:
            ranges.append((low, last, size))
            low, size = last, 0
        size += int(count)
        last = int(product_id)
    return [*ranges, (low, _ID_MAX, size)]


async def _key_after(connection: AsyncConnection, table: str, column: str, low: str, rows: int) -> str | None:
    """The key that ends a slice which begins behind `low`; None: it is the last one."""
    query = f"SELECT {column} FROM {table} WHERE {column} > :low ORDER BY {column} LIMIT 1 OFFSET {rows - 1}"  # noqa: S608
    found = (await connection.execute(text(query), {"low": low})).scalar_one_or_none()
    return None if found is None else str(found)


def _parts(size: int, rows: int) -> int:
    return max(-(-size // rows), 1)
