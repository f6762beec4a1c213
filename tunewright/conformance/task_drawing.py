"""Tiny pipelines of diffusers, and pictures that they can learn to draw."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tunewright.conformance.task_case import TaskExample
from tunewright.loading.locate import Located
from tunewright.loading.pipelines import build, config_of
from tunewright.tasks import get_task
from tunewright.tasks._parts import TO_IMAGE, UNCONDITIONAL

SIDE, LONGEST, WIDTH = 8, 12, 8
COLOURS = ("red", "blue")
_SIZES: dict[str, Any] = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}


class NoReader:
    """Reads nothing: a pipeline has its tokenizer in its own folder."""

    def save_pretrained(self, folder: Path | str) -> None:
        """Nothing to write."""


def schedule(**changes: Any) -> Any:
    """A schedule of a hundred steps."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(**{"num_train_timesteps": 100, **changes})


def unet(**changes: Any) -> Any:
    """A UNet on pictures [1, 8, 8] with attention at its lower end."""
    from diffusers import UNet2DModel

    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    plain = {"sample_size": SIDE, "in_channels": 1, "out_channels": 1, "attention_head_dim": 4, **blocks, **_SIZES}
    return UNet2DModel(**{**plain, **changes})


def write_unconditional(folder: Path, scheduler: Any = None, **changes: Any) -> None:
    """A DDPMPipeline's folder."""
    from diffusers import DDPMPipeline

    pipeline: Any = DDPMPipeline(unet(**changes), scheduler or schedule())
    pipeline.save_pretrained(folder)


def tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer of letters alone."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(97, 123)]
    names = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({n: i for i, n in enumerate(names)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=LONGEST)


def text_encoder(reads: Any) -> Any:
    """A drawn CLIPTextModel for a tokenizer."""
    from transformers import CLIPTextConfig, CLIPTextModel

    text: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_attention_heads": 2}
    ids = {"bos_token_id": reads.bos_token_id, "eos_token_id": reads.eos_token_id, "pad_token_id": reads.pad_token_id}
    more: dict[str, Any] = {"num_hidden_layers": 1, "max_position_embeddings": LONGEST}
    return CLIPTextModel(CLIPTextConfig(**text, **ids, **more, vocab_size=len(reads)))


def write_text_to_image(folder: Path, scheduler: Any = None) -> None:
    """A StableDiffusionPipeline's folder: pictures [3, 8, 8] in latents [4, 8, 8]."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

    with tempfile.TemporaryDirectory() as place:
        reads = tokenizer(Path(place))
    encoder = text_encoder(reads)
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    net = UNet2DConditionModel(sample_size=SIDE, cross_attention_dim=WIDTH, attention_head_dim=2, **blocks, **_SIZES)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(8,),
        norm_num_groups=4,
        sample_size=SIDE,
    )
    pipeline: Any = StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=reads,
        unet=net,
        scheduler=scheduler or schedule(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)


def read(folder: Path, name: str) -> Any:
    """A pipeline's folder as one model."""
    located = Located(folder, "", None)
    return build(located, config_of(located, get_task(name)), torch.float32)


def model_of(name: str, write: Any) -> Any:
    """A pipeline that `write` puts into a folder, as one model."""
    with tempfile.TemporaryDirectory() as place:
        write(Path(place))
        return read(Path(place), name)


def pictures(folder: Path) -> None:
    """Twelve pictures, red and blue by turns, each of its own brightness."""
    (folder / "pictures").mkdir()
    for i in range(12):
        pixels = np.zeros((SIDE + 1, SIDE, 3), np.uint8)
        pixels[:, :, 2 * (i % 2)] = 150 + 8 * i
        Image.fromarray(pixels).save(folder / "pictures" / f"{i}.png")
    (folder / "bad.txt").write_text("no picture", encoding="utf-8")


def unconditional_image_generation() -> TaskExample:
    """A UNet on grey pictures of 8 x 8."""
    return TaskExample(
        model=lambda: model_of(UNCONDITIONAL, write_unconditional),
        reader=NoReader(),
        rows=[{"image": f"pictures/{i}.png"} for i in range(12)],
        bad={
            "no such picture": ({"image": "pictures/none.png"}, "image"),
            "a picture of text": ({"image": "bad.txt"}, "image"),
        },
        files=pictures,
        steps=16,
    )


def text_to_image() -> TaskExample:
    """A latent UNet that reads CLIP's states of texts of letters."""
    rows = [{"image": f"pictures/{i}.png", "text": f"{COLOURS[i % 2]}"} for i in range(12)]
    return TaskExample(
        model=lambda: model_of(TO_IMAGE, write_text_to_image),
        reader=NoReader(),
        rows=rows,
        bad={
            "no such picture": ({"image": "pictures/none.png", "text": "red"}, "image"),
            "an empty text": ({"image": "pictures/0.png", "text": " "}, "text"),
            "a class that is a number": ({"image": "pictures/0.png", "label": 3}, "label"),
        },
        files=pictures,
        steps=16,
    )
