"""A model under adaptation: the frozen base, the deltas on its sites, the base tensors that train, and the way back.

The first value of every base tensor that ever changes is kept (whole, or only the entries that train; in memory, or in
the file that it was loaded from), so that the base can be had back bit for bit, any strength between base and tuned can
be dialled, and a change can be written out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.errors import MethodError
from tunewright.models import deltas as forms
from tunewright.models.agreement import same_bits
from tunewright.models.delta_names import is_delta
from tunewright.models.divided import Divided, divided
from tunewright.models.modes import keep_nothing, set_training
from tunewright.models.nf4 import NF4Linear, put
from tunewright.models.originals import Files, Original
from tunewright.models.reshapable import Operated, Reshapable
from tunewright.models.shards import is_divided, own
from tunewright.models.sites import Site, Structure, discover
from tunewright.models.streamed import streamed, trains_what_is_away


def _switch(delta: forms.Delta, active: bool, strength: float) -> None:
    delta.active, delta.strength = active, strength


def _put_back(rows: Tensor, values: Tensor) -> None:
    rows.copy_(values)


def _moved(site: Site, delta: forms.Delta, strength: float) -> Tensor:
    """A site's weight with a plain delta added."""
    change = site.to_stored(delta.change().float() * (strength * delta.strength))
    return (site.weight.data.float() + change).to(site.weight.dtype)


def _folded(site: Site, folding: Sequence[forms.Delta], strength: float, weight: Tensor | None) -> Tensor:
    """A site's weight with deltas of any form folded in; `weight`: as [out, in], where it is known already."""
    if weight is None:
        weight, _ = forms.fold_into(site, folding, strength)
    return site.to_stored(weight).to(site.weight.dtype).contiguous()


