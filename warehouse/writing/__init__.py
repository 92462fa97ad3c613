"""Every transaction that changes stock or the catalogue: what it locks, decides, and writes.

Imports stock and reading; nothing of the wire.
"""
