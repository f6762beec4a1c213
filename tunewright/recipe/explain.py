"""From pydantic's errors to one message that says where, what, the nearest valid name and what to write."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from tunewright.catalogue.annotations import inner_types
from tunewright.catalogue.parameters import told
from tunewright.errors import RecipeError, did_you_mean, nearest
from tunewright.recipe.sequence import rows_are_of_last
from tunewright.recipe.yaml_text import Document, Path

_ELSEWHERE = {
    "batch_size": "batches are counted in tokens here: write train.batch_tokens: 16k",
    "per_device_train_batch_size": "batches are counted in tokens here: write train.batch_tokens: 16k",
    "gradient_accumulation_steps": "a batch is split by itself: write train.micro_tokens: 4k to say how",
    "num_train_epochs": "write budget: {epochs: 3}",
    "num_epochs": "write budget: {epochs: 3}",
    "max_steps": "write budget: {steps: 500}",
    "lr": "write train.learning_rate: 2e-4",
    "base_model": "write model: NAME",
    "model_name_or_path": "write model: NAME",
    "datasets": "write data: {train: FILE}",
    "dataset": "write data: {train: FILE}",
    "lora_r": "write methods: [{lora: {rank: 16}}]",
    "lora_rank": "write methods: [{lora: {rank: 16}}]",
    "lora_alpha": "write methods: [{lora: {alpha: 32}}]",
    "output_dir": "use the flag --out DIR",
    "method": "write methods: [lora]",
    "adapter": "write methods: [lora]; several over one base: adapters: [{name: fee, methods: [lora]}]",
    "warmup_ratio": "write train.warmup_steps: 3%",
    "optim": "write train.optimizer: adamw (or adamw-8bit, sgd, or what `tunewright methods` lists)",
    "bf16": "write train.precision: bfloat16",
    "torch_compile": "write train.compile: true",
    "torch_compile_backend": "write train.compile: inductor",
    "gradient_checkpointing": "write train.activation_checkpointing: true",
    "rope_scaling": "write model: {name: ..., rope_scaling: {rope_type: yarn, factor: 4.0}}",
    "load_in_4bit": "4-bit weights come with a method: write methods: [qlora]",
    "load_in_8bit": "there are no 8-bit weights here; for 4-bit ones write methods: [qlora]",
    "quantization_config": "4-bit weights come with a method: write methods: [qlora]",
    "fp16": "write train.precision: float16 (losses are scaled), or bfloat16 where the GPU has it",
    "val_set_size": "write data.validation: 10%",
    "test_dataset": "write data: {eval: FILE}",
    "eval_dataset": "write data: {eval: FILE}",
    "lr_scheduler": "write train.lr_scheduler_type: cosine",
    "gradient_clipping": "write train.max_grad_norm: 1.0",
}
"""What keys of other tools are called here."""

_NOT_A = {
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "string": "must be text",
    "list": "must be a list",
    "tuple": "must be a list",
    "dict": "must be a mapping (key: value)",
    "model": "must be a mapping (key: value)",
    "finite_number": "must be a finite number",
    "not_a_number": "must be a number",
}
_BOUNDS = {
    "greater_than": ("gt", "must be greater than"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be less than"),
    "less_than_equal": ("le", "must be at most"),
}


def _is_spec(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def owner(root: type[BaseModel], path: Path) -> tuple[type[BaseModel], FieldInfo | None]:
    """The class whose key `path` ends in, and that key's field (None when there is no such field)."""
    cls, field = root, None
    for part in path:
        field = cls.model_fields.get(part) if isinstance(part, str) else field
        if field is None:
            break
        specs = [t for t in inner_types(field.annotation) if _is_spec(t)]
        if specs and part != path[-1]:
            cls = specs[0]
    return cls, field


def _clean(loc: Path) -> Path:
    """Drop the parts of pydantic's location that name a union's branch and not a place in the file."""
    return tuple(
        part for part in loc if not (isinstance(part, str) and ("[" in part or part in ("int", "float", "str")))
    )


def example(name: str, field: FieldInfo | None) -> str:
    """A line to write: "learning_rate: 0.0002"."""
    value = field.examples[0] if field is not None and field.examples else None
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value)
    return f"write {name}: {text}"


