"""Stored names against names in memory, as transformers reads them: old prefixes, experts stacked or apart.

Everything here follows transformers' own rules for the model's class (its renamings and conversions), on a skeleton of
the model without weights. It is asked only where the models of a merge are stored under different names.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from tunewright.errors import ModelError
from tunewright.loading.quiet import quiet
from tunewright.weights.source import Source
from tunewright.weights.views import Array, Made

_OLD_TABLES = (r"rotary_emb\.inv_freq", r"(^|\.)position_ids$")
"""What transformers passes over in old files, beside what a model's class names itself."""


@dataclass
class Group:
    """Stored tensors that become tensors in memory together. `converter`: how (None: one, under another name).

    `shapes`: those in memory. `first`: the name in memory that the converter is asked for.
    """

    stored: list[str]
    memory: list[str]
    shapes: dict[str, tuple[int, ...]]
    first: str
    converter: WeightConverter | None = None
    patterns: tuple[str, ...] = ()


def skeleton(source: Source) -> Any:
    """The model's class on the meta device. ModelError where transformers has none for it."""
    kinds = source.config.get("architectures") or []
    kind = getattr(transformers, kinds[0], None) if kinds and isinstance(kinds[0], str) else None
    if kind is None or not issubclass(kind, transformers.PreTrainedModel):
        raise ModelError(
            f"its tensors have other names than the others', and transformers has no class {kinds[:1]} to read them by",
            where=source.ref,
            remedy="load and save the models with one version of transformers, and merge the results",
        )
    try:
        settings = {k: v for k, v in source.config.items() if k != "quantization_config"}
        with quiet(), torch.device("meta"):
            return kind._from_config(kind.config_class.from_dict(settings), attn_implementation="eager")
    except Exception as e:  # whatever a model's class makes of a config
        raise ModelError(
            f"transformers builds no {kinds[0]} from its config: {e}", where=source.ref, remedy="check config.json"
        ) from e


