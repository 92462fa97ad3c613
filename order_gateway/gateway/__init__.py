"""The warehouse as the order service sees it: one port, its adapter, the guard around it, and the way of new orders.

Imports the core and `service_kit`; only the adapter, in `grpc`, imports `stockwarden_client`.
"""
