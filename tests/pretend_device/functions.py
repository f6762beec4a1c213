"""The function mode: what Python asks of torch about devices, answered as if there were one more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from tests.pretend_device.moving import move
from tests.pretend_device.state import Call, State, asked

Special = Callable[[State, Any, tuple[Any, ...], dict[str, Any]], Any]
MAKERS = _device_constructors()
PASSED_ON = {torch.device, torch._C._nn._parse_to}
"""Functions that take a device and make no tensor."""


class Functions(TorchFunctionMode):
    """Rewrites devices on the way into torch and answers questions about them."""

    def __init__(self, state: State):
        super().__init__()
        self.state = state

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        special = SPECIAL.get(func)
        if special is not None:
            return special(self.state, func, args, kwargs)
        return func(*args, **kwargs) if func in PASSED_ON else plain(self.state, func, args, kwargs)


def plain(state: State, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function; its `device` is noted for the operations below and taken for the CPU's."""
    device = asked(kwargs.get("device"))
    if device == "cuda":
        kwargs = {**kwargs, "device": "cpu"}
    pin = kwargs.get("pin_memory", False)
    if pin:
        if device == "cuda":
            raise RuntimeError("Only dense CPU tensors can be pinned")
        kwargs = {**kwargs, "pin_memory": False}
    state.calls.append(Call(device, (*args, *kwargs.values()), func in MAKERS))
    try:
        out = func(*args, **kwargs)
    finally:
        state.calls.pop()
    if pin:
        state.pinned.set(out, True)
    return out


def _device(state: State, func: Any, args: Any, kwargs: Any) -> torch.device:
    return state.device_of(args[0]) if args[0].device.type == "cpu" else args[0].device


def _is_cuda(state: State, func: Any, args: Any, kwargs: Any) -> bool:
    return state.tags.has(args[0])


def _is_cpu(state: State, func: Any, args: Any, kwargs: Any) -> bool:
    return bool(args[0].is_cpu) and not state.tags.has(args[0])


def _get_device(state: State, func: Any, args: Any, kwargs: Any) -> int:
    return 0 if state.tags.has(args[0]) else func(*args, **kwargs)


def _numpy(state: State, func: Any, args: Any, kwargs: Any) -> Any:
    if state.tags.has(args[0]):
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it to host memory first."
        )
    return func(*args, **kwargs)


def _to(state: State, func: Any, args: Any, kwargs: Any) -> Tensor:
    x, rest = args[0], list(args[1:])
    kwargs = dict(kwargs)
    if isinstance(kwargs.get("other"), Tensor):
        rest.insert(0, kwargs.pop("other"))
    device = asked(kwargs.pop("device", None))
    if rest and isinstance(rest[0], Tensor):
        other = rest.pop(0)
        device, kwargs["dtype"] = state.device_of(other).type, other.dtype
    elif rest and (rest[0] is None or isinstance(rest[0], str | int | torch.device)):
        device = asked(rest.pop(0)) or device
    if device not in (None, "cpu", "cuda"):
        return func(x, device, *rest, **kwargs)
    moved = x if device is None else move(x, state, device == "cuda")
    if not rest and not kwargs:
        return moved
    if isinstance(kwargs.get("dtype", 0), torch.dtype) or (rest and isinstance(rest[0], torch.dtype)):
        return plain(state, func, (moved, *rest), kwargs)
    # (device, non_blocking, copy): nothing is left to do but a copy that was asked for
    copies = kwargs.get("copy", rest[2] if len(rest) > 2 else False)
    return moved.clone() if copies and moved is x else moved


def _cuda(state: State, func: Any, args: Any, kwargs: Any) -> Tensor:
    device = args[1] if len(args) > 1 else kwargs.get("device")
    if asked(device) not in (None, "cuda"):
        raise RuntimeError(f"Invalid device, must be cuda device: {device}")
    return move(args[0], state, True)


def _cpu(state: State, func: Any, args: Any, kwargs: Any) -> Tensor:
    return move(args[0], state, False)


