"""A model whose blocks stay in its files: made without their memory, and filled but for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunewright.errors import ModelError
from tunewright.loading.config import drawn
from tunewright.loading.guard import check_finite
from tunewright.loading.quiet import quiet
from tunewright.models.generators import seeded
from tunewright.models.originals import Files, InFile
from tunewright.models.sites import discover
from tunewright.models.streamed import WHERE, Streamed, blank, keep


@contextmanager
def unfilled() -> Iterator[None]:
    """Inside, parameters are registered without memory; buffers keep their values."""
    register = nn.Module.register_parameter

    def without(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(module, name, param)
        if param is not None and not param.is_meta:
            module._parameters[name] = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)

    nn.Module.register_parameter = without  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def load_streamed(
    folder: Path, auto: Any, config: Any, dtype: torch.dtype, device: torch.device | str, seed: int
) -> nn.Module:
    """The model of class `auto` with every weight but those of its blocks in memory; these are `Streamed`.

    ModelError where a weight does not stand in the folder's files under its own name and in its shape.
    """
    with quiet(), seeded(seed), unfilled():
        model: nn.Module = drawn(auto, config, dtype)
    files, structure = Files(folder), discover(model)
    parameters = dict(model.named_parameters())
    inside = {n for b in structure.blocks for n in b.parameter_names}
    found = {n: _found(files, n, p, model, dtype, torch.device(device), folder) for n, p in parameters.items()}
    made = {
        id(p): nn.Parameter(blank(p.shape, dtype, device) if n in inside else found[n].values, requires_grad=False)
        for n, p in parameters.items()
    }
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = made[id(p)]
    model.to(device)
    check_finite(model, folder, inside)
    blocks = [model.get_submodule(b.name) for b in structure.blocks]
    keep(model, Streamed(model, blocks, {made[id(parameters[n])]: found[n] for n in inside}))
    return model


def _found(
    files: Files, name: str, p: nn.Parameter, model: Any, dtype: torch.dtype, device: torch.device, folder: Path
) -> InFile:
    """A parameter's values in the files; those of a body that was saved alone lack its prefix."""
    shape = tuple(p.shape)
    for other in (name, name.removeprefix(f"{model.base_model_prefix}.")):
        if (source := files.found(other, shape, dtype, device)) is not None:
            return source
    raise ModelError(
        f"blocks cannot stay on disk: the files have no tensor '{name}' of shape {list(shape)}",
        where=str(folder),
        remedy=f"remove {WHERE.removeprefix('train.')}: this model is loaded whole",
    )
