"""A diffusion pipeline of diffusers as one model that is adapted: its denoiser trains, and what stands around it does
not.

The denoiser (`unet`) is the model's one child, under the name that the pipeline gives it, so that its parameters are
called as in LoRA files of diffusers (`unet.mid_block...`). Text encoder and VAE are held beside it (`models.drawer`).
Noise is put in by the scheduler's own table (Ho et al. 2020,
arXiv:2006.11239, equation 4):

    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e,   a_t the product of 1 - beta to step t

and what is predicted of x_t is e (`epsilon`), x_0 (`sample`) or sqrt(a_t) e - sqrt(1 - a_t) x_0 (`v_prediction`,
Salimans and Ho 2022, arXiv:2202.00512, appendix D), as the scheduler says.

Shapes: R rows, K noised copies of each, [C, h, w] what is denoised (a picture, or a VAE's latent), L tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from tunewright.models.drawer import INDEX, Drawer, pixels_of

PREDICTS = ("epsilon", "sample", "v_prediction")
"""What a scheduler may say that is predicted (`prediction_type`)."""
SCHEDULER = "scheduler/scheduler_config.json"


class DenoiserConfig(PretrainedConfig):
    """What a pipeline's files say of it, in numbers: `shape` [C, h, w] of what is denoised, `num_channels` and
    `image_size` (height, width) of its pictures, `steps` of its schedule, what it `predicts`, and the `denoiser`'s
    name.
    """

    model_type = "diffusers"
    denoiser: str = "unet"
    pipeline: str = ""
    shape: tuple[int, ...] = ()
    num_channels: int = 3
    image_size: tuple[int, ...] = ()
    steps: int = 1000
    predicts: str = "epsilon"
    longest: int = 0

    @property
    def reads_text(self) -> bool:
        """Whether pictures are drawn of texts."""
        return self.longest > 0


@dataclass
class Around:
    """What stands around a denoiser: the pipeline's `index` and the scheduler's `schedule` as written, its table
    `alphas` [T], and the frozen parts (none where the pipeline has none).
    """

    index: dict[str, Any]
    schedule: dict[str, Any]
    alphas: Tensor
    text_encoder: Any = None
    tokenizer: Any = None
    vae: Any = None
    empty: list[int] = field(default_factory=list)

    @property
    def frozen(self) -> list[nn.Module]:
        return [m for m in (self.text_encoder, self.vae) if m is not None]

    @property
    def exact(self) -> list[nn.Module]:
        return []


@dataclass
class Denoised:
    """`logits` [R, K C h w] are the predictions and `target` what is right of them; `features` [R, D] the mean state at
    the denoiser's middle; `hidden` the states behind each of its parts [R, K h w, D].
    """

    logits: Tensor
    target: Tensor
    features: Tensor
    hidden: tuple[Tensor, ...] | None = None

    def losses(self, logits: Tensor) -> Tensor:
        """[R] the mean over a row's noised copies and their elements of the squared errors of predictions."""
        return (logits.float() - self.target).square().mean(1)


