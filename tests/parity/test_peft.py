"""Our LoRA beside PEFT's: equal logits and gradients, and each loads what the other saved."""

from __future__ import annotations

import json

import pytest
import torch

from tests import tiny
from tunewright.conformance.bench import token_rows
from tunewright.contract.method import Needs, Setup
from tunewright.errors import ModelError
from tunewright.methods.adapters.lora import LoRA
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import LowRank, attach
from tunewright.models.peft_format import load_adapter, save_adapter
from tunewright.tasks import get_task

peft = pytest.importorskip("peft", reason="needs the extra `peers`")
pytestmark = pytest.mark.parity

TASK = get_task("text-generation")
BATCH = TASK.collate(token_rows("parity", 3))
TARGETS = {tiny.llama: ("q_proj", "v_proj", "down_proj"), tiny.gpt2: ("c_attn", "c_fc")}
SETTINGS = [
    {"rank": 4, "alpha": 8},
    {"rank": 4, "alpha": 8, "use_rslora": True},
    {"rank": 4, "alpha": 8, "rank_pattern": "first", "alpha_pattern": "second", "use_rslora": True},
]


def ours(make, method: LoRA, seed: int = 0) -> Adapted:
    import random

    adapted, rng = Adapted(make(), base_hash="abc"), random.Random(seed)
    state = method.setup(Setup(adapted, None, "text-generation", rng))  # type: ignore[arg-type]
    for site in adapted.structure.sites:
        delta = method.attach(site, Needs({}), state, rng)
        if delta is not None:
            delta.lora_B.data = (
                torch.randn(delta.lora_B.shape, generator=torch.Generator().manual_seed(len(site.name))) * 0.1
            )
            attach(site, "lora", delta)
    return adapted


def method_of(make, settings: dict) -> LoRA:
    first, second, *_ = TARGETS[make]
    filled = {k: {first: 2} if v == "first" else {second: 3.0} if v == "second" else v for k, v in settings.items()}
    return LoRA(target_modules=TARGETS[make], **filled)


def logits(model) -> torch.Tensor:
    return model(**BATCH.inputs).logits[BATCH.inputs["attention_mask"].bool()]


def peft_of(make, method: LoRA):
    config = peft.LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,
        target_modules=list(TARGETS[make]),
        use_rslora=method.use_rslora,
        rank_pattern=dict(method.rank_pattern),
        alpha_pattern=dict(method.alpha_pattern),
        fan_in_fan_out=make is tiny.gpt2,
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(make(), config)


@pytest.mark.parametrize("make", TARGETS)
@pytest.mark.parametrize("settings", SETTINGS, ids=["plain", "rslora", "patterns"])
def test_logits_and_gradients_equal_pefts(make, settings):
    method = method_of(make, settings)
    adapted, theirs = ours(make, method), peft_of(make, method)
    named = dict(theirs.named_parameters())
    pairs = {}
    for site, by_name in adapted.deltas().items():
        for part in ("lora_A", "lora_B"):
            p = named[f"base_model.model.{site}.{part}.default.weight"]
            p.data.copy_(getattr(by_name["lora"], part))
            pairs[f"{site}.{part}"] = getattr(by_name["lora"], part), p
    assert len(pairs) == sum(p.requires_grad for p in named.values())
    a, b = logits(adapted.model), logits(theirs)
    assert torch.allclose(a, b, atol=1e-5)
    a.logsumexp(-1).sum().backward()
    b.logsumexp(-1).sum().backward()
    for name, (p, q) in pairs.items():
        assert float(p.grad.abs().max()) > 0 and torch.allclose(p.grad, q.grad, rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize("make", TARGETS)
@pytest.mark.parametrize("settings", SETTINGS, ids=["plain", "rslora", "patterns"])
def test_peft_loads_ours_and_we_load_pefts(make, settings, tmp_path):
    method = method_of(make, settings)
    adapted = ours(make, method)
    with torch.no_grad():
        wanted = logits(adapted.model)
        count = save_adapter(adapted, tmp_path / "ours", "tiny")
        assert count == 2 * len(adapted.deltas())
        theirs = peft.PeftModel.from_pretrained(make(), tmp_path / "ours").eval()
        assert torch.allclose(logits(theirs), wanted, atol=1e-5)
        again = Adapted(make(), base_hash="abc")
        assert load_adapter(again, tmp_path / "ours") == count
        assert torch.allclose(logits(again.model), wanted, atol=1e-6)

        other = peft_of(make, method).eval()
        for n, p in other.named_parameters():
            if "lora_B" in n:
                p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(len(n))) * 0.1
        other.save_pretrained(tmp_path / "theirs")
        loaded = Adapted(make())
        assert load_adapter(loaded, tmp_path / "theirs") == count
        assert torch.allclose(logits(loaded.model), logits(other), atol=1e-5)


