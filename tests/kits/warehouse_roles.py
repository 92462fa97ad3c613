"""What each method of the warehouse needs, as its documents say it."""

from collections.abc import Mapping

from warehouse.auth import Role

NEEDED: Mapping[Role, tuple[str, ...]] = {
    Role.READER: (
        "BatchGetRequests",
        "CheckStock",
        "GetCaller",
        "GetReservation",
        "ListReservations",
        "BatchGetProducts",
        "ListProducts",
        "GetInventory",
        "BatchGetInventory",
        "ListInventory",
        "ListMovements",
    ),
    Role.ORDER: ("Reserve", "BatchReserve", "Commit", "Cancel", "Extend"),
    Role.ADMIN: ("SweepExpired", "CreateProduct", "CreateWarehouse", "AddStock", "RemoveStock", "UpdateInventory"),
}
"""The least role; AddStock of what was sold and comes back needs `order` only."""
LADDER = (Role.READER, Role.ORDER, Role.ADMIN)
"""Each includes the ones before it."""
