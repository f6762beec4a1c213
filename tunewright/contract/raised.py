"""What a method of somebody's own raised, told as any other fault: which method, in which slot, at which line of its
file.

Methods that come with Tunewright pass through: what they raise unforeseen is a fault to be reported with its traceback.
"""

from __future__ import annotations

import inspect
import traceback
from typing import NoReturn

import torch

from tunewright.contract.returned import place
from tunewright.errors import MethodError

OURS = "tunewright"
SHOWN = 300


def pass_on(error: Exception, method: object, slot: str, named: str) -> NoReturn:
    """Raise what a method's slot function raised: as a MethodError where the method is somebody's own, and the error
    neither ours nor memory that ended, which others wait for.
    """
    cls = type(method)
    if _of_ours(cls) or _of_ours(type(error)) or isinstance(error, MemoryError | torch.OutOfMemoryError):
        raise error
    said = (str(error).strip() or "no reason given").splitlines()[0][:SHOWN]
    raise MethodError(
        f"'{named or cls.__name__}' raised {type(error).__name__} in {slot}: {said}",
        where=_line(cls, error) or place(cls, slot),
        remedy="mend the method, or take it out of the recipe",
    ) from error


def _of_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == OURS


def _line(cls: type, error: Exception) -> str | None:
    """file:line of the innermost call that is in the method's own file."""
    try:
        file = inspect.getsourcefile(cls)
    except TypeError:
        return None
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return f"{file}:{lines[-1]}" if lines else None
