"""What trains: the tensors an optimizer sees, whole or only some of their entries, by name.

A parameter that is not chosen has no gradient at all. Of a parameter of which only entries train, the optimizer sees a
compact leaf [k]: gradient and optimizer state exist for those entries alone. Of few of them no other gradient is
computed (`models/sampled_gradients.py`); else the dense gradient of one tensor is freed once it has been gathered. Of a
parameter held in half precision it sees an fp32 master, since steps near one unit in the last place would be lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.contract.method import Choice
from tunewright.errors import MethodError, did_you_mean
from tunewright.models.adapted import Adapted
from tunewright.models.delta_names import is_delta
from tunewright.models.sampled_gradients import Places, sampling, serves
from tunewright.models.shards import is_divided, own, share
from tunewright.training.following import remap

HOOK = "tunewright_hook"
"""Where a parameter holds the hook that moves its gradient into a leaf apart."""


@dataclass
class Leaf:
    """`parameter` is the model's, `leaf` the optimizer's: another object where only `indices` train, a master is kept,
    or processes hold parts of the parameter (`divided`): then the leaf is this one's.
    """

    name: str
    group: str  # base | delta | owned
    parameter: nn.Parameter
    leaf: nn.Parameter
    indices: Tensor | None = None
    places: Places | None = None  # of few entries, whose gradients are computed alone

    @property
    def apart(self) -> bool:
        """Whether the leaf must be copied into the parameter after each step."""
        return self.leaf is not self.parameter

    @property
    def divided(self) -> bool:
        """Whether processes hold parts of the parameter."""
        return is_divided(self.parameter)

    @property
    def master(self) -> bool:
        """Whether the leaf holds more than its parameter can."""
        return self.apart and self.indices is None and self.parameter.dtype != torch.float32

    @property
    def count(self) -> int:
        """Trained numbers, over all processes."""
        return self.leaf.numel() if self.indices is not None else self.parameter.numel()


class Trained:
    """The leaves of the present choice. `owned` are parameters of methods' states, by "<method>.<name>"."""

    def __init__(self, adapted: Adapted, owned: Mapping[str, nn.Parameter]):
        self.adapted = adapted
        self.owned = dict(owned)
        self.masters: dict[str, Tensor] = {}
        self.entry_masters: dict[str, Tensor] = {}  # of entries [k], as a checkpoint had them, until they train again
        self.leaves: dict[str, Leaf] = {}

    def default(self) -> Choice:
        """With no `choose`: deltas, new heads and method-owned parameters if there are any deltas (or some that a
        method's network makes), else everything.
        """
        deltas = list(self.adapted.trainable_deltas())
        made = any(d.made for by_name in self.adapted.deltas().values() for d in by_name.values())
        return Choice(
            tuple(
                sorted([*deltas, *self.adapted.trainable_new()] if deltas or made else self.adapted.base_parameters())
            )
        )

    def everything(self) -> dict[str, tuple[str, nn.Parameter]]:
        """Every parameter that could train: name -> (group, parameter)."""
        found = {n: ("base", p) for n, p in self.adapted.base_parameters().items()}
        found.update({n: ("delta", p) for n, p in self.adapted.delta_parameters().items()})
        return {**found, **{n: ("owned", p) for n, p in self.owned.items()}}

    def move(self, places: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Re-index sparse deltas: kept places keep their values, newcomers start at 0. name -> (old, new places)."""
        moved = {}
        for name, new in places.items():
            delta: Any = self.adapted.model.get_submodule(name.removesuffix(".values"))
            old = delta.indices
            new = new.to(old.device)
            if new.shape != old.shape:
                raise MethodError(
                    f"'{name}' has {old.numel()} places and would get {new.numel()}",
                    remedy="a choice re-indexes a sparse delta with as many places as before",
                )
            delta.values.data = remap(delta.values.data, old, new)
            delta.indices = new
            moved[name] = (old, new)
        return moved

    def set(self, choice: Choice) -> None:
        """Make exactly the chosen parameters train (method-owned ones always do). MethodError for an unknown name."""
        known = self.everything()
        for leaf in self.leaves.values():
            if leaf.master:
                self.masters.setdefault(leaf.name, leaf.leaf.detach())  # one that was restored wins
        for _, p in known.values():
            p.requires_grad_(False)
            p.grad = None
            hook = p.__dict__.pop(HOOK, None)  # also one of an earlier stage, which would take the gradient away
            if hook is not None:
                hook.remove()
        self.leaves = {}
        entries = {
            **choice.entries,
            **{n: i for n, i in self.adapted.always.items() if n not in choice.names and n not in choice.entries},
        }
        # sorted: the order of leaves is the order in which the optimizer and the norm of the gradient add them up
        names = sorted({*choice.names, *entries, *self.owned})
        for name in names:
            if name not in known:
                raise MethodError(
                    f"the choice names '{name}', which is no parameter here", remedy=did_you_mean(name, known)
                )
            group, p = known[name]
            indices = entries.get(name)
            indices = None if indices is None else indices.to(p.device)
            if group == "base":
                self.adapted.remember(name, indices)  # before the first step: the way back to the base
            p.requires_grad_(True)
            self.leaves[name] = (
                Leaf(name, group, p, p)
                if indices is None and p.dtype == torch.float32 and not is_divided(p)
                else self._apart(name, group, p, indices)
            )

    def _apart(self, name: str, group: str, p: nn.Parameter, indices: Tensor | None) -> Leaf:
        if indices is None:
            start = self.masters.pop(name, own(p.detach()))
        else:
            held = self.entry_masters.pop(name, None)
            start = held if held is not None and held.shape == indices.shape else p.detach().reshape(-1)[indices]
        leaf = nn.Parameter(start.to(torch.float32, copy=not is_divided(p)))
        few = indices is not None and group == "base" and not is_divided(p) and serves(p, indices)
        places = Places(indices, p.shape) if indices is not None and few else None

        def gather(parameter: Tensor) -> None:
            grad = parameter.grad
            assert grad is not None
            # at once, and not after the backward pass: the dense gradients of all tensors never exist side by side
            if places is not None:
                grad = places.of(grad)
            elif indices is not None:
                grad = grad.reshape(-1)[indices]
            grad = own(grad).to(leaf.dtype)
            leaf.grad = grad if leaf.grad is None else leaf.grad.add_(grad)
            parameter.grad = None

        setattr(p, HOOK, p.register_post_accumulate_grad_hook(gather))
        return Leaf(name, group, p, leaf, indices, places)

    def sampling(self) -> AbstractContextManager[None]:
        """Inside, of few entries that train the gradients are computed alone."""
        return sampling({leaf.parameter: leaf.places for leaf in self.leaves.values() if leaf.places is not None})

    def write_back(self) -> None:
        """Copy compact leaves and masters into their tensors, after the optimizer moved them."""
        with torch.no_grad():
            for leaf in self.leaves.values():
                if leaf.indices is not None:
                    leaf.parameter.view(-1)[leaf.indices] = leaf.leaf.to(leaf.parameter.dtype)
                elif leaf.apart:
                    own(leaf.parameter).copy_(leaf.leaf)

    @contextmanager
    def lent(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Other values in the places of parameters, by name; those that are not named keep theirs. No graph inside.

        A value has its parameter's shape, or [k] where only k of its entries train. MethodError for an unknown name.
        """
        swapped: list[tuple[nn.Parameter, Tensor]] = []
        known = self.everything()
        try:
            for name, value in values.items():
                if name not in known:
                    raise MethodError(
                        f"there is no parameter '{name}' here, to lend another value to",
                        remedy=did_you_mean(name, known),
                    )
                p, leaf = known[name][1], self.leaves.get(name)
                there = value.to(p.device, p.dtype)
                if leaf is not None and leaf.indices is not None and there.shape != p.shape:
                    there = p.detach().flatten().clone().index_copy_(0, leaf.indices, there).view(p.shape)
                swapped.append((p, p.data))
                p.data = there
            yield
        finally:
            for p, data in swapped:
                p.data = data

    def zero_grad(self) -> None:
        for leaf in self.leaves.values():
            leaf.leaf.grad = None
            leaf.parameter.grad = None

    def parameters(self) -> dict[str, nn.Parameter]:
        """name -> the leaf that the optimizer sees."""
        return {n: leaf.leaf for n, leaf in self.leaves.items()}

    def places(self) -> dict[str, Tensor | None]:
        """name -> the flat places of those entries that train, None for the whole."""
        return {n: leaf.indices for n, leaf in self.leaves.items()}

    def gradients(self) -> dict[str, Tensor]:
        """name -> gradient, of those that have one."""
        return {n: leaf.leaf.grad for n, leaf in self.leaves.items() if leaf.leaf.grad is not None}

    def group(self, name: str) -> dict[str, nn.Parameter]:
        """The leaves of one group (base, delta, owned) by name."""
        return {n: leaf.leaf for n, leaf in self.leaves.items() if leaf.group == name}

    def count(self) -> int:
        """Trained numbers."""
        return sum(leaf.count for leaf in self.leaves.values())

    # -- saving ------------------------------------------------------------------------------------------------------

    def changed(self) -> dict[str, Tensor]:
        """Everything that this run has changed and that a restart needs: base tensors (present values), deltas.

        Of what is divided among processes this one's part (`divided.py` makes the whole of it).

        Keys: "value:<name>" a whole base tensor; "entries:<name>" and "places:<name>" those entries that ever trained;
        "delta:<name>" parameters and buffers of deltas; "master:<name>" fp32 masters, and "entry-master:<name>" [k]
        those of the entries that train, of tensors in half precision. Method-owned tensors are saved with the states.
        """
        out: dict[str, Tensor] = {}
        parameters = self.adapted.base_parameters()
        for name, original in self.adapted.originals.items():
            if original.indices is None:
                out[f"value:{name}"] = own(parameters[name].detach())
            else:
                out[f"places:{name}"] = original.indices
                out[f"entries:{name}"] = parameters[name].detach().reshape(-1)[original.indices]
        out.update({f"delta:{n}": t for n, t in self.adapted.model.state_dict().items() if is_delta(n)})
        out.update({f"master:{n}": t for n, t in self.masters.items()})  # of what is not drawn now and may be again
        out.update({f"master:{n}": leaf.leaf.detach() for n, leaf in self.leaves.items() if leaf.master})
        halves = [leaf for leaf in self.leaves.values() if leaf.parameter.dtype != torch.float32]
        out.update({f"entry-master:{leaf.name}": leaf.leaf.detach() for leaf in halves if leaf.indices is not None})
        return out

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put `changed()` back into a model that holds the base and deltas of the same names."""
        parameters = self.adapted.base_parameters()
        with torch.no_grad():
            for key, t in tensors.items():
                kind, name = key.split(":", 1)
                if kind == "value":
                    if name not in parameters:
                        self.adapted.add_bias(self.adapted.structure.site(name.removesuffix(".bias")))
                        parameters = self.adapted.base_parameters()
                    self.adapted.remember(name)
                    own(parameters[name]).copy_(share(t, parameters[name]))
                elif kind == "entries":
                    places = tensors[f"places:{name}"]
                    self.adapted.remember(name, places)
                    parameters[name].view(-1)[places.to(self.adapted.device)] = t.to(self.adapted.device)
                elif kind == "master":
                    own_part = share(t, parameters[name]) if name in parameters else t
                    self.masters[name] = own_part.to(self.adapted.device, copy=True)
                elif kind == "entry-master":
                    self.entry_masters[name] = t.to(self.adapted.device, copy=True)
                elif kind == "delta":
                    path, _, leaf = name.rpartition(".")
                    owner = self.adapted.model.get_submodule(path)
                    if leaf in owner._parameters:
                        p = owner._parameters[leaf]
                        assert p is not None
                        p.data = t.to(p.device, p.dtype, copy=True)
                    else:
                        owner._buffers[leaf] = t.to(self.adapted.device, copy=True)
