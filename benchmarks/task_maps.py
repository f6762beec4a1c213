"""The runs of next-scale models for docs/tasks.md: digits that the base cannot draw, as in `benchmarks.task_drawing`.

No small pre-trained model of next-scale prediction may be passed on, so each base is made first, from nothing: an
autoencoder with a residual quantiser learns to give all digits of MNIST (LeCun et al. 1998) back, 30 codes of 128 a
picture, and a transformer learns to draw 0 to 4. Then 5 to 9 are learnt, by the recipe and rows of the diffusion run,
and measured as there, so that the two kinds of model stand beside one another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import task_drawing
from benchmarks.task_drawing import TO_IMAGE
from tunewright.loading.next_scale import fresh
from tunewright.models.residual_quantizer import ResidualQuantizer

SCALES, CODES, CODE_WIDTH = (1, 2, 3, 4), 128, 8
WIDTH, DEPTH, HEADS = 64, 4, 4
KIND = "next-scale"


def tokenizer(data: Path, count: int = 600) -> tuple[Any, ResidualQuantizer]:
    """A VQModel of grey pictures [1, 16, 16] with features [8, 4, 4], and its quantiser: squared error of what comes
    back, and what draws codes and features together (`ResidualQuantizer.learn`), in `count` steps. Codes that no
    feature takes are put where features lie, every 50 steps of the first half.
    """
    from diffusers import VQModel

    torch.manual_seed(0)
    coder: Any = VQModel(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 16, 32),
        norm_num_groups=8,
        latent_channels=CODE_WIDTH,
        num_vq_embeddings=CODES,
        sample_size=task_drawing.SIDE,
    )
    maps = ResidualQuantizer(SCALES, CODE_WIDTH)
    book = coder.quantize.embedding.weight
    torch.nn.init.normal_(book, std=0.5)
    with np.load(data / "mnist" / "train.npz") as file:
        pixels = torch.from_numpy(file["x"][:4000]).float()[:, None] / 127.5 - 1
    pixels = torch.nn.functional.interpolate(pixels, size=(task_drawing.SIDE,) * 2, mode="bilinear", antialias=True)
    steps = torch.optim.AdamW([*coder.parameters(), *maps.parameters()], lr=3e-3, weight_decay=0.0)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(steps, count)
    for step in range(count):
        x = pixels[torch.randint(0, len(pixels), (32,))]
        latents = coder.encode(x).latents
        features, drawn_together = maps.learn(latents, book)
        back = coder.decode(features, force_not_quantize=True).sample
        loss = (back - x).square().mean() + drawn_together
        steps.zero_grad()
        loss.backward()
        steps.step()
        slower.step()
        if step % 50 == 49 and step < count // 2:
            _revive(maps, book, latents.detach())
    return coder, maps


@torch.no_grad()
def _revive(maps: ResidualQuantizer, book: torch.Tensor, latents: torch.Tensor) -> None:
    """Put codes that are not taken onto residuals of the finest map."""
    codes = maps.codes(latents, book)
    idle = (torch.bincount(codes.flatten(), minlength=len(book)) == 0).nonzero()[:, 0]
    rest = (latents - maps.features(codes, book)).permute(0, 2, 3, 1).flatten(0, 2)
    book[idle] = rest[torch.randint(0, len(rest), (len(idle),))]


def blank(task: str, folder: Path, data: Path) -> Path:
    """A model whose transformer was drawn (0.3M parameters), around a tokenizer that was made; of texts with a text
    encoder that was drawn, as the diffusion run's was.
    """
    coder, maps = tokenizer(data)
    texts: dict[str, Any] = {}
    if task == TO_IMAGE:
        from transformers import CLIPTextModel

        texts["tokenizer"], config = task_drawing.text_parts()
        texts["text_encoder"] = CLIPTextModel(config)
    return fresh(folder, coder, maps, width=WIDTH, depth=DEPTH, heads=HEADS, **texts)


def first(task: str, base: Path, files: dict[str, str], train: dict[str, Any]) -> dict[str, Any]:
    """The recipe that makes a base: it learns to draw the old digits."""
    return task_drawing.first(task, base, files, train)


def second(task: str, base: str, files: dict[str, str], train: dict[str, Any]) -> dict[str, Any]:
    """The recipe that adapts a base to the new digits."""
    recipe = task_drawing.second(task, base, files, train)
    del recipe["measurement"]["num_inference_steps"]  # it draws in a forward a map
    return {**recipe, "probes": ["scale-losses"]}
