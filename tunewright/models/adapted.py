"""A model under adaptation: the frozen base, the deltas on its sites, the base tensors that train, and the way back.

The first value of every base tensor that ever changes is kept (whole, or only the entries that train; in memory, or in
the file that it was loaded from), so that the base can be had back bit for bit, any strength between base and tuned can
be dialled, and a change can be written out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.models import deltas as forms
from tunewright.models.delta_names import is_delta
from tunewright.models.modes import set_training
from tunewright.models.nf4 import NF4Linear, put
from tunewright.models.originals import Files, Original
from tunewright.models.reshapable import Operated, Reshapable
from tunewright.models.sites import Structure, discover


@dataclass
class Wrapped:
    """Who made the wrapper: `method` (its name, parameters, plan and task as JSON) and the method's `state` module."""

    method: dict[str, Any]
    state: Any


class Adapted(Reshapable):
    """`model` and `tokenizer` with a structure, deltas and originals. `base_hash` names the untouched weights,
    `beside` the files beside them that decide what they compute (config, tokenizer ...).
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any = None, *, base_hash: str = "", beside: str = "", name: str = ""
    ):
        self.model, self.tokenizer = model, tokenizer
        self.base_hash, self.beside, self.name = base_hash, beside, name
        self.structure: Structure = discover(model)
        self.originals: dict[str, Original] = {}
        self.files: Files | None = None  # where whole originals are read back from; None: they are kept in memory
        self.wrapper: nn.Module | None = None
        self.new: tuple[
            str, ...
        ] = ()  # parameters drawn afresh (a new head): they train beside deltas, or they would mean nothing
        self.always: dict[str, Tensor] = {}  # entries that train whatever is chosen: rows of tokens that were added
        self.wrapped_by: Wrapped | None = None
        self.operated: list[Operated] = []  # surgeries, in the order in which they were done
        self._away = False  # whether the base is in place, in its own shape
        self.notes: list[str] = []
        for p in model.parameters():
            p.requires_grad_(False)

    # -- what is there ---------------------------------------------------------------------------------------------

    @property
    def outer(self) -> nn.Module:
        """The module whose forward is the adapted model's: what a method wraps it in, else the model itself."""
        return self.wrapper or self.model

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are."""
        return next(self.model.parameters()).device

    def base_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of the model itself, under its own names; a tied one once."""
        return {n: p for n, p in self.model.named_parameters() if not is_delta(n)}

    def delta_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of all deltas, "<site>.delta.<name>.<part>"."""
        return {n: p for n, p in self.model.named_parameters() if is_delta(n)}

    def trainable_deltas(self) -> dict[str, nn.Parameter]:
        """Parameters of the deltas that may train: those carried from an earlier stage as `frozen` are left out."""
        return {n: p for n, p in self.delta_parameters().items() if not forms.is_frozen(p)}

    def deltas(self) -> dict[str, dict[str, forms.Delta]]:
        """site name -> delta name -> delta, for every site that has one."""
        by_site = {s.name: forms.deltas_of(s) for s in self.structure.sites}
        return {n: d for n, d in by_site.items() if d}

    def quantised(self) -> dict[str, NF4Linear]:
        """site name -> the module that holds its weight in 4 bits."""
        return {s.name: s.module for s in self.structure.sites if isinstance(s.module, NF4Linear)}

    def unquantise(self) -> None:
        """Put layers that were put into 4 bits back as they were before, without their deltas."""
        layers = self.quantised()
        for name, module in layers.items():
            put(self.model, name, module.plain())
        if layers:
            self.rediscover()

    def dequantise(self, names: Sequence[str]) -> None:
        """Make 4-bit layers plain ones at the values of their codes, with the deltas that they had; `notes` says so."""
        moved = {n: self.structure.site(n) for n in names}
        for name, site in moved.items():
            module: Any = site.module
            put(self.model, name, module.plain(module.matrix()))
            self.originals[site.weight_name] = Original(module.original.to(module.packed.device))
        if moved:
            self.rediscover()
            self.notes.append(
                f"{len(moved)} matrices were made whole again at the values of their 4-bit codes, to fold a change "
                "into them"
            )
        for name, site in moved.items():
            for n, delta in forms.deltas_of(site).items():
                forms.attach(self.structure.site(name), n, delta)

    def carried(self) -> list[str]:
        """What hangs on the model that a change of its shape would lose, in words."""
        there = {"deltas": self.deltas(), "a wrapper": self.wrapper, "layers in 4 bits": self.quantised()}
        return [what for what, found in there.items() if found]

    def rediscover(self) -> None:
        """Look at the structure again, after `prepare` changed the model."""
        self.structure = discover(self.model)
        for p in self.base_parameters().values():
            p.requires_grad_(False)

    # -- changing base tensors -------------------------------------------------------------------------------------

    def remember(self, name: str, indices: Tensor | None = None) -> None:
        """Keep the present value of a base tensor (or of some of its entries) before it changes for the first time."""
        p = self.base_parameters()[name]
        indices = None if indices is None else indices.to(p.device)
        original = self.originals.get(name)
        if original is None:
            if indices is None:
                self.originals[name] = (
                    self.files.original(name, p) if self.files is not None else Original(p.detach().clone())
                )
            else:
                self.originals[name] = Original(p.detach().reshape(-1)[indices].clone(), indices.clone())
        elif indices is not None:
            original.add(p, indices)
        elif original.indices is not None:
            self.originals[name] = Original(original.restored(p))

    def forget_changes(self) -> None:
        """Put the base back: originals restored, deltas and the wrapper taken away, its own shape given back."""
        self.unwrap()
        self.unquantise()
        self.put_back()
        for site in self.structure.sites:
            forms.detach(site)
        while self.operated:
            self.undo()

    def put_back(self) -> None:
        """Every original in its place, and forgotten."""
        parameters = self.base_parameters()
        with torch.no_grad():
            for name, original in self.originals.items():
                parameters[name].copy_(original.restored(parameters[name]))
        self.originals.clear()

    def unwrap(self) -> None:
        """Let go of a wrapper; the model itself was never touched by it."""
        self.wrapper, self.wrapped_by = None, None

    def fold(self, name: str | None = None) -> int:
        """Fold the deltas called `name` (none: all) into the weights and take them away; return how many sites.

        A 4-bit layer that has some becomes a plain one: what a sum is does not fit its codes.
        """
        count = 0
        with torch.no_grad():
            self.dequantise(
                [s for s in self.quantised() if any(name is None or n == name for n in self.deltas().get(s, {}))]
            )
            for site in self.structure.sites:
                by_name = {n: d for n, d in forms.deltas_of(site).items() if name is None or n == name}
                foldable = {n: d for n, d in by_name.items() if d.foldable}
                if not foldable:
                    continue
                self.remember(site.weight_name)
                for n, delta in foldable.items():
                    change = (delta.change().float() * delta.strength).to(site.weight.dtype)
                    site.weight.data = site.weight.data + site.to_stored(change)
                    forms.detach(site, n)
                count += 1
        return count

    # -- the way back ----------------------------------------------------------------------------------------------

    @property
    def foldable(self) -> bool:
        """Whether every change can be folded into plain weights, and so dialled without retraining."""
        return self.wrapper is None and all(d.foldable for by_name in self.deltas().values() for d in by_name.values())

    @contextmanager
    def at_strength(self, strength: float) -> Iterator[nn.Module]:
        """The plain model with base + strength x (tuned - base); 0 is the base bit for bit, 1 the tuned one folded.

        Of a changed shape, 0 is the base in its own, and between 0 and 1 the way goes from what the surgery made of it.
        Inside, foldable deltas are folded in (nothing extra runs a token); on leaving, everything is as it was. A
        wrapped model cannot be folded: at 1 it stays as it is.
        """
        if (strength == 1.0 and self.wrapper is not None) or (strength == 0.0 and self._away):
            yield self.model
            return
        with self._of_this_shape(strength), self._in_own_shape(strength == 0.0):
            yield self.model

    @contextmanager
    def started(self) -> Iterator[nn.Module]:
        """The model as training began from the base: the base, in the present shape where that was changed."""
        with self._of_this_shape(0.0):
            yield self.model

    @contextmanager
    def _of_this_shape(self, strength: float) -> Iterator[None]:
        """The plain model at a strength, in the shape that it has now."""
        swapped: list[tuple[Tensor, Tensor]] = []
        silenced: list[tuple[forms.Delta, bool, float]] = []
        quantised = self.quantised()
        exchanged = {n: self.model.get_submodule(n) for n in quantised}
        try:
            with torch.no_grad():
                self._set_strength(strength, swapped, silenced)
                for name, module in quantised.items():
                    put(self.model, name, self._unfolded(module, strength, self.deltas().get(name, {})))
            yield
        finally:
            for name, there in exchanged.items():
                put(self.model, name, there)
            for delta, active, old in silenced:
                delta.active, delta.strength = active, old
            for parameter, data in reversed(swapped):
                parameter.data = data

    def _set_strength(
        self, strength: float, swapped: list[tuple[Tensor, Tensor]], silenced: list[tuple[forms.Delta, bool, float]]
    ) -> None:
        parameters: dict[str, nn.Parameter] = self.base_parameters()
        for name, original in self.originals.items():
            p = parameters[name]
            if strength == 1.0:
                continue
            first = original.restored(p)
            swapped.append((p, p.data))
            p.data = first if strength == 0.0 else torch.lerp(first.float(), p.data.float(), strength).to(p.dtype)
        quantised = self.quantised()
        for site_name, by_name in self.deltas().items():
            if site_name in quantised:
                continue
            site = self.structure.site(site_name)
            for delta in by_name.values():
                if not delta.active:
                    continue
                silenced.append((delta, delta.active, delta.strength))
                if not delta.foldable:
                    delta.strength = delta.strength * strength
                    continue
                delta.active = False
                if strength != 0.0:
                    change = site.to_stored(delta.change().float() * (strength * delta.strength))
                    swapped.append((site.weight, site.weight.data))
                    site.weight.data = (site.weight.data.float() + change).to(site.weight.dtype)

    @staticmethod
    def _unfolded(module: NF4Linear, strength: float, deltas: Mapping[str, forms.Delta]) -> nn.Module:
        """A plain layer at a strength: from the weight before quantisation (0) to the codes' values and all changes
        (1).
        """
        if strength == 0.0:
            return module.plain()
        total = module.matrix(torch.float32)
        for delta in deltas.values():
            if delta.active:
                total = total + delta.change().float() * delta.strength
        if strength != 1.0:
            first = module.original.t() if module.transposed else module.original
            total = torch.lerp(first.to(total.device).float(), total, strength)
        return module.plain(total)

    @contextmanager
    def base(self) -> Iterator[nn.Module]:
        """The untouched base, in place: for reference log-probabilities, hidden states and drift."""
        with self.at_strength(0.0) as model:
            yield model

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """Evaluation mode inside, whatever it was before on leaving."""
        was = self.model.training
        self.model.eval()
        try:
            yield self.model
        finally:
            set_training(self.model, was)

    def tuned_state(self, strength: float = 1.0) -> dict[str, Tensor]:
        """Plain state dict of the model at a strength: only the base's own names, new tensors where they changed."""
        with self.at_strength(strength):
            return {n: t.detach().clone() for n, t in self.model.state_dict().items() if not is_delta(n)}
