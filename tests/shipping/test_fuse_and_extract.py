"""`fuse` against PEFT's own merge, `extract-lora` against the best approximation that there is."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from tests import tiny
from tunewright.commands import cli
from tunewright.errors import ModelError, RecipeError
from tunewright.shipping import extracting, fusing
from tunewright.shipping.comparing import compare, logits_of


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def adapter_on(model: Any, folder: Path, **config: Any) -> Any:
    torch.manual_seed(3)
    adapted = get_peft_model(model, LoraConfig(r=4, init_lora_weights=False, **config))
    adapted.save_pretrained(folder)
    return adapted.merge_and_unload()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "targets"),
    [(tiny.llama, ["q_proj", "down_proj"]), (tiny.gpt2, ["c_attn", "c_fc"]), (tiny.qwen3, ["k_proj"])],
)
def test_a_fused_folder_is_pefts_own_merge(make: Any, targets: list[str], tmp_path: Path) -> None:
    base = saved(make(), tmp_path / "base")
    merged = adapter_on(make(), tmp_path / "adapter", target_modules=targets)
    fused = fusing.fuse(str(base), str(tmp_path / "adapter"), tmp_path / "fused")
    again = AutoModelForCausalLM.from_pretrained(fused.folder, dtype=torch.float32).eval()
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, atol=1e-6, rtol=1e-5)
    assert fused.changed == 2 * len(targets) and fused.logits is not None and fused.logits.largest < 1e-4
    assert compare(logits_of(merged.eval()), logits_of(make())).rms > 0.01  # there was something to fold


@pytest.mark.slow
def test_a_fused_folder_in_fewer_bits_says_what_rounding_costs(tmp_path: Path) -> None:
    base = saved(tiny.llama(), tmp_path / "base")
    adapter_on(tiny.llama(), tmp_path / "adapter", target_modules=["q_proj"])
    fused = fusing.fuse(str(base), str(tmp_path / "adapter"), tmp_path / "fused", dtype="bfloat16")
    assert {t.dtype for t in load_file(tmp_path / "fused" / "model.safetensors").values()} == {torch.bfloat16}
    assert fused.dtype == "bfloat16" and fused.logits is not None and 1e-4 < fused.logits.largest < 0.35
    assert "stored as bfloat16" in fusing.page(fused)


@pytest.mark.slow
def test_a_fused_folder_may_lie_in_several_files(tmp_path: Path) -> None:
    base = saved(tiny.llama(), tmp_path / "base")
    adapter_on(tiny.llama(), tmp_path / "adapter", target_modules=["q_proj"])
    fused = fusing.fuse(str(base), str(tmp_path / "adapter"), tmp_path / "fused", shard_size="50KB")
    assert len(list(fused.folder.glob("model-0000*.safetensors"))) > 1 and fused.logits is not None


@pytest.mark.slow
def test_a_fusion_whose_logits_are_not_the_changes_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = saved(tiny.llama(), tmp_path / "base")
    adapter_on(tiny.llama(), tmp_path / "adapter", target_modules=["q_proj"])
    monkeypatch.setitem(fusing.LIMIT, "F32", -1.0)
    with pytest.raises(ModelError, match="logits differ"):
        fusing.fuse(str(base), str(tmp_path / "adapter"), tmp_path / "fused")
    assert not (tmp_path / "fused").exists() and (tmp_path / "fused.broken").exists()
    with pytest.raises(ModelError, match="logits differ") as again:  # the first one is not lost
        fusing.fuse(str(base), str(tmp_path / "adapter"), tmp_path / "fused")
    assert again.value.where == str(tmp_path / "fused.broken-2") and (tmp_path / "fused.broken").exists()


@pytest.mark.slow
@pytest.mark.parametrize("error", [ModelError("cannot be read"), KeyboardInterrupt(), MemoryError()])
def test_a_fusion_that_could_not_be_checked_leaves_nothing(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = saved(tiny.llama(), tmp_path / "base")
    adapter_on(tiny.llama(), tmp_path / "adapter", target_modules=["q_proj"])

    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(fusing, "compare", fails)
    with pytest.raises(type(error)):
        fusing.fuse(str(base), str(tmp_path / "adapter"), tmp_path / "fused")
    assert not list(tmp_path.glob("fused*"))


@pytest.mark.slow
def test_a_fusion_whose_logits_are_no_numbers_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = saved(tiny.llama(), tmp_path / "base")
    adapter_on(tiny.llama(), tmp_path / "adapter", target_modules=["q_proj"])
    none = fusing.compare(torch.full((2, 3, 4), float("nan")), torch.zeros(2, 3, 4))
    monkeypatch.setattr(fusing, "compare", lambda *_, **__: none)
    with pytest.raises(ModelError, match="logits differ by nan"):
        fusing.fuse(str(base), str(tmp_path / "adapter"), tmp_path / "fused")


def test_an_adapter_is_not_looked_for_among_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "where.yaml").write_text("a: 1")
    (tmp_path / "mine").mkdir()
    tiny.llama().save_pretrained(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    for asked, said in (("nowhere", "where.yaml"), ("mien", "mine")):
        with pytest.raises(ModelError) as refusal:
            fusing.fuse("base", asked, tmp_path / "out")
        assert (said in str(refusal.value.remedy)) == (said == "mine")


def test_what_is_no_change_of_a_base_is_refused(tmp_path: Path) -> None:
    base = saved(tiny.llama(), tmp_path / "base")
    with pytest.raises(ModelError, match="whole model"):
        fusing.fuse(str(base), str(saved(tiny.llama(1), tmp_path / "other")), tmp_path / "out")
    with pytest.raises(ModelError, match="no adapter, saved change or run is there") as lost:
        fusing.fuse(str(base), str(tmp_path / "bse"), tmp_path / "out")
    assert "did you mean 'base'?" in str(lost.value)
    for values in ({"dtype": "float8"}, {"shard_size": "banana"}):
        with pytest.raises(RecipeError, match="float8|banana"):
            fusing.fuse(str(base), str(tmp_path / "other"), tmp_path / "out", **values)
    assert not (tmp_path / "out").exists()


def tuned_llama(folder: Path, *, rank: int, norms: bool = False) -> Any:
    """A Llama whose q and up projections moved by a matrix of `rank`."""
    model, draw = tiny.llama(tied=False), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("q_proj.weight", "up_proj.weight")):
                out, width = p.shape
                p += 0.1 * torch.randn(out, rank, generator=draw) @ torch.randn(rank, width, generator=draw)
            if norms and ("layernorm" in name or "embed" in name):
                p += 0.1
    return saved(model, folder)


def test_a_change_of_the_rank_is_found_again_by_peft(tmp_path: Path) -> None:
    base, tuned = saved(tiny.llama(tied=False), tmp_path / "base"), tuned_llama(tmp_path / "tuned", rank=3)
    found = extracting.extract(str(base), str(tuned), tmp_path / "adapter", rank=8)
    assert {x.rank for x in found.layers} == {3} and found.missed < 1e-4 and not found.left_out
    assert found.missing is not None and found.apart is not None
    assert found.missing.largest < 1e-3 < 0.01 < found.apart.largest
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(model, tmp_path / "adapter").merge_and_unload().eval()
    wanted = AutoModelForCausalLM.from_pretrained(tuned, dtype=torch.float32).eval()
    torch.testing.assert_close(logits_of(theirs), logits_of(wanted), atol=1e-3, rtol=1e-3)


def test_each_layers_error_is_the_tail_of_its_singular_values(tmp_path: Path) -> None:
    base, tuned = saved(tiny.llama(tied=False), tmp_path / "base"), tuned_llama(tmp_path / "tuned", rank=6)
    found = extracting.extract(str(base), str(tuned), tmp_path / "adapter", rank=2)
    before, after = load_file(base / "model.safetensors"), load_file(tuned / "model.safetensors")
    lost = total = 0.0
    for layer in found.layers:
        change = (after[f"{layer.name}.weight"] - before[f"{layer.name}.weight"]).double()
        values = torch.linalg.svdvals(change)
        assert layer.missed == pytest.approx(float(values[2:].norm() / values.norm()), rel=1e-4)
        assert layer.changed == pytest.approx(float(values.norm() / before[f"{layer.name}.weight"].norm()), rel=1e-4)
        lost, total = lost + float(values[2:].square().sum()), total + float(values.square().sum())
    assert found.missed == pytest.approx((lost / total) ** 0.5, rel=1e-4) and len(found.layers) == 4


def test_large_matrices_are_cut_as_well_as_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    matrix = torch.randn(96, 80, generator=draw) * torch.logspace(0, -3, 80)
    best = float(torch.linalg.svdvals(matrix)[8:].norm())
    state = torch.get_rng_state()
    monkeypatch.setattr(extracting, "WHOLE", 8)
    A, B = extracting.low_rank(matrix, 8)
    assert A.shape == (8, 80) and B.shape == (96, 8)
    assert float((matrix - B @ A).norm()) == pytest.approx(best, rel=1e-3)
    assert torch.equal(state, torch.get_rng_state())


def test_what_an_adapter_cannot_say_is_named(tmp_path: Path) -> None:
    base = saved(tiny.llama(tied=False), tmp_path / "base")
    tuned = tuned_llama(tmp_path / "tuned", rank=3, norms=True)
    found = extracting.extract(str(base), str(tuned), tmp_path / "adapter", rank=4)
    left = {x.name: x for x in found.left_out}
    assert "model.embed_tokens.weight" in left and "model.layers.0.input_layernorm.weight" in left
    assert left["model.layers.0.input_layernorm.weight"].changed == pytest.approx(0.1, rel=1e-4)
    assert "vector" in left["model.layers.0.input_layernorm.weight"].why
    assert found.missed > 0.1 and found.missing is not None and found.missing.largest > 0.01
    assert "not in the adapter" in extracting.page(found)


def test_conv1d_layers_come_out_the_right_way_round(tmp_path: Path) -> None:
    base = saved(tiny.gpt2(), tmp_path / "base")
    merged = saved(adapter_on(tiny.gpt2(), tmp_path / "a", target_modules=["c_attn", "c_fc"]), tmp_path / "tuned")
    found = extracting.extract(str(base), str(merged), tmp_path / "adapter", rank=4)
    assert found.missed < 1e-4 and found.missing is not None and found.missing.largest < 1e-3
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["fan_in_fan_out"] and config["task_type"] == "CAUSAL_LM"


def test_models_of_two_kinds_equal_models_and_no_rank_are_refused(tmp_path: Path) -> None:
    base, other = saved(tiny.llama(), tmp_path / "base"), saved(tiny.gpt2(), tmp_path / "other")
    with pytest.raises(ModelError, match="GPT2LMHeadModel"):
        extracting.extract(str(base), str(other), tmp_path / "x", rank=2)
    with pytest.raises(ModelError, match="no linear layer"):
        extracting.extract(str(base), str(base), tmp_path / "x", rank=2)
    with pytest.raises(ModelError, match="its shape is"):
        extracting.extract(str(base), str(saved(tiny.llama(hidden=16, tied=False), tmp_path / "small")), tmp_path / "x",
                           rank=2)  # fmt: skip
    with pytest.raises(RecipeError, match="rank"):
        extracting.extract(str(base), str(base), tmp_path / "x", rank=0)
    with pytest.raises(RecipeError, match="int8"):
        extracting.extract(str(base), str(base), tmp_path / "x", rank=2, dtype="int8")
    assert not (tmp_path / "x").exists()


def test_factors_of_fewer_bits_miss_what_rounding_takes(tmp_path: Path) -> None:
    base, tuned = saved(tiny.llama(tied=False), tmp_path / "base"), tuned_llama(tmp_path / "tuned", rank=3)
    found = extracting.extract(str(base), str(tuned), tmp_path / "adapter", rank=3, dtype="bfloat16")
    assert 1e-4 < found.missed < 0.02
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.bfloat16}


@pytest.mark.slow
def test_both_verbs_print_text_and_json(tmp_path: Path) -> None:
    base, tuned = saved(tiny.llama(tied=False), tmp_path / "base"), tuned_llama(tmp_path / "tuned", rank=3)
    asked = ["extract-lora", str(base), str(tuned), "--rank", "3", "--out"]
    said = CliRunner().invoke(cli.app, [*asked, str(tmp_path / "a")])
    assert said.exit_code == 0 and "missed" in said.stdout and "q_proj" in said.stdout
    found = json.loads(CliRunner().invoke(cli.app, [*asked, str(tmp_path / "b"), "--json"]).stdout)
    assert len(found["layers"]) == 4 and found["missing"]["same_top"] == 1.0
    fused = ["fuse", str(base), str(tmp_path / "a"), "--out", str(tmp_path / "fused"), "--json"]
    assert json.loads(CliRunner().invoke(cli.app, fused).stdout)["logits"]["largest"] < 1e-4
    again = CliRunner().invoke(cli.app, fused)
    assert again.exit_code == 7 and "exists" in again.stderr and "Traceback" not in again.output


@pytest.mark.slow
def test_the_difference_of_two_real_models_at_two_ranks(tmp_path: Path) -> None:
    """SmolLM2 with a change of rank 8 in its first block: found again at rank 8, half missed at rank 4."""
    from tunewright.loading.locate import locate

    base = locate("smollm2-135m-instruct").folder
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.startswith("model.layers.0.") and name.endswith("proj.weight"):
                out, width = p.shape
                p += 0.003 * torch.randn(out, 8, generator=draw) @ torch.randn(8, width, generator=draw)
    model.save_pretrained(tmp_path / "tuned")
    found = extracting.extract(str(base), str(tmp_path / "tuned"), tmp_path / "r8", rank=8)
    assert len(found.layers) == 7 and found.missed < 0.05 and found.missing is not None and found.apart is not None
    less = extracting.extract(str(base), str(tmp_path / "tuned"), tmp_path / "r4", rank=4)
    assert found.missed < less.missed and less.missing is not None
    assert found.missing.kl < less.missing.kl < found.apart.kl


def test_what_the_first_model_lacks_is_told_in_the_seconds_order():
    names, found = [f"layer.{i}" for i in range(12)], SimpleNamespace(left_out=[])
    assert not [*extracting._pairs(SimpleNamespace(entries={}), SimpleNamespace(entries=dict.fromkeys(names)), found)]
    assert [one.name for one in found.left_out] == names
