"""EfficientNet-Lite0's published weights as transformers' `EfficientNetForImageClassification`.

Lite models have no squeeze-and-excite and use relu6; transformers' class always has the former. Its gate is made one
unit wide and set to 1 (a sigmoid of a bias of 30, whose gradient is under 1e-12), so that outputs are those of the
plain network and training leaves the gate where it is.

The file is a zip of tensors with a pickled index. It comes out of a package whose hash was checked, is read by torch's
restricted reader (tensors alone, no code) and only here, once, to write safetensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunewright.errors import ModelError
from tunewright.loading.quiet import quiet

OPEN = 30.0  # a gate's bias: the sigmoid is 1 in float32
_NORM = ("weight", "bias", "running_mean", "running_var")


def config() -> Any:
    """transformers' config of the network. Pictures are [3, 224, 224], classes ImageNet's 1,000 (without names)."""
    from transformers import EfficientNetConfig

    make: Any = EfficientNetConfig  # its signature leaves out what every config takes
    return make(
        width_coefficient=1.0,
        depth_coefficient=1.0,
        image_size=224,
        hidden_dim=1280,
        hidden_act="relu6",
        dropout_rate=0.2,
        depthwise_padding=[],
        num_labels=1000,
        pooling_type="mean",
        batch_norm_eps=1e-3,
        batch_norm_momentum=0.99,
        squeeze_expansion_ratio=1e-3,  # one unit
    )


def renamed(stored: dict[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """The published names -> transformers'. KeyError where one is missing."""
    new: dict[str, Tensor] = {}

    def norm(ours: str, theirs: str) -> None:
        new.update({f"{ours}.{part}": stored[f"{theirs}.{part}"] for part in _NORM})

    new["efficientnet.embeddings.convolution.weight"] = stored["_conv_stem.weight"]
    norm("efficientnet.embeddings.batchnorm", "_bn0")
    for i in range(blocks):
        ours, theirs = f"efficientnet.encoder.blocks.{i}", f"_blocks.{i}"
        if f"{theirs}._expand_conv.weight" in stored:  # the first block does not widen
            new[f"{ours}.expansion.expand_conv.weight"] = stored[f"{theirs}._expand_conv.weight"]
            norm(f"{ours}.expansion.expand_bn", f"{theirs}._bn0")
        new[f"{ours}.depthwise_conv.depthwise_conv.weight"] = stored[f"{theirs}._depthwise_conv.weight"]
        norm(f"{ours}.depthwise_conv.depthwise_norm", f"{theirs}._bn1")
        new[f"{ours}.projection.project_conv.weight"] = stored[f"{theirs}._project_conv.weight"]
        norm(f"{ours}.projection.project_bn", f"{theirs}._bn2")
    new["efficientnet.encoder.top_conv.weight"] = stored["_conv_head.weight"]
    norm("efficientnet.encoder.top_bn", "_bn1")
    new["classifier.weight"], new["classifier.bias"] = stored["_fc.weight"], stored["_fc.bias"]
    return new


def convert(file: Path, folder: Path) -> None:
    """Write `folder` (config, safetensors in float32, how pictures are prepared) from the published file.

    Raises ModelError where the file's tensors are not this network's.
    """
    from transformers import EfficientNetForImageClassification

    stored = torch.load(file, weights_only=True, map_location="cpu")
    model = EfficientNetForImageClassification(config())
    state = model.state_dict()
    try:
        new = renamed(stored, len(model.efficientnet.encoder.blocks))
    except (KeyError, TypeError, IndexError) as e:
        raise ModelError(f"not the weights of EfficientNet-Lite0: {e}", where=file.name) from e
    for name, tensor in state.items():
        if ".squeeze_excite." in name:
            new[name] = torch.full_like(tensor, OPEN) if name.endswith("expand.bias") else torch.zeros_like(tensor)
        elif name.endswith("num_batches_tracked"):
            new[name] = tensor
    wrong = [n for n, t in state.items() if n not in new or new[n].shape != t.shape] + [
        n for n in new if n not in state
    ]
    if wrong:
        raise ModelError(
            f"not the weights of EfficientNet-Lite0: '{wrong[0]}' is missing or has another shape", where=file.name
        )
    model.load_state_dict(new)
    with quiet():
        model.save_pretrained(folder)
        _write_processor(folder)


def _write_processor(folder: Path) -> None:
    """The short edge to 256, its middle 224 x 224, (pixel - 127) / 128."""
    from transformers import BitImageProcessor

    BitImageProcessor(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        resample=3,
        do_center_crop=True,
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=[127 / 255] * 3,
        image_std=[128 / 255] * 3,
        do_convert_rgb=True,
    ).save_pretrained(folder)
