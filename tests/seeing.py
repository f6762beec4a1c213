"""Tiny models that read pictures among texts, in folders as they are found: what tests of image-text-to-text start
from.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tunewright.conformance.bench import seeded
from tunewright.conformance.task_examples import tokenizer
from tunewright.conformance.task_seeing import TURNS, llava, processor

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": 4,
}
SMOL = (
    "{% for m in messages %}{{ m['role'] | capitalize }}{% if m['content'][0]['type'] == 'image' %}:{% else %}: "
    "{% endif %}{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% elif p['type'] == 'image' %}"
    "<image>{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""As SmolVLM's: content is parts alone, and a colon is followed by a space only where no picture comes first."""
QWEN = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in p %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


GEMMA = (
    "{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] | trim }}"
    "{% else %}{% for p in m['content'] %}{% if p['type'] == 'image' %}<start_of_image>{% else %}{{ p['text'] | trim }}"
    "{% endif %}{% endfor %}{% endif %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
)
GEMMAS = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}


def picture(seed: int, height: int = 20, width: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def write_llava(folder: Path, template: str | None = TURNS) -> Path:
    """A tiny LLaVA's folder."""
    model: Any = seeded(llava)
    model.save_pretrained(folder)
    processor(tokenizer(), template).save_pretrained(folder)
    return folder


def reads(template: str, *tokens: str) -> Any:
    made = copy.deepcopy(tokenizer())
    made.add_tokens(list(tokens), special_tokens=True)
    made.model_max_length, made.chat_template = 4096, template
    return made


def idefics3(folder: Path) -> tuple[Any, Any]:
    """A model that sees tiles, in a row's own dimension, and its processor; its folder is written."""
    import transformers as t

    tiles = [f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2)]
    own = reads(SMOL, "<image>", "<fake_token_around_image>", "<global-img>", *tiles, "<end_of_utterance>")
    sizes = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}
    made = t.Idefics3Processor(t.Idefics3ImageProcessorPil(**sizes), own, image_seq_len=4, chat_template=SMOL)
    config = t.Idefics3Config(
        text_config=t.LlamaConfig(vocab_size=len(own), **TEXT),
        vision_config={**TOWER, "image_size": 16},
        scale_factor=2,
        image_token_id=own.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    model: Any = seeded(lambda: t.Idefics3ForConditionalGeneration(config)).eval()
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return model, made


def llava_next(folder: Path) -> tuple[Any, Any]:
    """A model that sees patches, of differing numbers, and sizes beside them."""
    import transformers as t

    own, size, grid = reads(TURNS, "<image>"), {"height": 8, "width": 8}, [[8, 16], [16, 8], [16, 16]]
    pictures = t.LlavaNextImageProcessorPil(size={"shortest_edge": 8}, crop_size=size, image_grid_pinpoints=grid)
    told: dict[str, Any] = {"patch_size": 4, "vision_feature_select_strategy": "default"}
    made = t.LlavaNextProcessor(pictures, own, num_additional_image_tokens=1, chat_template=TURNS, **told)
    config = t.LlavaNextConfig(
        text_config=t.LlamaConfig(vocab_size=len(own), **TEXT),
        vision_config=t.CLIPVisionConfig(**TOWER, image_size=8, projection_dim=32),
        image_token_id=own.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        image_grid_pinpoints=grid,
    )
    model: Any = seeded(lambda: t.LlavaNextForConditionalGeneration(config)).eval()
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return model, made


def qwen2_vl(folder: Path) -> tuple[Any, Any]:
    """A model that sees patches one behind the other, in a folder that speaks of videos, too; its processor is None
    where torchvision is not there, which transformers asks for.
    """
    import transformers as t

    own = reads(
        QWEN, "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>"
    )
    pictures = t.Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, min_pixels=64, max_pixels=1024)
    ids = {name: own.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad")}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    config = t.Qwen2VLConfig(
        text_config={**TEXT, "vocab_size": len(own), "rope_parameters": rope},
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 4},
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=own.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=own.convert_tokens_to_ids("<|vision_end|>"),
    )
    model: Any = seeded(lambda: t.Qwen2VLForConditionalGeneration(config)).eval()
    model.save_pretrained(folder)
    own.save_pretrained(folder)
    pictures.save_pretrained(folder)
    told = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**told, "processor_class": "Qwen2VLProcessor"}))
    return model, _without_videos(t.Qwen2VLProcessor)(pictures, own, None, chat_template=QWEN)


def gemma3(folder: Path) -> tuple[Any, Any]:
    """A model that reads which tokens are a picture's, whose token in turns is another than those it becomes."""
    import transformers as t

    own = reads(GEMMA, *GEMMAS.values(), "<start_of_turn>", "<end_of_turn>")
    own.save_pretrained(folder)
    told = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**told, "extra_special_tokens": GEMMAS}))
    own = t.AutoTokenizer.from_pretrained(folder)
    pictures = t.Gemma3ImageProcessorPil(size={"height": 16, "width": 16})
    made = t.Gemma3Processor(pictures, own, image_seq_length=4, chat_template=GEMMA)
    ids = {name: own.convert_tokens_to_ids(token) for name, token in GEMMAS.items()}
    config = t.Gemma3Config(
        text_config={**TEXT, "vocab_size": len(own), "head_dim": 8},
        vision_config={**TOWER, "image_size": 16},
        mm_tokens_per_image=4,
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
        image_token_index=ids["image_token"],
    )
    model: Any = seeded(lambda: t.Gemma3ForConditionalGeneration(config)).eval()
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return model, made


def _without_videos(cls: Any) -> Any:
    """The class with nothing for videos, made as transformers makes it otherwise."""

    class Made(cls):  # type: ignore[misc]
        def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(name, argument)

    return Made
