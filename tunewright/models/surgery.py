"""Changes of a model's shape: what is done is recorded as JSON, so that files can do it again and the base stays.

A `Surgery` builds, of a model, another body of the same class: with its own config, its own modules, and parameters
computed from the old ones (those that stay as they are stay the same objects, in memory once). `Adapted.operate` then
exchanges the two bodies inside one model object, and keeps the old one: undoing is exchanging again.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tunewright.errors import MethodError
from tunewright.models.arguments import among_choices, said_in
from tunewright.models.generators import seeded
from tunewright.models.sites import Structure

ROUNDING = 1e-3
"""Largest difference of logits, over the largest of them, that a surgery which keeps the function may make."""


class Surgery:
    """One change of shape. `form` is its name in files; `settings()` (JSON) and `rebuild` take it there and back.

    `preserves`: the new body says what the old one says, to rounding; it is held to that when it is made. `computes`:
    its values are not copies or quotients of the old ones but computed by an algorithm whose last bits may differ
    between machines (a decomposition), so that files hold them whole.
    """

    form: ClassVar[str]
    computes: ClassVar[bool] = False

    @property
    def preserves(self) -> bool:
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def rebuild(cls, settings: Mapping[str, Any]) -> Surgery:
        """The surgery of its settings."""
        return cls(**settings)

    def told(self) -> str:
        """What it does to a model, for people: the end of "the model's shape was changed: "."""
        raise NotImplementedError

    def inverse(self, body: nn.Module) -> dict[str, Tensor] | None:
        """Of a body that transformers' class could not hold: the parameters, by the old body's names, of one in the old
        shape that says the same. None: the class holds the new shape.
        """
        return None

    def apply(self, model: nn.Module) -> nn.Module:
        """The new body, made of the model's present weights. The model is left alone. MethodError where it does not
        fit.
        """
        raise NotImplementedError


# -- for those who write one -------------------------------------------------------------------------------------------


def stack_of(structure: Structure) -> str:
    """The name of the one stack of blocks. MethodError where there are several."""
    stacks = sorted({b.stack for b in structure.blocks})
    if len(stacks) != 1:
        raise MethodError(
            f"the model has {len(stacks)} stacks of blocks ({', '.join(stacks)}), and only one can be reshaped",
            remedy="use a model with an encoder or a decoder alone",
        )
    return stacks[0]


def like(model: nn.Module, changes: Mapping[str, Any]) -> nn.Module:
    """A fresh body of the model's class whose config has `changes`, of its type, on its device, in evaluation mode.

    MethodError for a model that is none of transformers', for a config that lacks what is changed, or that the class
    refuses.
    """
    old: Any = model
    first = next(model.parameters())
    config = copy.deepcopy(getattr(old, "config", None))
    if config is None or not hasattr(type(old), "_from_config"):
        raise MethodError(
            f"{type(model).__name__} is no model of transformers: its shape is not read from a config",
            remedy="use a transformers model",
        )
    for name, value in changes.items():
        if not hasattr(config, name):
            raise MethodError(
                f"the config of {type(model).__name__} has no '{name}' that could be changed",
                remedy="this architecture cannot be reshaped here",
            )
        setattr(config, name, value)
    kind = getattr(config, "_attn_implementation", None)
    with seeded(0):  # the fresh values are all replaced, and no generator may feel them
        try:
            new = type(old)._from_config(config, dtype=first.dtype, **({"attn_implementation": kind} if kind else {}))
        except (ValueError, RuntimeError, TypeError, AttributeError) as e:
            raise MethodError(f"{type(model).__name__} takes no such shape: {e}") from e
    body: nn.Module = new.to(first.device).eval()
    return body


def put_parameters(body: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Give the body's parameters and persistent buffers their values by name; tied ones stay tied.

    A value that is a parameter itself is shared, not copied. Every one is needed, in its shape.
    """
    replacing: dict[int, nn.Parameter] = {}
    for name, p in body.named_parameters():
        if (value := values.get(name)) is None:
            raise MethodError(f"a model of the new shape has '{name}', and the model has nothing of that name")
        if value.shape != p.shape:
            raise MethodError(f"'{name}' would be {tuple(value.shape)}, and the config makes it {tuple(p.shape)}")
        replacing[id(p)] = value if isinstance(value, nn.Parameter) else nn.Parameter(value.detach().to(p.dtype))
    for module in body.modules():
        for leaf, old in module._parameters.items():
            if old is not None:
                module._parameters[leaf] = replacing[id(old)]
    kept = body.state_dict()
    for name, buffer in body.named_buffers():
        if name in kept and name in values:
            buffer.copy_(values[name])
    for p in body.parameters():
        p.requires_grad_(False)


