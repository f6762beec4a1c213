"""What holds an answer to a form."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Guide(Protocol):
    """Says which tokens may follow: those that `allowed` [V] names (None: all) and that it `accepts`, asked one by one;
    it goes on by `advance`, and is `done` where only the end can follow.
    """

    @property
    def done(self) -> bool: ...

    def allowed(self) -> Tensor | None: ...

    def accepts(self, token: int) -> bool: ...

    def advance(self, token: int) -> None: ...
