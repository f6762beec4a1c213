"""The bytes that each token writes: what guides of JSON and of schemas read tokens by."""

from __future__ import annotations

import re
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from tunewright.serve.errors import ApiError

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def bytes_of_tokens(tokenizer: Any) -> dict[int, bytes]:
    """token id -> the bytes that it writes, without special tokens. ApiError (400) where a tokenizer does not say."""
    decoder = str(tokenizer.backend_tokenizer.decoder.__getstate__().decode()) if _has_decoder(tokenizer) else ""
    special = set(tokenizer.all_special_ids) | {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    added = {i: t.content for i, t in tokenizer.added_tokens_decoder.items()}
    if "ByteLevel" in decoder:
        known = {c: b for b, c in bytes_to_unicode().items()}
    elif "Metaspace" in decoder or "▁" in decoder:
        known = None
    else:
        raise ApiError(
            400, "This model's tokenizer does not say which bytes its tokens write.", param="response_format"
        )
    out = {}
    for token, i in tokenizer.get_vocab().items():
        if i in special:
            continue
        if i in added:
            out[i] = added[i].encode()
        elif known is not None:
            if all(c in known for c in token):
                out[i] = bytes(known[c] for c in token)
        elif match := _BYTE.fullmatch(token):
            out[i] = bytes([int(match[1], 16)])
        else:
            out[i] = token.replace("▁", " ").encode()
    return {i: b for i, b in out.items() if b}


def _has_decoder(tokenizer: Any) -> bool:
    return getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None) is not None
