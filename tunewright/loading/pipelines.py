"""Diffusion pipelines in diffusers' own folders: `model_index.json` beside a folder for each part.

Read are the pipelines of `PIPELINES`, each part of the class that is named there and of no other: a file of a model
never chooses code. Weights are safetensors. A pipeline's denoiser is what is adapted (`models.denoiser`); its text
encoder and VAE are frozen. Schedulers differ in how they sample, and share the table by which noise is put in
(`SCHEDULERS`); flow matching has another, and is refused.

What is not read, and named so: conditions beside a text (a class, a size, a second encoder: SDXL), safety checkers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tunewright.errors import MissingExtraError, ModelError
from tunewright.files.regular import regular
from tunewright.loading.guard import check_finite, check_ids, said
from tunewright.loading.locate import Located
from tunewright.loading.quiet import quiet
from tunewright.models.denoiser import INDEX, PREDICTS, SCHEDULER, Around, Denoiser, DenoiserConfig
from tunewright.tasks._parts import TO_IMAGE, UNCONDITIONAL

if TYPE_CHECKING:
    from tunewright.contract.task import Task


@dataclass(frozen=True)
class Kind:
    """A pipeline that is read: the task that it does, and the class of each of its parts."""

    task: str
    parts: dict[str, str]


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
LIBRARIES = ("diffusers", "transformers")
"""Where the parts' classes come from."""
AGAIN = "download the pipeline again"


def is_pipeline(folder: Path) -> bool:
    """Whether a folder is a diffusers pipeline."""
    return (folder / INDEX).is_file()


def task_of(folder: Path) -> str | None:
    """The task of a folder's pipeline; None of any other folder, and of a pipeline that is not read."""
    kind = PIPELINES.get(str(_json(folder / INDEX).get("_class_name"))) if is_pipeline(folder) else None
    return None if kind is None else kind.task


def patterns() -> list[str]:
    """What is fetched of a hub's repository: the parts that are read, whole weights in safetensors alone."""
    parts = sorted({"scheduler", *(p for kind in PIPELINES.values() for p in kind.parts)})
    weights = ("diffusion_pytorch_model*.safetensors", "model*.safetensors", "*.json", "*.txt")
    return [INDEX, "README.md", *(f"{part}/{pattern}" for part in parts for pattern in weights)]


def config_of(located: Located, task: Task) -> DenoiserConfig:
    """What the pipeline's files say of it. ModelError for what is not read, or does not do the task."""
    folder = located.folder
    if not is_pipeline(folder):
        raise ModelError(
            f"this is no pipeline of diffusers ({INDEX} is not there), and {task.name} reads one",
            where=str(folder),
            remedy=f"take a folder or hub id of a {' or '.join(n for n, k in PIPELINES.items() if task.is_a(k.task))}",
        )
    index = _json(folder / INDEX)
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
    net = _part(folder, "unet", kind)
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
        vae = _part(folder, "vae", kind)
        scale, seen = 2 ** (len(vae.get("block_out_channels", ())) - 1), int(vae.get("in_channels", 3))
    left = [n for n, v in index.items() if isinstance(v, list) and v[1:] != [None] and n not in _read(kind)]
    if left:
        located.notes.append(f"parts of the pipeline that are not read, and not exported: {', '.join(left)}")
    config = DenoiserConfig()
    config.denoiser, config.pipeline, config.predicts = "unet", name, str(schedule.get("prediction_type", "epsilon"))
    config.shape, config.num_channels = (channels, *size), seen
    config.image_size, config.steps = tuple(s * scale for s in size), int(schedule.get("num_train_timesteps", 1000))
    if "text_encoder" in kind.parts:
        told = _json(folder / "tokenizer" / "tokenizer_config.json").get("model_max_length", 77)
        config.longest = int(min(told, _part(folder, "text_encoder", kind).get("max_position_embeddings", 77)))
    return config


def tokenizer_of(located: Located, config: DenoiserConfig) -> Any:
    """The pipeline's tokenizer; None of one without texts. ModelError where it cannot be read."""
    folder = located.folder / "tokenizer"
    if not config.reads_text:
        return None
    from transformers import CLIPTokenizer

    try:
        with quiet():
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as e:
        raise ModelError(f"the tokenizer cannot be read: {said(e)}", where=str(folder), remedy=AGAIN) from e
    check_ids(tokenizer, folder)
    tokenizer.model_max_length = config.longest
    return tokenizer