def describe(error: Any, root: type[BaseModel], path: Path) -> tuple[str, str]:
    """One pydantic error -> (what is wrong, what to write)."""
    kind, context = error["type"], error.get("ctx", {})
    value = error.get("input")
    cls, field = owner(root, path)
    name = str(path[-1]) if path else root.__name__
    key = next((p for p in reversed(path) if isinstance(p, str)), name)
    if kind == "recipe":
        return context["what"], context["remedy"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        near = did_you_mean(name, cls.model_fields)
        return f"unknown key '{name}'", _ELSEWHERE.get(name) or _belongs(root, cls, name, value) or near
    if kind == "missing":
        return f"'{name}' is missing" + (
            f" ({field.description})" if field is not None and field.description else ""
        ), example(name, field)
    shown = f"'{key}'"
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return f"{shown} {words} {context[bound]:g}, got {value}", example(key, field)
    if kind == "literal_error":
        expected = re.sub(r"(?<![\w'])(?:False|True|None)(?![\w'])", lambda m: _YAML[m[0]], context["expected"])
        choices = [c.strip(" '\"") for c in expected.replace(" or ", ", ").split(",")]
        return f"{shown} must be {expected}, got {_written(value)}", did_you_mean(str(value), choices)
    if kind in ("too_short", "string_too_short"):
        return f"{shown} is empty", example(key, field)
    if kind == "string_pattern_mismatch":
        return f"{shown} may hold letters, digits, - and _ only, got {value!r}", example(key, field)
    if kind == "string_too_long":
        return f"{shown} has {len(str(value))} letters, and takes at most {context['max_length']}", example(key, field)
    if kind == "too_long":
        return f"{shown} has too many values: {context['actual_length']} instead of {context['max_length']}", example(
            key, field
        )
    stem = next((t for t in _NOT_A if kind.startswith(t)), None)
    if stem is not None:
        what = _NOT_A[stem]
        hint = " (an empty value is null)" if value is None else ""
        return f"{shown} {what}, got {_short(value)}{hint}", example(key, field)
    return f"{shown}: {error['msg']}", example(key, field)


_PARTS = ("train", "data", "measurement", "budget")


def _belongs(root: type[BaseModel], cls: type[BaseModel], name: str, value: Any) -> str:
    """Where a key goes that stands in the wrong part of the recipe; "" where no part has it."""
    if name in root.model_fields and cls is not root:
        return f"{name} stands at the top of the recipe, not in a part of it"
    for part, spec in _parts(root):
        if name in spec.model_fields and cls is not spec:
            given = isinstance(value, str | int | float)
            shown = value if given else next(iter(spec.model_fields[name].examples or ()), "...")
            text = shown if isinstance(shown, str) else json.dumps(shown, default=str)
            return f"it belongs to {part}: write {part}: {{{name}: {text if len(text) <= 40 else '...'}}}"
    return ""


def _parts(root: type[BaseModel]) -> list[tuple[str, type[BaseModel]]]:
    """The recipe's parts by name; `budget` is a stage's, and stands at the top of a recipe with one stage."""
    fields = dict(root.model_fields)
    for stage in inner_types(fields["stages"].annotation) if "stages" in fields else ():
        fields |= {k: f for k, f in stage.model_fields.items() if k == "budget"}
    return [(p, t) for p in _PARTS if p in fields for t in inner_types(fields[p].annotation) if _is_spec(t)]


def _nearest_example(root: type[BaseModel], path: Path) -> str:
    """What to write for the innermost key above that has an example."""
    for k in range(len(path), 0, -1):
        _, field = owner(root, path[:k])
        name = path[k - 1]
        if isinstance(name, str) and (line := example(name, field)):
            return line
    return "`tunewright schema` describes every key"


_YAML = {"False": "false", "True": "true", "None": "null"}
"""What YAML writes for values of Python."""


def _written(value: Any) -> str:
    text = repr(value)
    return _YAML.get(text, text)


def _short(value: Any) -> str:
    text = _written(value)
    return text if len(text) <= 60 else text[:57] + "..."


def explain(error: ValidationError, document: Document, root: type[BaseModel], prefix: Path = ()) -> RecipeError:
    """All problems of a validation as one RecipeError: the first in full, the others a line each.

    `prefix`: where in the document the validated part sits.
    """
    lines: list[tuple[str, str, str]] = []
    items = told(error.errors(include_url=False))
    unknown = {item["loc"] for item in items if item["type"] == "extra_forbidden"}
    for item in items:
        if item["type"] == "missing" and _misspelt(item["loc"], unknown):
            continue  # the misspelt key says it already
        context = item.get("ctx", {})
        path = _clean(item["loc"]) + tuple(context.get("path", ()))
        what, remedy = describe(item, root, path)
        remedy = remedy or _nearest_example(root, path)
        full = as_written(prefix + path, document)
        dotted = ".".join(map(str, full))
        named = dotted and f"'{dotted}'" not in what and (len(full) > 1 or f"'{dotted}" not in what)
        entry = (
            document.place(full),
            f"{what} (at {dotted if len(dotted) <= 80 else dotted[:77] + '...'})" if named else what,
            remedy,
        )
        if all(entry[:2] != e[:2] for e in lines):
            lines.append(entry)
    lines.sort(key=lambda e: _line_number(e[0]))
    where, what, remedy = lines[0]
    more = "".join(f"\n  also {w}: {x}" + (f"; {r}" if r else "") for w, x, r in lines[1:8])
    return RecipeError(what, where=where, remedy=(remedy + more) or None)


def _misspelt(missing: Path, unknown: set[Path]) -> bool:
    return any(u[:-1] == missing[:-1] and nearest(str(u[-1]), [str(missing[-1])]) for u in unknown)


def _line_number(place: str) -> int:
    end = place.rsplit(":", 1)[-1]
    return int(end) if end.isdigit() else -1


def as_written(path: Path, document: Document) -> Path:
    """Top-level `methods` and `budget` are checked as stage 0, `test_time: [tent]` as its `adapt`, rows of the last
    stage as `data.train` where all stages have their own: give the path that the user wrote.
    """
    tree = document.tree
    if path[:2] == ("stages", 0) and isinstance(tree, dict) and "stages" not in tree and path[2:3]:
        return path[2:]
    if path[:2] == ("data", "train") and isinstance(tree, dict) and rows_are_of_last(tree):
        return ("stages", len(tree["stages"]) - 1, *path)
    given = tree.get("test_time") if isinstance(tree, dict) else None
    if path[:2] == ("test_time", "adapt") and given is not None and not (isinstance(given, dict) and "adapt" in given):
        return ("test_time", *path[2:]) if isinstance(given, list) else ("test_time",)
    return path
