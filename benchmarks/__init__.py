"""How fast the warehouse is, beside an empty call and beside a transaction per call."""
