"""A model that draws pictures map by map, from coarse to fine: next-scale prediction (Tian et al. 2024,
arXiv:2404.02905, VAR).

A frozen autoencoder of diffusers (`VQModel`) and a residual quantiser (`models.residual_quantizer`) make maps of codes
of a picture; a transformer (`models.next_scale_blocks`) predicts each map from all coarser ones and is what is adapted.
Text encoder, autoencoder and quantiser stand around it. The first two move with it; autoencoder and quantiser stay
in float32 whatever the transformer's type is, since a code that rounding changes is another code.

A picture is drawn in K forwards, one a scale: the codes of a map are drawn at once, each from its own distribution.
With guidance g the logits of scale k are those of the empty text plus 1 + (g - 1) k / (K - 1) times what the row's own
text adds (the repository's `cfg` is g - 1); then temperature, top-k, and the fewest likeliest codes that hold top-p.
Earlier maps are read again with each forward, which costs about two and a half times what a cache would at the paper's
ten scales, and asks nothing of a method.

Checked against the paper's repository (FoundationVision/VAR at 78b9539, models/var.py): with its weights the same
logits, and the same code for the same draw under guidance, top-k and top-p (`tests/models/test_next_scale.py`). Differs
in: a row is told of by a text's pooled state in the place of a class's embedding; the autoencoder's convolutions around
the codes are 1 x 1 (`VQModel`), there 3 x 3.

Shapes: R rows, L codes of a picture over K scales, V codes, D width.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig

from tunewright.files.tensors import save_tensors
from tunewright.models.drawer import INDEX, Drawer, pixels_of
from tunewright.models.next_scale_blocks import NextScaleTransformer
from tunewright.models.residual_quantizer import ResidualQuantizer

PAPERS = ("var",)
PART, QUANTIZER, AUTOENCODER = "next_scale", "quantizer", "vqvae"
"""The folders of the parts; a text encoder and its tokenizer have those of diffusers."""
WEIGHTS = "diffusion_pytorch_model.safetensors"
TYPE = "next-scale"


class NextScaleConfig(PretrainedConfig):
    """What a folder's files say of a model, in numbers: `scales` of its maps, how many `codes` there are,
    `num_channels` and `image_size` (height, width) of its pictures, the most tokens of a text (`longest`, 0: it reads
    none), and width, blocks and heads of its transformer.
    """

    model_type = TYPE
    pipeline: str = ""
    scales: tuple[int, ...] = ()
    codes: int = 0
    num_channels: int = 3
    image_size: tuple[int, ...] = ()
    longest: int = 0
    hidden_size: int = 0
    num_hidden_layers: int = 0
    num_attention_heads: int = 0

    @property
    def reads_text(self) -> bool:
        """Whether pictures are drawn of texts."""
        return self.longest > 0

    @property
    def length(self) -> int:
        """L: codes of a picture."""
        return sum(s * s for s in self.scales)


@dataclass
class Beside:
    """What stands around the transformer: the folder's `index` as written, and the frozen parts (no text encoder where
    pictures are drawn of none). Without weights none is there.
    """

    index: dict[str, Any]
    autoencoder: Any = None
    quantizer: ResidualQuantizer | None = None
    text_encoder: Any = None
    tokenizer: Any = None
    empty: list[int] = field(default_factory=list)

    @property
    def frozen(self) -> list[nn.Module]:
        return [self.text_encoder] if self.text_encoder is not None else []

    @property
    def exact(self) -> list[nn.Module]:
        return [m for m in (self.autoencoder, self.quantizer) if m is not None]


@dataclass
class Coded:
    """`logits` [R, L, V] of the codes, `codes` [R, L] those of the picture; `features` [R, D] the mean state before the
    head; `hidden` the states behind the input and each block [R, L, D].
    """

    logits: Tensor
    codes: Tensor
    features: Tensor
    hidden: tuple[Tensor, ...] | None = None

    def losses(self, logits: Tensor) -> Tensor:
        """[R] the mean over a row's codes of their cross-entropy, nats: all codes of all scales count alike."""
        return self.by_code(logits).mean(1)

    def by_code(self, logits: Tensor) -> Tensor:
        """[R, L] cross-entropy of each code, nats."""
        return F.cross_entropy(logits.float().transpose(1, 2), self.codes, reduction="none")


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn: `guidance_scale` (1: none), `temperature`, `top_k` (0: all), `top_p` (1: all)."""

    guidance_scale: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


class NextScale(Drawer):
    """The model that is adapted. Made by `loading.next_scale`."""

    config_class = NextScaleConfig
    library: ClassVar[str] = "tunewright"
    around: Beside

    def __init__(self, config: NextScaleConfig, net: NextScaleTransformer, around: Beside):
        super().__init__(config, PART, net, around)

    @property
    def net(self) -> Any:
        """The transformer itself."""
        return self.next_scale

    @property
    def book(self) -> Tensor:
        """[V, C] the codes' vectors."""
        weight: Tensor = self.around.autoencoder.quantize.embedding.weight
        return weight

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor | None = None, output_hidden_states: bool = False
    ) -> Coded:
        """Predict the codes of pictures [R, c, H, W] in [-1, 1], each map from the coarser ones, of texts [R, T]."""
        codes = self.codes(pixel_values)
        inputs = self._quantizer.inputs(codes, self.book).to(self.dtype)
        logits, states = self.net(inputs, self.conditions(input_ids, len(codes)))
        features = states[-1].float().mean(1)
        return Coded(logits, codes, features, states if output_hidden_states else None)

    @torch.no_grad()
    def codes(self, pixels: Tensor) -> Tensor:
        """int64 [R, L]: the codes of pictures [R, c, H, W]."""
        latents = self.around.autoencoder.encode(pixels.to(self.book.dtype)).latents
        return self._quantizer.codes(latents, self.book)

    @torch.no_grad()
    def pictures(self, codes: Tensor) -> Tensor:
        """uint8 [R, c, H, W] that codes [R, L] stand for."""
        latents = self._quantizer.features(codes, self.book)
        return pixels_of(self.around.autoencoder.decode(latents, force_not_quantize=True).sample)

    def conditions(self, ids: Tensor | None, rows: int) -> Tensor:
        """[R, D] of texts [R, T], of the empty text where none are given; of a model without texts the one of all."""
        if self.around.text_encoder is None:
            out: Tensor = self.net.conditions(None, rows)
            return out
        with torch.no_grad():
            told = self.around.text_encoder(input_ids=self.ids_or_empty(ids, rows)).pooler_output
        out = self.net.conditions(told.to(self.dtype), rows)
        return out

    @torch.no_grad()
    def draw(self, uniform: Tensor, ids: Tensor | None, how: Sampling) -> Tensor:
        """uint8 pictures [R, c, H, W], from draws [R, L] in [0, 1), one a code, that alone decide what is drawn."""
        return self.pictures(self.drawn_codes(uniform, ids, how))

    @torch.no_grad()
    def drawn_codes(self, uniform: Tensor, ids: Tensor | None, how: Sampling) -> Tensor:
        """int64 [R, L]: codes that are drawn, scale by scale."""
        rows, quantizer, parts = len(uniform), self._quantizer, self._quantizer.of_scales(uniform)
        condition = self.conditions(ids, rows)
        guided = self.around.text_encoder is not None and how.guidance_scale != 1
        if guided:
            condition = torch.cat([self.conditions(None, rows), condition])
        total = torch.zeros((rows, quantizer.width, quantizer.side, quantizer.side), device=uniform.device)
        inputs, out = total.new_zeros((rows, 0, quantizer.width)), list[Tensor]()
        for k, draws in enumerate(parts):
            read = torch.cat([inputs, inputs]) if guided else inputs
            said = self.net(read.to(self.dtype), condition)[0][:, -draws.shape[1] :].float()
            if guided:
                plain, told = said.chunk(2)
                strength = 1 + (how.guidance_scale - 1) * k / (len(parts) - 1)
                said = plain + strength * (told - plain)
            out.append(chosen(said, draws, how))
            total = total + quantizer.grown(k, F.embedding(out[-1], self.book))
            if k + 1 < len(parts):
                inputs = torch.cat([inputs, quantizer.shrunk(k + 1, total)], 1)
        return torch.cat(out, 1)

    @property
    def _quantizer(self) -> ResidualQuantizer:
        assert self.around.quantizer is not None
        return self.around.quantizer

    def save_pretrained(self, save_directory: Any, max_shard_size: Any = "5GB", **_: Any) -> None:  # type: ignore[override]
        """Write the folder, as `loading.next_scale` reads it. The transformer's weights are one file of any size."""
        folder, around = Path(save_directory), self.around
        folder.mkdir(parents=True, exist_ok=True)
        quantizer = self._quantizer
        own = {
            "scales": list(quantizer.scales),
            "width": quantizer.width,
            "convolutions": len(quantizer.phi),
            "ratio": quantizer.ratio,
        }
        _write(folder / PART, "NextScaleTransformer", self.net.settings, self.net)
        _write(folder / QUANTIZER, "ResidualQuantizer", own, quantizer)
        parts = {AUTOENCODER: around.autoencoder, "text_encoder": around.text_encoder, "tokenizer": around.tokenizer}
        for name, part in parts.items():
            if part is not None:
                part.save_pretrained(folder / name)
        (folder / INDEX).write_text(json.dumps(around.index, indent=2) + "\n", encoding="utf-8")


