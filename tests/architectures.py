"""Tiny models, freshly drawn, of the architectures that transformers has: what tests over all of them start from."""

from __future__ import annotations

import functools
from typing import Any

import torch

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 3,
}
DEEPSEEK: dict[str, Any] = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
MAMBA2: dict[str, Any] = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_ssm": 64,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
    "mamba_expand": 2,
}
MOE: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ENCODER_DECODER: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
SWIN: dict[str, Any] = {"embed_dim": 16, "depths": [2, 1], "num_heads": [2, 4], "window_size": 2, "patch_size": 2}
CONVNET: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}

OWN: dict[str, dict[str, Any]] = {
    "bart": ENCODER_DECODER,
    "mbart": ENCODER_DECODER,
    "ctrl": {"dff": 64},
    "deepseek_v2": DEEPSEEK,
    "deepseek_v3": DEEPSEEK,
    "dots1": {**DEEPSEEK, "num_key_value_heads": 2},
    "falcon": {"head_dim": None},
    "glm4_moe": DEEPSEEK | {"num_key_value_heads": 2},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "mixtral": {"num_local_experts": 4},
    "phimoe": {"num_local_experts": 4},
    "granitemoe": {"num_local_experts": 4},
    "jetmoe": {"num_local_experts": 4},
    "minimax": {"num_local_experts": 4},
    "olmoe": MOE,
    "mamba": {"state_size": 4},
    "falcon_mamba": {"state_size": 4},
    "mamba2": {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 16},
    "mimo_v2_flash": MOE | {"n_routed_experts": 4, "v_head_dim": 8, "swa_head_dim": 8, "swa_v_head_dim": 8},
    "qwen2_moe": MOE | {"shared_expert_intermediate_size": 32},
    "qwen3_moe": MOE,
    "llama4_text": {"num_local_experts": 4, "intermediate_size_mlp": 64},
    "qwen3_next": MOE
    | {
        "shared_expert_intermediate_size": 32,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "full_attention_interval": 2,
    },
    "bamba": MAMBA2 | {"attn_layer_indices": [1]},
    "falcon_h1": MAMBA2,
    "granitemoehybrid": MAMBA2 | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 32},
    "nemotron_h": {
        "layers_block_type": ["mamba", "attention"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "n_groups": 1,
        "chunk_size": 16,
    },
    "jamba": {
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "zamba2": {
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "mamba_d_state": 8,
        "n_mamba_heads": 4,
        "mamba_headdim": 16,
        "mamba_ngroups": 1,
        "chunk_size": 16,
        "attention_head_dim": 16,
        "attention_hidden_size": 64,
        "num_mem_blocks": 1,
        "hybrid_layer_ids": [1, 3],
        "use_mem_rope": True,
    },
    "rwkv": {"attention_hidden_size": 32, "context_length": 64},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "t5": {"decoder_start_token_id": 0, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    "xlnet": {"max_position_embeddings": None, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64},
    "longformer": {"attention_window": 16},
    "deberta": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 32},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 32},
    "big_bird": {"attention_type": "original_full"},
    "esm": {"mask_token_id": 4, "position_embedding_type": "rotary"},
    "albert": {"embedding_size": 16},
    "electra": {"embedding_size": 16},
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4},
}
IMAGES: dict[str, dict[str, Any]] = {
    "beit": {"patch_size": 4},
    "bit": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_groups": 4},
    "clip": {},
    "convnext": {"num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "convnextv2": {"num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "deit": {"patch_size": 4, "architectures": ["DeiTForImageClassification"]},
    "dinov2": {"patch_size": 4},
    "efficientnet": {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128},
    "levit": {
        "hidden_sizes": [16, 24, 32],
        "key_dim": [8, 8, 8],
        "depths": [1, 1, 1],
        "num_attention_heads": [2, 3, 4],
        "architectures": ["LevitForImageClassification"],
    },
    "mobilenet_v1": {"depth_multiplier": 0.25, "min_depth": 4},
    "mobilenet_v2": {"depth_multiplier": 0.25, "min_depth": 4},
    "mobilevit": {
        "hidden_sizes": [8, 12, 16],
        "neck_hidden_sizes": [8, 8, 12, 12, 16, 16, 32],
        "num_attention_heads": 2,
    },
    "poolformer": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    "regnet": {**CONVNET, "groups_width": 4},
    "resnet": CONVNET,
    "siglip": {},
    "swin": SWIN,
    "swinv2": SWIN,
    "vit": {"patch_size": 4},
}
DENSE: dict[str, dict[str, Any]] = {
    "beit": {"patch_size": 4, "num_hidden_layers": 4, "out_indices": [0, 1, 2, 3], "use_auxiliary_head": True},
    "data2vec-vision": {"patch_size": 4, "num_hidden_layers": 4, "out_indices": [0, 1, 2, 3]},
    "dpt": {
        "patch_size": 4,
        "num_hidden_layers": 4,
        "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": [8, 8, 16, 16],
        "fusion_hidden_size": 8,
    },
    "mobilenet_v2": {"depth_multiplier": 0.25, "min_depth": 4},
    "mobilevit": {
        "hidden_sizes": [8, 12, 16],
        "neck_hidden_sizes": [8, 8, 12, 12, 16, 16, 32],
        "num_attention_heads": 2,
        "aspp_out_channels": 8,
    },
    "mobilevitv2": {
        "base_attn_unit_dims": [16, 16, 16],
        "width_multiplier": 0.25,
        "aspp_out_channels": 8,
        "output_stride": 8,
    },
    "segformer": {
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [8, 16, 16, 32],
        "num_attention_heads": [1, 2, 2, 4],
        "decoder_hidden_size": 16,
    },
    "upernet": {"hidden_size": 16, "auxiliary_in_channels": 16, "auxiliary_channels": 8},
}
"""Models with a class a pixel."""
AUTO = {
    "text-generation": "AutoModelForCausalLM",
    "text-classification": "AutoModelForSequenceClassification",
    "fill-mask": "AutoModelForMaskedLM",
    "image-classification": "AutoModelForImageClassification",
    "image-segmentation": "AutoModelForSemanticSegmentation",
    "image-text-to-text": "AutoModelForImageTextToText",
}
TWO_TOWERS = ("clip", "siglip")
SIDE = 32


def config_of(name: str, task: str, **more: Any) -> Any:
    """A tiny config of the model type `name`."""
    import transformers

    cls = transformers.CONFIG_MAPPING[name]
    if task == "image-segmentation":
        return dense_config_of(name, **more)
    if task != "image-classification":
        return cls(**{k: v for k, v in (SIZES | OWN.get(name, {}) | more).items() if v is not None})
    sizes = {k: SIZES[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")}
    image = {**({} if "depths" in IMAGES[name] else sizes), "image_size": SIDE, "num_channels": 3, **IMAGES[name]}
    if name in TWO_TOWERS:
        text = sizes | {"vocab_size": 64, "max_position_embeddings": 16}
        return cls(vision_config=image | {"patch_size": 8}, text_config=text, **more)
    return cls(**image, **more)


def dense_config_of(name: str, **more: Any) -> Any:
    """A tiny config of a model with a class a pixel."""
    import transformers

    cls = transformers.CONFIG_MAPPING[name]
    image: dict[str, Any] = {"image_size": SIDE, "num_channels": 3, **DENSE[name]}
    if name == "upernet":
        shape = {
            "hidden_sizes": [8, 8, 16, 16],
            "depths": [1, 1, 1, 1],
            "out_features": [f"stage{i}" for i in range(1, 5)],
        }
        return cls(backbone_config=transformers.ConvNextConfig(**shape), **DENSE[name], **more)
    if "patch_size" in image:
        image = {k: SIZES[k] for k in ("hidden_size", "intermediate_size", "num_attention_heads")} | image
    return cls(**image, **more)


def processor_of(name: str) -> Any:
    """The image processor of the model type `name`, with its class's own defaults but for the side of its pictures."""
    import transformers
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    cls = getattr(transformers, IMAGE_PROCESSOR_MAPPING_NAMES[name]["pil"])
    square = {"height": SIDE, "width": SIDE}
    short = "shortest_edge" in (cls().size or {})
    return cls(size={"shortest_edge": SIDE} if short else square, crop_size=square)


def make(name: str, task: str, *, seed: int = 0, std: float = 0.2, **more: Any) -> Any:
    """A tiny model of an architecture for a task, every matrix drawn anew with the deviation `std`."""
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = getattr(transformers, AUTO[task]).from_config(config_of(name, task, **more)).eval()
        with torch.no_grad():
            for p in model.parameters():
                if p.dim() > 1:
                    p.copy_(torch.randn(p.shape) * std)
    return model


@functools.cache
def known(name: str) -> bool:
    """Whether this transformers has the model type."""
    import transformers

    return name in transformers.CONFIG_MAPPING
