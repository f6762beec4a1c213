"""What a client sees when a request cannot be served: OpenAI's shape, one sentence and what to do instead."""

from __future__ import annotations

from typing import Any

from tunewright.errors import TunewrightError

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


class ApiError(Exception):
    """An answer with an HTTP `status`. `param`: the request's field, `code`: OpenAI's word for it where it has one."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None):
        self.status, self.message, self.param, self.code = status, message, param, code
        super().__init__(message)

    def body(self) -> dict[str, Any]:
        """The JSON body, as OpenAI's clients read it."""
        kind = KINDS.get(self.status, "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def of(error: TunewrightError, *, param: str | None = None) -> ApiError:
    """One of our own errors as an answer: what was wrong and what to do, and no path of the server."""
    remedy = f" ({error.remedy})" if error.remedy else ""
    return ApiError(400, f"{error.what}{remedy}", param=param)
