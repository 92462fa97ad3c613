"""The gRPC side: servicers, the edge they stand behind, and protobuf in both directions.

Imports writing, reading, stock and settings. Nobody but `server` imports this room.
"""
