"""Parts of mergekit's files: models, parameters, slices and modules, read strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.catalogue import canonical
from tunewright.errors import FolderError, RecipeError, did_you_mean
from tunewright.files.home import expanded
from tunewright.weights.request import Part, Section

_SPARSE = ("normalize", "rescale", "lambda"), ("weight", "density")
TAKES: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "linear": (("normalize",), ("weight",)),
    "slerp": (("t",), ()),
    "nuslerp": (("nuslerp_row_wise", "nuslerp_flatten"), ("weight",)),
    "multislerp": (("normalize_weights", "eps"), ("weight",)),
    "passthrough": ((), ("scale",)),
    "model_stock": (("filter_wise",), ()),
    "arcee_fusion": ((), ()),
    "karcher": (("max_iter", "tol"), ()),
    "nearswap": (("t",), ()),
    "ram": (("epsilon",), ()),
    "ramplus_tl": (("r", "alpha", "epsilon"), ()),
    "sce": (("select_topk",), ()),
    "task_arithmetic": (("normalize", "lambda"), ("weight",)),
    "ties": _SPARSE,
    "dare_ties": _SPARSE,
    "dare_linear": _SPARSE,
    "breadcrumbs": (_SPARSE[0], (*_SPARSE[1], "gamma")),
    "breadcrumbs_ties": (_SPARSE[0], (*_SPARSE[1], "gamma")),
    "della": (_SPARSE[0], (*_SPARSE[1], "epsilon")),
    "della_linear": (_SPARSE[0], (*_SPARSE[1], "epsilon")),
}
"""mergekit's methods, and what changes their values: parameters for all models, and those that each may have."""
KNOWN = frozenset(name for of in TAKES.values() for names in of for name in names) | {"int8_mask"}
"""Every parameter of mergekit: where a method does not take one, mergekit reads it and does nothing with it."""


