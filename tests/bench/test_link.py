"""The shaped link on real sockets: every byte arrives, late and slowly by as much as was asked."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from ecdiff.bench.link import shaped


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(65536):
            self.request.sendall(data)


@pytest.fixture
def echo() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def exchange(connection: socket.socket, data: bytes) -> float:
    """Seconds until `data` has come back."""
    began = time.perf_counter()
    sender = threading.Thread(target=connection.sendall, args=(data,))
    sender.start()
    back = b""
    while len(back) < len(data):
        part = connection.recv(65536)
        assert part
        back += part
    sender.join()
    assert back == data
    return time.perf_counter() - began


def test_it_delays_by_the_round_trip(echo: int) -> None:
    with shaped(echo) as link:
        link.round_trip = 0.2
        with socket.create_connection(("127.0.0.1", link.port)) as connection:
            first, second = exchange(connection, b"hello"), exchange(connection, b"again")
    assert 0.4 <= first < 0.7  # a real connection takes a round trip to be there
    assert 0.2 <= second < 0.35


def test_it_throttles_each_way(echo: int) -> None:
    data = bytes(range(256)) * 800  # 204,800 bytes
    with shaped(echo) as link:
        with socket.create_connection(("127.0.0.1", link.port)) as connection:
            fast = exchange(connection, data)
        link.bandwidth = 4.0
        with socket.create_connection(("127.0.0.1", link.port)) as connection:
            slow = exchange(connection, data)
    alone = len(data) * 8 / 4e6
    assert fast < alone / 2
    assert alone <= slow < 2 * alone  # the way back begins with the first chunk


def test_it_ends_when_either_side_does(echo: int) -> None:
    with shaped(echo) as link:
        with socket.create_connection(("127.0.0.1", link.port)) as connection:
            exchange(connection, b"hello")
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""
        open_one = socket.create_connection(("127.0.0.1", link.port))
        exchange(open_one, b"still here")
    assert open_one.recv(1) == b""  # leaving the link closes what is open
    open_one.close()
