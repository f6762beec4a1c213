"""Models of next-scale prediction (`models.next_scale`) in a folder of their own format, and how one is made.

    model_index.json    which parts there are: `_class_name` NextScalePipeline, or NextScaleTextPipeline of one of texts
    next_scale/         config.json: width, depth, heads, hidden, codes, code_width, scales, condition, unit_length;
                        diffusion_pytorch_model.safetensors: the transformer
    quantizer/          config.json: scales, width, convolutions, ratio; its weights
    vqvae/              diffusers' `VQModel`, as it is saved there: encoder, decoder, and the book of codes
    text_encoder/, tokenizer/   `CLIPTextModel` and `CLIPTokenizer`, as transformers saves them

No other library has published a format for such models (the paper's own weights are pickled, and are not read). The
transformer is what is adapted, the rest is frozen. Pictures are square, their largest map as wide as the autoencoder's
latents. `fresh` writes a folder whose transformer was drawn, around an autoencoder that was trained with
`ResidualQuantizer.learn`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from tunewright.errors import ModelError
from tunewright.files.hashing import read_header
from tunewright.loading.guard import check_finite
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
from tunewright.models.drawer import INDEX
from tunewright.models.generators import seeded
from tunewright.models.next_scale import (
    AUTOENCODER,
    PART,
    QUANTIZER,
    WEIGHTS,
    Beside,
    NextScale,
    NextScaleConfig,
)
from tunewright.models.next_scale_blocks import NextScaleTransformer
from tunewright.models.residual_quantizer import ResidualQuantizer
from tunewright.tasks._parts import TO_IMAGE, UNCONDITIONAL

LIBRARY = "tunewright"
"""What an index calls the library of the parts that are of this format alone."""
_PLAIN = {PART: "NextScaleTransformer", QUANTIZER: "ResidualQuantizer", AUTOENCODER: "VQModel"}
_TEXTS = {"text_encoder": "CLIPTextModel", "tokenizer": "CLIPTokenizer"}
PIPELINES = {
    "NextScalePipeline": Kind(UNCONDITIONAL, _PLAIN),
    "NextScaleTextPipeline": Kind(TO_IMAGE, {**_PLAIN, **_TEXTS}),
}
_OF = {"VQModel": "diffusers", **dict.fromkeys(_TEXTS.values(), "transformers")}


def _size(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and x > 0


def _scales(x: Any) -> bool:
    sizes = isinstance(x, list) and len(x) > 1 and all(map(_size, x))
    return sizes and all(a < b for a, b in zip(x, x[1:], strict=False))


_RULES: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
    PART: {
        **dict.fromkeys(
            ("width", "depth", "heads", "hidden", "codes", "code_width"), (_size, "a whole number above 0")
        ),
        "scales": (_scales, "the sides of two or more maps, each larger than the one before"),
        "condition": (lambda x: x == 0 or _size(x), "the width of a text's state, or 0"),
        "unit_length": (lambda x: isinstance(x, bool), "true or false"),
    },
    QUANTIZER: {
        "scales": (_scales, "the sides of two or more maps, each larger than the one before"),
        **dict.fromkeys(("width", "convolutions"), (_size, "a whole number above 0")),
        "ratio": (lambda x: isinstance(x, int | float) and not isinstance(x, bool) and 0 <= x <= 1, "from 0 to 1"),
    },
}
"""What each setting of a part's config must be, and how that is said."""


def config_of(folder: Path, name: str, kind: Kind) -> NextScaleConfig:
    """What the files say of a model. ModelError for values that cannot be, and parts that do not fit one another."""
    net, maps = (_settings(folder, part, kind) for part in (PART, QUANTIZER))
    coder = part_config(folder, AUTOENCODER, kind)
    side: Any = coder.get("sample_size")
    halvings = len(coder.get("block_out_channels", ())) - 1
    width = coder.get("vq_embed_dim") or coder.get("latent_channels")
    for what, own, place, other in (
        ("scales", net["scales"], QUANTIZER, maps["scales"]),
        ("code_width", net["code_width"], QUANTIZER, maps["width"]),
        ("code_width", net["code_width"], AUTOENCODER, width),
        ("codes", net["codes"], AUTOENCODER, coder.get("num_vq_embeddings")),
        ("scales", net["scales"][-1] * 2**halvings, AUTOENCODER, side),
    ):
        if own != other:
            raise ModelError(
                f"its {what} ask for {own}, and {place}/config.json says {other}",
                where=str(folder / PART / "config.json"),
                remedy="use the parts that were made for one another",
            )
    if net["width"] % net["heads"]:
        raise ModelError(
            f"a width of {net['width']} is not divided by {net['heads']} heads",
            where=str(folder / PART / "config.json"),
            remedy=AGAIN,
        )
    config = NextScaleConfig()
    config.pipeline, config.scales, config.codes = name, tuple(net["scales"]), net["codes"]
    config.num_channels, config.image_size = int(coder.get("in_channels", 3)), (side, side)
    config.hidden_size, config.num_hidden_layers = net["width"], net["depth"]
    config.num_attention_heads = net["heads"]
    told = 0
    if "text_encoder" in kind.parts:
        config.longest = longest_text(folder, kind)
        told = int(part_config(folder, "text_encoder", kind).get("hidden_size", 0))
    if net["condition"] != told:
        raise ModelError(
            f"it is told of a row by a state of width {net['condition']}, and the text encoder gives {told or 'none'}",
            where=str(folder / PART / "config.json"),
            remedy="use the parts that were made for one another",
        )
    return config


