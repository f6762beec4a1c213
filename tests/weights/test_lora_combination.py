"""LoRAs added exactly: PEFT itself applies what was written, and gets the sum of what it gets from each."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from tunewright.errors import MethodError, ModelError
from tunewright.weights.lora_combination import Pair, combine_adapters, combined, compressed
from tunewright.weights.merge.linear import linear
from tunewright.weights.merge.task_arithmetic import TaskArithmetic
from tunewright.weights.operator import merge_tensors

peft = pytest.importorskip("peft")


def pair(out: int, inner: int, rank: int, seed: int, scale: float = 0.5) -> Pair:
    g = torch.Generator().manual_seed(seed)
    return Pair(torch.randn(rank, inner, generator=g), torch.randn(out, rank, generator=g), scale)


def folder_of(path, seed: int, **config) -> str:
    """A PEFT adapter on the tiny Llama, with its B away from zero."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(tiny.llama(), peft.LoraConfig(task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for n, p in model.named_parameters():
            if "lora_B" in n:
                p.normal_(std=0.2, generator=torch.Generator().manual_seed(seed))
    model.save_pretrained(path)
    read = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps({**read, "base_model_name_or_path": "tiny"}))
    return str(path)


def folded(path) -> dict[str, torch.Tensor]:
    model = peft.PeftModel.from_pretrained(tiny.llama(), path).merge_and_unload()
    return {n: t.clone() for n, t in model.state_dict().items()}


@pytest.fixture
def three(tmp_path):
    return [
        folder_of(tmp_path / "plain", 1, r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"]),
        folder_of(tmp_path / "stable", 2, r=9, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "v_proj"]),
        folder_of(
            tmp_path / "patterns",
            3,
            r=2,
            lora_alpha=4,
            rank_pattern={"v_proj": 5},
            alpha_pattern={"v_proj": 3},
            target_modules=["q_proj", "v_proj"],
        ),
    ]


def test_the_sum_is_exact_whatever_ranks_scales_and_modules(three, tmp_path):
    weights = [0.5, -1.0, 2.0]
    errors = combine_adapters(three, tmp_path / "sum", weights)
    assert set(errors.values()) == {0.0}
    ranks = {
        n: t.shape[0] for n, t in load_file(tmp_path / "sum" / "adapter_model.safetensors").items() if "lora_A" in n
    }
    found = (
        {r for n, r in ranks.items() if "q_proj" in n},
        {r for n, r in ranks.items() if "v_proj" in n},
        {r for n, r in ranks.items() if "down_proj" in n},
    )
    assert found == ({15}, {14}, {4})
    base = {n: t.clone() for n, t in tiny.llama().state_dict().items()}
    got = folded(tmp_path / "sum")
    wanted = merge_tensors(TaskArithmetic(), base, [folded(f) for f in three], each=[{"weight": w} for w in weights])
    assert all(torch.allclose(got[n], wanted[n], atol=2e-6) for n in base)
    moved = [n for n in base if not torch.equal(got[n], base[n])]
    assert {n.split(".")[-2] for n in moved} == {"q_proj", "v_proj", "down_proj"}


def test_folding_before_or_after_a_linear_merge_agrees(three, tmp_path):
    weights = [0.2, 0.5, 0.3]
    combine_adapters(three, tmp_path / "mean", weights)
    after, each = folded(tmp_path / "mean"), [folded(f) for f in three]
    assert all(torch.allclose(after[n], linear([m[n] for m in each], weights, True), atol=2e-6) for n in after)


def test_a_rank_gives_the_nearest_change_and_says_its_error():
    whole = combined([{"m": pair(20, 16, 5, 1)}, {"m": pair(20, 16, 6, 2, scale=2.0)}], [1.0, -0.5])["m"]
    change = whole.change()
    U, S, Vh = torch.linalg.svd(change.double())
    for rank in (1, 4, 10):
        cut, error = compressed(whole, rank)
        assert cut.A.shape == (rank, 16) and cut.B.shape == (20, rank)
        best = (U[:, :rank] * S[:rank]) @ Vh[:rank]
        assert torch.allclose(cut.change().double(), best, atol=1e-4)
        assert error == pytest.approx(float((change - best).norm() / change.norm()), rel=1e-4)
    full, error = compressed(whole, 11)
    assert error < 1e-6 and torch.allclose(full.change(), change, atol=1e-4)
    assert compressed(Pair(torch.zeros(3, 4), torch.zeros(5, 3), 1.0), 1)[1] == 0.0


def test_a_given_rank_cuts_only_what_is_above_it(three, tmp_path):
    errors = combine_adapters(three, tmp_path / "cut", rank=8)
    assert all(("down_proj" in n) == (e == 0.0) for n, e in errors.items()) and max(errors.values()) < 1
    config = json.loads((tmp_path / "cut" / "adapter_config.json").read_text())
    assert config["r"] == 8 and config["lora_alpha"] == 8 and config["base_model_name_or_path"] == "tiny"


def test_dora_other_bases_and_other_shapes_are_refused(three, tmp_path):
    dora = folder_of(tmp_path / "dora", 4, r=2, use_dora=True, target_modules=["q_proj"])
    with pytest.raises(ModelError, match="DoRA"):
        combine_adapters([three[0], dora], tmp_path / "out")
    config = tmp_path / "stable" / "adapter_config.json"
    config.write_text(config.read_text().replace('"tiny"', '"another"'))
    with pytest.raises(ModelError, match="another base"):
        combine_adapters(three, tmp_path / "out")
    with pytest.raises(ModelError, match="there already"):
        combine_adapters(three, three[0])
    with pytest.raises(MethodError, match="shapes"):
        combined([{"m": pair(4, 5, 2, 1)}, {"m": pair(4, 6, 2, 1)}], [1, 1])
    with pytest.raises(MethodError, match="2 weights for 1"):
        combined([{"m": pair(4, 5, 2, 1)}], [1, 1])
    assert not (tmp_path / "out").exists()


def test_a_half_adapter_is_refused(three, tmp_path):
    file = tmp_path / "plain" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop(next(n for n in tensors if "lora_B" in n))
    save_file(tensors, file)
    with pytest.raises(ModelError, match="has lora_A alone"):
        combine_adapters(three, tmp_path / "out")
