"""A tokenizer as GGUF holds it: tokens, kinds, merges or scores, the splitter's name, special tokens, chat template."""

from __future__ import annotations

import json
from typing import Any

from tunewright.errors import MethodError
from tunewright.loading import gguf_splitters

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNMERGED = -1e6
"""The score of a token that no merge makes; merged ones have minus their rank, as sentencepiece's BPE counts."""
TEXTS = (
    "The card was declined in 1999, and 20 people left.",
    "def add(a, b):\n    return a + b\n\n\n  # twice  spaced",
    "It's what they'll say: naïve café, 日本語, 3.14159",
)


def write(writer: Any, tokenizer: Any, rows: int, where: str, splitter: str | None = None) -> str:
    """Write the tokenizer of a model with `rows` embeddings; return GGUF's name of its splitter ("" for none).

    `splitter`: the name to write where the table has none. MethodError for a tokenizer that GGUF cannot hold.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise MethodError("this tokenizer has no tokenizer.json", where=where, remedy="save it as a fast tokenizer")
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    model = described["model"]
    if model.get("type") != "BPE":
        raise MethodError(
            f"its tokenizer is a {model.get('type')}, and byte pairs (BPE) are written here",
            where=where,
            remedy="llama.cpp's convert_hf_to_gguf.py knows more tokenizers; give it this model's folder",
        )
    pieces = bool(model.get("byte_fallback"))
    name = "default" if pieces else _splitter(described, where, splitter)
    tokens, kinds = _tokens(tokenizer, described, rows, pieces)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    writer.add_tokenizer_model("llama" if pieces else "gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if pieces:
        ranks = _ranks(model["merges"])
        writer.add_token_scores([float(-ranks[t]) if t in ranks else UNMERGED for t in tokens])
        writer.add_add_space_prefix(_space_first(tokenizer))
    else:
        writer.add_token_merges(merges)
    _special(writer, tokenizer)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
    return name


def _splitter(described: dict[str, Any], where: str, asked: str | None) -> str:
    found = asked or gguf_splitters.named(described["pre_tokenizer"])
    if found is None:
        raise MethodError(
            "GGUF only names how text is split, and this tokenizer's splitter has no name that is known here",
            where=where,
            remedy="give llama.cpp's name for it: --pre-tokenizer NAME (tokenizer.ggml.pre of its family's files)",
        )
    return found


def _tokens(tokenizer: Any, described: dict[str, Any], rows: int, pieces: bool) -> tuple[list[str], list[int]]:
    by_id = {i: t for t, i in tokenizer.get_vocab().items()}
    special = {t["id"] for t in described["added_tokens"] if t["special"]}
    added = {t["id"] for t in described["added_tokens"]}
    tokens, kinds = [], []
    for i in range(max(rows, max(by_id) + 1)):
        token = by_id.get(i)
        tokens.append(f"[PAD{i}]" if token is None else token)
        if token is None:
            kinds.append(UNUSED)
        elif pieces and token == tokenizer.unk_token:
            kinds.append(UNKNOWN)
        elif i in special:
            kinds.append(CONTROL)
        elif i in added:
            kinds.append(USER_DEFINED)
        else:
            kinds.append(BYTE if pieces and len(token) == 6 and token.startswith("<0x") else NORMAL)
    return tokens, kinds


def _ranks(merges: list[Any]) -> dict[str, int]:
    """The rank of the first merge that makes a token."""
    out: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        out.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), rank)
    return out


def _space_first(tokenizer: Any) -> bool:
    """Whether a text is read as if a space stood before it."""
    tokens = tokenizer.convert_ids_to_tokens(tokenizer.encode("ab", add_special_tokens=False))
    return bool(tokens) and tokens[0].startswith("▁")


def _special(writer: Any, tokenizer: Any) -> None:
    ids = tokenizer.encode("a")
    for add, i in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if i is not None:
            add(i)
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id])
    writer.add_add_eos_token(tokenizer.eos_token_id is not None and ids[-1:] == [tokenizer.eos_token_id])


def read_differently(tokenizer: Any, other: Any) -> str | None:
    """The first of a few texts that two tokenizers read as other tokens."""
    return next(
        (
            t
            for t in TEXTS
            if tokenizer.encode(t, add_special_tokens=False) != other.encode(t, add_special_tokens=False)
        ),
        None,
    )