def chosen(logits: Tensor, draws: Tensor, how: Sampling) -> Tensor:
    """int64 [R, l]: the code that a draw [R, l] in [0, 1) takes of logits [R, l, V], the codes laid side by side in
    their order, each as wide as it is likely.
    """
    logits = logits / how.temperature
    if 0 < how.top_k < logits.shape[-1]:
        least = logits.topk(how.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if how.top_p < 1:
        rising, order = logits.sort(dim=-1)
        out = rising.softmax(-1).cumsum(-1) <= 1 - how.top_p
        out[..., -1] = False
        logits = logits.masked_fill(out.scatter(-1, order, out), -torch.inf)
    edges = logits.softmax(-1).cumsum(-1)
    at = torch.searchsorted(edges, draws[..., None] * edges[..., -1:], right=True)[..., 0]
    return at.minimum((edges < edges[..., -1:]).sum(-1))  # a draw rounded to 1 takes the last that has a share


def coding_of(model: NextScale) -> str:
    """What is equal exactly where two models make the same codes of pictures: a hash of autoencoder and quantiser."""
    found = hashlib.sha256()
    for part in model.around.exact:
        for name, x in sorted(part.state_dict().items()):
            found.update(name.encode() + x.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _write(folder: Path, name: str, settings: dict[str, Any], part: nn.Module) -> None:
    folder.mkdir(exist_ok=True)
    text = json.dumps({"_class_name": name, **settings}, indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    tensors = {n: x.detach().cpu().contiguous() for n, x in part.state_dict().items()}
    save_tensors(tensors, folder / WEIGHTS, {"format": "pt"})
