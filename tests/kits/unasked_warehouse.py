"""A warehouse that must not be asked: what doubles of the port are made of, each with the calls that its tests need."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import NoReturn

from order_gateway.gateway.port import (
    Call,
    Caller,
    CataloguePage,
    Done,
    Hold,
    HoldState,
    Outcome,
    Product,
    Refusal,
    StockLine,
)
from order_gateway.gateway.stock import Availability, CatalogueProduct, Level, LevelKey, ProductPage


def _unasked() -> NoReturn:
    raise AssertionError("nobody was to ask the warehouse for this")


class UnaskedWarehouse:
    """WarehouseGateway whose every call ends the test."""

    async def reserve(
        self, order_id: str, lines: Sequence[StockLine], ttl_seconds: float, call: Call
    ) -> Hold | Refusal:
        _unasked()

    async def state_of(self, reservation_id: str, call: Call) -> HoldState | None:
        _unasked()

    async def commit(self, reservation_id: str, call: Call) -> Done | Refusal:
        _unasked()

    async def cancel(self, reserve_request_id: str, reason: str, call: Call) -> Done | Refusal:
        _unasked()

    async def give_back(self, line: StockLine, reference: str, call: Call) -> Done:
        _unasked()

    async def products(self, product_ids: Sequence[int], call: Call) -> Mapping[int, Product]:
        _unasked()

    async def available(self, product_id: int, call: Call) -> Sequence[StockLine]:
        _unasked()

    async def level(self, key: LevelKey, call: Call) -> Level | Refusal:
        _unasked()

    async def levels(self, keys: Sequence[LevelKey], call: Call) -> tuple[list[Level], list[LevelKey]]:
        _unasked()

    async def check(self, lines: Sequence[StockLine], call: Call) -> list[Availability]:
        _unasked()

    async def count(
        self, key: LevelKey, quantity: int, reserved: int | None, notes: str, call: Call
    ) -> Level | Refusal:
        _unasked()

    async def reserve_until(
        self, order_id: str, lines: Sequence[StockLine], until: datetime, call: Call
    ) -> Hold | Refusal:
        _unasked()

    async def hold(self, reservation_id: str, call: Call) -> Hold | Refusal:
        _unasked()

    async def sell(self, reservation_id: str, call: Call) -> Hold | Refusal:
        _unasked()

    async def release(self, reservation_id: str, reason: str, call: Call) -> Hold | Refusal:
        _unasked()

    async def sweep(self, call: Call) -> int:
        _unasked()

    async def product(self, product_id: int, call: Call) -> CatalogueProduct | Refusal:
        _unasked()

    async def product_page(self, skip: int, size: int, token: str, call: Call) -> ProductPage:
        _unasked()

    async def outcomes(self, request_ids: Sequence[str], call: Call) -> list[Outcome]:
        _unasked()

    def holds_made_since(self, since: datetime | None) -> AsyncIterator[list[Hold]]:
        _unasked()

    def catalogue(self, changed_since: datetime | None = None) -> AsyncIterator[CataloguePage]:
        _unasked()

    async def caller(self, call: Call) -> Caller | Refusal:
        _unasked()

    async def is_serving(self) -> bool:
        _unasked()

    @property
    def connections_replaced(self) -> int:
        _unasked()
