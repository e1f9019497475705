"""The service's HTTP: FastAPI over a ``Gate``, for loopback (extra ``serve``)."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import re
import secrets
import time
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException as AnyHTTPException

from advface_jax.service import uploads
from advface_jax.service.gate import Decision, Gate
from advface_jax.service.opening import FOREIGN, foreign
from advface_jax.service.store import StoreError

PAGE = Path(__file__).parent / "page.html"
NUMBERS = 48
"""How many of what is stored the page shows."""
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one service takes; more is refused at once, so that it stays usable.

    Attributes:
      rate: requests a second, all clients together; a burst may have as many again.
      waiting: probes that wait while one is computed.
      enrolling: enrolments that wait while one is computed.
      upload: bytes of a picture.
      seconds: in which a request's body must be there.
    """

    rate: float = 20.0
    waiting: int = 8
    enrolling: int = 2
    upload: int = 10_000_000
    seconds: float = 20.0


class Turn:
    """One computation at a time, and few that wait."""

    def __init__(self, waiting: int) -> None:
        self._most, self._n, self._one = waiting + 1, 0, asyncio.Lock()

    async def run(self, function: Callable[..., T], *given: Any) -> T:
        if self._n >= self._most:
            raise HTTPException(503, "too many wait: try again", {"Retry-After": "1"})
        self._n += 1
        try:
            async with self._one:
                return await run_in_threadpool(function, *given)
        finally:
            self._n -= 1


