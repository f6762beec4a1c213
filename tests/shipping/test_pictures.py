"""What is made of the files of models that see: their weights are stored under other names than modules have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import LlavaForConditionalGeneration

from tests import seeing
from tunewright.conformance.bench import seeded
from tunewright.conformance.task_seeing import llava
from tunewright.errors import MethodError
from tunewright.shipping.extracting import extract
from tunewright.shipping.fusing import fuse


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, adapter/ (PEFT's, of a language model and its projector) and whole/, which holds both."""
    folder = tmp_path_factory.mktemp("shipping")
    seeing.write_llava(folder / "base")
    seeing.write_llava(folder / "whole")
    names = ["language_model.layers.0.self_attn.q_proj", "multi_modal_projector.linear_1"]
    beside: Any = peft.get_peft_model(seeded(llava), peft.LoraConfig(r=2, target_modules=names))
    with torch.no_grad():
        for name, p in beside.named_parameters():
            if "lora_B" in name:
                p.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.1)
    beside.save_pretrained(folder / "adapter")
    beside.merge_and_unload().save_pretrained(folder / "whole")
    return folder


def test_a_difference_of_two_models_becomes_an_adapter_that_peft_reads(place: Path, tmp_path: Path) -> None:
    extract(str(place / "base"), str(place / "whole"), tmp_path / "adapter", rank=2)
    made: Any = peft.PeftModel.from_pretrained(seeded(llava), tmp_path / "adapter").eval()
    whole = peft.PeftModel.from_pretrained(seeded(llava), place / "adapter").eval()
    given = {"input_ids": torch.tensor([[20, 61, 61, 61, 61, 30]]), "pixel_values": torch.randn(1, 3, 8, 8)}
    with torch.no_grad():
        torch.testing.assert_close(made(**given).logits, whole(**given).logits, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(made(**given).logits, seeded(llava).eval()(**given).logits, atol=1e-4)


@pytest.mark.slow
def test_an_adapter_is_fused_into_files_that_call_weights_otherwise(place: Path, tmp_path: Path) -> None:
    fused = fuse(str(place / "base"), str(place / "adapter"), tmp_path / "fused")
    assert fused.changed == 2 and fused.logits is not None and fused.logits.largest < 1e-5
    whole, got = (LlavaForConditionalGeneration.from_pretrained(f) for f in (place / "whole", tmp_path / "fused"))
    theirs = dict(whole.named_parameters())
    for name, p in got.named_parameters():
        torch.testing.assert_close(p, theirs[name], rtol=1e-5, atol=1e-6, msg=name)


def test_what_cannot_be_made_of_them_says_what_can(place: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("tunewright.shipping.onnx")
    (tmp_path / "onnx").mkdir()
    with pytest.raises(MethodError, match="several graphs"):
        onnx.write(place / "base", tmp_path / "onnx")
