"""Reading without locks, in pages; and the tables.

Imports stock; nothing of writing or of the wire.
"""
