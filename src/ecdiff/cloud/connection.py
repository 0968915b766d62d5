"""Work for somebody who may leave before it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, TypeVar

T = TypeVar("T")


class InterruptedJobError(Exception):
    """The other end left, or talked out of turn: `message` is what ASGI says of it."""

    def __init__(self, message: MutableMapping[str, Any]) -> None:
        super().__init__(message["type"])
        self.message = message


async def while_connected(
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]], work: Coroutine[Any, Any, T]
) -> T:
    """Await `work`, or cancel it as soon as `receive` has something. Raises InterruptedJobError."""
    working = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(receive())
    try:
        await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
    finally:
        working.cancel()
        listening.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)
    if working.cancelled():
        raise InterruptedJobError(listening.result())
    return working.result()
