"""Tiny models of next-scale prediction, and pictures that they can learn to draw."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from tunewright.conformance import task_drawing
from tunewright.conformance.task_case import TaskExample
from tunewright.loading.next_scale import fresh
from tunewright.models.residual_quantizer import ResidualQuantizer
from tunewright.tasks._parts import TO_IMAGE, UNCONDITIONAL

SCALES, CODES, CODE_WIDTH, WIDTH = (1, 2, 4), 16, 4, 16


def autoencoder(channels: int = 1) -> Any:
    """A VQModel on pictures [c, 8, 8] with latents [4, 4, 4], whose codes lie as far apart as its latents do."""
    from diffusers import VQModel

    made: Any = VQModel(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=CODE_WIDTH,
        num_vq_embeddings=CODES,
        sample_size=task_drawing.SIDE,
    )
    torch.nn.init.normal_(made.quantize.embedding.weight, std=0.3)
    return made


def write(folder: Path, name: str, **changes: Any) -> None:
    """A folder of a drawn model; of texts as long and of as many letters as those of the diffusion pipeline."""
    texts: dict[str, Any] = {}
    if name == TO_IMAGE:
        with tempfile.TemporaryDirectory() as place:
            texts["tokenizer"] = task_drawing.tokenizer(Path(place))
        texts["text_encoder"] = task_drawing.text_encoder(texts["tokenizer"])
    quantizer = ResidualQuantizer(SCALES, CODE_WIDTH, convolutions=2)
    sizes = {"width": WIDTH, "depth": 2, "heads": 2, **changes}
    seed = int(torch.randint(1 << 30, ()))
    fresh(folder, autoencoder(3 if name == TO_IMAGE else 1), quantizer, **texts, **sizes, seed=seed)
    _open_gates(folder)


def _open_gates(folder: Path) -> None:
    """Blocks of a model that was drawn add next to nothing: here they add something, so that every weight counts."""
    from safetensors.torch import load_file, save_file

    from tunewright.models.next_scale import PART, WEIGHTS

    file = folder / PART / WEIGHTS
    tensors = load_file(file)
    for name, x in tensors.items():
        if name.startswith("blocks.") and name.endswith("modulation.bias"):
            x[: len(x) // 3] = 1.0
        elif name == "head.weight":
            x *= 20
    save_file(tensors, file, metadata={"format": "pt"})


def _example(name: str, rows: list[dict[str, Any]], **more: Any) -> TaskExample:
    return TaskExample(
        model=lambda: task_drawing.model_of(name, write_of(name)),
        reader=task_drawing.NoReader(),
        rows=rows,
        files=task_drawing.pictures,
        steps=16,
        **more,
    )


def write_of(name: str) -> Any:
    """What writes the folder of a model of a task."""
    return lambda folder, **changes: write(folder, name, **changes)


def unconditional_image_generation() -> TaskExample:
    """Grey pictures of 8 x 8 in maps of 1 x 1, 2 x 2 and 4 x 4."""
    bad = {"no such picture": ({"image": "pictures/none.png"}, "image")}
    return _example(UNCONDITIONAL, [{"image": f"pictures/{i}.png"} for i in range(12)], bad=bad)


def text_to_image() -> TaskExample:
    """Coloured pictures of 8 x 8, of texts of letters."""
    rows = [{"image": f"pictures/{i}.png", "text": task_drawing.COLOURS[i % 2]} for i in range(12)]
    bad = {"no text": ({"image": "pictures/0.png", "text": ""}, "text")}
    return _example(TO_IMAGE, rows, bad=bad)


def example_of(name: str) -> TaskExample:
    """The example of a task that draws pictures, with a next-scale model."""
    return {UNCONDITIONAL: unconditional_image_generation, TO_IMAGE: text_to_image}[name]()
