"""What a look at the tables may come back without."""


class OrderNotFound(Exception):
    """There is no such order."""
