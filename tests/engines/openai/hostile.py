"""A server for tests that misbehaves byte by byte: what it does with a connection is a function of the socket."""

from __future__ import annotations

import gzip
import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

Act = Callable[[socket.socket, str], None]  # a connection, and the request that came over it


def answer(text: Any = "fine", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"completion_tokens": 3}} | more


def head(length: int | None, status: str = "200 OK", **fields: str) -> bytes:
    size = {"Connection": "close"} if length is None else {"Content-Length": str(length)}
    lines = {**size, **{name.replace("_", "-"): value for name, value in fields.items()}}
    return "\r\n".join([f"HTTP/1.1 {status}", *(f"{k}: {v}" for k, v in lines.items()), "", ""]).encode()


def says(body: bytes, status: str = "200 OK", **fields: str) -> Act:
    return lambda link, request: link.sendall(head(len(body), status, **fields) + body)


def says_json(value: Any, **fields: str) -> Act:
    return says(json.dumps(value).encode(), **fields)


def blanks(megabytes: int | None) -> Act:
    """A body of so many megabytes of blanks, or of blanks without end."""

    def act(link: socket.socket, request: str) -> None:
        link.sendall(head(None if megabytes is None else megabytes << 20))
        block, sent = b" " * (1 << 20), 0
        while megabytes is None or sent < megabytes:
            link.sendall(block)
            sent += 1

    return act


def bomb(megabytes: int) -> bytes:
    """So many megabytes of blanks, in a thousandth of that."""
    return gzip.compress(b" " * (megabytes << 20), 1)


def drip(link: socket.socket, request: str) -> None:
    """A byte now and then, without end."""
    link.sendall(head(1 << 20))
    while True:
        link.sendall(b" ")
        time.sleep(0.05)


def never(link: socket.socket, request: str) -> None:
    """Informational answers without end, and none that counts."""
    while True:
        link.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.01)


def breaks_off(link: socket.socket, request: str) -> None:
    body = json.dumps(answer()).encode()
    link.sendall(head(len(body)) + body[:20])


def echoes(link: socket.socket, request: str) -> None:
    """A 401 that tells what it was given."""
    body = json.dumps({"error": {"message": f"wrong key in {request}"}}).encode()
    link.sendall(head(len(body), "401 Unauthorized") + body)


class _Connection(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        hostile: Hostile = self.server.hostile
        with suppress(OSError):
            given = b""
            while b"\r\n\r\n" not in given:
                more = self.request.recv(65536)
                if not more:
                    return
                given += more
            top, _, rest = given.partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in top.decode().split("\r\n")[1:])
            missing = int(fields.get("Content-Length", 0)) - len(rest)
            while missing > 0:
                missing -= len(self.request.recv(65536))
            hostile.requests.append(top.decode())
            hostile.act(self.request, top.decode())


class Hostile:
    """Does `act` with every request."""

    def __init__(self, act: Act) -> None:
        self.act = act
        self.requests: list[str] = []
        self.tcp = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Connection)
        self.tcp.daemon_threads = True
        self.tcp.hostile = self
        self.thread = threading.Thread(target=self.tcp.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.tcp.server_address[1]}/v1"

    def close(self) -> None:
        self.tcp.shutdown()
        self.tcp.server_close()
        self.thread.join()


@contextmanager
def hostile(act: Act) -> Iterator[Hostile]:
    server = Hostile(act)
    try:
        yield server
    finally:
        server.close()
