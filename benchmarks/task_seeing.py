"""The run of image-text-to-text for docs/tasks.md: SmolLM2 learns to say which digit a picture shows (MNIST).

No small pre-trained model that reads pictures among texts may be passed on, so one is put together, as LLaVA was (Liu
et al. 2023): the tower of the two-tower model that `task_pictures` makes from nothing on digits (0.2M parameters), a
projector drawn afresh, and SmolLM2-135M-Instruct. The pictures that it then learns from are none of those that the
tower was made on.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.task_pictures import NAMES, SIDE, towers

FIRST = 300
"""Of each digit, the pictures that the tower was made on."""


def made(two_towers: Path, folder: Path) -> None:
    """The model of parts in `folder`, with its processor: a picture is 17 tokens."""
    import torch
    from transformers import (
        AutoTokenizer,
        CLIPImageProcessorPil,
        CLIPModel,
        LlamaForCausalLM,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    from tunewright.loading.locate import locate

    language = locate("smollm2-135m-instruct").folder
    reads = AutoTokenizer.from_pretrained(language)
    reads.add_tokens(["<image>"], special_tokens=True)
    speaks = LlamaForCausalLM.from_pretrained(language, dtype=torch.float32)
    sees = CLIPModel.from_pretrained(two_towers)
    config = LlavaConfig(
        text_config=speaks.config,
        vision_config=sees.config.vision_config,
        image_token_index=speaks.config.vocab_size,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(speaks.model.state_dict())
    model.model.vision_tower.load_state_dict(
        {n.removeprefix("vision_model."): t for n, t in sees.state_dict().items() if n.startswith("vision_model.")}
    )
    model.tie_weights()
    model.resize_token_embeddings(len(reads))
    model.generation_config = speaks.generation_config
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    pictures = CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False)
    told: dict[str, Any] = {"patch_size": 7, "vision_feature_select_strategy": "full"}
    LlavaProcessor(pictures, reads, num_additional_image_tokens=1, **told).save_pretrained(folder)


def digits(data: Path, part: str, first: int, each: int, out: Path) -> str:
    """Pictures in folders by class: of every digit `each`, from the `first` on."""
    with np.load(data / "mnist" / f"{part}.npz") as file:
        pixels, classes = file["x"], file["y"]
    for digit, name in enumerate(NAMES):
        place = out / name
        place.mkdir(parents=True, exist_ok=True)
        for i, picture in enumerate(pixels[classes == digit][first : first + each]):
            Image.fromarray(picture).save(place / f"{i}.png")
    return str(out)


def recipe(
    data: Path, out: Path, train: dict[str, Any], finished: Callable[[dict[str, Any], Path], Path]
) -> dict[str, Any]:
    """The recipe over a model of parts, made if it is not there: 12 pictures of each digit to learn from, 8 others to
    be asked.
    """
    model = out / "llava-model"
    if not model.exists():
        made(towers(data, out, train, finished), model)
    places = {n: out / "pictures" / f"asked-{n}" for n in ("train", "test")}
    kept = out / "rows" / "wikitext.txt"
    kept.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(data / "wikitext2" / "valid.txt.gz", "rt", encoding="utf-8") as file:
        lines = [line.strip() for line in file if len(line) > 300]
    kept.write_text("\n\n".join(lines[:6]), encoding="utf-8")
    return {
        "model": str(model),
        "task": "image-text-to-text",
        "data": {
            "train": digits(data, "train", FIRST, 12, places["train"]),
            "eval": digits(data, "test", 0, 8, places["test"]),
            "template": "Which digit is in the picture?",
            "system": "",
            "max_length": 128,
        },
        "keep": [{"data": str(kept)}],
        "methods": [{"lora": {"rank": 16, "target_modules": ["language_model", "projector"]}}],
        "train": {**train, "learning_rate": 1e-3, "batch_tokens": 256},
        "budget": {"epochs": 6},
        "measurement": {"strengths": [1]},
    }
