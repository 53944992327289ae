"""The routes of the Open Inference Protocol, version 2, and the metrics of the model."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import Counter, Gauge, Histogram
from starlette.exceptions import HTTPException

from ctbasis.serving import protocol, tensors
from ctbasis.serving.model import BusyError, UnavailableError
from ctbasis.web.body import whole
from ctbasis.web.metrics import SECONDS

if TYPE_CHECKING:
    from ctbasis.serving.model import Model, Prediction
    from ctbasis.web.body import Limits
    from ctbasis.web.metrics import Metrics

RETRY_SECONDS = 5
"""Seconds after which a client may try again when too many requests wait."""

REQUEST_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "inputs": {"type": "array", "items": {"type": "object"}, "example": list(protocol.INPUTS)},
                        "outputs": {"type": "array", "items": {"type": "object"}, "example": list(protocol.OUTPUTS)},
                        "parameters": {"type": "object"},
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The denoised volume and the noise.", "content": {"application/json": {}}},
    400: {"description": "The request is none of the protocol."},
    413: {"description": "The body is larger than the limit."},
    422: {"description": "The volume cannot be denoised, or no basis fits it."},
    503: {"description": "The model is not ready, or too many requests wait."},
}


class ModelMetrics:
    """Metrics of a model.

    Args:
        model: The model.
        metrics: Metrics of the application.
    """

    def __init__(self, model: Model, metrics: Metrics) -> None:
        registry = metrics.registry
        self._voxels = Counter("ctbasis_inference_voxels", "Voxels denoised", registry=registry)
        self._failures = Counter("ctbasis_inference_failures", "Requests that failed", ["reason"], registry=registry)
        self._seconds = Histogram(
            "ctbasis_inference_seconds", "Seconds of denoising, without waiting", buckets=SECONDS, registry=registry
        )
        waiting = Gauge("ctbasis_inference_waiting", "Requests in work or waiting", registry=registry)
        waiting.set_function(lambda: model.waiting)
        ready = Gauge("ctbasis_model_ready", "Whether the model can denoise", registry=registry)
        ready.set_function(lambda: model.ready)
        Gauge("ctbasis_model_bases", "Stored bases of the model", registry=registry).set_function(
            lambda: len(model.bases.describe())
        )

    def done(self, prediction: Prediction) -> None:
        """Count a volume."""
        self._voxels.inc(prediction.denoised.size)
        self._seconds.observe(prediction.record["seconds"])

    def failed(self, reason: str) -> None:
        """Count a failure; the reason is one of a few words."""
        self._failures.labels(reason).inc()


def health_router(model: Model) -> APIRouter:
    """Return the routes for probes, which need no token.

    Args:
        model: The model.
    """
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

    @router.get("/health/live")
    async def server_live() -> dict[str, bool]:
        """Answer as long as the process can."""
        return {"live": True}

    @router.get("/health/ready")
    async def server_ready() -> JSONResponse:
        """Answer 200 if the model can denoise, else 503."""
        return _readiness({}, model)

    @router.get("/models/{name}/ready")
    async def model_ready(name: str) -> JSONResponse:
        """Answer 200 if the model can denoise, else 503."""
        _require(model, name)
        return _readiness({"name": model.name}, model)

    return router


def inference_router(model: Model, limits: Limits, metrics: ModelMetrics) -> APIRouter:
    """Return the routes of metadata and inference.

    Args:
        model: The model.
        limits: Limits of a request.
        metrics: Metrics of the model.
    """
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

    @router.get("")
    async def server_metadata() -> dict[str, Any]:
        """Return the metadata of the server."""
        return protocol.server_metadata()

    @router.get("/models/{name}")
    async def model_metadata(name: str) -> dict[str, Any]:
        """Return the metadata of the model, with its bases."""
        _require(model, name)
        return protocol.model_metadata(model)

    @router.post("/models/{name}/infer", responses=ANSWERS, openapi_extra=REQUEST_BODY, response_class=Response)
    async def infer(name: str, request: Request) -> Response:
        """Denoise a volume: inputs `hu` (INT16) and `spacing` (mm), outputs `denoised` and `sigma` (FP32, HU)."""
        _require(model, name)
        if not model.ready:
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "the model is not ready")
        body = await whole(request, limits)
        return await asyncio.to_thread(_infer, model, metrics, body, request.headers.get(tensors.HEADER_LENGTH))

    return router


def _infer(model: Model, metrics: ModelMetrics, body: bytes, header_length: str | None) -> Response:
    try:
        asked = tensors.Request.decode(body, header_length)
        hu, spacing = protocol.volume_of(asked)
    except Exception:
        metrics.failed("request")
        raise
    try:
        prediction = model.predict(hu, spacing)
    except BusyError:
        metrics.failed("busy")
        raise HTTPException(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "too many requests wait",
            headers={"Retry-After": str(RETRY_SECONDS)},
        ) from None
    except UnavailableError as error:
        metrics.failed("process")
        raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from None
    except Exception:
        metrics.failed("volume")
        raise
    metrics.done(prediction)
    content, fields = protocol.answer(model, asked, prediction)
    return Response(content, headers=fields)


def _require(model: Model, name: str) -> None:
    if name != model.name:
        raise HTTPException(HTTPStatus.NOT_FOUND, f"there is no such model; this server has {model.name}")


def _readiness(content: dict[str, Any], model: Model) -> JSONResponse:
    status = HTTPStatus.OK if model.ready else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse({**content, "ready": model.ready}, status)
