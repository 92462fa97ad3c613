"""The gRPC service that owns stock."""
