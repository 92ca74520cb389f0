"""The web application of our own server: TensorFlow Serving's REST interface, health, metrics, a trial page.

    POST /v1/models/NAME[/versions/N | /labels/L]:predict      see `rest_protocol`
    GET  /v1/models/NAME[/versions/N | /labels/L][/metadata]   status; signatures
    GET  /healthz /readyz                                      the process lives; all versions are warm
    GET  /metrics /monitoring/prometheus/metrics               for Prometheus
    GET  /                                                     a page to try images on

Whatever is sent, memory and time are bounded: bytes of a body and of all bodies, images, pixels of an image
and of a batch, images that wait, seconds. What exceeds one of them is answered 413, 503 with Retry-After, 408
or 504. Answers that are not 200 are `{"error": "..."}` of one sentence.
"""

import asyncio
import contextlib
import hmac
import math
import re
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from urnet_tf.serving import rest_protocol, trial_page
from urnet_tf.serving.batching import Arrays, Batcher, BatchingLimits, DeadlineExceeded, QueueFull
from urnet_tf.serving.options import ServerOptions
from urnet_tf.serving.request_log import PROBE, RequestLog
from urnet_tf.serving.rest_protocol import STRING, ProtocolError, format_error
from urnet_tf.serving.served_model import ServedModel, Version
from urnet_tf.serving.server_metrics import ServerMetrics
from urnet_tf.text_rules import bare

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

_PREDICT = re.compile(r"(?i)/v1/models/([^/:]+)(?:/versions/(\d{1,18})|/labels/([^/:]+))?:predict")
_STATUS = re.compile(r"(?i)/v1/models/([^/:]+)(?:/versions/(\d{1,18})|/labels/([^/:]+))?(/metadata)?")
_OPEN = ("/", "/healthz", "/readyz")  # without the key; the page asks for it
_METRICS = ("/metrics", "/monitoring/prometheus/metrics")  # the usual path and TF Serving's
_BODIES_AT_ONCE = 4  # of the largest size that may lie in memory; parsing takes several times that for one
_PIXELS_OF_A_BATCH = 64_000_000  # about 1 GB while they are decoded


class _Memory:
    """The bytes of bodies that are held."""

    def __init__(self, limit: int):
        self.limit, self.held = limit, 0