def build(located: Located, config: NextScaleConfig, dtype: torch.dtype, *, weights: bool = True) -> NextScale:
    """The folder as one model; without `weights` the transformer's shapes alone."""
    folder, kind = located.folder, PIPELINES[config.pipeline]
    settings = _settings(folder, PART, kind)
    around = Beside(read_json(folder / INDEX))
    if not weights:
        with torch.device("meta"):
            return NextScale(config, NextScaleTransformer(settings).to(dtype), around)
    if config.reads_text:
        put_texts(around, located, config, dtype)
    around.autoencoder = made(get_diffusers().VQModel, folder, AUTOENCODER, torch.float32)
    maps = _settings(folder, QUANTIZER, kind)
    with torch.device("meta"):  # nothing is drawn that the files give
        around.quantizer = ResidualQuantizer(maps["scales"], maps["width"], maps["convolutions"], maps["ratio"])
        net = NextScaleTransformer(settings)
    _fill(around.quantizer, folder / QUANTIZER)
    _fill(net, folder / PART)
    for part, frozen in ((AUTOENCODER, around.autoencoder), (QUANTIZER, around.quantizer)):
        check_finite(frozen, folder / part)
    return NextScale(config, net.to(dtype), around)


def fresh(
    folder: Path | str,
    autoencoder: Any,
    quantizer: ResidualQuantizer,
    *,
    width: int,
    depth: int,
    heads: int,
    text_encoder: Any = None,
    tokenizer: Any = None,
    unit_length: bool = True,
    seed: int = 0,
) -> Path:
    """Write a model whose transformer is drawn by `seed`, around a `VQModel` and the quantiser that it was trained
    with; with a `CLIPTextModel` and its tokenizer, one that draws of texts. Its hidden layers are four times as wide.
    ModelError where the parts do not fit one another.
    """
    folder, reads = Path(folder), text_encoder is not None
    name = next(n for n, k in PIPELINES.items() if ("text_encoder" in k.parts) == reads)
    settings = {
        "width": width,
        "depth": depth,
        "heads": heads,
        "hidden": 4 * width,
        "codes": autoencoder.config.num_vq_embeddings,
        "code_width": quantizer.width,
        "scales": list(quantizer.scales),
        "condition": text_encoder.config.hidden_size if reads else 0,
        "unit_length": unit_length,
    }
    with seeded(seed):
        net = NextScaleTransformer(settings)
        net.draw_weights()
    index = {n: [_OF.get(c, LIBRARY), c] for n, c in PIPELINES[name].parts.items()}
    around = Beside({"_class_name": name, **index}, autoencoder, quantizer, text_encoder, tokenizer)
    with quiet():
        NextScale(NextScaleConfig(), net, around).save_pretrained(folder)
    config_of(folder, name, PIPELINES[name])
    return folder


def _settings(folder: Path, part: str, kind: Kind) -> dict[str, Any]:
    """A part's settings, each of which is one that can be. ModelError for others, and for those that are not known."""
    file, rules = folder / part / "config.json", _RULES[part]
    config = {k: v for k, v in part_config(folder, part, kind).items() if not k.startswith("_")}
    if odd := sorted(config.keys() ^ rules.keys()):
        what = "is not there" if odd[0] in rules else "is no setting of it"
        raise ModelError(f"{odd[0]} {what}", where=str(file), remedy=f"it has {', '.join(rules)}")
    for key, (fits, said) in rules.items():
        if not fits(config[key]):
            raise ModelError(f"{key} is {config[key]!r:.40}", where=str(file), remedy=f"write {said}")
    return config


def _fill(part: nn.Module, folder: Path) -> None:
    """Give a part the weights of its file. ModelError for others than its config asks for."""
    file = folder / WEIGHTS
    if not file.is_file():
        raise ModelError(
            f"the {folder.name} has no weights in safetensors ({WEIGHTS})", where=str(folder), remedy=AGAIN
        )
    read_header(file)
    tensors, own = load_file(file), part.state_dict()
    if odd := sorted(own.keys() ^ tensors.keys()):
        what = "lacks" if odd[0] in own else "has a tensor that its config does not ask for:"
        raise ModelError(f"the {folder.name} {what} {odd[0]}", where=str(file), remedy=AGAIN)
    if wrong := [n for n in own if own[n].shape != tensors[n].shape]:
        n = wrong[0]
        shapes = f"{list(tensors[n].shape)}, and its config asks for {list(own[n].shape)}"
        raise ModelError(f"{n} of the {folder.name} is {shapes}", where=str(file), remedy=AGAIN)
    part.load_state_dict(tensors, assign=True)
