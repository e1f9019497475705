"""What answers until the service is ready: what it is loading, and from then on the service."""

from __future__ import annotations

import html
import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, JSONResponse, Response

from advface_jax import runtime, stopping

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="1"><title>Starting</title></head>
<body><h1>Starting</h1><p role="status">LOADING …</p></body></html>
"""


class Opening:
    """An ASGI application that says what is being loaded until ``app`` is there.

    Args:
      hosts: HOST:PORT by which browsers reach it; requests for or from others are refused.

    Attributes:
      loading: what is being loaded.
      app: the service, once it is ready.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self.hosts = hosts
        self.loading = "starting"
        self.app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        answer = self._answer(scope) if self.app is None else self.app
        await answer(scope, receive, send)

    def serve(self, port: int, load: Callable[[], None]) -> None:
        """Answer on loopback until the process is asked to end, while ``load`` runs beside.

        Raises:
          ValueError: the port is in use. And what ``load`` raises.
        """
        try:
            listener = socket.create_server(("127.0.0.1", port), backlog=128)
        except OSError as error:
            raise ValueError(
                f"got port {port}, which cannot be used ({error.strerror}); wanted another: --port"
            ) from None
        server = uvicorn.Server(
            uvicorn.Config(
                self,
                lifespan="off",
                ws="none",
                log_level="warning",
                access_log=False,
                limit_concurrency=100,
                timeout_keep_alive=5,
            )
        )
        errors: list[BaseException] = []

        def loading() -> None:
            try:
                load()
            except BaseException as error:
                errors.append(error)
                server.should_exit = True

        beside = threading.Thread(target=loading, daemon=True)
        beside.start()
        try:
            server.run(sockets=[listener])
        finally:
            if beside.is_alive():  # in XLA's compiler, which nothing ends
                runtime.flush()
                os._exit(stopping.STATUS if stopping.asked() else 130)
        if errors:
            raise errors[0]

    def _answer(self, scope: Any) -> Response:
        if foreign(Headers(scope=scope), self.hosts):
            return JSONResponse({"error": FOREIGN}, 403)
        headers = {"Retry-After": "2", "Cache-Control": "no-store"}
        if scope["path"].startswith("/api/"):
            return JSONResponse({"error": f"not ready: {self.loading}"}, 503, headers)
        headers["Content-Security-Policy"] = "default-src 'none'"
        text = PAGE.replace("LOADING", html.escape(self.loading))
        return HTMLResponse(text, 503, headers)


FOREIGN = "not for this host or origin"


def foreign(headers: Headers, hosts: Sequence[str]) -> bool:
    """Whether a request is for another host, or comes from a page of another one: such a page in
    the user's browser reaches loopback, too."""
    origin = headers.get("origin")
    return headers.get("host") not in hosts or bool(
        origin and origin.partition("://")[2] not in hosts
    )
