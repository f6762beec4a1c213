"""YAML as recipes use it: plain values with the line each came from, duplicate keys refused, `2e-4` read as a
number.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml

from tunewright.errors import RecipeError

Path = tuple[str | int, ...]
"""Where a value sits: ("stages", 0, "budget", "steps")."""

_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")}
_MOST_NODES = 100_000

_FLOAT = re.compile(
    r"^[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
)
_INT = re.compile(r"^[-+]?[0-9][0-9_]*$")
_BOOL = re.compile(r"^(true|True|TRUE|false|False|FALSE)$")
_NULL = re.compile(r"^(~|null|Null|NULL|)$")


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's scalars: no dates, no `yes` for true, no octal or base-60 numbers."""

    yaml_implicit_resolvers: dict[str, Any] = {}


for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", _BOOL, "tTfF"),
    ("tag:yaml.org,2002:int", _INT, "-+0123456789"),
    ("tag:yaml.org,2002:float", _FLOAT, "-+0123456789."),
    ("tag:yaml.org,2002:null", _NULL, ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(_tag, _pattern, list(_first))


def _int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(str(node.value).replace("_", ""))


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = str(node.value).replace("_", "").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes every string which `_Loader` or a YAML 1.1 reader would take for something else."""

    yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeDumper.yaml_implicit_resolvers.items()}

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, data: str) -> yaml.ScalarNode:
        """Double quotes where a reader folds a line break that no other quotes write as an escape."""
        folded = any(c in data for c in "\x85\u2028\u2029")
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if folded else None)


_Dumper.add_representer(str, _Dumper.text)
for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:float", _FLOAT, "-+0123456789."),
    ("tag:yaml.org,2002:int", _INT, "-+0123456789"),
):
    _Dumper.add_implicit_resolver(_tag, _pattern, list(_first))


@dataclass
class Document:
    """A tree of plain values, and for each path in it the place it came from ("recipe.yaml:12")."""

    tree: Any
    places: dict[Path, str] = field(default_factory=dict)
    source: str = "recipe"

    def place(self, path: Path) -> str:
        """The place of a path, or of the nearest thing that encloses it."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return self.source


def _problem(error: yaml.MarkedYAMLError, source: str) -> RecipeError:
    mark = error.problem_mark or error.context_mark
    where = f"{source}:{mark.line + 1}" if mark else source
    what = error.problem or error.context or "cannot be read"
    if "\\t" in what or "'\t'" in what:
        return RecipeError(
            "a tab is used to indent", where=where, remedy="indent with spaces: YAML allows no tabs there"
        )
    return RecipeError(
        f"not valid YAML: {what}",
        where=where,
        remedy="write `key: value`, nested keys indented by two spaces; quote text that holds ': ' or '#'",
    )


class _Reader:
    def __init__(self, text: str, source: str):
        self.loader = _Loader(text)
        self.document = Document(None, source=source)
        self.open: list[yaml.Node] = []
        self.count = 0

    def read(self) -> Document:
        try:
            node = self.loader.get_single_node()
            self.document.tree = None if node is None else self.value(node, ())
        finally:
            self.loader.dispose()
        return self.document

    def read_all(self) -> list[Document]:
        out = []
        try:
            while self.loader.check_node():
                self.document = Document(None, source=self.document.source)
                node: Any = self.loader.get_node()
                self.document.tree = self.value(node, ())
                out.append(self.document)
        finally:
            self.loader.dispose()
        return out

    def where(self, node: yaml.Node) -> str:
        return f"{self.document.source}:{node.start_mark.line + 1}"

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.count += 1
        if self.count > _MOST_NODES or node in self.open:
            raise RecipeError(
                "the file refers to itself or is far too large",
                where=self.where(node),
                remedy="write the values out instead of using YAML aliases",
            )
        self.document.places.setdefault(path, self.where(node))
        self.open.append(node)
        try:
            return self._value(node, path)
        finally:
            self.open.pop()

    def _value(self, node: yaml.Node, path: Path) -> Any:
        if node.tag not in _TAGS:
            raise RecipeError(
                f"the YAML tag '{node.tag}' is not allowed",
                where=self.where(node),
                remedy="write plain text, numbers, lists and mappings only",
            )
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        return self.loader.construct_object(node, deep=True)  # type: ignore[no-untyped-call]

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merge: tuple[yaml.Node, yaml.Node] | None = None
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise RecipeError("a key must be plain text", where=self.where(key_node), remedy="write `key: value`")
            key = str(key_node.value)
            plain = key == "<<" and key_node.style is None  # in quotes it is a key like any other
            if first := merge if plain else own.get(key):
                shown = ".".join(map(str, (*path, key)))
                raise RecipeError(
                    f"'{shown}' is written twice (first at line {first[0].start_mark.line + 1})",
                    where=self.where(key_node),
                    remedy="write it once, with a list: <<: [*first, *second]" if plain else "keep one of the two",
                )
            if plain:
                merge = key_node, value_node
            else:
                own[key] = key_node, value_node
        out = self._merged(merge[1], path, own) if merge is not None else {}
        for key, (key_node, value_node) in own.items():
            self.document.places[(*path, key)] = self.where(key_node)
            out[key] = self.value(value_node, (*path, key))
        return out

    def _merged(self, node: yaml.Node, path: Path, own: Container[str]) -> dict[str, Any]:
        """The keys that `<<` takes over but for the mapping's own, each from the first mapping that has it. Their
        places are where they are written out.
        """
        out: dict[str, Any] = {}
        for mapping in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(mapping, yaml.MappingNode):
                raise RecipeError(
                    "<< takes over the keys of a mapping, and this is none",
                    where=self.where(mapping),
                    remedy="write <<: *name, where another mapping begins with &name, or a list of such",
                )
            places, self.document.places = self.document.places, {}
            try:
                values = self.value(mapping, path)
            finally:
                places, self.document.places = self.document.places, places
            new = {k: v for k, v in values.items() if k not in own and k not in out}
            at = len(path)
            self.document.places |= {p: line for p, line in places.items() if len(p) > at and p[at] in new}
            out |= new
        return out


def read(text: str, source: str = "recipe") -> Document:
    """Read one YAML document. RecipeError with file:line on bad syntax, duplicate keys, tags and self-references."""
    with _as_recipe_errors(source, "write `key: value` lines; `tunewright init` writes an example"):
        return _Reader(text, source).read()


def read_all(text: str, source: str) -> list[Document]:
    """Read all documents of a file, which `---` sets apart. RecipeError as for one."""
    with _as_recipe_errors(source, "write `key: value` lines"):
        return _Reader(text, source).read_all()


@contextmanager
def _as_recipe_errors(source: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except yaml.MarkedYAMLError as error:
        raise _problem(error, source) from None
    except yaml.YAMLError as error:
        raise RecipeError(
            f"not valid YAML: {' '.join(str(error).split())}", where=source, remedy="save the file as UTF-8 text"
        ) from None
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"not a recipe: {error}", where=source, remedy=remedy) from None


def write(tree: Any) -> str:
    """Write plain values so that `read` gives them back equal."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120)
