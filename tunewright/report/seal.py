"""A report's own hash: of all that it says but the hash, however it is laid out."""

from __future__ import annotations

import hashlib
import json


def seal_of(text: str | bytes) -> str:
    """SHA-256 (hex) of a report's values. ValueError where the text is no JSON object."""
    tree = json.loads(text)
    if not isinstance(tree, dict):
        raise ValueError("a report is a JSON object")
    tree.pop("seal", None)
    plain = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(plain.encode()).hexdigest()


def is_altered(text: str | bytes) -> bool:
    """Whether a report is not what was written; one of a version that carried neither seal nor hashes is taken as it
    is. ValueError as `seal_of`.
    """
    sealed, tree = seal_of(text), json.loads(text)
    return (tree.get("seal") is not None or bool(tree.get("hashes"))) and tree.get("seal") != sealed