class Denoiser(Drawer):
    """The model that is adapted. Made by `loading.pipelines`."""

    config_class = DenoiserConfig
    around: Around

    def __init__(self, config: DenoiserConfig, net: nn.Module, around: Around):
        super().__init__(config, config.denoiser, net, around)

    @property
    def net(self) -> Any:
        """The denoiser itself."""
        return getattr(self, self.config.denoiser)

    def forward(
        self,
        pixel_values: Tensor,
        timesteps: Tensor | None = None,
        noise: Tensor | None = None,
        input_ids: Tensor | None = None,
        spread: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> Denoised:
        """Predict of noised pictures [R, c, H, W] in [-1, 1] what their scheduler says. `timesteps` [R, K], `noise`
        [R, K, C, h, w]; `spread` [R, C, h, w] draws a VAE's latent (none: its mean). Without them: one copy a
        picture, at the middle of the schedule, with a fixed noise.
        """
        rows = len(pixel_values)
        if timesteps is None:
            timesteps = torch.full((rows, 1), self.config.steps // 2, device=pixel_values.device)
        if noise is None:
            shape = (rows, timesteps.shape[1], *self.config.shape)
            waves = torch.arange(math.prod(shape[1:]), device=pixel_values.device).sin().mul(2**0.5)
            noise = waves.view(shape[1:]).expand(shape)
        copies = timesteps.shape[1]
        clean = self.latents(pixel_values, spread).repeat_interleave(copies, 0)
        steps, noise = timesteps.flatten(), noise.flatten(0, 1).float()
        kept = self.around.alphas.to(steps.device)[steps].view(-1, 1, 1, 1)
        a, b = kept.sqrt(), (1 - kept).sqrt()
        clean = clean.float()
        states = self.read_texts(input_ids, rows)
        states = None if states is None else states.repeat_interleave(copies, 0)
        with self._watched(output_hidden_states) as seen:
            said = self.predict(a * clean + b * noise, steps, states)
        target = {"epsilon": noise, "sample": clean, "v_prediction": a * noise - b * clean}[self.config.predicts]
        middle = seen[_MIDDLE][-1].float().flatten(2).mean(-1).view(rows, copies, -1).mean(1)
        hidden = tuple(_as_states(x, rows) for x in seen[_ALL]) if output_hidden_states else None
        return Denoised(said.float().reshape(rows, -1), target.reshape(rows, -1), middle, hidden)

    def predict(self, noisy: Tensor, steps: Tensor, states: Tensor | None) -> Tensor:
        """[N, C, h, w] what the denoiser says of noised inputs [N, C, h, w] at steps [N], given texts [N, L, D]."""
        noisy = noisy.to(self.dtype)
        more = () if states is None else (states.to(self.dtype),)
        said: Tensor = self.net(noisy, steps, *more).sample
        return said

    @torch.no_grad()
    def latents(self, pixels: Tensor, spread: Tensor | None = None) -> Tensor:
        """[R, C, h, w] pictures as they are denoised: themselves, or a VAE's latents, scaled."""
        vae = self.around.vae
        if vae is None:
            return pixels
        said = vae.encode(pixels.to(vae.dtype)).latent_dist
        latent = said.mean if spread is None else said.mean + said.std * spread.to(said.std)
        return (latent - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> Tensor:
        """uint8 [R, c, H, W] of what was denoised."""
        vae = self.around.vae
        if vae is not None:
            latents = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
            latents = vae.decode(latents.to(vae.dtype)).sample
        return pixels_of(latents)

    @torch.no_grad()
    def read_texts(self, ids: Tensor | None, rows: int) -> Tensor | None:
        """[R, L, D] states of texts [R, L], of the empty text where none are given; None of a pipeline without."""
        encoder = self.around.text_encoder
        if encoder is None:
            return None
        states: Tensor = encoder(input_ids=self.ids_or_empty(ids, rows)).last_hidden_state
        return states

    @torch.no_grad()
    def draw(self, noise: Tensor, ids: Tensor | None, steps: int, guidance: float) -> Tensor:
        """uint8 pictures [R, c, H, W] from noise [R, C, h, w] by DDIM (Song et al. 2020, arXiv:2010.02502) with
        nothing drawn on the way. `guidance` above 1: classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598)
        away from the empty text.
        """
        from diffusers import DDIMScheduler

        sampler = DDIMScheduler.from_config(self.around.schedule)
        sampler.set_timesteps(steps, device=noise.device)
        rows, texts = len(noise), self.read_texts(ids, len(noise))
        guided = texts is not None and guidance != 1
        if guided:
            texts = torch.cat([self.read_texts(None, rows), texts])  # type: ignore[list-item]
        now = noise * sampler.init_noise_sigma
        for t in sampler.timesteps:
            read = torch.cat([now, now]) if guided else now
            said = self.predict(read, t.expand(len(read)), texts).float()
            if guided:
                plain, told = said.chunk(2)
                said = plain + guidance * (told - plain)
            now = sampler.step(said, t, now).prev_sample
        return self.pictures(now)

    def save_pretrained(self, save_directory: Any, max_shard_size: Any = "5GB", **_: Any) -> None:  # type: ignore[override]
        """Write the whole pipeline as `DiffusionPipeline.from_pretrained` reads it."""
        folder, around = Path(save_directory), self.around
        folder.mkdir(parents=True, exist_ok=True)
        self.net.save_pretrained(folder / self.config.denoiser, max_shard_size=max_shard_size)
        parts = {"text_encoder": around.text_encoder, "tokenizer": around.tokenizer, "vae": around.vae}
        for name, part in parts.items():
            if part is not None:
                part.save_pretrained(folder / name)
        here = {self.config.denoiser, "scheduler", *(n for n, p in parts.items() if p is not None)}
        index = {n: [None, None] if _names_a_part(v) and n not in here else v for n, v in around.index.items()}
        if "requires_safety_checker" in index:
            index["requires_safety_checker"] = False
        (folder / "scheduler").mkdir(exist_ok=True)
        for file, values in ((INDEX, index), (SCHEDULER, around.schedule)):
            (folder / file).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    @contextmanager
    def _watched(self, every: bool) -> Iterator[dict[str, list[Tensor]]]:
        """Inside, the states at the denoiser's middle, and with `every` those behind each of its parts."""
        seen: dict[str, list[Tensor]] = {_MIDDLE: [], _ALL: []}
        parts, middle = _parts_of(self.net)
        hooks = [_noting(middle, seen[_MIDDLE])]
        hooks += [_noting(part, seen[_ALL]) for part in parts] if every else []
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()


_MIDDLE, _ALL = "middle", "all"


def _parts_of(net: Any) -> tuple[list[nn.Module], nn.Module]:
    """The parts that a denoiser runs through, and the one in its middle."""
    middle = [net.mid_block] if net.mid_block is not None else []
    parts = [*net.down_blocks, *middle, *net.up_blocks]
    return parts, middle[0] if middle else net.down_blocks[-1]


def _noting(part: nn.Module, into: list[Tensor]) -> Any:
    def note(module: nn.Module, args: Any, out: Any) -> None:
        into.append(out if isinstance(out, Tensor) else out[0])

    return part.register_forward_hook(note)


def _as_states(x: Tensor, rows: int) -> Tensor:
    """[R K, D, h, w] as [R, K h w, D]."""
    return x.flatten(2).transpose(1, 2).reshape(rows, -1, x.shape[1])


def _names_a_part(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2
