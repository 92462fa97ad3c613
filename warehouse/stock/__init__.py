"""PURE: commands, records, refusals, events, and `deciding`, which says what comes of them.

Imports nothing but itself and msgspec: no clock, no random number, no I/O.
"""
