"""Tiny models that find things, one of each kind that transformers has whole."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from tunewright.conformance.task_boxes import yolos

_RESNET = {
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage4"],
}
_DETR = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "dropout": 0.0,
    "num_queries": 6,
}
_THREE = {**_RESNET, "out_features": ["stage2", "stage3", "stage4"]}


def _resnet(**sizes: Any) -> Any:
    return transformers.ResNetConfig(**sizes)


def detr(**more: Any) -> Any:
    return transformers.DetrForObjectDetection(
        transformers.DetrConfig(backbone_config=_resnet(**_RESNET), use_timm_backbone=False, **_DETR, **more)
    )


def table_transformer(**more: Any) -> Any:
    return transformers.TableTransformerForObjectDetection(
        transformers.TableTransformerConfig(
            backbone_config=_resnet(**_RESNET), use_timm_backbone=False, **_DETR, **more
        )
    )


def conditional_detr(**more: Any) -> Any:
    return transformers.ConditionalDetrForObjectDetection(
        transformers.ConditionalDetrConfig(backbone_config=_resnet(**_RESNET), use_timm_backbone=False, **_DETR, **more)
    )


def dab_detr(**more: Any) -> Any:
    sizes = {k: v for k, v in _DETR.items() if k != "d_model"} | {"hidden_size": 16}
    return transformers.DabDetrForObjectDetection(
        transformers.DabDetrConfig(backbone_config=_resnet(**_RESNET), use_timm_backbone=False, **sizes, **more)
    )


def deformable_detr(**more: Any) -> Any:
    return transformers.DeformableDetrForObjectDetection(
        transformers.DeformableDetrConfig(
            backbone_config=_resnet(**_THREE),
            use_timm_backbone=False,
            num_feature_levels=3,
            encoder_n_points=2,
            decoder_n_points=2,
            **{**_DETR, "d_model": 32},
            **more,
        )
    )


def rt_detr(kind: str = "RTDetr", **more: Any) -> Any:
    body = transformers.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = getattr(transformers, f"{kind}Config")(
        backbone_config=body,
        encoder_hidden_dim=16,
        encoder_in_channels=[8, 16, 16],
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        encoder_layers=1,
        d_model=16,
        num_queries=6,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_n_points=2,
        num_denoising=4,
        **more,
    )
    return getattr(transformers, f"{kind}ForObjectDetection")(config)


MODELS: dict[str, Any] = {
    "yolos": lambda **more: yolos(side=32, **{"labels": more.pop("num_labels", 2), **more}),
    "detr": detr,
    "table-transformer": table_transformer,
    "conditional_detr": conditional_detr,
    "dab-detr": dab_detr,
    "deformable_detr": deformable_detr,
    "rt_detr": rt_detr,
    "rt_detr_v2": lambda **more: rt_detr("RTDetrV2", **more),
}


def make(name: str, **more: Any) -> Any:
    """A freshly drawn model of two classes, the same each time."""
    torch.manual_seed(0)
    return MODELS[name](**{"num_labels": 2, **more}).eval()
