"""What is different where calls are awaited: everything that waits, or runs beside something else.

`sync/running.py` says the same for calls that block their thread. All other modules of `sync` are made from those here.
"""

import asyncio
from asyncio import sleep
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, ParamSpec, TypeVar

import grpc

from stockwarden_client.connection import ClientSettings, channel_options, target_of

__all__ = ["RpcFailure", "Tasks", "is_ready", "open_channel", "sleep", "together"]

RpcFailure = grpc.aio.AioRpcError
ParametersP = ParamSpec("ParametersP")
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def open_channel(settings: ClientSettings, credentials: grpc.ChannelCredentials | None = None) -> grpc.aio.Channel:
    """A channel to the warehouse as `settings` say: addresses, TLS, keepalive, sizes."""
    target, options = target_of(settings), channel_options(settings)
    if credentials is None:
        return grpc.aio.insecure_channel(target, options)
    return grpc.aio.secure_channel(target, credentials, options)


def is_ready(channel: grpc.aio.Channel) -> bool:
    """Whether it has a connection."""
    return channel.get_state() is grpc.ChannelConnectivity.READY


async def together(work: Callable[[ItemT], Awaitable[ResultT]], items: Iterable[ItemT]) -> list[ResultT]:
    """What comes of `work` on each of the items, done at the same time."""
    return await asyncio.gather(*(work(item) for item in items))


class Tasks:
    """Work beside the calls, which ends with the client."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(
        self,
        work: Callable[ParametersP, Coroutine[Any, Any, None]],
        *arguments: ParametersP.args,
        **options: ParametersP.kwargs,
    ) -> None:
        """Begin `work`, and go on."""
        task = asyncio.get_running_loop().create_task(work(*arguments, **options))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close_later(self, channel: grpc.aio.Channel, seconds: float) -> None:
        """Close the connection as soon as nothing is under way over it any more, or that long from now."""
        await channel.close(seconds)

    async def close(self) -> None:
        """End what runs."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
