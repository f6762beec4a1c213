"""A request's method and parameters: checked before anything is read, then resolved tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunewright import catalogue
from tunewright.errors import MethodError, RecipeError, did_you_mean
from tunewright.weights import fast, parameters
from tunewright.weights.parameters import MergeFields
from tunewright.weights.request import Part, Request
from tunewright.weights.settings import Setting, mapped, resolve, values_of

ROOMS = ("weights/merge", catalogue.THIRD_PARTY)
Settings = Mapping[str, Setting]


class Operator:
    """A request's method: whether a kernel serves it, and the parameters of each tensor and model.

    `parts` are the request's models. Their settings and the `shared` ones are by field, and hold values as the method's
    class takes them. RecipeError for a parameter that the method does not have, and for a value that it refuses.
    """

    def __init__(self, request: Request):
        self.name, self.request, self.where = catalogue.canonical(request.method), request, request.where
        self._class: Any = None
        entry = catalogue.lookup(self.name)
        if entry is None or entry.room not in ROOMS:
            known = [n for n, e in catalogue.entries().items() if e.room in ROOMS]
            raise RecipeError(
                f"no merge is named '{request.method}'", where=self.where, remedy=did_you_mean(request.method, known)
            )
        row = None if request.then else fast.TABLE.get(self.name)  # edits take whole tensors
        self.fields: type[MergeFields] = row.fields if row else self._loaded()
        self.mergekit = parameters.mergekit_defaults(self.fields) if request.mergekit else {}
        self.shared, self.parts = self._checked()
        self.fast = row if row and self._covers(row) else None

    def _loaded(self) -> Any:
        if self._class is None:
            cls = catalogue.load_method(self.name, self.where)
            if not issubclass(cls, MergeFields):
                raise MethodError(
                    f"'{self.name}' is no merge",
                    where=self.where,
                    remedy="name one (`tunewright methods` lists them); a merge derives from weights.operator.Merge",
                )
            self._class = cls
        return self._class

    @property
    def learns(self) -> bool:
        return self.fast is None and bool(self._loaded().learns)

    def check_count(self, count: int, base: bool) -> None:
        """MethodError where the method cannot take so many models, or lacks its base."""
        parameters.check_count(self.fields, self.name, count, base, self.where)

    # -- parameters as they are given ------------------------------------------------------------------------------

    def _checked(self) -> tuple[Settings, list[Part]]:
        shared = self._by_field(self.request.parameters)
        own = [self._by_field(m.parameters) for m in self.request.models]
        for m in self.request.models:
            if odd := [n for n in m.parameters if self._field(n) not in self.fields.per_model]:
                names = [n for n, field in parameters.written(self.fields).items() if field in self.fields.per_model]
                raise RecipeError(
                    f"'{odd[0]}' of '{self.name}' is one for all models",
                    where=f"{self.where}: {m.ref}",
                    remedy="write it under the merge's own parameters; a model's own: " + (", ".join(names) or "none"),
                )
        beside = own[0] if own else {}
        parts = [
            Part(m.ref, self._taken(settings, shared)) for m, settings in zip(self.request.models, own, strict=True)
        ]
        return self._taken(shared, beside), parts

    def _field(self, name: str) -> str:
        return parameters.field_of(self.fields, self.name, name, f"{self.where}: {name}")

    def _by_field(self, given: Settings) -> dict[str, Setting]:
        return {self._field(n): setting for n, setting in given.items()}

    def _taken(self, settings: Settings, beside: Settings) -> dict[str, Setting]:
        """Settings with every value as the class takes it, where `beside` says what else is given."""
        first = {n: next(iter(self._values(n, s))) for n, s in {**beside, **settings}.items()}
        parameters.checked(self.fields, self.name, {**self.mergekit, **first}, self.where)

        def taken(field: str) -> Callable[[Any], Any]:
            return lambda value: parameters.checked(
                self.fields, self.name, {**self.mergekit, **first, field: value}, self.where
            )[field]

        return {n: taken(n)(s) if self._whole(n) else mapped(s, taken(n)) for n, s in settings.items()}

    def _whole(self, field: str) -> bool:
        """Whether a list for this field is its value, and no gradient over layers."""
        return parameters.is_list(self.fields, field)

    def _values(self, field: str, setting: Setting) -> list[Any]:
        if self._whole(field):
            return [setting]
        name = self.fields.model_fields[field].alias or field
        return list(values_of(setting, f"{self.where}: {name}"))

    def _covers(self, row: fast.Fast) -> bool:
        given = [(n, s) for settings in (self.shared, *(p.parameters for p in self.parts)) for n, s in settings.items()]
        return all(v == row.only[n] for n, s in given if n in row.only for v in self._values(n, s))

    # -- parameters of one tensor ----------------------------------------------------------------------------------

    def at(
        self, name: str, place: float, parts: Sequence[Part], inputs: Sequence[str] | None = None
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """(parameters for all models, each part's own) of one tensor, by field.

        `inputs`: the names that the parts know it by, where they are others.
        """
        own = parameters.defaults(self.fields) | self.mergekit | self._resolved(self.shared, name, place)
        each = [
            {n: own[n] for n in self.fields.per_model if n in own} | self._resolved(p.parameters, known_as, place)
            for p, known_as in zip(parts, inputs or [name] * len(parts), strict=True)
        ]
        for values in each:
            if missing := [n for n in self.fields.per_model if n not in values]:
                raise RecipeError(
                    f"no filter of '{missing[0]}' fits '{name}'",
                    where=self.where,
                    remedy="add {value: ...} at the end",
                )
        return own, each

    def _resolved(self, settings: Settings, name: str, place: float) -> dict[str, Any]:
        values = {n: s if self._whole(n) else resolve(s, name, place) for n, s in settings.items()}
        return {n: v for n, v in values.items() if v is not None}

    def method(self, own: Mapping[str, Any], each: Sequence[Mapping[str, Any]]) -> Any:
        """The method's object with the parameters of one tensor; what only models have is the first one's there."""
        given = {n: own[n] for n in {**self.mergekit, **self.shared} if n in own}
        first = {n: v for n, v in (each[0] if each else {}).items() if n not in own}
        return parameters.built(self._loaded(), self.name, {**first, **given}, self.where)
