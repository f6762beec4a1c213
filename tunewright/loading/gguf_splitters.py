"""How text is split before byte pairs are merged, by the names that GGUF gives to it (`tokenizer.ggml.pre`).

A GGUF file only names its splitter; a tokenizer.json has it in full. One table serves both ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BYTES, _BYTES_ALONE = ("ByteLevel", True), ("ByteLevel", False)
SPLITTERS: dict[str, tuple[tuple[str, Any], ...]] = {
    "gpt-2": (_BYTES,),
    "smollm": (("Digits", True), _BYTES),  # "in 1999" is in, Ġ, 1, 9, 9, 9
    "qwen2": (("Split", _WORDS % r"\p{N}"), _BYTES_ALONE),
    "llama-bpe": (("Split", _WORDS % r"\p{N}{1,3}"), _BYTES_ALONE),
}
"""Name -> steps: ByteLevel with or without GPT-2's own pattern, digits one by one, matches of a pattern apart."""


def built(name: str) -> Any:
    """The splitter of a name in the table."""
    from tokenizers import Regex
    from tokenizers import pre_tokenizers as pre

    steps: list[Any] = []
    for kind, value in SPLITTERS[name]:
        if kind == "ByteLevel":
            steps.append(pre.ByteLevel(add_prefix_space=False, use_regex=value))
        elif kind == "Digits":
            steps.append(pre.Digits(individual_digits=value))
        else:
            steps.append(pre.Split(Regex(value), behavior="isolated"))
    return steps[0] if len(steps) == 1 else pre.Sequence(steps)


def named(described: Mapping[str, Any] | None) -> str | None:
    """GGUF's name of a tokenizer.json's `pre_tokenizer`; None where the table has none that splits so."""
    steps = tuple(_step(s) for s in _flat(described))
    return next((name for name, own in SPLITTERS.items() if own == steps), None)


def _flat(described: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if described is None:
        return []
    return [s for p in described["pretokenizers"] for s in _flat(p)] if described["type"] == "Sequence" else [described]


def _step(one: Mapping[str, Any]) -> tuple[str, Any]:
    kind = str(one["type"])
    if kind == "ByteLevel" and not one.get("add_prefix_space"):
        return kind, bool(one.get("use_regex", True))
    if kind == "Digits":
        return kind, bool(one.get("individual_digits"))
    if kind == "Split" and str(one.get("behavior")).lower() == "isolated" and not one.get("invert"):
        return kind, dict(one["pattern"]).get("Regex")
    return kind, None
