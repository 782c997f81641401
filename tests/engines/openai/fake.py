"""A chat server for tests that delays, refuses, breaks off and talks nonsense when told to."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from grounddecode.engines.base import Decoding, Request

GREEDY = Decoding(max_new_tokens=7)


@dataclass
class Reply:
    """What the fake does with one request: wait, then this status, these headers and this body, or hang up."""

    text: Any = "fine"
    finish: str | None = "stop"
    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    hang_up: bool = False
    more: dict[str, Any] = field(default_factory=dict)

    def encoded(self) -> bytes:
        if self.body is not None:
            return self.body
        choice = {"message": {"role": "assistant", "content": self.text}, "finish_reason": self.finish}
        return json.dumps({"choices": [choice], "usage": {"completion_tokens": 3}} | self.more).encode()


class Fake:
    """A chat completions server. `script` gives the reply to (body, how often this prompt was asked before)."""

    def __init__(self) -> None:
        self.script: Callable[[dict[str, Any], int], Reply] = lambda body, nth: Reply()
        self.models = ["m"]
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.paths: list[str] = []
        self.in_flight = self.most_in_flight = 0
        self.together = 0  # no reply before so many requests were here at once
        self.lock = threading.Condition()
        self.asked: Counter[str] = Counter()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def arrive(self, body: dict[str, Any], headers: dict[str, str]) -> Reply:
        with self.lock:
            prompt = words(body)
            self.bodies.append(body)
            self.headers.append(headers)
            self.times.append(time.monotonic())
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self.asked[prompt] += 1
            reply = self.script(body, self.asked[prompt] - 1)
            self.lock.notify_all()
            self.lock.wait_for(lambda: self.most_in_flight >= self.together, timeout=20)
            return reply

    def leave(self) -> None:
        with self.lock:
            self.in_flight -= 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def send(self, reply: Reply) -> None:
                content = reply.encoded()
                self.send_response(reply.status)
                for key, value in (reply.headers | {"Content-Length": str(len(content))}).items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(content)

            def do_GET(self) -> None:
                fake.paths.append(self.path)
                if self.path.partition("?")[0] == "/v1/models":
                    self.send(Reply(body=json.dumps({"data": [{"id": name} for name in fake.models]}).encode()))
                else:
                    self.send(Reply(status=404, body=b"no such page"))

            def do_POST(self) -> None:
                fake.paths.append(self.path)
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                reply = fake.arrive(body, dict(self.headers))
                try:
                    time.sleep(reply.delay)
                finally:
                    fake.leave()
                if reply.hang_up:
                    self.close_connection = True
                    return
                try:
                    self.send(reply)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

        return Handler


def words(body: dict[str, Any]) -> str:
    content = body["messages"][0]["content"]
    return content if isinstance(content, str) else str(content[-1]["text"])


def ask(*prompts: str) -> list[Request]:
    return [Request(sample_id=f"id-{prompt}", prompt=prompt) for prompt in prompts]
