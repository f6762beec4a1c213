"""A tiny LLaVA, what it is read with, and rows of pictures that it can learn."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from tunewright.conformance import bench

TURNS = (
    "{% for m in messages %}{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in "
    "m['content'] %}{% if p['type'] == 'image' %}<image>{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% if m['role'] == 'assistant' %}</s>{% endif %} {% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
"""A chat template that writes pictures as parts of turns."""


def llava() -> Any:
    """CLIP's tower on pictures [3, 8, 8] (four tokens each), a projector, and a Llama of two blocks."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    sizes: dict[str, Any] = {
        "hidden_size": bench.WIDTH,
        "intermediate_size": 2 * bench.WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    ids: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    text = LlamaConfig(
        **sizes, **ids, vocab_size=bench.VOCABULARY + 3, num_key_value_heads=2, max_position_embeddings=128
    )
    vision = CLIPVisionConfig(**sizes, image_size=8, patch_size=4, projection_dim=bench.WIDTH, initializer_factor=5.0)
    config = LlavaConfig(
        text_config=text, vision_config=vision, image_token_index=bench.VOCABULARY, vision_feature_layer=-1
    )
    return LlavaForConditionalGeneration(config)


def processor(tokenizer: Any, template: str | None = TURNS) -> Any:
    """What such a model is read with: a tokenizer of 61 tokens and `<image>`, and CLIP's preparation of pictures."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    size, reads = {"height": 8, "width": 8}, copy.deepcopy(tokenizer)
    reads.add_tokens(["<image>"], special_tokens=True)
    reads.chat_template = template
    pictures = CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False)
    told: dict[str, Any] = {"patch_size": 4, "vision_feature_select_strategy": "default"}
    return LlavaProcessor(pictures, reads, num_additional_image_tokens=1, chat_template=template, **told)


def rows() -> tuple[list[dict[str, Any]], Mapping[str, tuple[Mapping[str, Any], str]]]:
    """Twelve rows, cold and warm pictures by turns, and what is wrong -> (row, the field that is named)."""

    def turns(question: str, kind: str) -> list[dict[str, Any]]:
        shown = [{"type": "image"}, {"type": "text", "text": question}]
        return [{"role": "user", "content": shown}, {"role": "assistant", "content": kind}]

    asked, kinds = ("fox", "a dog"), ("cold", "warm")
    seen = {"messages": turns("fox", "warm")}
    good = [{"messages": turns(asked[i // 2 % 2], kinds[i % 2]), "images": [f"pictures/{i}.png"]} for i in range(12)]
    return good, {
        "no picture for a place": (seen, "images"),
        "more pictures than places": ({**seen, "images": ["pictures/0.png", "pictures/1.png"]}, "images"),
        "no such picture": ({**seen, "images": ["pictures/none.png"]}, "image"),
        "an empty answer": ({"prompt": "fox", "completion": " ", "image": "pictures/0.png"}, "completion"),
    }
