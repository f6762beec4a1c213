"""Freshly initialised tiny models and a tiny tokenizer for tests: equal for equal seeds, made in well under 0.2 s each.

Weights are drawn larger than a library's default (std 0.1), so that logits differ visibly between tokens. The global
random state is left as it was.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    EfficientNetConfig,
    EfficientNetForImageClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

VOCABULARY = 320
STD = 0.1

SPECIAL = ("<|pad|>", "<|bos|>", "<|im_start|>", "<|im_end|>", "<|mask|>", "<|cls|>", "<|sep|>", "<|unk|>")
PAD, BOS, START, EOS, MASK, CLS, SEP, UNK = range(len(SPECIAL))

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

TEXT = (
    (
        "The bank's customer asked why the card was declined at the shop.\nWhich support topic is this? A user and an "
        "assistant talk."
    ),
    (
        "In 1999 the river rose, and 20 people in the town left for the hills; the others stayed and waited for the "
        "water to go."
    ),
    "def add(a, b):\n    return a + b\n",
)


@lru_cache
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer.to_str()


def tokenizer(
    *, chat: bool = True, pad: bool = True, eos: bool = True, bos_first: bool = False, encoder: bool = False
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 320 tokens: any text round-trips.

    `chat`: with a ChatML template. `pad`, `eos`: whether it names such a token. `bos_first`: it puts `<|bos|>` before
    every text. `encoder`: BERT's way, `<|cls|> text <|sep|>`.
    """
    inner = Tokenizer.from_str(_trained())
    if encoder:
        inner.post_processor = processors.TemplateProcessing(
            single="<|cls|> $A <|sep|>",
            pair="<|cls|> $A <|sep|> $B <|sep|>",
            special_tokens=[("<|cls|>", CLS), ("<|sep|>", SEP)],
        )
    elif bos_first:
        inner.post_processor = processors.TemplateProcessing(
            single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", BOS)]
        )
    names: dict[str, Any] = {
        "bos_token": "<|bos|>",
        "unk_token": "<|unk|>",
        "mask_token": "<|mask|>",
        "cls_token": "<|cls|>",
        "sep_token": "<|sep|>",
    }
    if pad:
        names["pad_token"] = "<|pad|>"
    if eos:
        names["eos_token"] = "<|im_end|>"
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=256, clean_up_tokenization_spaces=False, **names
    )
    if chat:
        made.chat_template = CHAT_TEMPLATE
    return made


def _make(cls: type[PreTrainedModel], config: Any, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return cls(config).eval()


def _ids() -> dict[str, int]:
    return {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}


def llama(
    seed: int = 0, *, layers: int = 2, hidden: int = 32, tied: bool = True, vocabulary: int = VOCABULARY
) -> LlamaForCausalLM:
    """Grouped-query attention (4 heads, 2 key-value heads), tied embeddings unless asked otherwise."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=STD,
        tie_word_embeddings=tied,
        **_ids(),
    )
    return _make(LlamaForCausalLM, config, seed)


def qwen3(seed: int = 0, *, layers: int = 2, hidden: int = 32) -> Qwen3ForCausalLM:
    """Norms on queries and keys, an untied head."""
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        max_position_embeddings=256,
        initializer_range=STD,
        tie_word_embeddings=False,
        **_ids(),
    )
    return _make(Qwen3ForCausalLM, config, seed)


def gpt2(seed: int = 0, *, layers: int = 2, hidden: int = 32, dropout: float = 0.0) -> GPT2LMHeadModel:
    """Conv1D (transposed) linears, learned positions, tied embeddings; no dropout unless asked."""
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=256,
        n_embd=hidden,
        n_layer=layers,
        n_head=4,
        initializer_range=STD,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        **_ids(),
    )
    return _make(GPT2LMHeadModel, config, seed)


def _bert(layers: int, hidden: int, **more: Any) -> BertConfig:
    return BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=256,
        initializer_range=STD,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=PAD,
        **more,
    )


def bert(seed: int = 0, *, layers: int = 2, hidden: int = 32) -> BertForMaskedLM:
    """A masked language model; its tokenizer is `tokenizer(encoder=True)`."""
    return _make(BertForMaskedLM, _bert(layers, hidden), seed)


def bert_classifier(
    seed: int = 0, *, labels: int = 3, layers: int = 2, hidden: int = 32
) -> BertForSequenceClassification:
    """A sequence classifier; its tokenizer is `tokenizer(encoder=True)`."""
    return _make(BertForSequenceClassification, _bert(layers, hidden, num_labels=labels), seed)


def vit(
    seed: int = 0, *, labels: int = 3, layers: int = 2, hidden: int = 32, channels: int = 3
) -> ViTForImageClassification:
    """An image classifier of [R, channels, 16, 16] pixels in 16 patches."""
    config = ViTConfig(
        image_size=16,
        patch_size=4,
        num_channels=channels,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        initializer_range=STD,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=labels,
    )
    return _make(ViTForImageClassification, config, seed)


def efficientnet(seed: int = 0, *, labels: int = 3) -> EfficientNetForImageClassification:
    """A convolutional image classifier with batch norms, of [R, 3, 16, 16] pixels; its running statistics are not
    the fresh ones.
    """
    config = EfficientNetConfig(
        image_size=16,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        in_channels=[32, 16],
        out_channels=[16, 24],
        kernel_sizes=[3, 3],
        strides=[1, 2],
        num_block_repeats=[1, 2],
        expand_ratios=[1, 2],
        depthwise_padding=[],
        hidden_dim=1280,
        dropout_rate=0.0,
        initializer_range=3 * STD,
        num_labels=labels,
    )
    model = _make(EfficientNetForImageClassification, config, seed)
    generator = torch.Generator().manual_seed(seed)
    for name, held in model.named_buffers():
        if held.is_floating_point():
            held.copy_(torch.rand(held.shape, generator=generator) + (0.5 if name.endswith("var") else -0.5))
    return model


MAKERS = {
    "llama": llama,
    "qwen3": qwen3,
    "gpt2": gpt2,
    "bert": bert,
    "bert_classifier": bert_classifier,
    "vit": vit,
    "efficientnet": efficientnet,
}
