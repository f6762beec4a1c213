"""Load a folder as transformers does and run a few inputs through it; prints one JSON line.

Run in a process of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def tried(folder: Path) -> dict[str, Any]:
    """{"wrong": what is wrong or None, "notes": [...]}."""
    import torch
    import transformers

    from tunewright.loading.quiet import quiet
    from tunewright.tasks._sampled import inputs_at_random

    with quiet():
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    kind = getattr(transformers, (config.architectures or [""])[0], None)
    if kind is None:
        return {"wrong": None, "notes": ["no forward pass was run: config.json names no class that transformers has"]}
    with quiet():
        model, info = kind.from_pretrained(
            folder, dtype="auto", local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        # a pooler beside states that others pool is in few files, and drawn afresh by whoever loads them
        if keys := [key for key in sorted(map(str, info[what])) if not _unread(what, key)]:
            return {"wrong": f"{what.replace('_', ' ')}: {keys[:3]}", "notes": []}
    if getattr(config, "tie_word_embeddings", False) and (head := model.get_output_embeddings()) is not None:
        if head.weight.data_ptr() != model.get_input_embeddings().weight.data_ptr():
            return {"wrong": "the head is not the embedding, and config.json ties them", "notes": []}
    model.eval()
    inputs: Mapping[str, Any] | None = inputs_at_random(model)
    if inputs is None:
        words = getattr(config.get_text_config(), "vocab_size", None)
        if words is None:
            return {"wrong": None, "notes": [f"no forward pass was run: nothing says what a {kind.__name__} reads"]}
        ids = torch.arange(1, 9)[None] % words
        both = {"decoder_input_ids": ids} if getattr(config, "is_encoder_decoder", False) else {}
        inputs = {"input_ids": ids, **both}
    with torch.no_grad():
        out = model(**inputs)[0]
    finite = bool(torch.isfinite(out).all())
    return {"wrong": None if finite else "a forward pass gives values that are not finite", "notes": []}


def _unread(what: str, key: str) -> bool:
    return what == "missing_keys" and key.startswith("pooler.")


def ready(kinds: Sequence[str]) -> Path | None:
    """Import what will be needed, a model class of transformers by name among it; then the folder from standard
    input.
    """
    import torch  # noqa: F401
    import transformers

    for kind in kinds:
        getattr(transformers, kind, None)
    line = sys.stdin.readline().strip()
    return Path(line) if line else None


if __name__ == "__main__":
    try:
        if (asked := ready(sys.argv[1:])) is not None:
            print(json.dumps(tried(asked)))
    except Exception as e:  # whatever it is, the merge says it
        print(
            json.dumps(
                {
                    "wrong": f"{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e).strip() else ''}",
                    "notes": [],
                }
            )
        )