def _type(state: State, func: Any, args: Any, kwargs: Any) -> Any:
    if len(args) > 1 and isinstance(args[1], str) and "cuda" in args[1]:
        raise NotImplementedError("write .to('cuda', dtype): the pretended device knows no type names")
    out = plain(state, func, args, kwargs)
    return out.replace("torch.", "torch.cuda.") if isinstance(out, str) and state.tags.has(args[0]) else out


def _type_as(state: State, func: Any, args: Any, kwargs: Any) -> Tensor:
    return _to(state, torch.Tensor.to, args, kwargs)


def _set_grad(state: State, func: Any, args: Any, kwargs: Any) -> None:
    x, grad = args
    if grad is not None and state.tags.has(x) != state.tags.has(grad):
        a, b = state.device_of(x).type, state.device_of(grad).type
        raise RuntimeError(f"attempting to assign a gradient with device type '{b}' to a tensor with device type '{a}'")
    func(x, grad)


def _deepcopy(state: State, func: Any, args: Any, kwargs: Any) -> Tensor:
    # storages are copied behind the dispatcher's back
    out: Tensor = func(*args, **kwargs)
    state.tags.set(out, state.tags.has(args[0]))
    if out.grad is not None:
        state.tags.set(out.grad, state.tags.has(args[0].grad))
    return out


def _tensor(state: State, func: Any, args: Any, kwargs: Any) -> Tensor:
    """`torch.tensor(data)`, `x.new_tensor(data)`: a copy, where the first argument is unless told otherwise."""
    first = args[0] if args else kwargs["data"]
    device = asked(kwargs.get("device"))
    out: Tensor = plain(state, func, args, kwargs)
    if out.device.type == "cpu":
        state.tags.set(
            out, device == "cuda" if device is not None else isinstance(first, Tensor) and state.tags.has(first)
        )
    return out


def _as_tensor(state: State, func: Any, args: Any, kwargs: Any) -> Tensor:
    """`torch.as_tensor(data, dtype, device)` and `torch.asarray` share memory with what is given where they can."""
    kwargs = dict(kwargs)
    if len(args) > 2:
        kwargs["device"], args = args[2], args[:2]
    device = asked(kwargs.pop("device", None))
    if device not in (None, "cpu", "cuda"):
        return func(*args, device=device, **kwargs)
    out: Tensor = plain(state, func, args, kwargs)
    return out if device is None else move(out, state, device == "cuda")


def _pin(state: State, func: Any, args: Any, kwargs: Any) -> Tensor:
    x: Tensor = args[0]
    if state.tags.has(x):
        raise RuntimeError(
            f"cannot pin '{x.type().replace('torch.', 'torch.cuda.')}' only dense CPU tensors can be pinned"
        )
    if state.pinned.has(x):
        return x
    copy = x.clone()
    state.pinned.set(copy, True)
    return copy


def _is_pinned(state: State, func: Any, args: Any, kwargs: Any) -> bool:
    return state.pinned.has(args[0])


SPECIAL: dict[Any, Special] = {
    Tensor.device.__get__: _device,  # type: ignore[attr-defined]
    Tensor.is_cuda.__get__: _is_cuda,  # type: ignore[attr-defined]
    Tensor.is_cpu.__get__: _is_cpu,  # type: ignore[attr-defined]
    Tensor.grad.__set__: _set_grad,  # type: ignore[union-attr]
    Tensor.get_device: _get_device,
    torch.get_device: _get_device,
    Tensor.numpy: _numpy,
    Tensor.__array__: _numpy,
    Tensor.to: _to,
    Tensor.cuda: _cuda,
    Tensor.cpu: _cpu,
    Tensor.type: _type,
    Tensor.type_as: _type_as,
    Tensor.__deepcopy__: _deepcopy,
    Tensor.pin_memory: _pin,
    Tensor.is_pinned: _is_pinned,
    torch.tensor: _tensor,
    Tensor.new_tensor: _tensor,
    torch.as_tensor: _as_tensor,
    torch.asarray: _as_tensor,
}
"""torch function -> what the pretended device answers."""
