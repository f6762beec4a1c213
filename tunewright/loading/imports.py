"""What is said where transformers cannot import a class: a library is broken, and no model's file is to blame."""

from __future__ import annotations

from tunewright.errors import MissingExtraError


def refuse_broken(error: Exception, where: str) -> None:
    """MissingExtraError where an error is of an import, with the one that it began with."""
    if not isinstance(error, ImportError):
        return
    first: BaseException = error
    while (cause := first.__cause__ or first.__context__) is not None:
        first = cause
    raise MissingExtraError(
        f"transformers cannot import the model's class ({type(first).__name__}: {str(first).strip().splitlines()[0]})",
        where=where,
        remedy="a library that it uses is broken: install it again (`tunewright doctor` lists versions)",
    ) from error
