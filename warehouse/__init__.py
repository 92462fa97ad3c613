"""The gRPC service that owns stock.

At the root: settings, metrics, keys, checks of fields, and what puts a process together. Imports run downwards:
commands, server and audit, rpc, writing, reading, settings, stock. The client library stands alone.
"""