def outputs_of(structure: Structure, block: int) -> list[str]:
    """Names of the linear layers of a block whose output is added to what passes it by: the last of its attention and
    the last of its MLP. MethodError where one of them is missing.
    """
    sites = [s for s in structure.blocks[block].sites if s.kind in ("linear", "conv1d")]
    found = []
    for role in ("attention", "mlp"):
        names = [s.name for s in sites if s.role == role]
        if not names:
            raise MethodError(
                f"block {block} has no linear layer of its {role} ({structure.blocks[block].name})",
                remedy="this architecture cannot be reshaped here",
            )
        found.append(names[-1])
    return found


@torch.no_grad()
def says(model: nn.Module) -> Tensor | None:
    """The model's logits, fp32, on a few fixed inputs, in evaluation mode; None where it has no values or takes neither
    ids nor pixels.
    """
    told: Any = model
    device, kind = next(model.parameters()).device, getattr(model, "main_input_name", "")
    draw = torch.Generator().manual_seed(0)
    if device.type == "meta" or getattr(told.config, "is_encoder_decoder", False):
        return None
    if kind == "input_ids":
        given = torch.randint(0, int(told.get_input_embeddings().weight.shape[0]), (2, 8), generator=draw)
    elif kind == "pixel_values" and isinstance(getattr(told.config, "image_size", None), int):
        size = told.config.image_size
        given = torch.randn(1, getattr(told.config, "num_channels", 3), size, size, generator=draw)
    else:
        return None
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        given = given.to(device) if kind == "input_ids" else given.to(device, next(model.parameters()).dtype)
        return said_in(model(**{kind: among_choices(model, given) if kind == "input_ids" else given})).float()
    finally:
        for module, mode in modes:
            module.training = mode


def check_preserved(surgery: Surgery, before: nn.Module, after: nn.Module) -> None:
    """MethodError where a surgery that keeps the function does not keep this model's."""
    first, then = says(before), says(after)
    if not surgery.preserves or first is None or then is None:
        return
    if first.shape != then.shape:
        raise MethodError(
            f"the model's vectors would have {then.shape[-1]} numbers where they have {first.shape[-1]}",
            where="prepare",
            remedy="take a method that keeps the model's width, or a task whose models have a head",
        )
    gap, most = float((first - then).abs().max()), float(first.abs().max())
    coarse = 1.0 if next(before.parameters()).dtype == torch.float32 else 100.0
    if not gap <= coarse * ROUNDING * max(most, 1e-6):
        raise MethodError(
            f"{surgery.told()} should leave what the model says as it is, and moves the logits of "
            f"{type(before).__name__} by {gap:.2g} (the largest is {most:.2g})",
            remedy="this architecture cannot be grown so: norms after the sum, scaled embeddings and fused layers are "
            "among what is not known",
        )


# -- for those who keep what was done ----------------------------------------------------------------------------------


def exchange(model: nn.Module, body: nn.Module) -> None:
    """Give two modules of one class each other's insides: submodules, parameters, config. Who holds either object has
    the other's content from then on.
    """
    ours = dict(model.__dict__)
    object.__setattr__(model, "__dict__", dict(body.__dict__))
    object.__setattr__(body, "__dict__", ours)


def rows_in(entries: Mapping[str, Tensor], before: nn.Module, after: nn.Module) -> dict[str, Tensor]:
    """Flat entries of matrices that are whole rows, by name, in the new body: the same rows, however long they are."""
    old, new, out = dict(before.named_parameters()), dict(after.named_parameters()), {}
    for name, indices in entries.items():
        rows, width = torch.unique(indices // old[name].shape[1]), new[name].shape[1]
        out[name] = (rows[:, None] * width + torch.arange(width, device=rows.device)).flatten()
    return out


def meaning(surgeries: Sequence[Surgery]) -> list[str]:
    """What a report says of a changed shape: what was done, and what strengths below 1 mean then."""
    if not surgeries:
        return []
    same = all(s.preserves for s in surgeries)
    return [
        f"the model's shape was changed: {'; '.join(s.told() for s in surgeries)}. Strength 0 is the base in its own "
        "shape; strengths above 0 lie between the new shape before training, which "
        f"{'says what the base says' if same else 'does not say what the base says'}, and after it"
    ]
