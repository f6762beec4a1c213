"""`torch.cuda` with one GPU, and the modes switched on: `pretended()`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch._dynamo  # noqa: F401 - on its first import it lists torch.cuda's functions, which must be torch's own then

from tests.pretend_device.callbacks import ENTRANCES
from tests.pretend_device.functions import Functions
from tests.pretend_device.ops import Ops
from tests.pretend_device.randomness import Generator
from tests.pretend_device.state import State

REAL = torch.cuda.is_available()
"""Whether this machine has a GPU of its own: then there is nothing to pretend."""
NAME = "a pretended GPU"
MEMORY = 8 * 2**30
"""Bytes that the pretended GPU says it has."""


@contextmanager
def pretended() -> Iterator[State]:
    """Inside, in this thread, there is one GPU "cuda:0", whose work the CPU does. RuntimeError beside a real one."""
    if REAL:
        raise RuntimeError("a GPU is here: pretending another would only hide it")
    state = State(Generator("cuda"))
    state.generator.manual_seed(0)
    functions = Functions(state)
    with ExitStack() as stack:
        for target, values in _answers(state).items():
            for name, value in values.items():
                stack.enter_context(patch.object(target, name, value, create=not hasattr(target, name)))
        stack.enter_context(patch.object(torch, "Generator", Generator))
        for target, name, wrap in ENTRANCES:
            stack.enter_context(patch.object(target, name, wrap(state, functions, getattr(target, name))))
        stack.enter_context(Ops(state))
        stack.enter_context(functions)
        yield state


def _answers(state: State) -> dict[Any, dict[str, Any]]:
    """What `torch.cuda` says, by module: functions that would ask the driver. The rest of it works on top of these."""

    def zero(device: Any = None) -> int:
        return 0

    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    def one() -> int:
        return 1

    properties = SimpleNamespace(name=NAME, total_memory=MEMORY, major=8, minor=0, multi_processor_count=1)
    common: dict[str, Any] = {"current_device": lambda: 0, "device_count": one}
    cuda = {
        **common,
        "_initialized": True,
        "is_available": lambda: True,
        "default_generators": (state.generator,),
        "synchronize": nothing,
        "empty_cache": nothing,
        "set_device": nothing,
        "_exchange_device": zero,
        "_maybe_exchange_device": zero,
        "get_device_name": lambda device=None: NAME,
        "get_device_capability": lambda device=None: (8, 0),
        "get_device_properties": lambda device=None: properties,
        "is_bf16_supported": lambda including_emulation=True: True,
        "mem_get_info": lambda device=None: (MEMORY, MEMORY),
        **{
            name: zero
            for name in ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved")
        },
        "reset_peak_memory_stats": nothing,
    }
    return {torch.cuda: cuda, torch.cuda.random: common}
