"""Addresses of servers: what people write, and what of it may be shown."""

from __future__ import annotations

from dataclasses import dataclass

try:
    import httpx
except ImportError as error:
    raise ImportError("httpx is missing, install it with: pip install 'grounddecode[openai]'") from error

from grounddecode.secrets import MASK, hidden, remember_login

EXAMPLE = "http://127.0.0.1:8000/v1"
_ENDPOINT = "/chat/completions"


@dataclass(frozen=True, kw_only=True)
class Address:
    """A server's base address, with a slash at the end of its path and the query kept, and what stood beside it."""

    url: httpx.URL
    model: str
    login: tuple[str, str] | None

    @property
    def shown(self) -> str:
        """The base address as it may be written and printed."""
        return hidden(str(self.url))

    def below(self, path: str) -> httpx.URL:
        """The address of `path` below the base, or at the server's root where it starts with a slash."""
        return self.url.copy_with(path=path if path.startswith("/") else self.url.path + path)


def address(given: str) -> Address:
    """The parts of `http://USER:PASSWORD@HOST:PORT/PATH?QUERY#MODEL`; all but scheme and host may be left out.

    An address of the endpoint itself, `.../v1/chat/completions`, is that of its base.

    Raises:
        ValueError: no address of a server.
    """
    try:
        url = httpx.URL(given.strip())
        port = url.port
    except (httpx.InvalidURL, ValueError) as error:
        raise ValueError(f"{_unlogged(given)!r} is no address of a server: {_reason(error, given)}") from None
    if url.scheme not in ("http", "https") or not url.host or (port is not None and not 0 < port < 65536):
        raise ValueError(f"{_unlogged(given)!r} is no address of a server, give one such as {EXAMPLE}")
    if "@" in url.path:
        raise ValueError(
            f"{_unlogged(given)!r} has an @ behind the host: write / and @ of a password as %2F and %40, see {EXAMPLE}"
        )
    login = (url.username, url.password) if url.userinfo else None
    if login:
        remember_login(*login)
    path = url.path.rstrip("/").removesuffix(_ENDPOINT) or "/v1"
    return Address(url=url.copy_with(userinfo=b"", path=path + "/", fragment=None), model=url.fragment, login=login)


def _unlogged(given: str) -> str:
    """What cannot be read as an address may hold a password anywhere before its last @."""
    return MASK + given[given.rindex("@") :] if "@" in given else given


def _reason(error: Exception, given: str) -> str:
    return f"give one such as {EXAMPLE}" if "@" in given else str(error)
