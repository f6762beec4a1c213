"""A merge's sections: which models make which tensors of the result, and what parameters hold there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunewright.errors import MethodError, RecipeError
from tunewright.weights import layers, names
from tunewright.weights.request import Part, Request, Section, same_model
from tunewright.weights.resolving import Operator
from tunewright.weights.settings import Depths, chained
from tunewright.weights.source import Entry, Source
from tunewright.weights.views import View


@dataclass
class Span:
    """Tensors of the result that are merged from the same models: by the name that each has in the result.

    `place` gives where a tensor lies for parameters that are gradients; `base` and `models` show their tensors under
    the result's names. `sliced`: the models know them by other ones.
    """

    operator: Operator
    base: Source | None
    parts: Sequence[Part]
    models: Sequence[Source]
    entries: Mapping[str, Entry]
    place: Callable[[str], float]
    sliced: bool = False

    @property
    def sources(self) -> list[Source]:
        return [*([self.base] if self.base else []), *self.models]

    def parameters(self, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """(parameters for all models, each model's own) of one tensor, by field."""
        inputs = [s.names[name] for s in self.models if isinstance(s, View)] if self.sliced else None
        return self.operator.at(name, self.place(name), self.parts, inputs)


def whole(operator: Operator, base: Source | None, parts: Sequence[Part], models: Sequence[Source]) -> Span:
    """All tensors of all models, which must have the same ones."""
    entries = names.common([*([base] if base else []), *models])
    depths = Depths(list(entries), mergekit=operator.request.mergekit)
    return Span(operator, base, parts, models, entries, depths.place)


def first_of(request: Request) -> Request:
    """The merge of its first section, or the whole one."""
    return request_of(request, request.sections[0]) if request.sections else request


def request_of(request: Request, section: Section) -> Request:
    """A section as a merge of its own, with the parameters that hold in it."""
    parameters = chained(section.parameters, request.parameters)
    base = section.base or request.base
    return replace(request, models=section.models, base=base, parameters=parameters, sections=(), notes=())


Opened = Callable[[Request, Operator], tuple[Source | None, list[Part], list[Source]]]


def spans(request: Request, opened: Opened, config: dict[str, Any]) -> list[Span]:
    """The spans of a request with sections. `opened` gives a section's models; `config` is changed to fit the result.

    Raises RecipeError and ModelError for layers that are not there, and for tensors that no section or two make.
    """
    made: list[Span] = []
    known: list[tuple[Section, Request, Operator, Source | None, list[Part], list[Source]]] = []
    for section in request.sections:
        asked = request_of(request, section)
        operator = Operator(asked)
        known.append((section, asked, operator, *opened(asked, operator)))
    for module in dict.fromkeys(s.module for s in request.sections):
        rows = [row for row in known if row[0].module == module]
        if len(rows) == 1 and all(p.layers is None for p in rows[0][0].models):
            _, _, operator, base, parts, models = rows[0]
            made.append(_module(operator, base, parts, models, module, request.where))
        else:
            made += _stacked(rows, module, request, config)
    _whole_and_once(made, known, request)
    return made


def _whole_and_once(made: Sequence[Span], known: Sequence[Any], request: Request) -> None:
    seen: set[str] = set()
    for span in made:
        if twice := [n for n in span.entries if n in seen]:
            raise RecipeError(
                f"'{twice[0]}' belongs to two of the modules", where=request.where, remedy="name modules that are apart"
            )
        seen |= set(span.entries)
    if any(s.module != "default" for s in request.sections):
        like = next(s for row in known for s in (row[3], *row[5]) if s is not None)
        stacks = {layers.block_of(n)[0] for n in seen if layers.block_of(n)}  # type: ignore[index]
        left = [n for n in like.entries if n not in seen and (layers.block_of(n) or ("",))[0] not in stacks]
        if left:
            raise RecipeError(
                f"{len(left)} tensors belong to none of the modules: {names.some(left)}",
                where=request.where,
                remedy="name their module too; names of modules: " + ", ".join(layers.MODULES),
            )


def _module(
    operator: Operator, base: Source | None, parts: Sequence[Part], models: Sequence[Source], module: str, where: str
) -> Span:
    """One module of all models, as it is."""

    def shown(source: Source) -> Source:
        return View(source, {n: n for n in layers.in_module(source.entries, module, where)})

    return whole(operator, None if base is None else shown(base), parts, [shown(m) for m in models])


def _stacked(rows: Sequence[Any], module: str, request: Request, config: dict[str, Any]) -> list[Span]:
    """Slices one on the other: what is before the blocks is the first slice's, what is behind them the last one's."""
    made: list[Span] = []
    top, old, runs = 0, 0, []
    for i, (section, _, operator, base, parts, models) in enumerate(rows):
        count = _count(section, request.where)
        views: list[Source] = []
        for source in [*([base] if base else []), *models]:
            inside = layers.in_module(source.entries, module, request.where)
            stack, length = layers.blocks(inside, source.config, f"{request.where}: {source.ref}")
            start, stop = _layers_of(section, source, length, request.where)
            if not views:
                runs.append((source.config, start, stop))
                old = old or length
            picked = {}
            for n in inside:
                block = layers.block_of(n)
                if block is not None and block[0] == stack:
                    if start <= block[1] < stop:
                        picked[_moved(n, stack, block[1], top + block[1] - start)] = n
                elif i == (0 if layers.FIRST.search(n) else len(rows) - 1):
                    picked[n] = n
            views.append(View(source, picked))
        entries = names.common(views)
        shown = views.pop(0) if base else None
        made.append(Span(operator, shown, parts, views, entries, _places(stack, top, count), sliced=True))
        top += count
    layers.with_layers(config, old, runs, module)
    return made


def _count(section: Section, where: str) -> int:
    lengths = {p.layers[1] - p.layers[0] for p in section.models if p.layers is not None}
    if len(lengths) != 1 or any(p.layers is None for p in section.models):
        raise RecipeError(
            f"the models of a slice take {', '.join(map(str, sorted(lengths))) or 'no'} layers",
            where=where,
            remedy="give all of them a layer_range of one length",
        )
    return lengths.pop()


def _layers_of(section: Section, source: Source, length: int, where: str) -> tuple[int, int]:
    asked = next((p.layers for p in section.models if same_model(p.ref, source.ref)), None)
    if asked is None:
        raise MethodError(
            f"the base '{source.ref}' is not among the sources of a slice",
            where=where,
            remedy="name it in every slice, with the layers that the others' changes are counted from",
        )
    if asked[1] > length:
        raise RecipeError(
            f"a slice takes layers {list(asked)} of '{source.ref}', which has {length}",
            where=where,
            remedy=f"write a layer_range within [0, {length}]",
        )
    return asked


def _moved(name: str, stack: str, index: int, to: int) -> str:
    head = f"{stack}." if stack else ""
    return f"{head}{to}{name[len(f'{head}{index}') :]}"


def _places(stack: str, top: int, count: int) -> Callable[[str], float]:
    """Gradients run over a slice's own layers; one layer alone is their end, what lies outside layers their start."""

    def place(name: str) -> float:
        block = layers.block_of(name)
        if block is None or block[0] != stack:
            return 0.0
        return (block[1] - top) / (count - 1) if count > 1 else 1.0

    return place
