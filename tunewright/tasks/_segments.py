"""Segments of text with a loss weight each, as token ids, so that each prompt is encoded as it will be when
generating.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from tunewright.contract.records import RowProblem, lone_surrogate
from tunewright.tasks._chat import Segment
from tunewright.tasks._words import encoded, words_of


def ids_of(tokenizer: Any, text: str, special: bool = False) -> list[int]:
    """Token ids of a text; with `special`, including what the tokenizer puts around every text.

    RowProblem for a text that the tokenizer cannot take.
    """
    known = _known.get()
    if known is not None and (text, special) in known:
        return list(known[text, special])
    try:
        return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])
    except Exception as error:  # libraries and tokenizers written elsewhere raise what they like
        if lone := lone_surrogate(text):
            raise lone from None
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise RowProblem("text", f"the tokenizer cannot read it: {said}", "take the row out") from None


_known: ContextVar[dict[tuple[str, bool], list[int]] | None] = ContextVar("known", default=None)


@contextmanager
def prefetched(tokenizer: Any, texts: Sequence[str]) -> Iterator[None]:
    """Within it, `ids_of` these texts is known: they are encoded together."""
    known: dict[tuple[str, bool], list[int]] = {}
    with suppress(RowProblem):  # which text it is, is found by encoding each
        known = {(t, False): ids for t, ids in zip(texts, ids_of_many(tokenizer, texts), strict=True)}
        known[ALONE, True] = ids_of(tokenizer, ALONE, special=True)
    token = _known.set(known)
    try:
        yield
    finally:
        _known.reset(token)


def ids_of_many(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """`ids_of` each text, encoded together. RowProblem where one of them cannot be."""
    if not texts:
        return []
    backend = getattr(tokenizer, "backend_tokenizer", None)
    first = ids_of(tokenizer, texts[0])
    try:
        if backend is not None and backend.truncation is None and backend.padding is None:
            words = words_of(backend)
            ids = words.ids(texts) if words else encoded(backend, texts)
            if ids[0] == first:  # nothing of the library's own is added to what its backend gives
                return ids
        return [list(i) for i in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]
    except Exception as error:  # libraries and tokenizers written elsewhere raise what they like
        raise RowProblem("text", f"the tokenizer cannot read it: {error}", "take the row out") from None


ALONE = "a"


def first_token(tokenizer: Any) -> list[int]:
    """[BOS] where the tokenizer starts every text with it, else []."""
    bos = tokenizer.bos_token_id
    around = ids_of(tokenizer, ALONE, special=True)
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


def spoken(ids: Sequence[int], weights: Sequence[float], start: int) -> list[int]:
    """The tokens from `start` on that are trained; all from there on where none is."""
    return [i for i, w in zip(ids[start:], weights[start:], strict=True) if w > 0] or list(ids[start:])
