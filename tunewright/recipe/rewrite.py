"""Other values in a recipe's own text: lines, comments and order stay, wherever the text allows it.

A comment behind a value that changes goes: it was about the old one.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tunewright.recipe import yaml_text

Values = Mapping[tuple[str, ...], Any]
"""Path of keys -> value: ("train", "learning_rate"), or a whole mapping such as ("budget",)."""


def rewritten(text: str, values: Values, name: str = "recipe.yaml") -> str:
    """The text with these values. Where it cannot be edited in place (anchors, unusual layouts), the same content is
    written anew, and comments are lost.
    """
    wanted = _laid(yaml_text.read(text, name).tree, values)
    edited = text
    for path, value in values.items():
        edited = _edit(edited, path, value)
    try:
        same = yaml_text.read(edited, name).tree == wanted
    except Exception:  # whatever an edit in place broke: it is not used
        same = False
    return edited if same else yaml_text.write(wanted)


def _laid(tree: Any, values: Values) -> Any:
    """A copy of the tree with the values; keys on the way are made. With `stages`, a budget is the one stage's."""
    out = copy.deepcopy(tree)
    for path, value in values.items():
        owner = out
        if path[0] == "budget" and "stages" in out:
            owner = out["stages"][0]
        for key in path[:-1]:
            if owner.get(key) is None:
                owner[key] = {}
            owner = owner[key]
        owner[path[-1]] = copy.deepcopy(value)
    return out


def _edit(text: str, path: tuple[str, ...], value: Any) -> str:
    """One value, in a block (`key:` on lines of its own) or in braces; text without the key gets a line."""
    shown = _flow(value)
    if len(path) == 1:
        top = re.compile(rf"^{path[0]}:[^\n#]*?(?:[ \t]*#[^\n]*)?(?:\n(?:[ \t]+[^\n]*|[ \t]*)(?=\n|$))*$", re.M)
        found = top.search(text)
        line = f"{path[0]}: {shown}"
        return text[: found.start()] + line + text[found.end() :] if found else f"{text.rstrip()}\n{line}\n"
    section, key = path
    start = re.search(rf"^{section}:[ \t]*(?P<rest>[^\n]*)$", text, re.M)
    if start is None:
        return f"{text.rstrip()}\n{section}: {{{key}: {shown}}}\n"
    if start["rest"].startswith("{"):
        end = text.index("}", start.start()) + 1
        braces = text[start.start() : end]
        one = re.compile(rf"(?P<key>\b{key}:[ \t]*)[^,}}]+")
        new = one.sub(rf"\g<key>{shown}", braces) if one.search(braces) else f"{braces[:-1]}, {key}: {shown}}}"
        return text[: start.start()] + new + text[end:]
    block = re.compile(r"(?:\n(?:[ \t]+[^\n]*|[ \t]*#[^\n]*|[ \t]*)(?=\n|$))*").match(text, start.end())
    assert block is not None
    lines = block[0]
    one = re.compile(rf"^(?P<key>[ \t]+{key}:[ \t]*)[^\n#]*?(?:[ \t]*#[^\n]*)?$", re.M)
    new = one.sub(rf"\g<key>{shown}", lines) if one.search(lines) else f"\n  {key}: {shown}{lines}"
    return text[: start.end()] + new + text[block.end() :]


def _flow(value: Any) -> str:
    """A value on one line; numbers as people write them."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, float):
        return _number(value)
    return str(yaml.safe_dump(value, default_flow_style=True)).splitlines()[0]


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    short = f"{value:.2e}".replace("e-0", "e-")
    mantissa, _, power = short.partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{power}" if value < 1e-3 and float(short) == value else f"{value:g}"


def beside(recipe: Path) -> Path:
    """Where the tuned recipe goes: `recipe.yaml` -> `recipe.tuned.yaml`."""
    return recipe.with_name(f"{recipe.stem}.tuned{recipe.suffix or '.yaml'}")