def test_a_frozen_offset_and_a_stack_are_exported_at_the_sum_of_their_ranks(tmp_path):
    adapted = Adapted(tiny.llama(), base_hash="abc")
    g = torch.Generator().manual_seed(0)
    for i, site in enumerate(adapted.structure.match(["q_proj", "up_proj"])):
        moved = LowRank(
            torch.randn(3, site.in_features, generator=g),
            torch.randn(site.out_features, 3, generator=g),
            0.5,
            offset=True,
        )
        moved.lora_B.data += 0.1
        attach(site, "corda", moved)
        if i == 0:
            second = LowRank(
                torch.randn(2, site.in_features, generator=g), 0.1 * torch.randn(site.out_features, 2, generator=g), 2.0
            )
            second.strength = 0.5
            attach(site, "lora", second)
    save_adapter(adapted, tmp_path, "tiny")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["r"] == 6 and set(config["rank_pattern"].values()) == {8}
    with torch.no_grad():
        theirs = peft.PeftModel.from_pretrained(tiny.llama(), tmp_path).eval()
        assert torch.allclose(logits(theirs), logits(adapted.model), atol=1e-4)


def broken(folder, **changes):
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda f: broken(f, peft_type="IA3"), "IA3"),
        (lambda f: broken(f, use_dora=True), "has no lora_magnitude_vector"),
        (lambda f: broken(f, init_lora_weights="pissa"), "pissa"),
        (lambda f: broken(f, r=5), "does not fit"),
        (lambda f: broken(f, target_modules=["q_proj", "k_proj", "v_proj", "down_proj"]), "k_proj"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "JSON"),
        (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\0" * 64), "safetensors"),
        (lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"), "pickled"),
    ],
    ids=[
        "another type",
        "dora",
        "edits the base",
        "rank",
        "missing layer",
        "no JSON",
        "no config",
        "damaged",
        "pickled",
    ],
)
def test_what_cannot_be_loaded_says_why_and_changes_nothing(spoil, says, tmp_path):
    save_adapter(ours(tiny.llama, method_of(tiny.llama, SETTINGS[0])), tmp_path, "tiny")
    spoil(tmp_path)
    adapted = Adapted(tiny.llama(), base_hash="abc")
    with pytest.raises(ModelError, match=says):
        load_adapter(adapted, tmp_path)
    assert not adapted.deltas()


def test_another_base_is_named(tmp_path):
    save_adapter(ours(tiny.llama, method_of(tiny.llama, SETTINGS[0])), tmp_path, "tiny")
    with pytest.raises(ModelError, match="another base"):
        load_adapter(Adapted(tiny.llama(), base_hash="xyz"), tmp_path)
    with pytest.raises(ModelError, match="does not fit"):
        load_adapter(Adapted(tiny.llama(hidden=48)), tmp_path)
    with pytest.raises(ModelError, match="no layer"):
        load_adapter(Adapted(tiny.gpt2()), tmp_path)
