"""Where `service_kit.batcher` used to be."""

from service_kit.batcher import Batcher, BatcherClosed, BatcherFull, BatcherSettings

__all__ = ["Batcher", "BatcherClosed", "BatcherFull", "BatcherSettings"]
