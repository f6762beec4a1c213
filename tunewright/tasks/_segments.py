"""Segments of text with a loss weight each, as token ids, so that each prompt is encoded as it will be when
generating.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunewright.contract.records import RowProblem, lone_surrogate
from tunewright.tasks._chat import Segment


def ids_of(tokenizer: Any, text: str, special: bool = False) -> list[int]:
    """Token ids of a text; with `special`, including what the tokenizer puts around every text.

    RowProblem for a text that the tokenizer cannot take.
    """
    try:
        return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])
    except Exception as error:  # libraries and tokenizers written elsewhere raise what they like
        if lone := lone_surrogate(text):
            raise lone from None
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise RowProblem("text", f"the tokenizer cannot read it: {said}", "take the row out") from None


def first_token(tokenizer: Any) -> list[int]:
    """[BOS] where the tokenizer starts every text with it, else []."""
    bos = tokenizer.bos_token_id
    around = ids_of(tokenizer, "a", special=True)
    return [bos] if bos is not None and around and around[0] == bos else []


def last_token(tokenizer: Any) -> int:
    """The end-of-text id. RowProblem where the tokenizer names none: a model so trained would never stop."""
    if tokenizer.eos_token_id is None:
        raise RowProblem(
            "tokenizer",
            "it names no end-of-text token, so generation would never stop",
            "set eos_token in the model folder's tokenizer_config.json",
        )
    return int(tokenizer.eos_token_id)


def encode_segments(
    tokenizer: Any, segments: Sequence[Segment], *, bos: Sequence[int] = ()
) -> tuple[list[int], list[float], int]:
    """Token ids, a weight each, and the count of tokens before the last segment that is trained (the prompt's length).

    A segment's tokens are what it adds to the text before it. Where a token would straddle the border (or the tokenizer
    puts a mark before every text), the prompt's own encoding wins: it is what generation sees.
    """
    ids, weights, text, before = list(bos), [0.0] * len(bos), "", list[int]()
    prompt = len(ids)
    for said, weight in segments:
        if not said:
            continue
        text += said
        so_far = ids_of(tokenizer, text)
        if so_far[: len(before)] == before:
            new = so_far[len(before) :]
        else:
            new = ids_of(tokenizer, said)
            so_far = before + new
        if weight > 0:
            prompt = len(ids)
        ids += new
        weights += [weight] * len(new)
        before = so_far
    return ids, weights, prompt
