"""Which modules that look like linear layers are none to hang a change on, found by running the model once.

A change that hangs on a module's forward needs three things of it: that it is called with one tensor [..., in] and
gives one [..., out]; that it is called at all; and that nobody takes its weight past its forward (fused kernels,
`F.linear(x, self.proj.weight)`), where the change would be left out without a word. A class does not tell: routers are
linears that give tuples, Mamba's `dt_proj` is one that is never called.
"""

from __future__ import annotations

import inspect
import re
import weakref
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

TOKENS = 8
SIDE = 224
"""Pixels a side where an image model's config names no size."""
AROUND = "its weight is handed to a kernel past its forward, so that a change beside it would be left out there"
MADE = "its weight is computed from other tensors, so that nothing can be folded into it"
UNUSED = "its forward is never called: its weight is used without it, or not at all"

_READ = re.compile(r"(?<!isinstance\()self\.(\w+)\.weight,")
_known: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()


def unfit(model: nn.Module, linears: Mapping[str, nn.Module], blocks: Mapping[str, str]) -> dict[str, str]:
    """Names of linear modules on which no change can hang -> why not.

    `linears`: modules by name; `blocks`: each one's block by its name. Found once for each module: later calls only
    look it up. Where the model cannot be run on made-up inputs, only what its source says is known.
    """
    if any(m not in _known for m in linears.values()):
        seen = _run(model, linears)
        for name, module in linears.items():
            _known[module] = _verdict(model, name, blocks[name], seen)
    return {n: _known[m] for n, m in linears.items() if _known[m]}


def _verdict(model: nn.Module, name: str, block: str, seen: dict[str, str] | None) -> str:
    module, (owner, _, leaf) = model.get_submodule(name), name.rpartition(".")
    if "weight" not in module._parameters and not hasattr(module, "tunewright_quantised"):
        return MADE
    if leaf in _read_around(type(model.get_submodule(owner))):  # type: ignore[arg-type]
        return AROUND
    if seen is None:
        return ""
    if name in seen:
        return seen[name]
    inside = name[len(block) + 1 :].split(".")
    # one of a list inside a block is an expert: it waits for tokens that are routed to it
    return "" if any(part.isdigit() for part in inside) else UNUSED


@lru_cache(maxsize=1024)
def _read_around(owner: type) -> frozenset[str]:
    """Children whose weights the owner's own code hands on, as fused kernels take them where there is a GPU."""
    try:
        return frozenset(_READ.findall(inspect.getsource(owner)))
    except (OSError, TypeError):
        return frozenset()


def _run(model: nn.Module, linears: Mapping[str, nn.Module]) -> dict[str, str] | None:
    """What each called module was found to be, "" for a linear; None where the model did not run."""
    inputs = small_inputs(model)
    if inputs is None:
        return None
    seen: dict[str, str] = {}
    hooks = [
        m.register_forward_hook(
            lambda _, given, named, out, name=n: seen.update({name: seen.get(name) or _shape(given, named, out)}),
            with_kwargs=True,
        )
        for n, m in linears.items()
    ]
    modes = {m: m.training for m in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            model(**inputs)
    except Exception:  # whatever a model of any kind makes of inputs that are not its own: then nothing is known
        return None
    finally:
        for hook in hooks:
            hook.remove()
        for m, training in modes.items():
            m.training = training
    return seen


def _shape(given: tuple[Any, ...], named: dict[str, Any], out: Any) -> str:
    if len(given) != 1 or named or not isinstance(given[0], Tensor):
        return "it takes more than one tensor"
    if not isinstance(out, Tensor):
        return f"it gives a {type(out).__name__}, not one tensor"
    return "" if out.shape[:-1] == given[0].shape[:-1] else "it gives other rows than it takes"


def small_inputs(model: nn.Module) -> dict[str, Tensor] | None:
    """A few tokens or a grey image, as the model's config says; None where it says neither."""
    config: Any = getattr(model, "config", None)
    first = next(model.parameters(), None)
    if config is None or first is None or first.device.type == "meta":
        return None
    kind = getattr(model, "main_input_name", None)
    if kind == "input_ids":
        vocabulary = int(getattr(config, "vocab_size", 0) or 0)
        end = getattr(config, "eos_token_id", None)
        apart = {getattr(config, "pad_token_id", None), end if isinstance(end, int) else None}
        ids = [i for i in range(min(vocabulary, TOKENS + 2)) if i not in apart][:TOKENS]
        if getattr(config, "is_encoder_decoder", False) and isinstance(end, int):
            ids.append(end)  # what such a classifier reads its features from
        return {"input_ids": torch.tensor([ids], device=first.device)} if ids else None
    if kind == "pixel_values":
        vision = getattr(config, "vision_config", config)
        size = getattr(vision, "image_size", SIDE)
        height, width = size if isinstance(size, list | tuple) else (size, size)
        channels = int(getattr(vision, "num_channels", 3))
        return {"pixel_values": torch.zeros(1, channels, height, width, device=first.device, dtype=first.dtype)}
    return None
