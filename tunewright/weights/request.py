"""What a merge is asked to do, checked before anything is read: method, models, parameters, output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tunewright import catalogue
from tunewright.errors import MethodError, RecipeError, did_you_mean
from tunewright.weights import fast
from tunewright.weights.settings import Setting, resolve, values_of

Step = tuple[str, Mapping[str, Any]]
"""An edit of the merged change: a method's name and its parameters."""
DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass(frozen=True)
class Part:
    """One model of a merge with what it has of its own."""

    ref: str
    parameters: Mapping[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """A merge. `parameters` are for all models; `dtype` is what is stored (none: as the base or the first model stores
    it).

    `kind`: "model" writes a transformers folder, "delta" what differs from the base, "adapter" one PEFT adapter (of
    adapters). `tokenizer`: the model whose tokenizer is taken (none: the base's or the first model's). `shard_size` in
    bytes. `where` names the file that it came from. `mergekit`: parameters that are left out have mergekit's defaults,
    not the papers'. `then`: edits of the merged change.
    """

    method: str
    models: Sequence[Part]
    out: Path
    base: str | None = None
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    dtype: str | None = None
    kind: Literal["model", "delta", "adapter"] = "model"
    shard_size: int = 5_000_000_000
    tokenizer: str | None = None
    seed: int = 0
    threads: int | None = None
    where: str = "merge"
    mergekit: bool = False
    then: Sequence[Step] = ()


class Operator:
    """A request's method: whether a kernel serves it, and the parameters of each tensor and model."""

    def __init__(self, request: Request):
        self.name = catalogue.canonical(request.method)
        self.request = request
        self.where = request.where
        entry = catalogue.lookup(self.name)
        if entry is None or entry.room not in ("weights/merge", catalogue.THIRD_PARTY):
            known = [n for n, e in catalogue.entries().items() if e.room == "weights/merge"]
            raise RecipeError(
                f"no merge is named '{request.method}'", where=self.where, remedy=did_you_mean(request.method, known)
            )
        self.fast: fast.Fast | None = None if request.method == "plain" else fast.TABLE.get(self.name)
        self._class: Any = None
        self.base: str
        given = [request.parameters, *(m.parameters for m in request.models)]
        if request.then:  # edits take whole tensors
            self.fast = None
        if self.fast and any(
            v not in (self.fast.only[n],)
            for g in given
            for n, s in g.items()
            if n in self.fast.only
            for v in values_of(s, self.where)
        ):
            self.fast = None
        if self.fast:
            self.base, (self.least, self.most), self.per_model = self.fast.base, self.fast.models, self.fast.per_model
        else:
            self._load()
        self._check(request)

    def _load(self) -> None:
        self._class = cls = catalogue.load_method(self.name, self.where)
        self.base = getattr(cls, "base", "optional")
        self.least, self.most = getattr(cls, "models", (1, None))
        self.per_model = getattr(cls, "per_model", ())

    @property
    def learns(self) -> bool:
        return self._class is not None and self._class.learns

    def _check(self, request: Request) -> None:
        for g in [request.parameters, *(m.parameters for m in request.models)]:
            for name, setting in g.items():
                where = f"{self.where}: {name}"
                self._check_name(name, where)
                for value in values_of(setting, where):
                    self._check_value(name, value, where)
        for m in request.models:
            if odd := [n for n in m.parameters if n not in self.per_model]:
                raise RecipeError(
                    f"'{odd[0]}' of '{self.name}' is one for all models",
                    where=f"{self.where}: {m.ref}",
                    remedy="write it under the merge's own parameters; a model's own: "
                    + (", ".join(self.per_model) or "none"),
                )

    def _check_name(self, name: str, where: str) -> None:
        if self.fast:
            fast.check_name(self.name, name, where)
        elif name == "of" or name not in self._names():
            raise RecipeError(
                f"'{self.name}' has no parameter '{name}'",
                where=where,
                remedy=did_you_mean(name, [n for n in self._names() if n != "of"]),
            )

    def _check_value(self, name: str, value: Any, where: str) -> None:
        if self.fast:
            fast.check_value(self.name, name, value, where)
        else:
            self._built({name: value}, where)

    def _names(self) -> list[str]:
        return [info.alias or n for n, info in self._class.model_fields.items()]

    def _built(self, values: Mapping[str, Any], where: str) -> Any:
        from tunewright.recipe.uses import MethodUse

        return catalogue.build(MethodUse(name=self.name, params=dict(values)), where)

    def check_count(self, count: int, base: bool) -> None:
        """MethodError where the method cannot take so many models, or lacks its base."""
        if count < self.least or (self.most is not None and count > self.most):
            wanted = (
                f"exactly {self.least}"
                if self.least == self.most
                else f"at least {self.least}"
                if self.most is None
                else f"{self.least} to {self.most}"
            )
            raise MethodError(
                f"'{self.name}' takes {wanted} models, and got {count}",
                where=self.where,
                remedy="name fewer models" if count > self.least else "name more models",
            )
        if self.base == "needed" and not base:
            raise MethodError(
                f"'{self.name}' works on changes from a common base, and none is given",
                where=self.where,
                remedy="name it: --base FOLDER",
            )

    def defaults(self) -> dict[str, Any]:
        """Defaults of all parameters, by the name a user writes."""
        if self.fast:
            return {**self.fast.defaults, **(self.fast.mergekit if self.request.mergekit else {})}
        found = {info.alias or n: info.default for n, info in self._class.model_fields.items() if n != "of"}
        return {**found, **(getattr(self._class, "mergekit_defaults", {}) if self.request.mergekit else {})}

    def at(self, name: str, place: float, models: Sequence[Part]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """(parameters for all models, each model's own) of one tensor."""
        own = self.defaults()
        for key, setting in self.request.parameters.items():
            value = resolve(setting, name, place)
            own[key] = own[key] if value is None else value
        each = []
        for m in models:
            mine = {key: own[key] for key in self.per_model}
            for key, setting in m.parameters.items():
                value = resolve(setting, name, place)
                mine[key] = mine[key] if value is None else value
            each.append(mine)
        return own, each

    def method(self, own: Mapping[str, Any]) -> Any:
        """The method's object with the parameters of one tensor."""
        if self._class is None:
            self._load()
        given = {
            *self.request.parameters,
            *(getattr(self._class, "mergekit_defaults", {}) if self.request.mergekit else {}),
        }
        return self._built({n: own[n] for n in given}, self.where)
