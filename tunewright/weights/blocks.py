"""For merges that need data: what they are given, models walked block by block, and statistics of what flows there.

A model's weights lie mapped or in memory; of what the rows give, one layer's states are held, and the statistics of one
block at a time. A method that needs more than that (a whole backward pass) says so.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Outputs
from tunewright.contract.method import Method, Needs
from tunewright.errors import MethodError, ModelError
from tunewright.models.sites import Block, Site, Structure
from tunewright.weights.operator import as_merge, check_count, each_of, merge_one
from tunewright.weights.survey import survey


@dataclass
class Learning:
    """What a merge's `learn` may use. Models are ours: it may change them in memory, never their files.

    `models` in the order given, evaluation mode; `base` the common base, or None. `batches(samples)` gives the
    calibration rows, the same ones at every call, padded and not packed (a block alone is not told where packed rows
    end); `task` runs a model on them and gives their loss.
    """

    models: list[nn.Module]
    structure: Structure
    batches: Callable[[int], Iterable[Batch]]
    task: Any
    base: nn.Module | None = None
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    log: Callable[..., None] = lambda **_: None

    def forward(self, model: nn.Module, batch: Batch) -> Outputs:
        """One model's outputs on a batch."""
        outputs: Outputs = self.task.forward(model, batch)
        return outputs

    def needed_base(self, name: str) -> nn.Module:
        """The common base; MethodError where none was given."""
        if self.base is None:
            raise MethodError(
                f"'{name}' works on changes from a common base, and none is given",
                remedy="name the models' base: --base FOLDER",
            )
        return self.base


@dataclass
class Step:
    """One block of one model, and what goes into it: for each batch its states [..., d] and the block's other
    arguments.
    """

    block: Block
    module: nn.Module
    states: list[Tensor]
    others: list[tuple[tuple[Any, ...], dict[str, Any]]]

    def only(self, i: int) -> Tensor:
        """What comes out for batch i."""
        args, kwargs = self.others[i]
        with torch.no_grad():
            return _first(self.module(self.states[i], *args, **kwargs))

    def run(self) -> list[Tensor]:
        """What comes out, batch by batch."""
        return [self.only(i) for i in range(len(self.states))]


def _first(out: Any) -> Tensor:
    output: Tensor = out[0] if isinstance(out, tuple) else out
    return output


def walk(
    model: nn.Module, structure: Structure, forward: Callable[[nn.Module, Batch], Any], batches: Iterable[Batch]
) -> Iterator[Step]:
    """Every block with its inputs, first to last. Runs one whole forward a batch, then each block once more.

    One layer's states are held for all batches; masks and positions are the forward's own tensors, not copies. Raises
    ModelError for a model that does something between its blocks (their states would not be those of the forward).
    """
    batches = list(batches)
    with torch.no_grad():
        for batch in batches[:1]:
            forward(model, batch)  # a task may try a model out on its first batch: those passes are no rows
    modules = [model.get_submodule(b.name) for b in structure.blocks]
    starts: dict[int, list[Tensor]] = {b.index: [] for b in structure.blocks if b.depth == 0}
    others: list[list[tuple[tuple[Any, ...], dict[str, Any]]]] = [[] for _ in modules]
    last: dict[str, Tensor | None] = {"out": None}

    def before(i: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states, rest, named = _split(args, kwargs)
        if i in starts:
            starts[i].append(states.detach())
        elif states is not last["out"]:
            raise ModelError(
                f"{type(model).__name__} changes states between its blocks",
                remedy="this merge needs blocks that follow each other directly",
            )
        others[i].append((rest, {**named, **({"use_cache": False} if "use_cache" in named else {})}))

    def after(i: int, out: Any) -> None:
        last["out"] = _first(out)

    hooks = [
        m.register_forward_pre_hook(lambda _m, a, k, i=i: before(i, a, k), with_kwargs=True)
        for i, m in enumerate(modules)
    ]
    hooks += [m.register_forward_hook(lambda _m, _a, out, i=i: after(i, out)) for i, m in enumerate(modules)]
    try:
        with torch.no_grad():
            for batch in batches:
                forward(model, batch)
    finally:
        for h in hooks:
            h.remove()
    last["out"] = None
    states: list[Tensor] = []
    for i, block in enumerate(structure.blocks):
        if i in starts:
            states = starts.pop(i)
        step = Step(block, modules[i], states, others[i])
        yield step
        if i + 1 < len(structure.blocks) and structure.blocks[i + 1].depth:
            states = step.run()
        others[i] = []


def _split(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    """A block call's states, its other positional arguments, its named ones (a cache is left out: nothing is
    decoded).
    """
    named = {
        k: v for k, v in kwargs.items() if k not in ("cache", "past_key_values", "past_key_value", "hidden_states")
    }
    if args:
        return args[0], args[1:], named
    return kwargs["hidden_states"], (), named


@contextmanager
def watching(
    sites: Sequence[Site], model: nn.Module, mask: Tensor | None = None
) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Inputs [n, in] and outputs [n, out] of a model's linear sites at its latest forward, in fp32, real tokens only.

    `mask` [n]: the batch's real tokens, None: all. A site's name stands for the module of that name in `model`.
    """
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str, args: tuple[Any, ...], out: Tensor) -> None:
        x, y = args[0].detach().flatten(0, -2), out.detach().flatten(0, -2)
        if mask is not None and len(mask) == len(x):
            x, y = x[mask], y[mask]
        seen[name] = (x.float(), y.float())

    hooks = [
        model.get_submodule(s.name).register_forward_hook(lambda _m, args, out, n=s.name: keep(n, args, out))
        for s in sites
    ]
    try:
        yield seen
    finally:
        for h in hooks:
            h.remove()


def real_tokens(batch: Batch) -> Tensor | None:
    """[n] of a batch's flattened tokens that are no padding; None where there is none."""
    attention = batch.inputs.get("attention_mask")
    return None if attention is None or attention.dim() != 2 else attention.flatten().bool()


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """A model's tensors by name, each tied one once, buffers that are saved included."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach()
    return tensors


def merge_in_memory(method: Method, learning: Learning) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A merge of models in memory, learned from rows where it learns: (tensors by name, changes of the config).

    Tensors come back in the first model's types. One whose shape differs from the base's (a task's head) stays the
    base's.
    """
    merge = as_merge(method, type(method).__name__)
    states = [state_of(m) for m in learning.models]
    base = None if learning.base is None else state_of(learning.base)
    check_count(method, type(method).__name__, len(states), base is not None)
    likes = states[0] if base is None else base

    def stream() -> Iterator[tuple[str, Tensor | None, list[Tensor]]]:
        for name, like in likes.items():
            own = [s[name].float() for s in states if name in s and s[name].shape == like.shape]
            if like.is_floating_point() and len(own) == len(states):
                yield name, None if base is None else like.float(), own

    values = merge.learn(learning) if merge.learns else survey(merge, stream, each_of(merge, len(states)))
    merged = {}
    for name, like in likes.items():
        own = [s[name].float() for s in states if name in s and (base is None or s[name].shape == like.shape)]
        if not like.is_floating_point() or len(own) < len(states):
            merged[name] = like.clone()
            continue
        depth = learning.structure.depth_fraction(name)
        merged[name] = merge_one(
            method, name, None if base is None else like.float(), own, depth=depth, needs=Needs(values)
        ).to(like.dtype)
    return merged, dict(values.get("config", {}))