def build(
    gate: Gate,
    hosts: tuple[str, ...],
    limits: Limits = Limits(),
    *,
    show: bool = True,
    client: Mapping[str, bytes] | None = None,
    detector: Any = None,
) -> FastAPI:
    """The application.

    Args:
      gate: what decides.
      hosts: HOST:PORT by which browsers reach it; requests for or from others are refused.
      limits: of size, rate and waiting.
      show: the page, and what a thief would see. Without it no answer says more than the decision.
      detector: of ``detection``, for photographs; without it crops alone are taken.
      client: files for E in the browser, by name: extractor.onnx and those of onnxruntime-web.
    """

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    probes, enrolments = Turn(limits.waiting), Turn(limits.enrolling)
    bucket = [limits.rate, time.monotonic()]
    client = client or {}
    side = gate.system.image_size

    @app.middleware("http")
    async def guard(request: Request, call_next: Any) -> Response:
        if foreign(request.headers, hosts):
            return _error(403, FOREIGN)
        now = time.monotonic()
        full = max(1.0, limits.rate)
        bucket[:] = [min(full, bucket[0] + (now - bucket[1]) * limits.rate), now]
        if request.url.path.startswith("/api/"):
            if bucket[0] < 1:
                return _error(429, "too many requests: try again", {"Retry-After": "1"})
            bucket[0] -= 1
        response = await call_next(request)
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @app.exception_handler(AnyHTTPException)
    async def refused(request: Request, error: AnyHTTPException) -> Response:
        return _error(error.status_code, error.detail, error.headers)

    @app.exception_handler(StoreError)
    async def broken(request: Request, error: StoreError) -> Response:
        print(f"error: {error}", flush=True)  # for who runs it; it names files
        return _error(503, "the store cannot be used: its operator has the reason")

    @app.exception_handler(ValueError)
    async def wrong(request: Request, error: ValueError) -> Response:
        return _error(422, str(error))

    @app.exception_handler(KeyError)
    async def absent(request: Request, error: KeyError) -> Response:
        return _error(404, "no such enrolment, or a revoked one")

    async def face(request: Request) -> tuple[str, bytes]:
        """The body, of a kind and a length that is wanted."""
        kind = request.headers.get("content-type", "").partition(";")[0]
        if kind == "application/octet-stream":
            most = 4 * int(np.prod(gate.feature_shape))
        elif kind in ("image/jpeg", "image/png", "image/webp"):
            most = limits.upload
        else:
            raise HTTPException(415, "wanted image/jpeg, png, webp, or application/octet-stream")
        stated = request.headers.get("content-length", "0")
        if not stated.isdecimal() or int(stated) > most:
            raise HTTPException(413, f"too large: at most {most:,} bytes")
        data = bytearray()
        try:
            async with asyncio.timeout(limits.seconds):
                async for part in request.stream():
                    data += part
                    if len(data) > most:
                        raise HTTPException(413, f"too large: at most {most:,} bytes")
        except TimeoutError:
            raise HTTPException(408, "the body took too long") from None
        return kind, bytes(data)

    def features(kind: str, data: bytes) -> np.ndarray:
        if kind == "application/octet-stream":
            return uploads.feature(data, gate.feature_shape)
        return gate.features(uploads.picture(data, side, detector))

    def decided(decision: Decision) -> dict[str, Any]:
        one = decision.enrolment if decision.accepted else None
        answer = {"accepted": decision.accepted, "enrolment": one and _named(one)}
        if show:
            answer |= {"cosine": round(decision.cosine, 3), "threshold": gate.threshold}
        return answer

    async def enrolling(request: Request, put: Callable[..., Any], who: str) -> dict[str, Any]:
        if not gate.enrols:
            late = "not ready to enrol, in a minute it is: try again"
            raise HTTPException(503, late, {"Retry-After": "5"})
        return await enrolments.run(made, *await face(request), put, who)

    def made(kind: str, data: bytes, put: Callable[..., Any], who: str) -> dict[str, Any]:
        z = features(kind, data)
        one = put(who, z)
        answer: dict[str, Any] = {"enrolment": _named(one)}
        if show:
            answer["unprotected"] = _url(gate.thief(z)[0])
            answer["stored"] = seen(one.id)
        return answer

    def seen(id: str) -> dict[str, Any]:
        sealed, item = gate.store.sealed(id), gate.stored(id)
        return {
            "bytes": len(sealed),
            "sealed": sealed[: 2 * NUMBERS].hex(),
            "numbers": [round(float(v), 3) for v in item[0, item.shape[1] // 2].ravel()[:NUMBERS]],
            "thief": _url(gate.thief(item)[0]),
        }

    @app.get("/api/health")
    async def health() -> dict[str, Any]:
        told = {"enrolments": len(gate.people()), "protection": gate.protection}
        return told | {"enrols": gate.enrols}

    @app.get("/api/enrolments")
    async def listed() -> list[dict[str, Any]]:
        return [_named(one) for one in gate.people()]

    @app.post("/api/enrolments", status_code=201)
    async def enrol(request: Request) -> dict[str, Any]:
        name = urllib.parse.unquote(request.headers.get("name", "")).strip()
        if not 1 <= len(name) <= 100 or not name.isprintable():
            raise HTTPException(422, "wanted a name of 1 to 100 characters, in the header Name")
        return await enrolling(request, gate.enrol, name)

    @app.post("/api/enrolments/{id}/renew")
    async def renew(id: str, request: Request) -> dict[str, Any]:
        return await enrolling(request, gate.renew, id)

    @app.post("/api/enrolments/{id}/verify")
    async def verify(id: str, request: Request) -> dict[str, Any]:
        kind, data = await face(request)
        return decided(await probes.run(lambda: gate.verify(id, features(kind, data))))

    @app.post("/api/identify")
    async def identify(request: Request) -> dict[str, Any]:
        kind, data = await face(request)
        return decided(await probes.run(lambda: gate.identify(features(kind, data))))

    @app.post("/api/enrolments/{id}/revoke")
    async def revoke(id: str) -> dict[str, Any]:
        await run_in_threadpool(gate.revoke, id)
        return {}

    @app.delete("/api/enrolments/{id}")
    async def delete(id: str) -> dict[str, Any]:
        await run_in_threadpool(gate.delete, id)
        return {}

    if show:

        @app.get("/api/enrolments/{id}/stored")
        async def stored(id: str) -> dict[str, Any]:
            return await probes.run(seen, id)

        @app.get("/")
        async def page() -> HTMLResponse:
            nonce = secrets.token_urlsafe(16)
            here = {"ort.wasm.min.js", "extractor.onnx"} <= client.keys()
            text = PAGE.read_text(encoding="utf-8").replace("NONCE", nonce)
            text = text.replace("SIDE", str(side)).replace("IN_BROWSER", str(here).lower())
            policy = (
                f"default-src 'self'; script-src 'self' 'nonce-{nonce}' 'wasm-unsafe-eval'; "
                f"style-src 'nonce-{nonce}'; img-src 'self' data: blob:; worker-src 'self' blob:; "
                "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
            )
            return HTMLResponse(text, headers={"Content-Security-Policy": policy})

        @app.get("/client/{name}")
        async def file(name: str) -> Response:
            if name not in client:  # a name in a table: no path comes from outside
                raise HTTPException(404, "no such file")
            kinds = {"js": "text/javascript", "mjs": "text/javascript", "wasm": "application/wasm"}
            kind = kinds.get(name.rpartition(".")[2], "application/octet-stream")
            return Response(client[name], media_type=kind)

    return app


def browser_files(folder: Path) -> dict[str, bytes]:
    """The files of onnxruntime-web's ``dist`` that run on a CPU.

    Raises:
      ValueError: they are not in ``folder``.
    """
    wanted = re.compile(r"ort\.wasm\.min\.js|ort-wasm-simd-threaded\.(wasm|mjs)")
    found = {p.name: p.read_bytes() for p in folder.iterdir() if wanted.fullmatch(p.name)}
    if len(found) < 3:
        raise ValueError(
            f"got {folder} without ort.wasm.min.js, ort-wasm-simd-threaded.wasm and .mjs; wanted "
            "the folder dist of the npm package onnxruntime-web"
        )
    return found


def _named(one: Any) -> dict[str, Any]:
    return dataclasses.asdict(one)


def _url(image: np.ndarray) -> str:
    return "data:image/png;base64," + base64.b64encode(uploads.png(image)).decode()


def _error(status: int, text: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": text}, status, headers=dict(headers or {}))