def create_app(
    model: ServedModel,
    options: ServerOptions,
    *,
    load: Callable[[], None] | None = None,
    failed: Callable[[BaseException], None] = lambda error: None,
) -> "FastAPI":
    """The application; it loads its model when it starts, and answers what can be answered meanwhile.

    Args:
      model: what it serves.
      options: limits, keys.
      load: fills `model`; called once, in a thread. None = it is filled.
      failed: is told when `load` raised.
    """
    from fastapi import FastAPI
    from fastapi.middleware.cors import CORSMiddleware

    service = _Service(model, options)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async def loading() -> None:
            try:
                await asyncio.to_thread(load or (lambda: None))
            except BaseException as error:
                failed(error)

        task = asyncio.create_task(loading())
        async with service.batcher.working():
            yield
        task.cancel()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    for path, answer in (("/healthz", service.health), ("/readyz", service.readiness), ("/", service.page)):
        app.add_route(path, answer, ["GET", "HEAD"])
    for path in _METRICS:
        app.add_route(path, service.metrics_page, ["GET"])
    for path in ("/v1/{rest:path}", "/V1/{rest:path}"):  # letters' case does not count there
        app.add_route(path, service.answer, ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"])
    for kind in (ProtocolError, QueueFull, DeadlineExceeded):
        app.add_exception_handler(kind, _answer_error)
    for status in (404, 405):
        app.add_exception_handler(status, _answer_error)
    if options.allow_origin:
        app.add_middleware(
            CORSMiddleware, allow_origins=[options.allow_origin], allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )  # fmt: skip
    app.add_middleware(RequestLog, count=service.metrics.count_request, write=options.access_log)
    return app


class _Service:
    """The answers."""

    def __init__(self, model: ServedModel, options: ServerOptions):
        self._model, self._options = model, options
        self._key = options.read_api_key()
        self._max_body = int(options.max_body_mb * 1e6)
        self._memory = _Memory(_BODIES_AT_ONCE * self._max_body)
        self._parsing = asyncio.Lock()
        limits = BatchingLimits(
            options.batch_sizes, options.queue_images, _PIXELS_OF_A_BATCH, options.parallel_batches
        )
        self.batcher = Batcher(self._run, limits, lambda *batch: self.metrics.count_batch(*batch))
        self.metrics = ServerMetrics(
            options.batch_sizes,
            lambda: self.batcher.queued_rows,
            lambda: self._memory.held,
            lambda: model.ready,
        )

    def _run(self, key: Any, inputs: Arrays) -> Any:
        version, signature = key
        return version.run(signature, inputs)

    async def health(self, request: "Request") -> "Response":
        """That the process lives."""
        request.state.route = PROBE
        return _json({"status": "alive"})

    async def readiness(self, request: "Request") -> "Response":
        """Whether requests should come here."""
        request.state.route = PROBE
        if not self._model.ready:
            raise ProtocolError(503, f"{self._model.name} is being loaded.", 1)
        return _json({"status": "ready"})

    async def page(self, request: "Request") -> "Response":
        """A page to try images on, which asks this server alone."""
        from starlette.responses import HTMLResponse

        page = trial_page.build_page(self._model.name, needs_key=self._key is not None)
        return HTMLResponse(page.text, headers=page.headers)

    async def metrics_page(self, request: "Request") -> "Response":
        """For Prometheus."""
        request.state.route = PROBE
        from starlette.responses import Response

        self._check_key(request)
        text, kind = self.metrics.page()
        return Response(text, headers={"Content-Type": kind})

    async def answer(self, request: "Request") -> "Response":
        """What TF Serving answers below /v1."""
        self._check_key(request)
        path = request.url.path
        if request.method == "POST" and (found := _PREDICT.fullmatch(path)):
            request.state.route = "predict"
            name, number, label = found.groups()
            return await self._predict(request, name, int(number) if number else None, label)
        if request.method == "GET" and (found := _STATUS.fullmatch(path)):
            name, number, label, metadata = found.groups()
            request.state.route = "metadata" if metadata else "status"
            describe = self._model.describe_signatures if metadata else self._model.describe_status
            return _json(describe(name, int(number) if number else None, label))
        raise ProtocolError(400, f"Malformed request: {request.method} {bare(path)}")

    async def _predict(
        self, request: "Request", name: str, number: int | None, label: str | None
    ) -> "Response":
        from starlette.responses import Response

        _, version = self._model.find(name, number, label)
        end = asyncio.get_running_loop().time() + self._options.timeout_s
        async with _read_body(request, self._max_body, self._memory, self._options.timeout_s) as body:
            async with self._parsing:  # one at a time, which bounds the memory that it takes
                asked = await asyncio.to_thread(
                    rest_protocol.parse_predict, body, version.signatures, self._options.max_images
                )
                pixels = await asyncio.to_thread(self._count_pixels, version, asked)
            request.state.images = asked.rows
            left = max(0.0, end - asyncio.get_running_loop().time())
            outputs = await self.batcher.submit((version, asked.signature_name), asked.inputs, pixels, left)
            if "valid" in outputs:
                valid = int(np.count_nonzero(outputs["valid"]))
                self.metrics.count_images(valid, asked.rows - valid)
            text = await asyncio.to_thread(rest_protocol.format_predictions, outputs, asked.by_row)
        return Response(text, media_type="application/json", headers={"Cache-Control": "no-store"})

    def _count_pixels(self, version: Version, asked: rest_protocol.PredictRequest) -> list[int] | None:
        """Of the images of each row, by their headers; None where there are none."""
        limits = [limit for limit in (version.max_pixels, self._options.max_pixels) if limit is not None]
        specs = version.signatures[asked.signature_name].inputs
        images = [asked.inputs[name] for name, spec in specs.items() if spec.dtype == STRING]
        if not images:
            return None
        return [
            _pixels_of(row, number, min(limits, default=None))
            for number, row in enumerate(zip(*images, strict=True))
        ]

    def _check_key(self, request: "Request") -> None:
        if self._key is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode("latin-1", "replace")
        if not hmac.compare_digest(given, self._key.encode()):
            raise ProtocolError(401, "Expected the server's key as the header Authorization: Bearer KEY.")


def _pixels_of(files: Iterable[bytes], number: int, limit: int | None) -> int:
    from urnet_tf.images.headers import Refused, pillow_format, read_size

    total = 0
    for file in files:
        if pillow_format(file) is not None:  # of no kind that a served graph reads
            continue
        try:
            width, height = read_size(file)
        except (Refused, ValueError):  # no image: the model says so for this one
            continue
        if limit is not None and width * height > limit:
            raise ProtocolError(
                413, f"Image {number} promises {width * height:,} pixels; at most {limit:,} are allowed."
            )
        total += width * height
    return total


@contextlib.asynccontextmanager
async def _read_body(
    request: "Request", limit: int, memory: _Memory, timeout_s: float
) -> AsyncIterator[bytearray]:
    """Reads a body that is not too large, and counts its bytes as held until the end of the block."""
    too_large = ProtocolError(413, f"Request body is larger than {limit:,} bytes.")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise ProtocolError(415, "Content-Encoding is not supported.")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limit:
        raise too_large
    body = bytearray()
    try:
        try:
            async with asyncio.timeout(timeout_s):
                async for chunk in request.stream():
                    memory.held += len(chunk)
                    body += chunk
                    if len(body) > limit:
                        raise too_large
                    if memory.held > memory.limit:
                        raise ProtocolError(503, "Too many requests are being received.", 1)
        except TimeoutError:
            raise ProtocolError(408, f"Request body did not arrive within {timeout_s:g} s.") from None
        yield body
    finally:
        memory.held -= len(body)


async def _answer_error(request: "Request", error: Exception) -> "Response":
    from starlette.responses import Response

    headers = {}
    if isinstance(error, QueueFull):
        error = ProtocolError(503, "Too many images wait for an answer.", error.retry_after_s)
    elif isinstance(error, DeadlineExceeded):
        error = ProtocolError(504, "Deadline exceeded: the answer took too long.")
    elif not isinstance(error, ProtocolError):
        status = getattr(error, "status_code", 500)
        words = {404: "No such page", 405: "Method not allowed"}.get(status, "Bad request")
        error = ProtocolError(status, f"{words}: {request.method} {bare(request.url.path)}")
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in (408, 413, 415, 503):
        headers["Connection"] = "close"  # the rest of the body is not waited for
    return Response(format_error(str(error)), error.status, headers, "application/json")


def _json(value: Any) -> "Response":
    from starlette.responses import JSONResponse

    return JSONResponse(value)
