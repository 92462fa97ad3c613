"""Whether the rows keep the invariants, and mending counters that drifted.

Imports reading, stock and settings; nothing of the wire.
"""