@dataclass
class Wrapped:
    """Who made the wrapper: `method` (its name, parameters, plan and task as JSON) and the method's `state` module.

    `goes_on`: all of its parameters are left to later stages by name (there may be none), so that the same method can
    wrap anew what it goes on with.
    """

    method: dict[str, Any]
    state: Any
    goes_on: bool = False


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
        self.dialled: float | None = None  # the strength that the change has now, inside `at_strength`
        self.added: set[str] = set()  # biases that the base does not have: a change was folded into them
        self.notes: list[str] = []
        self.lent: set[str] = set()  # parameters whose numbers others read too: they are copied before they change
        for p in model.parameters():
            p.requires_grad_(False)
        keep_nothing(model)

    # -- what is there ---------------------------------------------------------------------------------------------

    @property
    def outer(self) -> nn.Module:
        """The module whose forward is the adapted model's: what a method wraps it in, else the model itself."""
        return self.wrapper or self.model

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are."""
        return next(self.model.parameters()).device

    @property
    def divided(self) -> Divided | None:
        """The division of its weights among processes; None where each holds them whole."""
        return divided(self.model)

    def base_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of the model itself, under its own names; a tied one once."""
        return {n: p for n, p in self.model.named_parameters() if not is_delta(n)}

    def delta_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of all deltas, "<site>.delta.<name>.<part>"."""
        return {n: p for n, p in self.model.named_parameters() if is_delta(n)}

    def trainable_deltas(self) -> dict[str, nn.Parameter]:
        """Parameters of the deltas that may train: those carried from an earlier stage as `frozen` are left out."""
        return {n: p for n, p in self.delta_parameters().items() if not forms.is_frozen(p)}

    def trainable_new(self) -> tuple[str, ...]:
        """Names of the parameters drawn afresh that may train: those that a method holds still are left out."""
        parameters = self.base_parameters()
        return tuple(n for n in self.new if not forms.is_frozen(parameters[n]))

    def deltas(self) -> dict[str, dict[str, forms.Delta]]:
        """site name -> delta name -> delta, for every site that has one."""
        by_site = {s.name: forms.deltas_of(s) for s in self.structure.every_site}
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
        there: dict[str, Any] = {"deltas": self.deltas(), "a wrapper": self.wrapper}
        there |= {"layers in 4 bits": self.quantised(), "biases that the base does not have": self.added}
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
        if (away := streamed(self.model)) is not None and p in away:
            raise trains_what_is_away(name)
        if name in self.lent:
            p.data = p.data.clone()
            self.lent.discard(name)
        indices = None if indices is None else indices.to(p.device)
        original = self.originals.get(name)
        if original is None:
            if indices is None:
                kept = self.files is None or is_divided(p)  # a file is read whole, and of this one rows are held
                self.originals[name] = (
                    Original(own(p.detach()).clone()) if kept else self.files.original(name, p)  # type: ignore[union-attr]
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
        for site in self.structure.every_site:
            forms.detach(site)
        while self.operated:
            self.undo()
        for p in self.base_parameters().values():
            forms.set_frozen(p, False)

    def put_back(self) -> None:
        """Every original in its place, and forgotten."""
        parameters = self.base_parameters()
        with torch.no_grad():
            for name, original in self.originals.items():
                if name not in self.added:
                    own(parameters[name]).copy_(original.restored(parameters[name]))
        self.originals.clear()
        for name in self.added:
            self._put_bias(name, None)
        self.added.clear()

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
                here = forms.deltas_of(site)
                foldable = {n: d for n, d in here.items() if d.foldable and (name is None or n == name)}
                if len(foldable) < len(here):  # what stays reads the edited input: the edit must stay beside it
                    foldable = {n: d for n, d in foldable.items() if not d.edits_input}
                if not foldable:
                    continue
                self._fold_site(site, list(foldable.values()))
                for n in foldable:
                    forms.detach(site, n)
                count += 1
        return count

    def _fold_site(self, site: Site, deltas: Sequence[forms.Delta]) -> None:
        weight: Tensor
        if all(forms.is_plain(d) for d in deltas):
            self.remember(site.weight_name)
            for d in deltas:
                change = (d.change().float() * d.strength).to(site.weight.dtype)
                site.weight.data = site.weight.data + site.to_stored(change)
            return
        weight, bias = forms.fold_into(site, deltas)
        if not same_bits(weight, site.matrix().float()):
            self.remember(site.weight_name)
            site.weight.data = site.to_stored(weight).to(site.weight.dtype).contiguous()
        if bias is not None:
            self.add_bias(site)
            site.module.bias.data = bias.to(site.weight.dtype)  # type: ignore[union-attr]

    def add_bias(self, site: Site) -> None:
        """Give a linear layer a bias of zeros where the base has none, and keep what it was either way."""
        name = f"{site.name}.bias"
        if getattr(site.module, "bias", None) is None:
            zeros = site.weight.new_zeros(site.out_features)
            self._put_bias(name, nn.Parameter(zeros, requires_grad=False))
            self.originals[name] = Original(zeros.clone())
            self.added.add(name)
        self.remember(name)

    def _put_bias(self, name: str, bias: nn.Parameter | None) -> None:
        self.model.get_submodule(name.removesuffix(".bias"))._parameters["bias"] = bias

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
        before, self.dialled = self.dialled, strength
        try:
            if (strength == 1.0 and self.wrapper is not None) or (strength == 0.0 and self._away):
                yield self.model
                return
            with self._of_this_shape(strength), self._in_own_shape(strength == 0.0):
                yield self.model
        finally:
            self.dialled = before

    @contextmanager
    def started(self) -> Iterator[nn.Module]:
        """The model as training began from the base: the base, in the present shape where that was changed."""
        with self._of_this_shape(0.0):
            yield self.model

    @contextmanager
    def _of_this_shape(self, strength: float) -> Iterator[None]:
        """The plain model at a strength, in the shape that it has now."""
        undo: list[Callable[[], None]] = []
        quantised = self.quantised()
        exchanged = {n: self.model.get_submodule(n) for n in quantised}
        try:
            with torch.no_grad():
                self._dial_base(strength, undo)
                for site_name, by_name in self.deltas().items():
                    if site_name not in quantised:
                        self._dial_deltas(self.structure.site(site_name), by_name, strength, undo)
                for name, module in quantised.items():
                    put(self.model, name, self._unfolded(module, strength, self.deltas().get(name, {})))
            yield
        finally:
            for name, there in exchanged.items():
                put(self.model, name, there)
            for back in reversed(undo):
                back()

    def _dial_base(self, strength: float, undo: list[Callable[[], None]]) -> None:
        """Base tensors that changed, at a strength; a bias that the base does not have is away at 0."""
        parameters: dict[str, nn.Parameter] = self.base_parameters()
        for name, original in self.originals.items() if strength != 1.0 else ():
            p = parameters[name]
            if strength == 0.0 and name in self.added:
                undo.append(partial(self._put_bias, name, p))
                self._put_bias(name, None)
                continue
            first, now = original.restored(p), own(p)
            value = first if strength == 0.0 else torch.lerp(first.float(), now.data.float(), strength).to(p.dtype)
            if is_divided(p):
                undo.append(partial(_put_back, now, now.clone()))
                now.copy_(value)
                continue
            undo.append(partial(setattr, p, "data", p.data))
            p.data = value

    def _set_weight(self, site: Site, make: Callable[[], Tensor]) -> Callable[[], None]:
        """Give a site's weight the values that `make` gives, also each time that its block is brought in or together;
        returns the way back.
        """
        if self.divided is not None and self.divided.holds(site.module, "weight"):
            return self.divided.change(site.module, "weight", make)
        weight: Any = site.weight
        if (away := streamed(self.model)) is not None and weight in away:
            return away.change(weight, make)
        back = partial(setattr, weight, "data", weight.data)
        weight.data = make()
        return back

    def _set_bias(self, site: Site, bias: Tensor) -> Callable[[], None]:
        """Give a linear site another bias [out]; returns the way back."""
        there = site.module._parameters.get("bias")
        if self.divided is not None and self.divided.holds(site.module, "bias"):
            return self.divided.change(site.module, "bias", lambda: bias)
        new = nn.Parameter(bias.to(site.weight.dtype), requires_grad=False)
        self._put_bias(f"{site.name}.bias", new)
        return partial(self._put_bias, f"{site.name}.bias", there)

    def _dial_deltas(
        self, site: Site, by_name: Mapping[str, forms.Delta], strength: float, undo: list[Callable[[], None]]
    ) -> None:
        """A site's deltas folded in at a strength; those that do not fold, and edits of what these read, dialled."""
        live = [d for d in by_name.values() if d.active]
        stays = not all(d.foldable for d in live)
        folding = [d for d in live if d.foldable and not (stays and d.edits_input)]
        for d in live:
            undo.append(partial(_switch, d, d.active, d.strength))
            if d not in folding:
                d.strength = d.strength * strength
        if strength == 0.0 or not folding:
            pass
        elif all(forms.is_plain(d) for d in folding):
            for d in folding:
                undo.append(self._set_weight(site, partial(_moved, site, d, strength)))
        else:
            weight, bias = forms.fold_into(site, folding, strength)
            folded = weight if streamed(self.model) is None and self.divided is None else None
            undo.append(self._set_weight(site, partial(_folded, site, folding, strength, folded)))
            if bias is not None:
                undo.append(self._set_bias(site, bias))
        for d in folding:
            d.active = False

    @staticmethod
    def _unfolded(module: NF4Linear, strength: float, deltas: Mapping[str, forms.Delta]) -> nn.Module:
        """A plain layer at a strength: from the weight before quantisation (0) to the codes' values and all changes
        (1).
        """
        if strength == 0.0:
            return module.plain()
        live = [d for d in deltas.values() if d.active]
        old = module.bias
        total, bias = forms.folded(module.matrix(torch.float32), None if old is None else old.float(), live)
        if strength != 1.0:
            first = module.original.t() if module.transposed else module.original
            total = torch.lerp(first.to(total.device).float(), total, strength)
            if bias is not None:
                bias = torch.lerp(torch.zeros_like(bias) if old is None else old.float(), bias, strength)
        layer = module.plain(total)
        if bias is not None:
            layer._parameters["bias"] = nn.Parameter(bias.to(module.dtype), requires_grad=False)
        return layer

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
        """Plain state dict of the model at a strength: only the base's own names, new tensors where they changed.

        MethodError where the weights are divided among processes: no process has them all.
        """
        if self.divided is not None:
            raise MethodError(
                "all of the model's weights are asked for at once, and each process holds a part of them",
                where="train.fsdp",
                remedy="remove train.fsdp, or what asks",
            )
        with self.at_strength(strength):
            return {n: t.detach().clone() for n, t in self.model.state_dict().items() if not is_delta(n)}
