"""The table of PEFT's types of adapter is what the loader does with each of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests import tiny
from tunewright.commands.methods_page import methods_page
from tunewright.errors import ModelError
from tunewright.models.adapted import Adapted
from tunewright.models.peft_format import load_adapter
from tunewright.models.peft_types import BEFORE_ROWS, BESIDE, READ, REFUSED, WRITTEN, instead, table

peft = pytest.importorskip("peft", reason="needs the extra `peers`")
pytestmark = pytest.mark.parity
TYPES = sorted(t.value for t in peft.PeftType)
MADE = {
    "LORA": lambda: peft.LoraConfig(r=2, target_modules=["q_proj"]),
    "IA3": lambda: peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[]),
    "VERA": lambda: peft.VeraConfig(r=4, target_modules=["q_proj"]),
    "LOHA": lambda: peft.LoHaConfig(r=2, target_modules=["q_proj"]),
    "LOKR": lambda: peft.LoKrConfig(r=2, target_modules=["q_proj"]),
    "OFT": lambda: peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"]),
    "BOFT": lambda: peft.BOFTConfig(boft_block_size=4, target_modules=["q_proj"]),
    "ADALORA": lambda: peft.AdaLoraConfig(init_r=4, total_step=9, target_modules=["q_proj"]),
    "LN_TUNING": lambda: peft.LNTuningConfig(target_modules=["norm"]),
}


def test_the_table_has_every_type_of_pefts_once():
    assert sorted(r.name for r in table()) == TYPES
    assert set(READ) | set(REFUSED) == set(TYPES) and not set(READ) & set(REFUSED) and set(WRITTEN) <= set(TYPES)
    assert set(MADE) == set(READ) and all(r.why or r.read == "layers" for r in table())
    assert {r.name for r in table() if r.read == "rows"} == set(BEFORE_ROWS) < set(BESIDE)


@pytest.mark.parametrize("name", TYPES)
def test_a_type_is_read_or_refused_as_the_table_says(name, tmp_path: Path):
    adapted, row = Adapted(tiny.llama()), next(r for r in table() if r.name == name)
    if name in MADE:
        peft.get_peft_model(tiny.llama(), MADE[name]()).save_pretrained(tmp_path)
    else:
        (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": name}))
        save_file({"base_model.model.x.y": torch.zeros(2)}, tmp_path / "adapter_model.safetensors")
    if row.read == "layers":
        assert load_adapter(adapted, tmp_path) and bool(adapted.deltas()) == (name != "LN_TUNING")
    else:
        said = f"an adapter of type {name} is not read: {row.why}"
        with pytest.raises(ModelError, match=re.escape(said)) as refusal:
            load_adapter(adapted, tmp_path)
        assert refusal.value.remedy == instead(name) and not adapted.deltas()


@pytest.mark.parametrize("name", ["PREFIX_TUNING", "PROMPT_TUNING"])
def test_no_merge_is_advised_where_peft_has_none(name: str):
    made = {
        "PREFIX_TUNING": lambda: peft.PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
        "PROMPT_TUNING": lambda: peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
    }
    model = peft.get_peft_model(tiny.llama(), made[name]())
    assert name in BESIDE and "PEFT beside its base" in instead(name) and "merge it" in instead("HRA")
    with pytest.raises(AttributeError):
        model.merge_and_unload()


def test_a_type_of_a_later_version_is_unknown(tmp_path: Path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LATER"}))
    with pytest.raises(ModelError, match="type is LATER, which is unknown"):
        load_adapter(Adapted(tiny.llama()), tmp_path)


def test_the_page_shows_the_table():
    page = methods_page()
    for r in table():
        read = {"layers": "yes", "rows": "before rows", "": "no"}[r.read]
        assert f"| {r.name} | {read} | {r.written} | {r.why} |" in page
