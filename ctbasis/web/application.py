"""The HTTP application of a server: routes behind a bearer token, errors as JSON, and an OpenAPI document."""

from __future__ import annotations

import hmac
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from ctbasis.errors import CtbasisError
from ctbasis.installed import VERSION
from ctbasis.printable import printable, say
from ctbasis.web.body import EarlyAnswers
from ctbasis.web.errors import BadRequestError
from ctbasis.web.metrics import Measured
from ctbasis.web.token import TOKEN
from ctbasis.web.traced import Traced

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastapi import APIRouter
    from starlette.requests import Request
    from starlette.responses import Response

    from ctbasis.traces import Traces
    from ctbasis.web.metrics import Metrics

BEARER = HTTPBearer(auto_error=False, description=f"The value of {TOKEN} on the server")


class Token:
    """A dependency of routes that demands a bearer token.

    Args:
        token: The token; empty demands none.
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def __call__(self, given: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]) -> None:
        """Refuse a request without the token.

        Raises:
            HTTPException: The token is missing or another (401).
        """
        sent = given.credentials.encode() if given is not None else b""
        if self._token and not hmac.compare_digest(sent, self._token):
            raise HTTPException(
                HTTPStatus.UNAUTHORIZED,
                "the bearer token is missing or wrong",
                headers={"WWW-Authenticate": "Bearer"},
            )


def application(
    title: str,
    *,
    routers: Sequence[APIRouter],
    token: str,
    metrics: Metrics,
    ready: Callable[[], bool] = lambda: True,
    public: Sequence[APIRouter] = (),
    traces: Traces | None = None,
) -> FastAPI:
    """Return an application.

    Everybody may read `/health/live`, `/health/ready`, `/metrics` and `/openapi.json`, which hold no data of patients:
    probes and Prometheus have no token.

    Args:
        title: Title of the OpenAPI document.
        routers: Routes that demand the token.
        token: The token; empty demands none.
        metrics: Metrics of the application.
        ready: Returns whether the application can serve requests.
        public: Further routes that demand no token.
        traces: Traces of its requests; None records none.
    """
    # The pages that FastAPI makes of the document load scripts from the network.
    made = FastAPI(title=title, version=VERSION, docs_url=None, redoc_url=None)
    made.add_middleware(EarlyAnswers)
    made.add_middleware(Measured, metrics=metrics)
    if traces is not None:
        made.add_middleware(Traced, traces=traces)
    for kind, handler in ((HTTPException, _refused), (RequestValidationError, _invalid), (CtbasisError, _faulty)):
        made.add_exception_handler(kind, handler)
    made.add_exception_handler(Exception, _defect)

    @made.get("/health/live", tags=["health"], response_class=PlainTextResponse)
    async def live() -> str:
        """Answer as long as the process can."""
        return "live"

    @made.get("/health/ready", tags=["health"], response_class=PlainTextResponse)
    async def readiness() -> PlainTextResponse:
        """Answer 200 if requests can be served, else 503."""
        return PlainTextResponse("ready") if ready() else PlainTextResponse("not ready", 503)

    @made.get("/metrics", tags=["health"], response_class=PlainTextResponse)
    def measurements() -> Any:
        """Return the metrics in the format of Prometheus."""
        return metrics.page()

    for router in public:
        made.include_router(router)
    for router in routers:
        made.include_router(router, dependencies=[Depends(Token(token))])
    return made


def _refused(_: Request, error: Any) -> Response:
    return JSONResponse({"error": printable(error.detail)}, error.status_code, headers=error.headers)


def _invalid(_: Request, error: Any) -> Response:
    # The values are from outside, and their names suffice.
    found = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
    return JSONResponse({"error": printable(found)}, HTTPStatus.BAD_REQUEST)


def _faulty(_: Request, error: Any) -> Response:
    parts = {name: getattr(error, name) for name in ("expected", "cause", "remedy") if getattr(error, name)}
    bad = isinstance(error, BadRequestError)
    return JSONResponse(
        {"error": error.found, **parts}, HTTPStatus.BAD_REQUEST if bad else HTTPStatus.UNPROCESSABLE_ENTITY
    )


def _defect(request: Request, error: Exception) -> Response:
    """Answer an unexpected error by its type: its text may hold data of patients."""
    route = getattr(request.scope.get("route"), "path", "no route")
    say(f"http: {request.method} {route}: {type(error).__name__}")
    return JSONResponse({"error": f"internal error ({type(error).__name__})"}, HTTPStatus.INTERNAL_SERVER_ERROR)
