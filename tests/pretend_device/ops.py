"""The dispatch mode: every operation below autograd is checked, run on the CPU, and what comes out is marked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.pretend_device.randomness import check_generator, drawing_from
from tests.pretend_device.rules import Operation, check_devices, operation
from tests.pretend_device.state import State, tensors_in
from tests.pretend_device.tags import key


class Ops(TorchDispatchMode):
    """Runs operations on the CPU as the pretended device would."""

    def __init__(self, state: State):
        super().__init__()
        self.state = state

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here: spare every operation the compiler's wrapper

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():
            if torch.is_inference_mode_enabled() and func._can_decompose():
                # without autograd, composite operations arrive whole: their parts are what a device checks
                with self:
                    out = func.decompose(*args, **kwargs)
                if out is not NotImplemented:
                    return out
            return self._run(operation(func), args, kwargs)

    def _run(self, op: Operation, args: Any, kwargs: Any) -> Any:
        inputs = tensors_in(args, kwargs)
        places = [self.state.tags.has(t) for t in inputs]
        on = any(places)
        if on and not all(places):
            check_devices(op, args, kwargs, self.state.tags.has)
        if op.takes_device:
            on = self.state.creates_on_device(on)
        if op.draws:
            check_generator(op, self.state.call.generator(), on)
            with drawing_from(self.state.generator if on else None):
                out = op.func(*args, **kwargs)
        else:
            out = op.func(*args, **kwargs)
        if on:
            self._mark(op, args, inputs, out)
        return out

    def _mark(self, op: Operation, args: Any, inputs: list[Tensor], out: Any) -> None:
        """Mark new storages of what came out; members of a list are where their own inputs are."""
        known = {key(t) for t in inputs}
        made = [out] if isinstance(out, Tensor) else tensors_in(out)
        singly = op.each and len(made) == len(args[0])
        for i, t in enumerate(made):
            if key(t) not in known and (not singly or self.state.tags.has(args[0][i])):
                self.state.tags.set(t, True)
