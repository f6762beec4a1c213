"""Models that draw pictures, in folders of several parts: diffusers' own of diffusion, and those of next-scale
prediction.

Read are the pipelines of `PIPELINES`, each part of the class that is named there and of no other
(`loading.pipeline_parts`). A diffusion pipeline's denoiser is what is adapted (`models.denoiser`); its text encoder and
VAE are frozen. What models of next-scale prediction are, `loading.next_scale` says. Schedulers differ in how they
sample, and share the table by which noise is put in (`SCHEDULERS`); flow matching has another, and is refused.

What is not read, and named so: conditions beside a text (a class, a size, a second encoder: SDXL), safety checkers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tunewright.errors import ModelError
from tunewright.loading import next_scale
from tunewright.loading.guard import check_finite, said
from tunewright.loading.locate import Located
from tunewright.loading.pipeline_parts import (
    AGAIN,
    Kind,
    get_diffusers,
    longest_text,
    made,
    part_config,
    put_texts,
    read_json,
)
from tunewright.loading.quiet import quiet
from tunewright.models.denoiser import PREDICTS, SCHEDULER, Around, Denoiser, DenoiserConfig
from tunewright.models.drawer import INDEX, Drawer
from tunewright.models.next_scale import NextScaleConfig
from tunewright.tasks._parts import TO_IMAGE, UNCONDITIONAL

if TYPE_CHECKING:
    from tunewright.contract.task import Task


_PIXELS = Kind(UNCONDITIONAL, {"unet": "UNet2DModel"})
_LATENT_TEXTS = Kind(
    TO_IMAGE,
    {
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
    },
)
PIPELINES: dict[str, Kind] = {
    "DDPMPipeline": _PIXELS,
    "DDIMPipeline": _PIXELS,
    "StableDiffusionPipeline": _LATENT_TEXTS,
    **next_scale.PIPELINES,
}
"""Pipelines by the name of their class."""
SCHEDULERS = (
    *("DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "LMSDiscreteScheduler", "HeunDiscreteScheduler"),
    *("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"),
    *("DPMSolverSinglestepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"),
)
"""Schedulers whose noise is that of DDPM at each step, however they sample."""
CONDITIONS = (
    *("class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim"),
    "class_embeddings_concat",
)
"""Settings of a UNet that reads more than a picture, a step and a text."""
LIBRARIES = ("diffusers", "transformers", next_scale.LIBRARY)
"""Where the parts' classes come from."""


def is_pipeline(folder: Path) -> bool:
    """Whether a folder is a diffusers pipeline."""
    return (folder / INDEX).is_file()


def task_of(folder: Path) -> str | None:
    """The task of a folder's pipeline; None of any other folder, and of a pipeline that is not read."""
    kind = PIPELINES.get(str(read_json(folder / INDEX).get("_class_name"))) if is_pipeline(folder) else None
    return None if kind is None else kind.task


def patterns() -> list[str]:
    """What is fetched of a hub's repository: the parts that are read, whole weights in safetensors alone."""
    parts = sorted({"scheduler", *(p for kind in PIPELINES.values() for p in kind.parts)})
    weights = ("diffusion_pytorch_model*.safetensors", "model*.safetensors", "*.json", "*.txt")
    return [INDEX, "README.md", *(f"{part}/{pattern}" for part in parts for pattern in weights)]


def config_of(located: Located, task: Task) -> DenoiserConfig | NextScaleConfig:
    """What the pipeline's files say of it. ModelError for what is not read, or does not do the task."""
    folder = located.folder
    if not is_pipeline(folder):
        raise ModelError(
            f"this is no pipeline of diffusers ({INDEX} is not there), and {task.name} reads one",
            where=str(folder),
            remedy=f"take a folder or hub id of a {' or '.join(n for n, k in PIPELINES.items() if task.is_a(k.task))}",
        )
    index = read_json(folder / INDEX)
    name = str(index.get("_class_name"))
    kind = PIPELINES.get(name)
    if kind is None:
        raise ModelError(
            f"the pipeline {name} is none that is read here",
            where=str(folder / INDEX),
            remedy=f"take one of {', '.join(PIPELINES)}",
        )
    if not task.is_a(kind.task):
        raise ModelError(f"a {name} does not do {task.name}", where=str(folder), remedy=f"it does: {kind.task}")
    for part, wanted in kind.parts.items():
        listed = index.get(part)
        library, found = listed if isinstance(listed, list) and len(listed) == 2 else (None, None)
        if found not in (wanted, f"{wanted}Fast") or library not in LIBRARIES:
            what = (
                f"its {part} is {'not there' if found is None else f'a {found} of {library}'}, and a {wanted} is read"
            )
            raise ModelError(what, where=str(folder / INDEX), remedy=f"take a {name} with a {wanted}")
    if "unet" not in kind.parts:
        _say_left(located, index, kind)
        return next_scale.config_of(folder, name, kind)
    net = part_config(folder, "unet", kind)
    schedule = _schedule(folder)
    if more := [key for key in CONDITIONS if net.get(key)]:
        raise ModelError(
            f"the UNet reads more than a picture, a step and a text ({more[0]}: {net[more[0]]})",
            where=str(folder / "unet" / "config.json"),
            remedy="take a pipeline without it",
        )
    size, channels = _sides(net.get("sample_size"), folder), int(net.get("in_channels", 0))
    if channels != net.get("out_channels"):
        raise ModelError(
            f"the UNet reads {channels} channels and gives {net.get('out_channels')}: what is beside the picture is "
            "not known here",
            where=str(folder / "unet" / "config.json"),
            remedy="take a pipeline that reads what it gives (none for inpainting)",
        )
    scale, seen = 1, channels
    if "vae" in kind.parts:
        vae = part_config(folder, "vae", kind)
        scale, seen = 2 ** (len(vae.get("block_out_channels", ())) - 1), int(vae.get("in_channels", 3))
    _say_left(located, index, kind)
    config = DenoiserConfig()
    config.denoiser, config.pipeline, config.predicts = "unet", name, str(schedule.get("prediction_type", "epsilon"))
    config.shape, config.num_channels = (channels, *size), seen
    config.image_size, config.steps = tuple(s * scale for s in size), int(schedule.get("num_train_timesteps", 1000))
    if "text_encoder" in kind.parts:
        config.longest = longest_text(folder, kind)
    return config