class Layout:
    """How transformers reads one folder. `groups` of its tensors; `dropped`: stored names that it passes over."""

    def __init__(self, source: Source):
        self.source, self.model = source, skeleton(source)
        self.groups: list[Group] = []
        self.dropped: set[str] = set()
        self.memory: dict[str, Tensor] = self.model.state_dict()
        mapping = get_model_conversion_mapping(self.model)
        self.renamings = [t for t in mapping if isinstance(t, WeightRenaming)]
        self.converters = [t for t in mapping if isinstance(t, WeightConverter)]
        self._sort(source.entries)
        self.by_memory = {m: g for g in self.groups for m in g.memory}

    def _sort(self, stored: Iterable[str]) -> None:
        prefix = self.model.base_model_prefix
        owner = {pattern: c for c in self.converters for pattern in c.source_patterns}
        gathered: dict[str, list[tuple[str, str]]] = {}
        for name in sorted(stored, key=dot_natural_key):
            seen, pattern = rename_source_key(name, self.renamings, self.converters, prefix, self.memory)
            if seen not in self.memory and name in self.memory:
                seen, pattern = rename_source_key(name, [], [], prefix, self.memory)
            if seen not in self.memory:
                self._unknown(name, seen)
            elif pattern is None:
                self.groups.append(Group([name], [seen], {seen: self.source.entries[name].shape}, seen))
            else:
                gathered.setdefault(seen, []).append((name, pattern))
        for first, members in gathered.items():
            group = Group([n for n, _ in members], [], {}, first, owner[members[0][1]], tuple(p for _, p in members))
            made = self._converted(
                group, {n: torch.empty(self.source.entries[n].shape, device="meta") for n in group.stored}
            )
            group.shapes = {n: tuple(t.shape) for n, t in made.items()}
            group.memory = list(group.shapes)
            self.groups.append(group)

    def _unknown(self, name: str, seen: str) -> None:
        """A tensor that the model has no place for: passed over where transformers does, else one like any other."""
        passed = [*(getattr(self.model, "_keys_to_ignore_on_load_unexpected", None) or ()), *_OLD_TABLES]
        if any(re.search(p, seen) for p in passed):
            self.dropped.add(name)
        else:
            self.groups.append(Group([name], [seen], {seen: self.source.entries[name].shape}, seen))

    def _converted(self, group: Group, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert group.converter is not None
        converter: Any = copy.deepcopy(group.converter)
        for name, pattern in zip(group.stored, group.patterns, strict=True):
            converter.add_tensor(group.first, name, pattern, tensors[name])
        return _one_each(converter.convert(group.first, model=self.model, config=self.model.config))

    def read(self, group: Group) -> dict[str, Tensor]:
        """A group's tensors in memory, fp32."""
        tensors = {n: torch.from_numpy(self.source.whole(n)) for n in group.stored}
        return {group.first: tensors[group.stored[0]]} if group.converter is None else self._converted(group, tensors)

    def stored(self, group: Group, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The way back: a group's stored tensors from those in memory. ModelError where transformers knows none."""
        assert group.converter is not None
        reverse: Any = group.converter.reverse_transform()
        renamed = group.first
        for name in group.memory:
            renamed, pattern = reverse.rename_source_key(name)
            if pattern is None:
                raise self._no_way_back(group)
            reverse.add_tensor(renamed, name, pattern, tensors[name])
        made = _one_each(reverse.convert(renamed, model=self.model, config=self.model.config))
        seen = {s: rename_source_key(s, self.renamings, [])[0] for s in group.stored}
        out = {}
        for name, t in made.items():
            fitting = [s for s, own in seen.items() if own == name or f".{own}".endswith(f".{name}")]
            fitting = fitting or [s for s, own in seen.items() if name.endswith(f".{own}")]  # files of a bare model
            if len(fitting) != 1 or tuple(t.shape) != self.source.entries[fitting[0]].shape:
                raise self._no_way_back(group)
            out[fitting[0]] = t
        if len(out) != len(group.stored):
            raise self._no_way_back(group)
        return out

    def _no_way_back(self, group: Group) -> ModelError:
        return ModelError(
            f"'{group.memory[0]}' cannot be split into the tensors that the files of '{self.source.ref}' hold",
            where=self.source.ref,
            remedy="load and save the models with one version of transformers, and merge the results",
        )


def _one_each(made: Mapping[str, Any]) -> dict[str, Tensor]:
    return {n: t[0] if isinstance(t, list) else t for n, t in made.items()}


def _array(t: Tensor) -> Array:
    array: Array = t.contiguous().float().numpy()
    return array


def in_memory(source: Source) -> Source:
    """A model under the names that its tensors have in memory."""
    layout = Layout(source)
    plain = {g.memory[0]: g.stored[0] for g in layout.groups if g.converter is None}
    made = {m: i for i, g in enumerate(layout.groups) if g.converter is not None for m in g.memory}

    def make(i: Hashable) -> dict[str, Array]:
        return {n: _array(t) for n, t in layout.read(layout.groups[i]).items()}  # type: ignore[call-overload]

    shapes = {m: layout.groups[i].shapes[m] for m, i in made.items()}
    types = {m: source.stored_type(layout.groups[i].stored[0]) for m, i in made.items()}
    return Made(source, plain, made, make, shapes, types)


def translated(sources: Sequence[Source]) -> tuple[list[Source], dict[str, str]]:
    """Models under the stored names of the first one, and which of its names are copies of which by its class.

    ModelError where transformers cannot read one of them, or cannot make what the first one's files hold.
    """
    layouts = [Layout(s) for s in sources]
    first = layouts[0]
    out = [_as_stored(first, own) for own in layouts]
    tied = getattr(first.model, "all_tied_weights_keys", None) or {}
    shown = {m: g.stored[0] for g in first.groups if g.converter is None for m in g.memory}
    return out, {shown.get(c, c): shown[o] for c, o in tied.items() if o in shown}


def _as_stored(first: Layout, own: Layout) -> Source:
    """One model under the names that the first one's files have."""
    source = own.source
    names: dict[str, str] = {}
    recipes: dict[str, Hashable] = {}
    types: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    used: set[str] = set()
    for i, group in enumerate(first.groups):
        theirs = [own.by_memory[m] for m in group.memory if m in own.by_memory]
        if len(theirs) < len(group.memory):
            continue
        used |= set(group.memory)
        if _alike(group, theirs):
            names |= dict(zip(group.stored, theirs[0].stored, strict=True))
            continue
        if odd := [m for g in theirs for m in group.memory if m in g.shapes and g.shapes[m] != group.shapes[m]]:
            raise ModelError(
                f"'{odd[0]}' is {own.by_memory[odd[0]].shapes[odd[0]]}, in '{first.source.ref}' {group.shapes[odd[0]]}",
                where=source.ref,
                remedy="merge fine-tunings of one base",
            )
        for n in group.stored:
            recipes[n], shapes[n] = i, first.source.entries[n].shape
            types[n] = source.stored_type(theirs[0].stored[0])
    for group in own.groups:
        if not used & set(group.memory):
            names |= {group.memory[0]: group.stored[0]} if group.converter is None else {s: s for s in group.stored}

    def make(i: Hashable) -> dict[str, Array]:
        group = first.groups[i]  # type: ignore[call-overload]
        memory: dict[str, Tensor] = {}
        for m in group.memory:
            if m not in memory:
                memory |= own.read(own.by_memory[m])
        made = {group.stored[0]: memory[group.first]} if group.converter is None else first.stored(group, memory)
        return {n: _array(t) for n, t in made.items()}

    return Made(source, names, recipes, make, shapes, types)


def _alike(group: Group, theirs: Sequence[Group]) -> bool:
    """Whether both sides store the same tensors, so that each stands for its twin."""
    own = theirs[0]
    if any(g is not own for g in theirs) or own.memory != group.memory or len(own.stored) != len(group.stored):
        return False
    return (own.converter is None) == (group.converter is None) and own.patterns == group.patterns
