"""LoRA on convolutions: PEFT's forward, merged weights and files, both ways."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tunewright.errors import MethodError, ModelError
from tunewright.methods.adapters.lora import LoRA
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import LowRank, LowRankConv, attach
from tunewright.models.peft_format import load_adapter, read_parts, save_adapter
from tunewright.shipping.vllm_adapter import _refuse
from tunewright.weights.lora_combination import combine_adapters
from tunewright.weights.opening import open_source

peft = pytest.importorskip("peft", reason="needs the extra `peers`")
pytestmark = pytest.mark.parity
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def resnet(seed: int = 0):
    torch.manual_seed(seed)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], layer_type="basic", num_labels=3
    )
    return transformers.ResNetForImageClassification(config).eval()


def convnext():
    """Its convolutions have a group for each channel."""
    config = transformers.ConvNextConfig(hidden_sizes=[8, 8], depths=[1, 1], num_stages=2, num_labels=3)
    return transformers.ConvNextForImageClassification(config).eval()


def said(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(pixel_values=PIXELS).logits.float()


def theirs(**more):
    """PEFT's, its factors random."""
    torch.manual_seed(1)
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["convolution"], init_lora_weights=False, **more)
    return peft.get_peft_model(resnet(), config)


@pytest.mark.parametrize("more", [{}, {"use_rslora": True}, {"rank_pattern": {"layers.1.layer.0.convolution": 2}}])
def test_an_adapter_of_peft_s_says_here_what_it_says_there_and_merges_alike(more, tmp_path: Path):
    made = theirs(**more)
    made.save_pretrained(tmp_path / "a")
    resnet().save_pretrained(tmp_path / "base")
    ours = Adapted(resnet())
    load_adapter(ours, tmp_path / "a")
    assert all(isinstance(d["adapter"], LowRankConv) for d in ours.deltas().values()) and len(ours.deltas()) > 8
    torch.testing.assert_close(said(ours.model), said(made), atol=1e-4, rtol=1e-4)
    wanted = made.merge_and_unload().state_dict()
    source = open_source(str(tmp_path / "a"), str(tmp_path / "base"))
    for name in source.changes:
        torch.testing.assert_close(torch.from_numpy(source.whole(name)), wanted[name], atol=1e-5, rtol=1e-4)
    ours.fold()
    for name, t in ours.model.state_dict().items():
        torch.testing.assert_close(t, wanted[name], atol=1e-5, rtol=1e-4)


def adapted(seed: int) -> Adapted:
    made, g = Adapted(resnet(), base_hash=""), torch.Generator().manual_seed(seed)
    method = LoRA(rank=2, target_modules=("convolution",))
    for site in method.sites(made.structure):
        A = torch.randn(2, site.in_features, generator=g) * 0.1
        B = torch.randn(site.out_features, 2, generator=g) * 0.2
        attach(site, "lora", LowRankConv.on(site, LowRank(A, B, 0.5)))
    return made


def test_ours_is_read_by_peft_and_sums_of_two_too(tmp_path: Path):
    for seed in (1, 2):
        save_adapter(adapted(seed), tmp_path / str(seed), "tiny")
    ours = said(adapted(1).model)
    read = peft.PeftModel.from_pretrained(resnet(), tmp_path / "1")
    torch.testing.assert_close(said(read), ours, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(ours, said(resnet()), atol=1e-3)
    combine_adapters([tmp_path / "1", tmp_path / "2"], tmp_path / "sum", [0.5, 1.5])
    summed = peft.PeftModel.from_pretrained(resnet(), tmp_path / "sum").merge_and_unload().state_dict()
    base, parts = resnet().state_dict(), [adapted(s) for s in (1, 2)]
    for one in parts:
        one.fold()
    changes = [{n: t - base[n] for n, t in one.model.state_dict().items()} for one in parts]
    for name, t in summed.items():
        if base[name].is_floating_point():
            wanted = base[name] + 0.5 * changes[0][name] + 1.5 * changes[1][name]
            torch.testing.assert_close(t, wanted, atol=1e-5, rtol=1e-4)


def test_groups_missing_layers_and_vllm_are_refused(tmp_path: Path):
    config = peft.LoraConfig(r=8, target_modules=["dwconv"], init_lora_weights=False)
    peft.get_peft_model(convnext(), config).save_pretrained(tmp_path / "grouped")
    with pytest.raises(ModelError, match="dwconv"):
        load_adapter(Adapted(convnext()), tmp_path / "grouped")
    theirs().save_pretrained(tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(file)
    some = sorted(tensors)[0].rpartition(".lora_")[0]
    save_file({n: t for n, t in tensors.items() if not n.startswith(some + ".lora_")}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="1 targeted layers have no tensors here"):
        load_adapter(Adapted(resnet()), tmp_path / "a")
    with pytest.raises(MethodError, match="changes the convolution"):
        _refuse(read_parts(tmp_path / "a"), tmp_path / "a")
