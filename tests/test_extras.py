"""Every extra that pyproject.toml offers is read by code, and `doctor` says what it is for."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import lru_cache
from pathlib import Path

import pytest

from tunewright.commands.doctor import _FOR

ROOT = Path(__file__).parent.parent
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]


@lru_cache
def used() -> set[str]:
    """Top names of the modules that anything here imports, and of those that `make` runs (`python -m NAME`)."""
    names = set(re.findall(r"-m (\w+)", (ROOT / "Makefile").read_text(encoding="utf-8")))
    for folder in ("tunewright", "tests", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {a.name for a in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    names |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    return {n.split(".")[0] for n in names} | {"tensorboard" for n in names if n.startswith("torch.utils.tensorboard")}


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_has_a_reader(extra: str) -> None:
    modules = {re.split(r"[<>=\[;! ]", package)[0].replace("-", "_").lower() for package in EXTRAS[extra]}
    assert modules & used(), f"nothing imports {', '.join(sorted(modules))}: the extra '{extra}' may go"


def test_doctor_knows_what_each_extra_is_for() -> None:
    assert set(_FOR) == set(EXTRAS)
