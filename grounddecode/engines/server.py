"""Server: JSON requests to an OpenAI-compatible server, a bounded number at a time, with further attempts."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

try:
    import httpx
except ImportError as error:
    raise ImportError("the openai engine needs httpx, install it with: pip install 'grounddecode[openai]'") from error

log = logging.getLogger("grounddecode")
T = TypeVar("T")

PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""HTTP statuses that another attempt may cure."""
LONGEST_WAIT = 60.0
"""Seconds; no pause before another attempt is longer, whatever the server asks for."""


class PassingError(RuntimeError):
    """A failure that another attempt may cure; `asked` is the wait in seconds that the server asked for."""

    def __init__(self, reason: str, asked: float | None = None) -> None:
        super().__init__(reason)
        self.asked = asked


@dataclass(frozen=True, kw_only=True)
class Job:
    """One request. `body` builds its JSON just before it is sent, in a thread; `name` is for messages."""

    name: str
    body: Callable[[], bytes]


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait for a server: see `OpenAIEngine` for the fields."""

    timeout: float
    retries: int
    backoff: float

    def wait(self, attempt: int, asked: float | None) -> float:
        """Seconds before the attempt after number `attempt` (0-based)."""
        # Without the random factor, requests refused together would come back together.
        wait = asked if asked is not None else self.backoff * 2**attempt * random.uniform(0.5, 1.5)
        return min(wait, LONGEST_WAIT)


class Server:
    """Connections to one server, used from ordinary functions.

    Its event loop runs in a thread of its own, so that it works inside notebooks, whose loop already runs.
    """

    def __init__(self, url: httpx.URL, api_key: str | None, concurrency: int, patience: Patience) -> None:
        self.url = url
        self.concurrency = concurrency
        self.patience = patience
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(patience.timeout, connect=min(patience.timeout, 30.0), pool=None),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            # A proxy of the environment cannot reach this machine's own loopback.
            trust_env=url.host not in ("127.0.0.1", "localhost", "::1"),
        )
        self._encoder = ThreadPoolExecutor(1, "grounddecode-requests")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="grounddecode-server")
        self._thread.start()

    def post_all(self, path: str, jobs: Sequence[Job], read: Callable[[Any], T]) -> list[T]:
        """One POST a job, `concurrency` at a time; what `read` makes of the answers, in the order of the jobs.

        `read` raises `PassingError` for an answer that another attempt may better. The first failure that stays cancels
        the other jobs.

        Raises:
            RuntimeError: the job's name and the server's own words, or what happened in the last attempt.
        """
        return self._run(self._post_all(path, jobs, read))

    def get(self, path: str) -> Any:
        """The JSON at `path` below the base address, or at the server's root where it starts with a slash; one attempt.

        Raises:
            RuntimeError: no answer, no good status, or no JSON.
        """
        url = self.url.copy_with(path=path if path.startswith("/") else self.url.path + path)
        return self._run(self._send("GET", url))

    def close(self) -> None:
        """Close the connections and the threads behind them."""
        self._run(self._client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._encoder.shutdown(cancel_futures=True)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def _post_all(self, path: str, jobs: Sequence[Job], read: Callable[[Any], T]) -> list[T]:
        gate = asyncio.Semaphore(self.concurrency)
        url = self.url.copy_with(path=self.url.path + path)
        tasks = [asyncio.ensure_future(self._post(gate, url, job, read)) for job in jobs]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _post(self, gate: asyncio.Semaphore, url: httpx.URL, job: Job, read: Callable[[Any], T]) -> T:
        # A job keeps its place while it waits for another attempt: an overloaded server gets fewer, not others.
        async with gate:
            content = await asyncio.get_running_loop().run_in_executor(self._encoder, job.body)
            try:
                for attempt in range(self.patience.retries):
                    try:
                        return read(await self._send("POST", url, content))
                    except PassingError as failure:
                        wait = self.patience.wait(attempt, failure.asked)
                        log.info("%s: %s; again in %.1f s", job.name, failure, wait)
                        await asyncio.sleep(wait)
                return read(await self._send("POST", url, content))
            except RuntimeError as failure:
                raise RuntimeError(f"{job.name}: {self.url.host} failed: {failure}") from failure

    async def _send(self, verb: str, url: httpx.URL, content: bytes | None = None) -> Any:
        headers = {"Content-Type": "application/json"} if content is not None else {}
        try:
            return _json(await self._client.request(verb, url, content=content, headers=headers))
        except httpx.RequestError as error:
            raise PassingError(f"{type(error).__name__} {error}".strip()) from error


def address(given: str) -> tuple[httpx.URL, str]:
    """A server's base address, with a slash at its end, and the name behind `#` or "". Raises ValueError."""
    try:
        url = httpx.URL(given)
    except httpx.InvalidURL as error:
        raise ValueError(f"{given!r} is no address of a server: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"{given!r} is no address of a server, give one such as http://127.0.0.1:8000/v1")
    path = url.path.rstrip("/") or "/v1"
    return url.copy_with(path=path + "/", query=None, fragment=None), url.fragment


def _json(response: httpx.Response) -> Any:
    """The body of a good answer. Raises `PassingError` or RuntimeError with the server's own words otherwise."""
    if response.status_code in PASSING:
        raise PassingError(_complaint(response), _asked(response))
    if not response.is_success:
        hint = ", set OPENAI_API_KEY" if response.status_code == 401 else ""
        raise RuntimeError(_complaint(response) + hint)
    try:
        return response.json()
    except ValueError as error:
        raise PassingError(f"an answer that is no JSON: {response.text[:100]!r}") from error


def _complaint(response: httpx.Response) -> str:
    try:
        told = response.json()
        told = told.get("error", told)
        words = told["message"] if isinstance(told, dict) else told
    except (ValueError, KeyError, AttributeError):
        words = response.text
    return f"status {response.status_code} {str(words)[:300]}".strip()


def _asked(response: httpx.Response) -> float | None:
    """Seconds of `Retry-After`; None without it, or where it is a date."""
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None
