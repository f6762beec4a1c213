"""Write a tokenizer so that transformers 4 and 5, and servers built on either, load it alike."""

from __future__ import annotations

import json
from pathlib import Path


def portable_tokenizer(folder: Path) -> None:
    """Name the tokenizer's class as both versions know it; the files are otherwise the same."""
    path = folder / "tokenizer_config.json"
    if not path.exists():
        return
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        config.pop("backend", None)
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
