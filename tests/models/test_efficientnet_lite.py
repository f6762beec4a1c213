"""The converted EfficientNet-Lite0 computes what the published network does, and every tensor of the file has a
place.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tunewright.errors import ModelError
from tunewright.loading import efficientnet_lite

# kernel, stride, widening, channels out, repeats of each stage of EfficientNet-B0 (Tan & Le 2019, table 1)
STAGES = [
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
]
BLOCKS = [(k, s if r == 0 else 1, e, out) for k, s, e, out, n in STAGES for r in range(n)]


def published() -> dict[str, Tensor]:
    """Random weights under the published names."""
    g = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}

    def conv(name: str, out: int, into: int, k: int) -> None:
        found[f"{name}.weight"] = torch.randn(out, into, k, k, generator=g) * (2 / (into * k * k)) ** 0.5

    def norm(name: str, size: int) -> None:
        for part, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5), ("running_var", 0.5)):
            found[f"{name}.{part}"] = torch.rand(size, generator=g) + low

    conv("_conv_stem", 32, 3, 3)
    norm("_bn0", 32)
    into = 32
    for i, (k, _, e, out) in enumerate(BLOCKS):
        if e > 1:
            conv(f"_blocks.{i}._expand_conv", into * e, into, 1)
            norm(f"_blocks.{i}._bn0", into * e)
        conv(f"_blocks.{i}._depthwise_conv", into * e, 1, k)
        norm(f"_blocks.{i}._bn1", into * e)
        conv(f"_blocks.{i}._project_conv", out, into * e, 1)
        norm(f"_blocks.{i}._bn2", out)
        into = out
    conv("_conv_head", 1280, into, 1)
    norm("_bn1", 1280)
    found["_fc.weight"], found["_fc.bias"] = torch.randn(1000, 1280, generator=g) * 0.05, torch.randn(1000, generator=g)
    return found


def plain(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network by hand: relu6, padding as TensorFlow's "same", no squeeze-and-excite."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.batch_norm(
            x, w[f"{name}.running_mean"], w[f"{name}.running_var"], w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-3
        )

    def conv(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        kernel = w[f"{name}.weight"].shape[-1]
        over = max(0, kernel - stride)  # sides are even
        x = F.pad(x, (over // 2, over - over // 2, over // 2, over - over // 2))
        return F.conv2d(x, w[f"{name}.weight"], stride=stride, groups=groups)

    x = F.relu6(norm(conv(x, "_conv_stem", 2), "_bn0"))
    for i, (_, stride, e, out) in enumerate(BLOCKS):
        name, kept = f"_blocks.{i}", x
        if e > 1:
            x = F.relu6(norm(conv(x, f"{name}._expand_conv"), f"{name}._bn0"))
        x = F.relu6(norm(conv(x, f"{name}._depthwise_conv", stride, x.shape[1]), f"{name}._bn1"))
        x = norm(conv(x, f"{name}._project_conv"), f"{name}._bn2")
        if stride == 1 and kept.shape[1] == out:
            x = x + kept
    x = F.relu6(norm(conv(x, "_conv_head"), "_bn1")).mean((2, 3))
    return F.linear(x, w["_fc.weight"], w["_fc.bias"])


def test_the_converted_model_is_the_plain_network(tmp_path):
    from transformers import AutoImageProcessor, EfficientNetForImageClassification

    weights = published()
    torch.save(weights, tmp_path / "w.pth")
    folder = tmp_path / "model"
    folder.mkdir()
    efficientnet_lite.convert(tmp_path / "w.pth", folder)
    model = EfficientNetForImageClassification.from_pretrained(folder).eval()
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, due = model(pixel_values=x).logits, plain(weights, x)
    assert due.std() > 0.5
    torch.testing.assert_close(ours, due, rtol=1e-4, atol=1e-4)
    processor = AutoImageProcessor.from_pretrained(folder)
    grey = processor(torch.full((3, 300, 400), 127, dtype=torch.uint8).numpy(), return_tensors="pt")["pixel_values"]
    assert grey.shape == (1, 3, 224, 224) and grey.abs().max() < 1e-6


def test_other_files_are_refused(tmp_path):
    weights = published()
    for broken, name in (
        ({k: v for k, v in weights.items() if k != "_blocks.3._bn1.bias"}, "_blocks.3._bn1.bias"),
        (weights | {"_fc.bias": torch.zeros(7)}, "classifier.bias"),
    ):
        torch.save(broken, tmp_path / "w.pth")
        with pytest.raises(ModelError, match=name):
            efficientnet_lite.convert(tmp_path / "w.pth", tmp_path)
