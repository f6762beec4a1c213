"""adapter_config.json is followed where it can be, and refused where it says more than low-rank parts."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.errors import ModelError
from tunewright.models import peft_settings
from tunewright.models.peft_settings import DESCRIBES, FOLLOWED, config_of, read_config

PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}


def read(folder, **more):
    (folder / "adapter_config.json").write_text(json.dumps({**PLAIN, **more}))
    return read_config(folder)


@pytest.mark.parametrize(
    "setting",
    [
        {"use_dora": True},
        {"use_qalora": True},
        {"lora_bias": True},
        {"bias": "all"},
        {"bias": "lora_only"},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "pissa_niter_4"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "loftq"},
        {"init_lora_weights": "mica"},
        {"init_lora_weights": "made later"},
        {"layer_replication": [[0, 1], [0, 2]]},
        {"trainable_token_indices": [3]},
        {"alora_invocation_tokens": [5, 6]},
        {"arrow_config": {"top_k": 2}},
        {"kasa_config": {"beta": 0.1}},
        {"use_bdlora": {"nblocks": 2}},
        {"monteclora_config": {"num_samples": 8}},
        {"ensure_weight_tying": True},
        {"a_setting_of_a_later_version": 3},
    ],
    ids=lambda s: "-".join(f"{k}={v}" for k, v in s.items())[:40],
)
def test_what_is_more_than_low_rank_parts_is_refused_by_name(setting, tmp_path):
    with pytest.raises(ModelError, match=f"more than low-rank parts .*{next(iter(setting))}"):
        read(tmp_path, **setting)


@given(
    st.text(st.characters(categories=["Ll"]), min_size=1).filter(lambda k: k not in DESCRIBES | FOLLOWED),
    st.one_of(st.just(True), st.integers(min_value=1), st.text(min_size=1), st.lists(st.integers(), min_size=1)),
)
def test_no_setting_that_is_on_passes_unknown(tmp_path_factory, key, value):
    folder = tmp_path_factory.mktemp("adapter")
    assert read(folder, **{key: None})["r"] == 4
    with pytest.raises(ModelError, match="more than low-rank"):
        read(folder, **{key: value})


@pytest.mark.parametrize(
    "setting",
    [
        {"r": 0},
        {"r": True},
        {"r": "8"},
        {"r": [4]},
        {"lora_alpha": None},
        {"lora_alpha": "16"},
        {"lora_alpha": float("nan")},
        {"lora_dropout": 1.5},
        {"rank_pattern": {"(": 4}},
        {"rank_pattern": {"q_proj": 0}},
        {"rank_pattern": [4]},
        {"alpha_pattern": {"q_proj": "8"}},
        {"target_modules": "("},
        {"target_modules": [1]},
        {"target_modules": 3},
        {"modules_to_save": "classifier"},
        {"target_parameters": 1},
    ],
    ids=str,
)
def test_a_value_that_is_none_of_its_setting_is_refused(setting, tmp_path):
    with pytest.raises(ModelError, match=f"{next(iter(setting))}: .* is no value"):
        read(tmp_path, **setting)


@pytest.mark.parametrize("text", ["", "[]", "3", '"LORA"', "\xff\xfe", "{"])
def test_what_is_no_object_is_refused(text, tmp_path):
    (tmp_path / "adapter_config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"JSON|type is None"):
        read_config(tmp_path)


def test_what_peft_itself_writes_is_read_and_every_one_of_its_settings_is_judged(tmp_path):
    peft = pytest.importorskip("peft")
    for made in (
        peft.LoraConfig(r=4, target_modules=["q_proj"]),
        peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="gaussian", use_rslora=True),
        peft.LoraConfig(r=4, target_modules=r".*q_proj", layers_to_transform=None, fan_in_fan_out=True),
    ):
        made.save_pretrained(tmp_path)
        assert read_config(tmp_path)["r"] == 4
    known = {f.name for f in dataclasses.fields(peft.LoraConfig)}
    assert known >= FOLLOWED
    read(tmp_path, **config_of({"q_proj": 4}, {"q_proj": 2.0}))


def test_scales_follow_patterns_and_rank_stabilisation():
    config = {"lora_alpha": 8, "alpha_pattern": {"v_proj": 4, r"layers\.1\..*": 2}, "use_rslora": False}
    assert peft_settings.scale_of(config, "m.layers.0.q_proj", 4) == 2
    assert peft_settings.scale_of(config, "m.layers.1.v_proj", 4) == 1
    assert peft_settings.scale_of(config, "m.layers.1.q_proj", 4) == 0.5
    assert peft_settings.scale_of({**config, "use_rslora": True}, "m.layers.0.q_proj", 4) == 4
