"""Who may talk to the application: programs of this machine that know the token.

A plain ASGI layer around it. The token comes once, in the address that is printed, and stays as a cookie. The
page itself and its scripts hold nothing of the crawl and are given to everybody on this machine, so that a
link of another page leads in; what they ask for needs the cookie.

    Host            only names of this machine: a foreign name that leads here (DNS rebinding) gets nothing
    Sec-Fetch-Site,
    Origin          other pages of the browser get nothing, not even those of this machine
    CSP             nothing is loaded from elsewhere, no script or style but those of the package
"""

import hmac
import http.cookies
import json
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

HOSTS = ("127.0.0.1", "localhost", "[::1]")
_MOST_BODY_BYTES = 1 << 20
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types lit-html"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guard:
    """Lets requests through to an application, or answers them itself.

    Args:
      application: what is guarded.
      token: the secret of this start.
      port: part of the cookie's name, since browsers share cookies between the ports of a machine.
    """

    def __init__(self, application: Application, token: str, port: int):
        self._application, self._token = application, token
        self._cookie = f"urnet_review_{port}"

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                added = [(k.encode(), v.encode()) for k, v in SECURITY_HEADERS.items()]
                if b"cache-control" not in present:
                    added.append((b"cache-control", b"no-store"))
                message["headers"] = [*message["headers"], *added]
            await send(message)

        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        answer = self._answer(scope, headers)
        if answer is None:
            await self._application(scope, receive, send_with_headers)
        else:
            await _respond(send_with_headers, *answer)

    def _answer(
        self, scope: Message, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], dict[str, str]] | None:
        """Status, headers and body of what is not let through; None for what is."""
        host = headers.get("host", "")
        if _host_name(host) not in HOSTS:
            return _refusal(403, "host", "This address is not one of this machine.")
        path, method = scope["path"], scope["method"]
        if path == "/" and (given := _token_of(scope["query_string"])) is not None:
            if not hmac.compare_digest(given.encode(), self._token.encode()):
                return _refusal(403, "gone", "This address belongs to an earlier start of `urnet review`.")
            cookie = f"{self._cookie}={self._token}; HttpOnly; SameSite=Strict; Path=/"
            return 303, {"location": "/", "set-cookie": cookie}, {}
        if path == "/" or path.startswith("/static/"):
            return None if method in ("GET", "HEAD") else _refusal(405, "bad", "Expected GET.")
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return _refusal(403, "origin", "Another page asked.")
        if headers.get("origin", f"http://{host}") != f"http://{host}":
            return _refusal(403, "origin", "Another page asked.")
        if not self._is_known(headers.get("cookie", "")):
            return _refusal(401, "gone", "This page belongs to an earlier start of `urnet review`.")
        return _check_body(headers) if method not in ("GET", "HEAD") else None

    def _is_known(self, cookies: str) -> bool:
        try:
            morsel = http.cookies.SimpleCookie(cookies).get(self._cookie)
        except http.cookies.CookieError:
            return False
        return morsel is not None and hmac.compare_digest(morsel.value.encode(), self._token.encode())


def _host_name(host: str) -> str:
    """The name in a Host header, without the port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()


def _token_of(query: bytes) -> str | None:
    found = urllib.parse.parse_qs(query.decode("latin-1")).get("token")
    return found[0] if found else None


def _check_body(headers: dict[str, str]) -> tuple[int, dict[str, str], dict[str, str]] | None:
    if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return _refusal(415, "bad", "Expected JSON.")
    length = headers.get("content-length", "")
    if not length.isdecimal():
        return _refusal(411, "bad", "Expected the length of the request.")
    if int(length) > _MOST_BODY_BYTES:
        return _refusal(413, "bad", "Expected fewer images at once.")
    return None


def _refusal(status: int, kind: str, sentence: str) -> tuple[int, dict[str, str], dict[str, str]]:
    return status, {}, {"kind": kind, "error": sentence}


async def _respond(send: Send, status: int, headers: dict[str, str], content: dict[str, str]) -> None:
    body = json.dumps(content).encode() if content else b""
    lines = {**headers, "content-type": "application/json", "content-length": str(len(body))}
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in lines.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})