def build(
    located: Located, config: DenoiserConfig, dtype: torch.dtype, *, weights: bool = True, streams: bool = False
) -> Denoiser:
    """The pipeline as one model; without `weights` its shapes alone. MissingExtraError without diffusers."""
    diffusers, folder = _diffusers(), located.folder
    if streams:
        raise ModelError(
            "the blocks of a pipeline's denoiser are not read from disk one at a time",
            where="train.offload_param",
            remedy="take offload_param out",
        )
    index, schedule = _json(folder / INDEX), _schedule(folder)
    kind = PIPELINES[config.pipeline]
    with quiet():
        table = diffusers.DDPMScheduler.from_config(schedule).alphas_cumprod.float()
    around = Around(index, schedule, table)
    if weights and "text_encoder" in kind.parts:
        import transformers

        around.tokenizer = tokenizer_of(located, config)
        around.text_encoder = _made(transformers.CLIPTextModel, folder, "text_encoder", dtype)
        around.vae = _made(diffusers.AutoencoderKL, folder, "vae", dtype)
        for part, frozen in (("text_encoder", around.text_encoder), ("vae", around.vae)):
            check_finite(frozen, folder / part)
        around.empty = _empty(around.tokenizer, config.longest)
        most = around.text_encoder.config.vocab_size
        if len(around.tokenizer) > most:
            raise ModelError(
                f"the tokenizer has {len(around.tokenizer)} tokens, but the text encoder embeds {most}",
                where=str(folder / "tokenizer"),
                remedy="use the tokenizer that belongs to the pipeline",
            )
    cls = getattr(diffusers, kind.parts[config.denoiser])
    if weights:
        return Denoiser(config, _made(cls, folder, config.denoiser, dtype), around)
    try:
        with quiet(), torch.device("meta"):
            return Denoiser(config, cls.from_config(_part(folder, config.denoiser, kind)).to(dtype), around)
    except Exception as e:
        raise ModelError(f"the model cannot be made: {said(e)}", where=str(folder), remedy=AGAIN) from e


def again(folder: Path, model: Denoiser) -> Denoiser:
    """The pipeline of a folder, in the type of a model that was written there."""
    return build(Located(folder, "", None), model.config, model.dtype)


def _empty(tokenizer: Any, longest: int) -> list[int]:
    """The ids of the empty text, padded."""
    ids = list(tokenizer("", verbose=False)["input_ids"])
    return [*ids, *[tokenizer.pad_token_id] * (longest - len(ids))]


def _read(kind: Kind) -> set[str]:
    return {"scheduler", *kind.parts}


def _made(cls: Any, folder: Path, part: str, dtype: torch.dtype) -> Any:
    """A part with its weights. ModelError where they do not fit its config, or are pickled."""
    what: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    kind = {"dtype": dtype} if cls.__module__.startswith("transformers") else {"torch_dtype": dtype}
    if not list((folder / part).glob("*.safetensors")):
        raise ModelError(
            f"the {part} has no weights in safetensors",
            where=str(folder / part),
            remedy="use a revision with *.safetensors: opening a pickle can run any code",
        )
    try:
        with quiet():
            model, info = cls.from_pretrained(folder / part, **what, **kind)
    except Exception as e:
        raise ModelError(f"the {part} cannot be made: {said(e)}", where=str(folder / part), remedy=AGAIN) from e
    lost = [str(k) for k in (*info["missing_keys"], *info["mismatched_keys"]) if "position_ids" not in str(k)]
    if lost:
        raise ModelError(
            f"the {part} lacks weights that its config asks for: {len(lost)} tensors such as {lost[0]}",
            where=str(folder / part),
            remedy=AGAIN,
        )
    return model


def _diffusers() -> Any:
    try:
        with quiet():
            import diffusers

            diffusers.utils.logging.set_verbosity_error()
    except ImportError:
        what = "pipelines of pictures are read with diffusers, which is not installed"
        raise MissingExtraError(what, where="model", remedy="pip install 'tunewright[diffusion]'") from None
    return diffusers


def _part(folder: Path, name: str, kind: Kind) -> dict[str, Any]:
    """A part's config. ModelError where it is of another class than the index says."""
    file = folder / name / "config.json"
    config = _json(file)
    written = config.get("_class_name") or (config.get("architectures") or [kind.parts[name]])[0]
    if written != kind.parts[name]:
        raise ModelError(
            f"it is the config of a {written}, and a {kind.parts[name]} is read here", where=str(file), remedy=AGAIN
        )
    return config


def _schedule(folder: Path) -> dict[str, Any]:
    """The scheduler's config, of one whose noise is known. ModelError for others."""
    file = folder / SCHEDULER
    schedule = _json(file)
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


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(regular(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError("a file of the pipeline is missing", where=str(file), remedy=AGAIN) from None
    except (OSError, ValueError, RecursionError) as e:
        raise ModelError(f"not readable as JSON: {said(e)}", where=str(file), remedy=AGAIN) from e
    if not isinstance(value, dict):
        raise ModelError("not a JSON object", where=str(file), remedy=AGAIN)
    return value
