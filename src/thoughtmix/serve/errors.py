"""Every failure in OpenAI's form: one line, what to change, and no path or trace of this machine."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from thoughtmix.core.errors import InputError, ThoughtmixError, UnknownName
from thoughtmix.engine.caller import Cancelled, TimedOut
from thoughtmix.serve.forms import Body

LOG = logging.getLogger("thoughtmix.serve")
_PATH = re.compile(r"(?<![\w<:/])(?:~|\.{1,2})?(?:/[\w.@+\-]+){2,}/?|[A-Za-z]:\\\S+")
_TYPES = {401: "authentication_error", 404: "invalid_request_error", 429: "rate_limit_error", 503: "server_error"}


class Refused(Exception):
    """An answer other than 200, on purpose."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry = status, message, param, code, retry


def error_body(error: Refused) -> dict[str, dict[str, str | None]]:
    """As OpenAI writes it."""
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": without_paths(error.message), "type": kind, "param": error.param, "code": error.code}}


def error_response(error: Refused) -> JSONResponse:
    """The same with its status and headers."""
    headers = {} if error.retry is None else {"Retry-After": str(error.retry)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error), error.status, headers)


def without_paths(text: str) -> str:
    """Without folders of this machine, on one line, of a length to read."""
    return _PATH.sub("...", " ".join(text.split()))[:1000].encode("utf-8", "replace").decode()


def as_refused(error: BaseException) -> Refused:
    """What the client is told about anything that went wrong."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, Cancelled):
        return Refused(503, str(error), code="cancelled", retry=1)
    if isinstance(error, TimedOut):
        return Refused(504, str(error), code="timeout")
    if isinstance(error, KeyboardInterrupt):  # so the scheduler ends work beside the batch when the time is up
        return Refused(504, "The request's time is up. Ask for less.", code="timeout")
    if isinstance(error, UnknownName):
        return Refused(400, str(error), param=_param(error), code="unknown_name")
    if isinstance(error, InputError):
        return Refused(400, str(error), code="invalid_value")
    if isinstance(error, ThoughtmixError):
        return Refused(500, str(error), code="model_error")
    LOG.error("internal error", exc_info=error)
    return Refused(500, "Something went wrong inside the server; its log says what.", code="internal_error")


def _param(error: UnknownName) -> str | None:
    return "thinker" if str(error).startswith("Unknown thinker") else "options" if "option of" in str(error) else None


def install_handlers(app: FastAPI) -> None:
    """Whatever is raised is answered in this form."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(ThoughtmixError)
    async def deliberate(request: Request, error: ThoughtmixError) -> JSONResponse:
        return error_response(as_refused(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(_invalid(error.errors()))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}.get(error.status_code)
        made = error_response(Refused(error.status_code, str(error.detail), code=code))
        made.headers.update(error.headers or {})
        return made

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return error_response(as_refused(error))


def _invalid(found: Sequence[Mapping[str, Any]]) -> Refused:
    first = _most_specific(found)
    if first["type"] == "json_invalid":
        return Refused(400, "The body is not JSON. Send an object with Content-Type: application/json.", code="json")
    where = _field_path(first)
    name = ".".join(where)[:80] or None
    if first["type"] == "extra_forbidden" and name:
        near = difflib.get_close_matches(where[-1], _fields(), n=1, cutoff=0.6)
        known = not near or near[0] == where[-1]  # of another place than this
        hint = "Leave it out: this server does not have it." if known else f"Did you mean {near[0]!r}?"
        return Refused(400, f"Unknown field {name!r}. {hint}", param=name, code="unknown_field")
    if name is None:
        return Refused(
            400, "The body must be a JSON object. Send Content-Type: application/json.", code="invalid_value"
        )
    nothing = first["type"] == "none_required" or (first["type"] == "too_long" and first["ctx"].get("max_length") == 0)
    if nothing:
        said = f"{name} is not offered by this server. Leave it out."
        return Refused(400, said, param=name, code="unsupported_parameter")
    said = first["msg"].removeprefix("Value error, ").removesuffix(".")
    return Refused(400, f"{name}: {said}.", param=name, code="invalid_value")


def _most_specific(found: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The first failure; of a value that is of none of several types, one that says more than that, and deepest."""
    first = _field_path(found[0])
    same = [error for error in found if _field_path(error)[: len(first)] == first]
    return max(same, key=lambda error: (not error["type"].endswith("_type"), len(_field_path(error))))


def _field_path(error: Mapping[str, Any]) -> list[str]:
    """Where it failed, without the names that Pydantic gives to the types of a union."""
    parts = [str(part) for part in error["loc"] if part != "body"]
    return [part for part in parts if part not in {"str", "int"} and not re.search(r"[\[\]-]", part)] or parts[:1]


def _fields() -> list[str]:
    """Of everything that can be sent."""
    kinds = [Body]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return sorted({name for kind in kinds for name in kind.model_fields})
