"""A slower network on loopback: a TCP proxy that delays and throttles real bytes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

CHUNK = 4096  # bytes that travel together
WAITING = 64  # chunks on the way in one direction before the sender is held back


@dataclass
class Link:
    """The way to one server. Bandwidth and round trip may be changed between connections."""

    port: int = 0  # of loopback: connect here
    bandwidth: float = 1e6  # Mbit/s, each way
    round_trip: float = 0.0  # seconds

    def takes(self, size: int) -> float:
        """Seconds that `size` bytes occupy the line."""
        return size * 8 / (self.bandwidth * 1e6)


@contextmanager
def shaped(port: int) -> Iterator[Link]:
    """A link to the server on loopback's `port`, in a thread of its own."""
    link, loop = Link(), asyncio.new_event_loop()
    listening = threading.Event()
    done = asyncio.Event()

    async def run() -> None:
        tasks: set[asyncio.Task[None]] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            with suppress(OSError, asyncio.CancelledError):
                await _connect(link, port, reader, writer)
            tasks.discard(task)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        link.port = server.sockets[0].getsockname()[1]
        listening.set()
        await done.wait()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    listening.wait()
    try:
        yield link
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()
        loop.close()


async def _connect(
    link: Link, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """One connection, both ways. A real one is only there after a round trip; loopback's is there
    at once, so the first byte to the server waits for it."""
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(_carry(link, reader, far_writer, link.round_trip))
            both.create_task(_carry(link, far_reader, writer, 0.0))
    except* OSError:
        pass  # one end is gone: so is the connection
    finally:
        writer.close()
        far_writer.close()


async def _carry(
    link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, setting_up: float
) -> None:
    """Deliver each chunk half a round trip after the line has sent it."""
    now = asyncio.get_running_loop().time
    on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING)

    async def deliver() -> None:
        while True:
            due, data = await on_the_way.get()
            await asyncio.sleep(due - now())
            if not data:
                writer.write_eof()
                return
            writer.write(data)
            await writer.drain()

    delivering = asyncio.create_task(deliver())
    free = now() + setting_up  # when the line has sent what it was given
    try:
        while True:
            data = await reader.read(CHUNK)
            free = max(free, now()) + link.takes(len(data))
            await on_the_way.put((free + link.round_trip / 2, data))
            if not data:
                await delivering
                return
    finally:
        delivering.cancel()
