"""Seeded damage: what people, editors, other tools and half-finished downloads do to a value, a text or a file.

Everything is drawn from the `random.Random` that is given, so that an input is found again by its number.
"""

from __future__ import annotations

import copy
import json
import math
import random
import string
from typing import Any

ATOMS: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 10**6, 10**18, -(10**30), 0.0, 0.5, -0.1, 1e-300, 1e308),
    *(math.inf, -math.inf, math.nan, "", " ", "x", "0", "-1", "1e400", "nan", "null", "true", "none", "base", "lora"),
    *(
        "../../etc",
        "/",
        "~",
        "~nosuchuser/x",
        "a" * 300,
        "\u0000",
        "é\u0301",
        "\ud800",
        "🙂",
        "a\nb",
        "{{ x }}",
        "%s",
        "$HOME",
    ),
    *(
        [],
        {},
        [[]],
        [None],
        {"": None},
        {"a": {"b": {}}},
        [1, "a", None],
        ["x"] * 50,
        "quickstart",
        "train.jsonl",
        "./base",
    ),
    *("1k", "1.5M", "3%", "1_000", "0x10", "1,000", "2026-01-01", "!!python/object:os.system", "yes", "&a [*a]"),
)
"""Values that somebody has written somewhere in place of another."""


def atom(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(ATOMS))


def tree(value: Any, rng: random.Random, times: int = 1) -> Any:
    """A JSON-like value with `times` places of it changed."""
    out = {"": copy.deepcopy(value)}
    for _ in range(times):
        if not out:
            break  # the whole was taken away
        owner, key = rng.choice(_places(out))
        _CHANGES[rng.choice(list(_CHANGES))](owner, key, rng)
    return out.get("")


def _places(value: Any) -> list[tuple[Any, Any]]:
    found = []
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        found.append((value, key))
        if isinstance(value[key], dict | list):
            found += _places(value[key])
    return found


def _replace(owner: Any, key: Any, rng: random.Random) -> None:
    owner[key] = atom(rng)


def _delete(owner: Any, key: Any, rng: random.Random) -> None:
    del owner[key]


def _typo(owner: Any, key: Any, rng: random.Random) -> None:
    if isinstance(key, str) and key:
        owner[text(key, rng)] = owner.pop(key)
    elif isinstance(owner[key], str):
        owner[key] = text(owner[key], rng)


def _wrap(owner: Any, key: Any, rng: random.Random) -> None:
    owner[key] = rng.choice(([owner[key]], {"name": owner[key]}, [owner[key], owner[key]], str(owner[key])))


def _number(owner: Any, key: Any, rng: random.Random) -> None:
    if isinstance(owner[key], int | float) and not isinstance(owner[key], bool):
        owner[key] = rng.choice((-owner[key], owner[key] * 0, owner[key] + 1, owner[key] / 3, owner[key] * 10**7))
    else:
        owner[key] = atom(rng)


def _add(owner: Any, key: Any, rng: random.Random) -> None:
    here = owner[key]
    if isinstance(here, dict):
        here[rng.choice(("x", "name", "type", "path", "seed", "lora", 1, None, True))] = atom(rng)
    elif isinstance(here, list):
        here.insert(rng.randrange(len(here) + 1), atom(rng))
    else:
        owner[key] = atom(rng)


def _deepen(owner: Any, key: Any, rng: random.Random) -> None:
    for _ in range(rng.choice((3, 40))):
        owner[key] = [owner[key]] if rng.random() < 0.5 else {"a": owner[key]}


_CHANGES = {f.__name__: f for f in (_replace, _replace, _delete, _typo, _wrap, _number, _add, _deepen)}


def text(value: str, rng: random.Random) -> str:
    """A text with one slip of the keys."""
    i = rng.randrange(len(value) + 1)
    return rng.choice(
        (
            value[:i] + value[i + 1 :],
            value[:i] + rng.choice(string.printable) + value[i:],
            value[:i] + value[i : i + 2][::-1] + value[i + 2 :],
            value.upper(),
            value + " ",
            value.replace("_", "-"),
        )
    )


_PIECES = (
    *(
        b"\x00",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\r\n",
        b"\r",
        b"\t",
        b"\n\n",
        b'"',
        b"'",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
    ),
    *(
        b"- ",
        b"# ",
        b"&a ",
        b"*a",
        b"!!x ",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"\xc3\x28",
        b"\\ud800",
        b"\xe2\x80\xa8",
        b"|\n",
        b"---\n",
    ),
    *(b"\x1b[31m", b"\x80", b"null", b"<<: *x\n", b"%YAML 9.9\n", b"=", b";", b"\\", b"\x1a"),
)


def raw(data: bytes, rng: random.Random, times: int = 1) -> bytes:
    """Bytes with `times` pieces lost, doubled, turned round or written over."""
    for _ in range(times):
        i = rng.randrange(len(data) + 1)
        n = rng.choice((1, 1, 2, 8, 64, len(data) // 2))
        piece = rng.choice(_PIECES)
        lines = data.splitlines(keepends=True) or [b""]
        k = rng.randrange(len(lines))
        data = rng.choice(
            (
                data[:i] + data[i + n :],
                data[:i] + piece + data[i:],
                data[:i] + piece + data[i + len(piece) :],
                data[:i],
                data[:i] + data[i : i + n] * 2 + data[i + n :],
                data[:i] + bytes(rng.randrange(256) for _ in range(min(n, 16))) + data[i + n :],
                b"".join([*lines[:k], lines[k], *lines[k:]]),
                b"".join([*lines[:k], *lines[k + 1 :]]),
                data.decode("utf-8", "replace").encode("utf-16"),
                b"",
            )
        )
    return data


def json_bytes(value: Any) -> bytes:
    """JSON as loosely as Python writes it: NaN and half surrogates stay in."""
    return json.dumps(value, default=str).encode("utf-8", "surrogatepass")
