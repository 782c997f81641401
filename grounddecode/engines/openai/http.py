"""Server: JSON requests to an OpenAI-compatible server, a bounded number at a time, with further attempts."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import zlib
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from grounddecode.engines.openai import body
from grounddecode.engines.openai.address import Address
from grounddecode.engines.openai.body import PassingError, RefusedError
from grounddecode.engines.openai.chat import UnconfirmedError
from grounddecode.secrets import hidden

log = logging.getLogger("grounddecode")
T = TypeVar("T")

LONGEST_WAIT = 60.0
"""Seconds; no pause before another attempt is longer, whatever the server asks for."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One request. `body` builds its JSON just before it is sent, in a thread; `name` is for messages."""

    name: str
    body: Callable[[], bytes]


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How much to bear of a server: see `OpenAIEngine` for the fields."""

    timeout: float
    deadline: float
    retries: int
    backoff: float
    max_bytes: int

    def wait(self, attempt: int, asked: float | None) -> float:
        """Seconds before the attempt after number `attempt` (0-based)."""
        # Without the random factor, requests refused together would come back together.
        wait = asked if asked is not None else self.backoff * 2 ** min(attempt, 16) * random.uniform(0.5, 1.5)
        return min(wait, LONGEST_WAIT)


class Server:
    """Connections to one server, used from ordinary functions.

    Its event loop runs in a thread of its own, so that it works inside notebooks, whose loop already runs. No error of
    it holds a secret.

    Raises:
        ValueError: proxies of the environment that cannot be used.
    """

    def __init__(self, address: Address, api_key: str | None, concurrency: int, patience: Patience) -> None:
        self.address = address
        self.concurrency = concurrency
        self.patience = patience
        self._client = _client(address, api_key, concurrency, patience)
        self._encoder = ThreadPoolExecutor(1, "grounddecode-requests")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="grounddecode-server")
        self._thread.start()

    @property
    def host(self) -> str:
        return self.address.url.host

    def post_all(
        self, path: str, jobs: Sequence[Job], read: Callable[[Any], T], adapt: Callable[[str], bool]
    ) -> list[T | Exception]:
        """One POST a job, `concurrency` at a time; what `read` makes of the answers, in the order of the jobs.

        A job that fails leaves its failure in its place, with the job's name and the server's own words or what
        happened in the last attempt, and the others go on. `read` raises `PassingError` for an answer that another
        attempt may better. `adapt` takes the words of a refusal and says whether the job's body, built again, is
        another one now: it is sent once more then.

        Raises:
            UnconfirmedError: of `read`; the other jobs are cancelled.
        """
        return self._run(self._post_all(path, jobs, read, adapt))

    def get(self, path: str) -> Any:
        """The JSON at `path`, see `Address.below`; one attempt.

        Raises:
            RuntimeError: no answer, no good status, or no JSON.
        """
        try:
            return self._run(self._send("GET", self.address.below(path)))
        except RuntimeError as failure:
            raise RuntimeError(hidden(str(failure))) from None

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

    async def _post_all(
        self, path: str, jobs: Sequence[Job], read: Callable[[Any], T], adapt: Callable[[str], bool]
    ) -> list[T | Exception]:
        gate = asyncio.Semaphore(self.concurrency)
        url = self.address.below(path)
        tasks = [asyncio.ensure_future(self._post(gate, url, job, read, adapt)) for job in jobs]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _post(
        self,
        gate: asyncio.Semaphore,
        url: httpx.URL,
        job: Job,
        read: Callable[[Any], T],
        adapt: Callable[[str], bool],
    ) -> T | Exception:
        # A job keeps its place while it waits for another attempt: an overloaded server gets fewer, not others.
        async with gate:
            try:
                return await self._ask(url, job, read, adapt)
            except UnconfirmedError:
                raise
            except RuntimeError as failure:
                return RuntimeError(hidden(f"{job.name}: {self.host} failed: {failure}"))
            except Exception as failure:  # of the job's body, such as a picture that cannot be read
                return failure

    async def _ask(self, url: httpx.URL, job: Job, read: Callable[[Any], T], adapt: Callable[[str], bool]) -> T:
        content = await self._built(job)
        attempt, adapted = 0, False
        while True:
            try:
                return read(await self._send("POST", url, content))
            except RefusedError as refusal:
                if adapted or not adapt(str(refusal)):
                    raise
                content, adapted = await self._built(job), True
            except PassingError as failure:
                if attempt == self.patience.retries:
                    raise
                wait = self.patience.wait(attempt, failure.asked)
                attempt += 1
                log.info("%s: %s; again in %.1f s", job.name, hidden(str(failure)), wait)
                await asyncio.sleep(wait)

    async def _built(self, job: Job) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._encoder, job.body)

    async def _send(self, verb: str, url: httpx.URL, content: bytes | None = None) -> Any:
        headers = {"Content-Type": "application/json"} if content is not None else {}
        try:
            async with asyncio.timeout(self.patience.deadline):
                async with self._client.stream(verb, url, content=content, headers=headers) as response:
                    return body.parsed(response, await body.read(response, self.patience.max_bytes))
        except TimeoutError:
            raise PassingError(f"no whole answer within the deadline of {self.patience.deadline:g} s") from None
        except (httpx.RequestError, zlib.error) as error:
            raise PassingError(f"{type(error).__name__} {body.words(error)}".strip()) from None


def _client(address: Address, api_key: str | None, concurrency: int, patience: Patience) -> httpx.AsyncClient:
    # An answer is small: packed, it would only have to be unpacked.
    headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
    try:
        return httpx.AsyncClient(
            headers=headers,
            auth=httpx.BasicAuth(*address.login) if address.login else None,
            timeout=httpx.Timeout(patience.timeout, connect=min(patience.timeout, 30.0), pool=None),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            # A proxy of the environment cannot reach this machine's own loopback.
            trust_env=address.url.host not in ("127.0.0.1", "localhost", "::1"),
        )
    except (httpx.InvalidURL, ValueError, ImportError) as error:
        raise ValueError(
            f"the proxies of the environment (HTTPS_PROXY, ALL_PROXY, ...) cannot be used: {hidden(body.words(error))}"
        ) from None
