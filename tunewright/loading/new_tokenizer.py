"""A tokenizer trained on a run's own texts: byte-level BPE by the `tokenizers` library, the same for the same texts.

Every byte has a token, so that no text is unknown. Digits are split one by one, the rest as GPT-2 does (Radford et al.
2019). What counts pairs does not depend on the order of texts or threads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from tunewright.errors import ModelError

START, TURN, END, PAD, MASK = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>", "<|mask|>"
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BYTES = 256
UNBOUNDED = int(1e30)
"""What transformers writes for a tokenizer without a longest text."""


def special_tokens(masks: bool) -> tuple[str, ...]:
    """Special tokens in the order of their ids from 0 on; `masks`: of a model that reads whole texts."""
    return (START, TURN, END, PAD, MASK) if masks else (START, TURN, END)


def train_tokenizer(texts: Iterable[str], size: int, *, masks: bool = False, longest: int = UNBOUNDED) -> Any:
    """A transformers tokenizer of at most `size` tokens, learnt from `texts`; few texts give fewer.

    Ids 0, 1, 2 are the start of a document (padding too), the start of a turn, and the end of a turn or document; the
    chat template writes them. With `masks` there are tokens to pad and to hide with as well, a text stands between
    start and end token, and there is no template. `longest`: tokens that its model reads. ModelError for a size that
    does not hold every byte.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    specials = list(special_tokens(masks))
    if size < BYTES + len(specials):
        raise ModelError(
            f"a tokenizer of {size:,} tokens does not hold the {BYTES} bytes and {len(specials)} special tokens",
            where="model.vocab_size",
            remedy=f"write {BYTES + len(specials)} or more: 4096 serves small models",
        )
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        _without(specials, texts),
        trainers.BpeTrainer(vocab_size=size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False),
    )
    named = {"bos_token": START, "eos_token": END, "pad_token": START}
    if masks:
        around = [(t, inner.token_to_id(t)) for t in (START, END)]
        inner.post_processor = TemplateProcessing(single=f"{START} $A {END}", special_tokens=around)
        named |= {"pad_token": PAD, "mask_token": MASK, "cls_token": START, "sep_token": END}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=longest, **named)
    if not masks:
        tokenizer.chat_template = TEMPLATE
    return tokenizer


def _without(specials: list[str], texts: Iterable[str]) -> Iterator[str]:
    """The texts cut where special tokens stand in them: nothing is learnt of how those are spelt."""
    pattern = re.compile("|".join(map(re.escape, specials)))
    for text in texts:
        yield from (part for part in pattern.split(text) if part)