def _say_left(located: Located, index: dict[str, Any], kind: Kind) -> None:
    """Note which parts of a pipeline are not read."""
    left = [n for n, v in index.items() if isinstance(v, list) and v[1:] != [None] and n not in _read(kind)]
    if left:
        located.notes.append(f"parts of the pipeline that are not read, and not exported: {', '.join(left)}")


def build(located: Located, config: Any, dtype: torch.dtype, *, weights: bool = True, streams: bool = False) -> Drawer:
    """The pipeline as one model; without `weights` its shapes alone. MissingExtraError without diffusers."""
    diffusers, folder = get_diffusers(), located.folder
    if streams:
        raise ModelError(
            "the blocks of a pipeline's denoiser are not read from disk one at a time",
            where="train.offload_param",
            remedy="take offload_param out",
        )
    if isinstance(config, NextScaleConfig):
        return next_scale.build(located, config, dtype, weights=weights)
    index, schedule = read_json(folder / INDEX), _schedule(folder)
    kind = PIPELINES[config.pipeline]
    with quiet():
        table = diffusers.DDPMScheduler.from_config(schedule).alphas_cumprod.float()
    around = Around(index, schedule, table)
    if weights and "text_encoder" in kind.parts:
        put_texts(around, located, config, dtype)
        around.vae = made(diffusers.AutoencoderKL, folder, "vae", dtype)
        check_finite(around.vae, folder / "vae")
    cls = getattr(diffusers, kind.parts[config.denoiser])
    if weights:
        return Denoiser(config, made(cls, folder, config.denoiser, dtype), around)
    try:
        with quiet(), torch.device("meta"):
            return Denoiser(config, cls.from_config(part_config(folder, config.denoiser, kind)).to(dtype), around)
    except Exception as e:
        raise ModelError(f"the model cannot be made: {said(e)}", where=str(folder), remedy=AGAIN) from e


def again(folder: Path, model: Drawer) -> Drawer:
    """The pipeline of a folder, in the type of a model that was written there."""
    return build(Located(folder, "", None), model.config, model.dtype)


def _read(kind: Kind) -> set[str]:
    return {"scheduler", *kind.parts}


def _schedule(folder: Path) -> dict[str, Any]:
    """The scheduler's config, of one whose noise is known. ModelError for others."""
    file = folder / SCHEDULER
    schedule = read_json(file)
    name, predicts = schedule.get("_class_name"), schedule.get("prediction_type", "epsilon")
    if name not in SCHEDULERS:
        raise ModelError(
            f"the scheduler {name} puts noise in by a rule that is not read here",
            where=str(file),
            remedy=f"take a pipeline with one of {', '.join(SCHEDULERS[:3])}, ...",
        )
    if predicts not in PREDICTS:
        raise ModelError(
            f"the scheduler says that {predicts!r} is predicted",
            where=str(file),
            remedy=f"one of {', '.join(PREDICTS)}",
        )
    steps = schedule.get("num_train_timesteps", 1000)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ModelError(f"num_train_timesteps is {steps!r:.40}", where=str(file), remedy="write a number of steps")
    return schedule


def _sides(size: Any, folder: Path) -> tuple[int, int]:
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sides):
        raise ModelError(
            f"the UNet's sample_size is {size!r:.40}, no size of a picture",
            where=str(folder / "unet" / "config.json"),
            remedy="write the side in pixels (of a latent: in its own)",
        )
    return int(sides[0]), int(sides[1])
