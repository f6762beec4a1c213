"""The nano bases' tokenizer: byte-level BPE of 4096 entries, digits one by one, a plain chat template."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

SIZE = 4096
START, TURN, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def train(texts: Iterable[str], size: int = SIZE, extra: tuple[str, ...] = ()) -> Any:
    """A transformers tokenizer learnt from `texts`.

    Ids 0, 1, 2: start of a document (also padding), of a turn, end of a turn.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    inner.decoder = decoders.ByteLevel()
    specials = [START, TURN, END, *extra]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=START, eos_token=END, pad_token=START, model_max_length=512
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def stream(tokenizer: Any, texts: list[str]) -> np.ndarray:
    """Token ids of all texts in a row, the start token after each (uint16)."""
    start = tokenizer.bos_token_id
    encoded = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    return np.array([i for e in encoded for i in (*e.ids, start)], dtype=np.uint16)
