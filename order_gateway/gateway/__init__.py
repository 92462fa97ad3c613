"""The warehouse as the order service sees it: a port, and the one room that calls its client library.

Imports the core, `service_kit` and `stockwarden_client`; no other room.
"""
