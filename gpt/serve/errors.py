"""What a client is told when its request cannot be answered, in the form of OpenAI's interface."""

from typing import Any


class ApiError(Exception):
    """An answer that is an error. param: the parameter at fault; code: what programs tell errors apart by."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers or {}

    def content(self) -> dict[str, Any]:
        """The JSON object."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def refused(param: str, message: str, code: str | None = None) -> ApiError:
    """The error for a parameter; the message begins with its name."""
    return ApiError(400, f"{param}: {message}", param, code)


def overloaded() -> ApiError:
    """The error where there is no room for another request."""
    message = "the server is busy with as many requests as it takes: try again later"
    return ApiError(503, message, code="overloaded", headers={"retry-after": "1"})
