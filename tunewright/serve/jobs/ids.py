"""Names that the server gives. What a client sends is looked up only where it has the form of one, so that it never
becomes another path.
"""

from __future__ import annotations

import re
import secrets

from tunewright.serve.errors import ApiError

FILE, JOB = "file", "ftjob"
_FORM = r"[0-9a-f]{24}"


def new(kind: str) -> str:
    """A name that was not given before."""
    return f"{kind}-{secrets.token_hex(12)}"


def checked(kind: str, given: str, param: str) -> str:
    """A name as a client sent it. ApiError (404) where the server can never have given it."""
    if not re.fullmatch(f"{kind}-{_FORM}", given):
        raise missing(kind, given, param)
    return given


def missing(kind: str, given: str, param: str) -> ApiError:
    """What is said of a file or job that is not there."""
    what = {FILE: "file", JOB: "fine-tuning job"}[kind]
    return ApiError(404, f"There is no {what} '{given[:100]}'.", param=param)
