"""The port over gRPC. Nothing else in the order service calls the warehouse's client library.

Imports the port, `service_kit` and `stockwarden_client`; no other room.
"""
