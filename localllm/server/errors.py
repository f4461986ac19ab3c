"""Failures as each API's clients read them: a status, and one object that says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from localllm.chat.template import TemplateError
from localllm.engine.worker import QueueFullError
from localllm.errors import ContextFullError, LocalLLMError, UsageError
from localllm.server.json_text import JSON

RETRY_SECONDS = 1
ANTHROPIC_PATH = "/v1/messages"
# What the APIs call the fields that have another name in chat completions.
_NAMES = {
    "/v1/completions": {"messages": "prompt"},
    "/v1/responses": {"messages": "input", "max_tokens": "max_output_tokens"},
    "/v1/embeddings": {"messages": "input"},
}
_FLAG = re.compile(r"--([a-z-]+) ")


class ApiError(Exception):
    """A request that is refused.

    Args:
        status: of HTTP.
        message: one line: what is wrong, and what to do.
        param: the field that is meant.
        code: a word for programs.
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    def renamed(self, names: Mapping[str, str]) -> ApiError:
        """The same of a field that has another name for the client."""
        if self.param is None or self.param not in names:
            return self
        name, message = names[self.param], str(self)
        if message.startswith(self.param):
            message = name + message[len(self.param) :]
        return ApiError(self.status, message, name, self.code)

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI has it: https://platform.openai.com/docs/guides/error-codes."""
        kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
        kind = kinds.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )
        fields = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": fields}

    @property
    def anthropic_body(self) -> dict[str, Any]:
        """As Anthropic has it: https://docs.anthropic.com/en/api/errors."""
        kinds = {
            401: "authentication_error",
            403: "permission_error",
            404: "not_found_error",
            413: "request_too_large",
            503: "overloaded_error",
        }
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": str(self)}}


def as_api_error(error: BaseException) -> ApiError:
    """The answer to a failure, wherever it comes from."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextFullError):
        return ApiError(400, str(error), "messages", "context_length_exceeded")
    if isinstance(error, QueueFullError):
        return ApiError(503, str(error), code="queue_full")
    flag = _FLAG.match(str(error))
    if isinstance(error, UsageError) and flag:  # the fields have the flags' names
        field = flag[1].replace("-", "_")
        return ApiError(400, f"{field} {str(error)[flag.end() :]}", field, "invalid_value")
    if isinstance(error, (UsageError, TemplateError)):
        return ApiError(400, str(error))
    if isinstance(error, RecursionError):  # of JSON or a schema in JSON
        return ApiError(400, "the request is nested too deeply")
    if isinstance(error, LocalLLMError):
        return ApiError(500, str(error))
    return ApiError(500, "an internal error; the server's log has more")


def response(error: BaseException, path: str) -> JSON:
    """The HTTP response to a failure on a path, in the form of the path's API."""
    found = as_api_error(error)
    headers = {"Retry-After": str(RETRY_SECONDS)} if found.status == 503 else {}
    if found.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = found.anthropic_body if path.startswith(ANTHROPIC_PATH) else found.body
    return JSON(body, found.status, headers)


def install(app: FastAPI) -> None:
    """Let every failure of the app's routes be answered in the form of its API."""

    async def failed(request: Request, error: Exception) -> JSON:
        path = request.url.path
        return response(as_api_error(error).renamed(_NAMES.get(path, {})), path)

    async def invalid(request: Request, error: Exception) -> JSON:
        assert isinstance(error, RequestValidationError)
        return response(_invalid(error.errors()[0], error.body), request.url.path)

    async def refused(request: Request, error: Exception) -> JSON:
        assert isinstance(error, HTTPException)
        message = f"{request.method} {request.url.path}: {error.detail}"
        found = response(ApiError(error.status_code, message), request.url.path)
        found.headers.update(error.headers or {})  # such as Allow
        return found

    for kind in (ApiError, LocalLLMError):
        app.add_exception_handler(kind, failed)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)


def _invalid(problem: Mapping[str, Any], body: Any) -> ApiError:
    """The first thing that is wrong with a request's body."""
    if isinstance(body, bytes):
        return ApiError(400, "the body is not JSON: its Content-Type must be application/json")
    if problem["type"] == "json_invalid":
        return ApiError(
            400, f"the body is not JSON: {problem['ctx']['error']}", code="invalid_json"
        )
    field = ".".join(_place(problem["loc"][1:], body, problem["type"] == "missing"))
    if problem["type"] == "extra_forbidden":
        return ApiError(400, f"{field}: this field is not supported", field, "unsupported_field")
    if problem["type"] == "missing" and not field:
        return ApiError(400, "the request has no body: a JSON object is wanted")
    return ApiError(400, f"{field or 'body'}: {problem['msg']}", field or None, "invalid_value")


def _place(path: Sequence[Any], body: Any, missing: bool) -> Iterator[str]:
    """The parts of a path that lead through the body; others say which form of several was tried.

    Where something is missing, the last part is its name.
    """
    for left, part in zip(range(len(path) - 1, -1, -1), path, strict=True):
        leads = isinstance(body, dict) and part in body
        if leads or (isinstance(body, list) and isinstance(part, int)):
            body = body[part]
            yield str(part)
        elif missing and not left:
            yield str(part)
