"""What is different where calls block their thread: everything that waits, or runs beside something else."""

import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from time import sleep
from typing import ParamSpec, TypeVar

import grpc

from stockwarden_client.connection import ClientSettings, channel_options, target_of

__all__ = ["RpcFailure", "Tasks", "is_ready", "open_channel", "sleep", "together"]

STATE_TIMEOUT_SECONDS = 1
"""For gRPC to tell whether a channel has a connection; it knows, and tells in another thread."""
RpcFailure = grpc.RpcError
ParametersP = ParamSpec("ParametersP")
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def open_channel(settings: ClientSettings, credentials: grpc.ChannelCredentials | None = None) -> grpc.Channel:
    """A channel to the warehouse as `settings` say: addresses, TLS, keepalive, sizes."""
    target, options = target_of(settings), channel_options(settings)
    if credentials is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, credentials, options)


def is_ready(channel: grpc.Channel) -> bool:
    """Whether it has a connection."""
    told: queue.SimpleQueue[grpc.ChannelConnectivity] = queue.SimpleQueue()
    tell = told.put
    channel.subscribe(tell)
    try:
        return told.get(timeout=STATE_TIMEOUT_SECONDS) is grpc.ChannelConnectivity.READY
    except queue.Empty:
        return False
    finally:
        channel.unsubscribe(tell)


def together(work: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> list[ResultT]:
    """What comes of `work` on each of the items, done at the same time."""
    items = list(items)
    if len(items) == 1:
        return [work(items[0])]
    with ThreadPoolExecutor(len(items)) as threads:
        return list(threads.map(work, items))


class Tasks:
    """Work beside the calls, in threads that keep no program from ending."""

    def __init__(self) -> None:
        self._closing = threading.Event()

    def start(
        self, work: Callable[ParametersP, None], *arguments: ParametersP.args, **options: ParametersP.kwargs
    ) -> None:
        """Begin `work`, and go on."""

        def run() -> None:
            try:
                work(*arguments, **options)
            except ValueError:
                # So gRPC calls a call over a channel that was closed meanwhile.
                if not self._closing.is_set():
                    raise

        threading.Thread(target=run, name="stockwarden-client", daemon=True).start()

    def close_later(self, channel: grpc.Channel, seconds: float) -> None:
        """Close the connection that long from now, or when the client is closed."""
        self._closing.wait(seconds)
        channel.close()

    def close(self) -> None:
        """Let what runs end; it is not waited for."""
        self._closing.set()
