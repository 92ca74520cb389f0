"""A line a request, its counting, and the last resort when answering it fails: for our own server."""

import json
import logging
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from urnet_tf.text_rules import bare

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PROBE = "probe"  # the route of what machines ask every few seconds, which is counted and not written down
_GONE = 499  # the client went away, in the words of nginx; nobody receives it

log = logging.getLogger(__name__)


class RequestLog:
    """Wraps an ASGI application.

    Args:
      app: the application.
      count: is told the route, the status and the seconds of each request.
      write: whether to log a line for each.
    """

    def __init__(self, app: "ASGIApp", count: Callable[[str, int, float], None], write: bool):
        self._app, self._count, self._write = app, count, write

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, sent = time.perf_counter(), {"status": 0, "bytes": 0}

        async def counted(message: "Message") -> None:
            if message["type"] == "http.response.start":
                sent["status"] = message["status"]
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            sent["bytes"] += len(message.get("body", b""))
            await send(message)

        from starlette.requests import ClientDisconnect

        try:
            await self._app(scope, receive, counted)
        except ClientDisconnect:
            sent["status"] = _GONE
        except Exception:  # ours or a library's fault: the client gets a number, the log the reason
            number = uuid.uuid4().hex[:8]
            log.exception("Request %s failed", number)
            if not sent["status"]:
                await _send_failure(counted, number)
        finally:
            state: dict[str, Any] = scope.get("state", {})
            seconds = time.perf_counter() - start
            route = state.get("route", "other")
            self._count(route, sent["status"], seconds)
            if self._write and route != PROBE:
                client = (scope.get("client") or ("-",))[0]
                images = f" images={state['images']}" if "images" in state else ""
                log.info(
                    '%s "%s %s" %d%s %d bytes %.0f ms', client, scope["method"], bare(scope["path"], 200),
                    sent["status"], images, sent["bytes"], 1000 * seconds,
                )  # fmt: skip


async def _send_failure(send: "Send", number: str) -> None:
    body = json.dumps({"error": f"Internal error; the server's log tells more under {number}."}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": body})
