"""Python that torch calls from inside its own functions, where the function mode is off: it is switched on again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import _get_current_function_mode_stack

from tests.pretend_device.functions import Functions
from tests.pretend_device.state import Call, State


@contextmanager
def switched_on(functions: Functions) -> Iterator[None]:
    """The function mode, unless it is on already."""
    if functions in _get_current_function_mode_stack():
        yield
        return
    with functions:
        yield


def _backward(state: State, functions: Functions, run: Callable[..., Any]) -> Callable[..., Any]:
    """Autograd's engine: hooks, `Function.backward` and recomputed blocks are called from it."""

    def running(roots: Any, *args: Any, **kwargs: Any) -> Any:
        state.calls.append(Call(None, (roots,)))
        try:
            with switched_on(functions):
                return run(roots, *args, **kwargs)
        finally:
            state.calls.pop()

    return running


def _saved(state: State, functions: Functions, push: Callable[..., Any]) -> Callable[..., Any]:
    """Hooks on what autograd saves and reads back."""

    def seeing(hook: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            with switched_on(functions):
                return hook(*args)

        return called

    return lambda pack, unpack: push(seeing(pack), seeing(unpack))


ENTRANCES = (
    (torch.autograd, "_engine_run_backward", _backward),
    (torch._C._autograd, "_push_saved_tensors_default_hooks", _saved),
)
"""(module, function, wrapper) through which torch comes to call Python."""