class Reader:
    """What the parts of one merge share: where it stands, the folder that its paths start from, its method, the folders
    of the file's other merges by their names, and what was read that does nothing.
    """

    def __init__(self, where: str, beside: Path, method: str, steps: Mapping[str, Path]):
        self.where, self.beside, self.method, self.steps = where, beside, method, steps
        self.notes: list[str] = []

    def wrong(self, what: str, remedy: str, at: str = "") -> RecipeError:
        return RecipeError(what, where=f"{self.where}: {at}" if at else self.where, remedy=remedy)

    def keys(self, mapping: Any, known: Sequence[str], of: str, form: str) -> dict[str, Any]:
        """A mapping with known keys only."""
        if not isinstance(mapping, dict):
            raise self.wrong(f"{of} is a mapping, not {shown(mapping)}", f"write {form}")
        if odd := [k for k in mapping if k not in known]:
            raise self.wrong(f"unknown key '{odd[0]}' of {of}", did_you_mean(str(odd[0]), known))
        return mapping

    def listed(self, values: Any, of: str, form: str) -> list[Any]:
        if not isinstance(values, list) or not values:
            what = "is empty" if values == [] else f"is {shown(values)}"
            raise self.wrong(f"the list of {of} {what}", f"write {form}")
        return values

    # -- models ----------------------------------------------------------------------------------------------------

    def model(self, named: Any) -> str:
        """A model as it is opened: a folder from the file's own place, MODEL+ADAPTER, or what the file says."""
        ref = self._ref(named)
        under, plus, change = ref.partition("+")
        if plus and self._located(ref) == ref and not _exists(ref):
            return f"{self._located(under)}+{self._located(change)}"
        return self._located(ref)

    def _ref(self, named: Any) -> str:
        if isinstance(named, str) and named and "\0" not in named:
            return named
        if isinstance(named, dict):
            known = self.keys(named, ("model", "lora", "override_architecture"), "a model", "model: FOLDER")
            if known.get("override_architecture") is not None:
                raise self.wrong("override_architecture is not read here", "name models of one architecture")
            parts = [self._path(known.get("model"))]
            parts += [self._path(known["lora"])] if known.get("lora") is not None else []
            return "+".join(parts)
        raise self.wrong(f"{shown(named)} is no model", "write a folder, a hub id, or MODEL+ADAPTER")

    def _path(self, named: Any) -> str:
        if isinstance(named, str) and named and "\0" not in named:
            return named
        known = self.keys(named, ("path", "revision"), "a model", "model: {path: FOLDER}")
        path, revision = known.get("path"), known.get("revision")
        if not isinstance(path, str) or not path or "\0" in path or not isinstance(revision, str | None):
            raise self.wrong(f"{shown(named)} is no model", "write {path: FOLDER} or {path: OWNER/NAME, revision: TAG}")
        return path if revision is None else f"{path}@{revision}"

    def _located(self, ref: str) -> str:
        if ref in self.steps:
            return str(self.steps[ref])
        beside = self.beside / ref
        return str(beside) if re.match(r"[\w.]", ref) and not _exists(ref) and _exists(str(beside)) else ref

    def part(self, given: Any) -> Part:
        if isinstance(given, str):
            return Part(self.model(given))
        if not isinstance(given, dict) or "model" not in given:
            raise self.wrong(f"{shown(given)} names no model", "write - model: FOLDER")
        known = self.keys(given, ("model", "parameters"), "a model", "model: FOLDER")
        return Part(self.model(known["model"]), self.parameters(known.get("parameters"), own=True))

    def parts(self, given: Any) -> list[Part]:
        return [self.part(m) for m in self.listed(given, "models", "models: [{model: FOLDER}, ...]")]

    # -- parameters ------------------------------------------------------------------------------------------------

    def parameters(self, values: Any, own: bool = False) -> dict[str, Any]:
        """Parameters without those that do nothing. `own`: they are one model's."""
        if values is None:
            return {}
        if not isinstance(values, dict):
            raise self.wrong(f"parameters are a mapping, not {shown(values)}", "write parameters: {weight: 0.5}")
        out = {str(k): numbers_in(v) for k, v in values.items()}
        for name in [n for n in out if self._idle(n, own)]:
            del out[name]
            whose = "a model's own " if own and not self._idle(name, False) else ""
            note = f"{whose}'{name}' of '{self.method}' was read and changes nothing"
            self.notes += [note] if note not in self.notes else []
        return out

    def _idle(self, name: str, own: bool) -> bool:
        """Whether mergekit takes a parameter here and does nothing with it."""
        takes = next((of for method, of in TAKES.items() if self.method == canonical(method)), None)
        if takes is None or name not in KNOWN:
            return name == "int8_mask"
        return name not in (takes[1] if own else (*takes[0], *takes[1]))

    # -- slices and modules ----------------------------------------------------------------------------------------

    def slices(self, given: Any, module: str = "default", scope: Mapping[str, Any] | None = None) -> list[Section]:
        """Slices of one module; `scope`: the module's parameters."""
        from tunewright.weights.settings import chained

        form = "slices: [{sources: [{model: FOLDER, layer_range: [0, 32]}, ...]}]"
        out = []
        for entry in self.listed(given, "slices", form):
            known = self.keys(entry, ("sources", "parameters", "base_model", "residual_weight"), "a slice", form)
            if known.get("residual_weight") is not None:
                self.notes.append("'residual_weight' of a slice was read and changes nothing")
            models = [self._layered(s) for s in self.listed(known.get("sources"), "sources of a slice", form)]
            base = known.get("base_model")
            parameters = chained(self.parameters(known.get("parameters")), scope or {})
            out.append(Section(models, None if base is None else self.model(base), parameters, module))
        return out

    def _layered(self, source: Any) -> Part:
        form = "- {model: FOLDER, layer_range: [0, 32]}"
        if not isinstance(source, dict) or "model" not in source:
            raise self.wrong(f"{shown(source)} names no model", f"write {form}")
        known = self.keys(source, ("model", "layer_range", "parameters"), "a source", form)
        asked = known.get("layer_range")
        if asked is not None:
            whole = isinstance(asked, list) and len(asked) == 2 and all(type(x) is int for x in asked)
            if not whole or not 0 <= asked[0] < asked[1]:
                raise self.wrong(
                    f"the layer_range {shown(asked)} is no range",
                    "write the first layer, counted from 0, and the one behind the last: layer_range: [0, 32]",
                )
        layers = None if asked is None else (asked[0], asked[1])
        return Part(self.model(known["model"]), self.parameters(known.get("parameters"), own=True), layers)

    def modules(self, given: Any) -> list[Section]:
        form = "modules: {text_decoder: {slices: [...]}, vision_tower: {models: [...]}}"
        if not isinstance(given, dict) or not given:
            raise self.wrong(f"modules are a mapping, not {shown(given)}", f"write {form}")
        out = []
        for name, entry in given.items():
            known = self.keys(entry, ("slices", "models", "parameters"), f"the module '{name}'", form)
            if (known.get("slices") is None) == (known.get("models") is None):
                raise self.wrong(f"the module '{name}' has not one of 'models' and 'slices'", "write one of them")
            scope = self.parameters(known.get("parameters"))
            if known.get("slices") is not None:
                out += self.slices(known["slices"], str(name), scope)
            else:
                out.append(Section(self.parts(known["models"]), None, scope, str(name)))
        return out


def _exists(ref: str) -> bool:
    try:
        return expanded(ref).is_dir()
    except (OSError, ValueError, FolderError):
        return False  # no path at all: opening it says what it is not


def shown(value: Any) -> str:
    """A value in a message, cut short."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def numbers_in(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as text: numbers written so are numbers."""
    if isinstance(value, list):
        return [numbers_in(v) for v in value]
    if isinstance(value, dict):
        return {k: (v if k == "filter" else numbers_in(v)) for k, v in value.items()}
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    return value
