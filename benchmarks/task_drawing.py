"""The runs of unconditional-image-generation and text-to-image for docs/tasks.md: digits that the base cannot draw.

No small pre-trained diffusion model may be passed on, so each base is made first, from nothing: it learns to draw 0 to
4 of MNIST (LeCun et al. 1998). Then 5 to 9 are learnt, and what is measured is how far pictures drawn of them lie from
others of these digits (Fréchet distance of features of an untrained network, no FID); held-out digits 0 to 4 are kept.
For text-to-image a digit is named in words, which a text encoder that was drawn and never trained tells apart, and the
UNet denoises latents of a small VAE that is made first, on all digits.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

UNCONDITIONAL, TO_IMAGE = "unconditional-image-generation", "text-to-image"
SIDE, LONGEST = 16, 8
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
STEPS = 1000
_NET: dict[str, Any] = {"layers_per_block": 1, "norm_num_groups": 8}


def digits(data: Path, out: Path) -> dict[str, str]:
    """JSON lines of pictures of the old digits and the new ones, to learn from and to measure on, with their names."""
    files = {}
    for part, each in (("train", 300), ("test", 40)):
        with np.load(data / "mnist" / f"{part}.npz") as file:
            pixels, labels = file["x"], file["y"]
        for name, some in (("old", range(5)), ("new", range(5, 10))):
            rows, place = [], out / f"{part}-{name}"
            place.mkdir(parents=True, exist_ok=True)
            for digit in some:
                for i in np.flatnonzero(labels == digit)[:each]:
                    Image.fromarray(pixels[i]).save(place / f"{i:05}.png")
                    rows.append({"image": str(place / f"{i:05}.png"), "text": NAMES[digit]})
            path = out / f"{part}-{name}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            files[f"{part}-{name}"] = str(path)
    return files


def blank(folder: Path) -> Path:
    """A DDPMPipeline of a UNet that was drawn (0.2M parameters)."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=SIDE,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        **_NET,
    )
    DDPMPipeline(net, DDPMScheduler(num_train_timesteps=STEPS)).save_pretrained(folder)
    return folder


def blank_of_texts(folder: Path, data: Path, count: int = 500) -> Path:
    """A StableDiffusionPipeline: a drawn UNet and text encoder, and a VAE that was made to give pictures back in
    `count` steps.
    """
    from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    reads, text = text_parts()
    net = UNet2DConditionModel(
        sample_size=SIDE // 2,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        **_NET,
    )
    StableDiffusionPipeline(
        vae=autoencoder(AutoencoderKL, data, count),
        text_encoder=CLIPTextModel(text),
        tokenizer=reads,
        unet=net,
        scheduler=DDPMScheduler(num_train_timesteps=STEPS, clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def text_parts() -> tuple[Any, Any]:
    """A tokenizer of the digits' names and letters, and the config of a text encoder."""
    from transformers import CLIPTextConfig, CLIPTokenizer

    names = [*NAMES, *(f"{n}</w>" for n in NAMES), *"abcdefghijklmnopqrstuvwxyz"]
    names += [f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz"] + ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as place:
        vocabulary = {n: i for i, n in enumerate(dict.fromkeys(names))}
        (Path(place) / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        (Path(place) / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
        reads = CLIPTokenizer.from_pretrained(place, model_max_length=LONGEST)
    ids = {"bos_token_id": reads.bos_token_id, "eos_token_id": reads.eos_token_id, "pad_token_id": reads.pad_token_id}
    text = CLIPTextConfig(
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=2,
        num_hidden_layers=2,
        vocab_size=len(reads),
        max_position_embeddings=LONGEST,
        initializer_factor=5.0,
        **ids,
    )
    return reads, text


def autoencoder(cls: Any, data: Path, count: int = 500) -> Any:
    """A VAE of grey pictures, [1, 16, 16] in latents [4, 8, 8], by squared error and a little of the KL term."""
    vae = cls(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(8, 16),
        norm_num_groups=8,
        latent_channels=4,
        sample_size=SIDE,
    )
    with np.load(data / "mnist" / "train.npz") as file:
        pixels = torch.from_numpy(file["x"][:4000]).float()[:, None] / 127.5 - 1
    pixels = torch.nn.functional.interpolate(pixels, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    steps = torch.optim.AdamW(vae.parameters(), lr=3e-3)
    for _ in range(count):
        x = pixels[torch.randint(0, len(pixels), (32,))]
        said = vae.encode(x).latent_dist
        loss = (vae.decode(said.sample()).sample - x).square().mean() + 1e-4 * said.kl().mean() / SIDE**2
        steps.zero_grad()
        loss.backward()
        steps.step()
    with torch.no_grad():
        vae.register_to_config(scaling_factor=float(1 / vae.encode(pixels[:500]).latent_dist.mean.std()))
    return vae


def first(task: str, base: Path, files: dict[str, str], train: dict[str, Any]) -> dict[str, Any]:
    """The recipe that makes a base: it learns to draw the old digits."""
    return {
        "task": task,
        "model": str(base),
        "data": {"train": files["train-old"], "eval": files["test-old"]},
        "methods": ["full"],
        "train": {**train, "learning_rate": 2e-3, "batch_tokens": 32 if task == UNCONDITIONAL else 96},
        "budget": {"steps": 1200},
        "measurement": {"strengths": [1], "rows": 20},
    }


def second(task: str, base: str, files: dict[str, str], train: dict[str, Any]) -> dict[str, Any]:
    """The recipe that adapts a base to the new digits."""
    return {
        "task": task,
        "model": base,
        "data": {"train": files["train-new"], "eval": files["test-new"]},
        "methods": [{"lora": {"rank": 8, "target_modules": "all"}}],
        "keep": [{"data": files["test-old"], "name": "digits 0 to 4"}],
        "train": {**train, "learning_rate": 3e-3, "batch_tokens": 32 if task == UNCONDITIONAL else 96},
        "budget": {"steps": 400},
        "measurement": {"metric": "frechet_distance", "num_inference_steps": 20, "strengths": [1]},
    }
