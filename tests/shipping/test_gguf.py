"""GGUF files: read back by `gguf`, by transformers and (where it is installed) by llama.cpp, and the types' errors."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tests import tiny
from tests.shipping.models import LLAMA3, MAKES, saved
from tunewright.errors import FolderError, MethodError, MissingExtraError, ModelError, RecipeError
from tunewright.loading import gguf_splitters
from tunewright.loading.locate import locate
from tunewright.shipping import gguf, gguf_layout, gguf_tokenizer, gguf_types
from tunewright.shipping.comparing import compare, logits_of

LLAMA_CPP = importlib.util.find_spec("llama_cpp") is not None


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", MAKES)
def test_every_architecture_says_what_its_file_says_to_each_reader(name: str, tmp_path: Path) -> None:
    model = MAKES[name]()
    folder = saved(model, tmp_path / "m")
    written = gguf.write(folder, tmp_path / "m.gguf", "f16")
    assert written.logits is not None and written.logits.rms < 5e-3 and written.same_tokens == 1.0
    assert written.largest_error is not None and 0 < written.largest_error <= 1
    readers = {"llama.cpp"} if LLAMA_CPP else set()
    if name != "gemma":  # of which transformers reads no GGUF file
        readers |= {"transformers"}
    assert set(written.readers) == readers and all(r.rms < 0.1 for r in written.readers.values())
    if name not in ("gemma", "mistral"):  # whose class its reader does not know, though its file is a Llama's
        config = AutoConfig.from_pretrained(folder)
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", config=config, dtype=torch.float32)
        assert compare(logits_of(model), logits_of(theirs.eval())).rms < 5e-3
    assert "tunewright" in written.tokenizer


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gpt2", "gemma2", "gemma3"])
def test_settings_are_those_that_transformers_reads_from_the_file_alone(name: str, tmp_path: Path) -> None:
    folder = saved(MAKES[name](), tmp_path / "m")
    gguf.write(folder, tmp_path / "m.gguf", "f32")
    ours, theirs = AutoConfig.from_pretrained(folder), AutoConfig.from_pretrained(tmp_path, gguf_file="m.gguf")
    same = ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"]
    if name != "gpt2":
        same += ["intermediate_size", "num_key_value_heads", "max_position_embeddings"]
        assert theirs.rms_norm_eps == pytest.approx(ours.rms_norm_eps)
    if name.startswith("gemma"):
        same += ["head_dim", "sliding_window"]
    for key in same:
        assert getattr(theirs, key) == getattr(ours, key), key
    if name in ("llama", "qwen2", "qwen3"):
        assert theirs.rope_parameters["rope_theta"] == ours.rope_parameters["rope_theta"]
        assert theirs.tie_word_embeddings == ours.tie_word_embeddings


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
def test_every_type_keeps_its_stated_error_and_wider_ones_are_nearer(kind: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    values = (draw.standard_normal((64, 96)) * np.exp(draw.standard_normal((64, 1)) * 3)).astype(np.float32)
    values[0, :32] = 0
    values[1, :32] = 7.5  # a block without a spread
    stored, which = gguf_types.quantised(values, kind)
    error = np.abs(dequantize(stored, which).astype(np.float32) - values)
    allowed = gguf_types.bound(values, kind)
    assert (error <= np.maximum(allowed, 1e-30)).all()
    if kind not in ("f32",):
        assert error.max() > 0 and (error / np.maximum(allowed, 1e-30)).max() > 0.5  # no looser than it must be
        broken = values + 2.1 * allowed
        assert (np.abs(dequantize(*gguf_types.quantised(broken, kind)).astype(np.float32) - values) > allowed).any()


def test_rows_that_are_no_blocks_stay_in_float16(tmp_path: Path) -> None:
    folder = saved(tiny.llama(hidden=24), tmp_path / "m")
    written = gguf.write(folder, tmp_path / "m.gguf", "q8_0")
    kinds = {t.name: t.tensor_type.name for t in GGUFReader(tmp_path / "m.gguf").tensors}
    assert kinds["blk.0.attn_q.weight"] == "F16" and kinds["blk.0.attn_norm.weight"] == "F32"
    assert written.stored["F16"] > 0 and written.logits is not None


def test_a_file_that_says_something_else_is_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(MAKES["llama"](), tmp_path / "m")

    def unturned(name: str, tensor: Any, layout: Any, config: Any) -> Any:
        return tensor

    monkeypatch.setattr(gguf_layout, "to_gguf", unturned)
    monkeypatch.setattr(gguf_layout, "from_gguf", unturned)
    with pytest.raises(ModelError, match="transformers reads the file as another model"):
        gguf.write(folder, tmp_path / "out.gguf", "f32")
    assert not (tmp_path / "out.gguf").exists() and (tmp_path / "out.gguf.broken").exists()


def test_values_off_by_more_than_the_type_allows_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(MAKES["llama"](), tmp_path / "m")
    real = gguf_types.quantised
    monkeypatch.setattr(gguf_types, "quantised", lambda values, kind: real(values * np.float32(1.02), kind))
    with pytest.raises(ModelError, match="is off by"):
        gguf.write(folder, tmp_path / "out.gguf", "q8_0")


def test_values_that_float16_does_not_reach_are_refused(tmp_path: Path) -> None:
    model = MAKES["llama"]()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e6
    with pytest.raises(ModelError, match="65504"):
        gguf.write(saved(model, tmp_path / "m"), tmp_path / "out.gguf", "f16")


def test_long_waves_of_llama_3_are_divided_as_transformers_divides_them() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(hidden_size=256, num_attention_heads=4, rope_parameters={**LLAMA3, "rope_theta": 500000.0})
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 500000.0 ** (-torch.arange(0, 64, 2) / 64)
    factors = gguf_layout.llama3_factors(config.rope_parameters, 500000.0, 64)
    np.testing.assert_allclose(factors, (plain / scaled).numpy(), rtol=1e-5)
    assert factors[0] == 1 and factors[-1] == 8


def test_refusals_name_the_setting_and_the_way_out(tmp_path: Path) -> None:
    import transformers as T

    from tests.shipping.models import SHAPE, _made

    bert = saved(tiny.bert(), tmp_path / "bert")
    with pytest.raises(MethodError, match="BertForMaskedLM"):
        gguf.write(bert, tmp_path / "x.gguf")
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
    made = _made(T.LlamaForCausalLM, T.LlamaConfig(**SHAPE, rope_parameters=yarn))
    with pytest.raises(MethodError, match="yarn"):
        gguf.write(saved(made, tmp_path / "yarn"), tmp_path / "x.gguf")
    with pytest.raises(RecipeError, match="q7_0"):
        gguf.write(bert, tmp_path / "x.gguf", "q7_0")
    (tmp_path / "there.gguf").write_text("mine")
    with pytest.raises(FolderError, match="exists"):
        gguf.write(bert, tmp_path / "there.gguf")
    assert not list(tmp_path.glob("*x.gguf*"))


def test_linear_scaling_of_positions_is_written(tmp_path: Path) -> None:
    import transformers as T

    from tests.shipping.models import SHAPE, _made

    linear = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    made = _made(T.LlamaForCausalLM, T.LlamaConfig(**SHAPE, rope_parameters=linear))
    gguf.write(saved(made, tmp_path / "m"), tmp_path / "m.gguf")
    fields = GGUFReader(tmp_path / "m.gguf").fields
    assert fields["llama.rope.scaling.type"].contents() == "linear"
    assert fields["llama.rope.scaling.factor"].contents() == 2.0


@pytest.mark.skipif(LLAMA_CPP, reason="llama-cpp-python is here and makes them")
def test_types_that_only_llama_cpp_makes_are_refused_without_it(tmp_path: Path) -> None:
    folder = saved(MAKES["llama"](), tmp_path / "m")
    with pytest.raises(MissingExtraError, match="llama-quantize"):
        gguf.write(folder, tmp_path / "m.gguf", "q4_k")
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == ["m"]


def test_llama_quantize_on_the_path_makes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(MAKES["llama"](), tmp_path / "m")
    gguf.write(folder, tmp_path / "eight.gguf", "q8_0")  # stands for what the tool would write
    tool = tmp_path / "bin" / "llama-quantize"
    tool.parent.mkdir()
    tool.write_text(
        f"#!{sys.executable}\nimport json, shutil, sys\n"
        f"json.dump(sys.argv[1:], open({str(tmp_path / 'asked.json')!r}, 'w'))\n"
        f"shutil.copy({str(tmp_path / 'eight.gguf')!r}, sys.argv[2])\n"
    )
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    written = gguf.write(folder, tmp_path / "m.gguf", "Q4_K")
    assert json.loads((tmp_path / "asked.json").read_text())[2] == "Q4_K_M"
    assert written.made_by == "llama-quantize" and written.largest_error is None
    assert written.stored["Q8_0"] == 15 and written.readers["transformers"].rms < 1e-3
    tool.write_text(f"#!{sys.executable}\nimport sys\nprint('no room', file=sys.stderr)\nsys.exit(3)\n")
    with pytest.raises(ModelError, match="no room"):
        gguf.write(folder, tmp_path / "n.gguf", "q6_k")
    assert not list(tmp_path.glob("*.floats")) and not (tmp_path / "n.gguf").exists()


@pytest.mark.skipif(not LLAMA_CPP, reason="llama-cpp-python is not installed")
def test_llama_cpp_makes_them_itself(tmp_path: Path) -> None:
    folder = saved(tiny.llama(hidden=256), tmp_path / "m")
    written = gguf.write(folder, tmp_path / "m.gguf", "q4_k_m")
    assert written.made_by == "llama-cpp-python" and written.stored["Q4_K"] > 0 and "llama.cpp" in written.readers


def test_the_file_is_a_model_that_tunewright_loads(tmp_path: Path) -> None:
    model = MAKES["llama"]()
    gguf.write(saved(model, tmp_path / "m"), tmp_path / "m.gguf", "f32")
    again = locate(str(tmp_path / "m.gguf")).folder
    loaded = AutoModelForCausalLM.from_pretrained(again, dtype=torch.float32)
    assert compare(logits_of(model), logits_of(loaded.eval())).largest < 1e-5
    tokenizer = AutoTokenizer.from_pretrained(again)
    assert tokenizer.chat_template == tiny.CHAT_TEMPLATE and tokenizer.eos_token_id == tiny.EOS
    assert gguf_tokenizer.read_differently(tiny.tokenizer(), tokenizer) is None


def test_a_splitter_has_the_name_that_it_is_built_by() -> None:
    for name in gguf_splitters.SPLITTERS:
        own = tiny.tokenizer()
        own.backend_tokenizer.pre_tokenizer = gguf_splitters.built(name)
        assert gguf_splitters.named(json.loads(own.backend_tokenizer.to_str())["pre_tokenizer"]) == name
    assert gguf_splitters.named({"type": "Whitespace"}) is None and gguf_splitters.named(None) is None


def test_qwens_and_llama_3s_splitters_are_the_libraries_own() -> None:
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    assert dict(gguf_splitters.SPLITTERS["qwen2"])["Split"] == PRETOKENIZE_REGEX


def test_a_splitter_without_a_name_is_refused_or_named_by_the_user(tmp_path: Path) -> None:
    from tokenizers import pre_tokenizers

    folder = saved(MAKES["llama"](), tmp_path / "m")
    odd = tiny.tokenizer()
    odd.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    odd.save_pretrained(folder)
    with pytest.raises(MethodError, match="--pre-tokenizer"):
        gguf.write(folder, tmp_path / "m.gguf")
    if LLAMA_CPP:
        return  # which knows no such name
    written = gguf.write(folder, tmp_path / "m.gguf", splitter="falcon")
    assert GGUFReader(tmp_path / "m.gguf").fields["tokenizer.ggml.pre"].contents() == "falcon"
    assert not written.tokenizer and any("by name alone" in n for n in written.notes)
    with pytest.raises(ModelError, match="as other tokens"):
        gguf.write(folder, tmp_path / "n.gguf", splitter="smollm")


def test_pieces_with_bytes_get_scores_by_their_merges(tmp_path: Path) -> None:
    """Llama 2's and Gemma's kind of tokenizer: sentencepiece's BPE merges what scores highest first."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    alphabet = ["▁", *"abcdefgh"]
    merges = [("a", "b"), ("▁", "ab"), ("c", "d"), ("ab", "cd")]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *alphabet, *("".join(m) for m in merges)]
    inner = Tokenizer(
        models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, unk_token="<unk>", byte_fallback=True)
    )
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )
    model = tiny.llama(vocabulary=len(tokens) + 3)
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    gguf.write(tmp_path / "m", tmp_path / "m.gguf")
    fields = {k: f.contents() for k, f in GGUFReader(tmp_path / "m.gguf").fields.items()}
    assert fields["tokenizer.ggml.model"] == "llama" and fields["tokenizer.ggml.add_space_prefix"]
    listed, scores = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.scores"]
    kinds = fields["tokenizer.ggml.token_type"]
    assert listed[: len(tokens)] == tokens and listed[-1].startswith("[PAD") and kinds[-1] == gguf_tokenizer.UNUSED
    by = dict(zip(listed, scores, strict=True))
    assert by["ab"] > by["▁ab"] > by["cd"] > by["abcd"] > by["a"]
    assert kinds[listed.index("<0x41>")] == gguf_tokenizer.BYTE and kinds[0] == gguf_tokenizer.UNKNOWN


@pytest.mark.slow
def test_smollm2_in_eight_bits(tmp_path: Path) -> None:
    folder = locate("smollm2-135m-instruct").folder
    written = gguf.write(folder, tmp_path / "smollm2.gguf", "q8_0")
    assert written.logits is not None and written.logits.kl < 0.01 and written.logits.same_top > 0.9
    assert written.readers["transformers"].rms < 1e-3 and "tunewright" in written.tokenizer
    assert GGUFReader(tmp_path / "smollm2.gguf").fields["tokenizer.ggml.pre"].contents() == "smollm"
    print(gguf.page(written))
