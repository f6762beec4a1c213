"""Loading from a folder, the hub's cache and GGUF files: equal logits, new heads said, bad input refused with a
reason.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch
import transformers

from tests import tiny
from tests.models.making import save_folder, write_gguf
from tunewright.errors import MissingExtraError, ModelError, TunewrightError
from tunewright.files import hashing
from tunewright.loading.load import load
from tunewright.models.agreement import agrees, differing
from tunewright.recipe import ModelSpec

IDS = torch.arange(20, 50)[None]
FAMILIES = {
    "llama": ("text-generation", {}),
    "qwen3": ("text-generation", {}),
    "gpt2": ("text-generation", {}),
    "bert": ("fill-mask", {"encoder": True, "chat": False}),
    "bert_classifier": ("text-classification", {"encoder": True, "chat": False}),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_gives_the_same_logits(tmp_path, family):
    task, kind = FAMILIES[family]
    model = tiny.MAKERS[family]()
    folder = save_folder(tmp_path / "m", model, tiny.tokenizer(**kind))
    state = torch.get_rng_state()
    loaded = load(str(folder), task)
    assert torch.equal(torch.get_rng_state(), state)
    assert not differing(loaded.model.state_dict(), model.state_dict())
    assert agrees(loaded.model(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert not loaded.model.training and loaded.processor is None
    assert (
        loaded.source == f"folder {folder}"
        and loaded.name == str(folder)
        and loaded.licence is None
        and loaded.notes == []
    )


def test_an_image_classifier_loads_with_and_without_a_processor(tmp_path):
    from transformers import ViTImageProcessor

    folder = save_folder(tmp_path / "m", tiny.vit())
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    loaded = load(str(folder), "image-classification")
    assert not differing(loaded.model.state_dict(), tiny.vit().state_dict())
    assert agrees(loaded.model(pixel_values=pixels).logits, tiny.vit()(pixel_values=pixels).logits)
    assert loaded.tokenizer is None and loaded.processor is None and "preprocessor_config.json" in loaded.notes[0]
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    assert load(str(folder), "image-classification").processor.size["height"] == 16


def test_precision_and_the_specs_dtype(tmp_path):
    folder = str(save_folder(tmp_path / "m", tiny.llama(), tiny.tokenizer()))
    assert load(folder, "text-generation", precision="bfloat16").model.dtype == torch.bfloat16
    spec = ModelSpec(name=folder, dtype="float32")
    assert load(spec, "text-generation", precision="bfloat16").dtype == torch.float32


def test_licence_comes_from_the_card(tmp_path):
    folder = save_folder(tmp_path / "m", tiny.llama(), tiny.tokenizer())
    (folder / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n# Card\n")
    assert load(str(folder), "text-generation").licence == "mit"


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_new_head_is_said_and_drawn_by_the_seed(tmp_path, family):
    folder = str(save_folder(tmp_path / "m", tiny.MAKERS[family](), tiny.tokenizer(**FAMILIES[family][1])))
    made = [load(folder, "text-classification", labels=["no", "yes", "maybe"], seed=s).model for s in (0, 0, 1)]
    head = [m.get_submodule("classifier" if family == "bert" else "score").weight for m in made]
    assert torch.equal(head[0], head[1]) and not torch.equal(head[0], head[2]) and head[0].shape[0] == 3
    assert made[0].config.id2label == {0: "no", 1: "yes", 2: "maybe"} and made[0].config.label2id["maybe"] == 2
    notes = load(folder, "text-classification", labels=["no", "yes", "maybe"]).notes
    assert any("new text-classification head for 3 labels" in n for n in notes)


def test_labels_and_a_trained_head(tmp_path):
    model = tiny.bert_classifier(labels=3)
    model.config.id2label, model.config.label2id = {0: "c", 1: "a", 2: "b"}, {"c": 0, "a": 1, "b": 2}
    folder = str(save_folder(tmp_path / "m", model, tiny.tokenizer(encoder=True)))
    same = load(folder, "text-classification", labels=["a", "b", "c"])
    assert same.model.config.id2label == {0: "c", 1: "a", 2: "b"} and "order" in same.notes[0]
    assert torch.equal(same.model.classifier.weight, model.classifier.weight)
    other = load(folder, "text-classification", labels=["x", "y"])
    assert other.model.classifier.weight.shape[0] == 2 and "new text-classification head" in other.notes[0]
    assert torch.equal(other.model.bert.pooler.dense.weight, model.bert.pooler.dense.weight)


def test_generic_labels_take_the_datas_names(tmp_path):
    folder = str(save_folder(tmp_path / "m", tiny.bert_classifier(labels=2), tiny.tokenizer(encoder=True)))
    loaded = load(folder, "text-classification", labels=["bad", "good"])
    assert loaded.model.config.id2label == {0: "bad", 1: "good"}
    assert torch.equal(loaded.model.classifier.weight, tiny.bert_classifier(labels=2).classifier.weight)


def test_a_missing_pad_token_is_the_end_token_and_said(tmp_path):
    folder = str(save_folder(tmp_path / "m", tiny.llama(), tiny.tokenizer(pad=False)))
    loaded = load(folder, "text-generation")
    assert loaded.tokenizer.pad_token_id == tiny.EOS and "no pad token" in loaded.notes[0]


def test_padding_that_is_also_the_end_token_learns(tmp_path):
    model = tiny.llama()
    model.config.pad_token_id = tiny.EOS
    folder = str(save_folder(tmp_path / "m", model, tiny.tokenizer()))
    loaded = load(folder, "text-generation").model
    ids = torch.tensor([[20, tiny.EOS, 21]])
    hidden = loaded.model(input_ids=ids).last_hidden_state
    hidden.sum().backward()
    assert loaded.get_input_embeddings().weight.grad[tiny.EOS].abs().max() > 0


def hub_cache(tmp_path, monkeypatch, model, tokenizer, commit="a" * 40, branch="main"):
    """A hub cache as huggingface_hub lays it out, with one snapshot; the hub itself is out of reach."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    repo = cache / "models--owner--name"
    save_folder(repo / "snapshots" / commit, model, tokenizer)
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / branch).write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return repo


def test_a_hub_id_loads_from_the_cache_by_branch_and_commit(tmp_path, monkeypatch):
    hub_cache(tmp_path, monkeypatch, tiny.llama(0), tiny.tokenizer())
    hub_cache(tmp_path, monkeypatch, tiny.llama(1), tiny.tokenizer(), commit="b" * 40, branch="next")
    main = load("owner/name", "text-generation")
    assert main.source == f"hub owner/name@{'a' * 40}"
    assert not differing(main.model.state_dict(), tiny.llama(0).state_dict())
    for revision in ("next", "b" * 40):
        loaded = load(ModelSpec(name="owner/name", revision=revision), "text-generation")
        assert not differing(loaded.model.state_dict(), tiny.llama(1).state_dict())
    with pytest.raises(MissingExtraError, match="nope"):
        load(ModelSpec(name="owner/name", revision="nope"), "text-generation")


@pytest.mark.parametrize("q8", [False, True])
def test_a_gguf_file(tmp_path, q8):
    model = tiny.llama(tied=not q8)
    write_gguf(tmp_path / "m.gguf", model, q8=q8)
    loaded = load(str(tmp_path / "m.gguf"), "text-generation")
    if q8:
        assert 0 < (loaded.model(input_ids=IDS).logits - model(input_ids=IDS).logits).abs().max() < 0.2
    else:
        assert not differing(loaded.model.state_dict(), model.state_dict())
        assert agrees(loaded.model(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert loaded.tokenizer.tokenize("in 1999")[-4:] == ["1", "9", "9", "9"] and loaded.licence == "apache-2.0"
    converted = loaded.folder
    before = (converted / "model.safetensors").stat().st_mtime_ns
    assert load(str(tmp_path / "m.gguf"), "text-generation").folder == converted
    assert (converted / "model.safetensors").stat().st_mtime_ns == before


def test_a_gguf_file_that_only_transformers_reads(tmp_path):
    write_gguf(tmp_path / "m.gguf", tiny.llama(), pre="llama-bpe")
    loaded = load(str(tmp_path / "m.gguf"), "text-generation")
    assert torch.allclose(loaded.model(input_ids=IDS).logits, tiny.llama()(input_ids=IDS).logits, atol=1e-5)


def test_the_hash_is_of_the_tensors_not_of_the_files(tmp_path):
    model = tiny.llama(tied=False)
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    assert hashing.hash_weights(tmp_path / "one") == hashing.hash_weights(tmp_path / "many")
    tiny.llama(1, tied=False).save_pretrained(tmp_path / "other")
    assert hashing.hash_weights(tmp_path / "other") != hashing.hash_weights(tmp_path / "one")


def test_the_hash_is_read_once_and_again_after_a_change(tmp_path, monkeypatch):
    folder = save_folder(tmp_path / "m", tiny.llama())
    first, digest, read = hashing.hash_weights(folder), hashing._digest, []
    monkeypatch.setattr(hashing, "_digest", lambda t: read.append(t.name) or digest(t))
    assert hashing.hash_weights(folder) == first and read == []
    tiny.llama(1).save_pretrained(folder)
    assert hashing.hash_weights(folder) != first and read


# -- bad input: name -> (what to do to a good folder, task, error, what the message says)
# -------------------------------


def drop(*names):
    return lambda folder: [(folder / n).unlink() for n in names] and None


def only_pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def write(name, text):
    return lambda folder: (folder / name).write_text(text) and None


def edit_config(**changes):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def both(*changes):
    return lambda folder: [c(folder) for c in changes] and None


def no_shard(folder):
    tiny.llama(tied=False).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def bare_encoder(folder):
    shutil.rmtree(folder)
    save_folder(folder, tiny.bert().bert, tiny.tokenizer(encoder=True))


def family(name, **kind):
    def change(folder):
        shutil.rmtree(folder)
        save_folder(folder, tiny.MAKERS[name](), tiny.tokenizer(**kind) if name != "vit" else None)

    return change


ADAPTER = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "owner/base"})
TEXT = "text-generation"

BAD = {
    "only pickled weights": (only_pickled, TEXT, "pickle can run any code"),
    "no weights at all": (drop("model.safetensors"), TEXT, "model.safetensors is not there"),
    "only weights of another library": (
        both(drop("model.safetensors"), write("tf_model.h5", "x")),
        TEXT,
        "tf_model.h5",
    ),
    "a truncated file": (cut, TEXT, "is cut off"),
    "a file that is not safetensors": (
        write("model.safetensors", "hello, this is text"),
        TEXT,
        "not a readable safetensors file",
    ),
    "an empty weights file": (write("model.safetensors", " "), TEXT, "not a readable safetensors file"),
    "a missing shard": (no_shard, TEXT, "are missing: model-00002"),
    "an index that is not JSON": (write("model.safetensors.index.json", "{"), TEXT, "index of the weights"),
    "no config": (drop("config.json"), TEXT, "no config.json"),
    "a config that is not JSON": (write("config.json", "{"), TEXT, "not readable as JSON"),
    "a config that is a list": (write("config.json", "[]"), TEXT, "not a JSON object"),
    "an unknown model type": (edit_config(model_type="lama"), TEXT, "near: llama"),
    "code that comes with the model": (
        edit_config(model_type="mine", auto_map={"AutoConfig": "x.C"}),
        TEXT,
        "never run here",
    ),
    "a config of another size": (edit_config(hidden_size=64), TEXT, "weights do not fit"),
    "a config with more layers": (edit_config(num_hidden_layers=5), TEXT, "lacks weights"),
    "no tokenizer": (drop("tokenizer.json", "tokenizer_config.json"), TEXT, "no tokenizer"),
    "a damaged tokenizer": (write("tokenizer.json", "{"), TEXT, "tokenizer cannot be read from tokenizer.json"),
    "neither pad nor end token": (family("llama", pad=False, eos=False), TEXT, "neither a pad nor an end token"),
    "an adapter": (
        both(drop("config.json"), write("adapter_config.json", ADAPTER)),
        TEXT,
        "PEFT adapter for owner/base",
    ),
    "a run's folder": (both(drop("config.json"), write("recipe.yaml", "model: x")), TEXT, "tunewright export"),
    "an encoder asked to generate": (
        family("bert", encoder=True),
        TEXT,
        "it does: fill-mask, multiple-choice, question-answering, sentence-similarity",
    ),
    "a decoder asked to fill masks": (
        family("gpt2"),
        "fill-mask",
        "it does: question-answering, tabular-classification, text-classification, text-generation",
    ),
    "an image model asked to read": (family("vit"), TEXT, "it does: image-classification"),
    "a text model asked to see": (lambda f: None, "image-classification", "does not do image-classification"),
    "an encoder without its head": (bare_encoder, "fill-mask", "no fill-mask head"),
    "a classifier without labels": (bare_encoder, "text-classification", "no labels are given"),
    "a classifier asked to fill masks": (family("bert_classifier", encoder=True), "fill-mask", "no fill-mask head"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folders(tmp_path, case):
    change, task, says = BAD[case]
    folder = save_folder(tmp_path / "m", tiny.llama(), tiny.tokenizer())
    change(folder)
    with pytest.raises(ModelError) as e:
        load(str(folder), task)
    assert says in str(e.value) and "->" in str(e.value), str(e.value)
    assert str(folder) in str(e.value)


NAMES = {
    "no such folder": ("./smol", ModelError, "no such model folder"),
    "a folder nearly named": ("{tmp}/modle", ModelError, "{tmp}/model"),
    "a file": ("{tmp}/file.txt", ModelError, "not this file"),
    "a GGUF that is not there": ("{tmp}/no.gguf", ModelError, "no such file"),
    "a GGUF that is text": ("{tmp}/text.gguf", ModelError, "not a readable GGUF"),
    "a built-in misspelt": ("smollm2-135-instruct", ModelError, "did you mean the built-in 'smollm2-135m-instruct'"),
    "a name with spaces": ("my model", ModelError, "no such model folder"),
    "a hub id without network": ("owner/none-such", MissingExtraError, "cannot be fetched from the hub"),
    "a folder here misspelt": ("modle", MissingExtraError, "did you mean the folder ./model?"),
    "the hub's own words": ("owner/none-such", MissingExtraError, "(it does not answer, or HF_HUB_OFFLINE is set)"),
    "an unknown task": ("{tmp}/model", TunewrightError, "text-generation"),
}


@pytest.mark.parametrize("case", NAMES)
def test_bad_names(tmp_path, monkeypatch, case):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    save_folder(tmp_path / "model", tiny.llama(), tiny.tokenizer())
    for name in ("file.txt", "text.gguf"):
        (tmp_path / name).write_text("text")
    name, error, says = NAMES[case]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as e:
        load(name.format(tmp=tmp_path), "text-generatoin" if case == "an unknown task" else TEXT)
    assert says.format(tmp=tmp_path) in str(e.value) and "->" in str(e.value), str(e.value)


SPECS = {
    "a revision of a folder": ({"revision": "main"}, {}, "remove revision"),
    "an unknown precision": ({}, {"precision": "float8"}, "float32, bfloat16 or float16"),
    "one label": ({}, {"task": "text-classification", "labels": ["a"]}, "at least two different labels"),
    "equal labels": ({}, {"task": "text-classification", "labels": ["a", "b", "a"]}, "'a' stands 2 times"),
}


@pytest.mark.parametrize("case", SPECS)
def test_bad_arguments(tmp_path, case):
    fields, arguments, says = SPECS[case]
    folder = save_folder(tmp_path / "m", tiny.llama(), tiny.tokenizer())
    with pytest.raises(ModelError) as e:
        load(ModelSpec(name=str(folder), **fields), **({"task": TEXT} | arguments))
    assert says in str(e.value)


def test_remote_code_is_refused(tmp_path):
    class Spec:
        name, revision, dtype, trust_remote_code = "owner/name", None, "auto", True

    with pytest.raises(ModelError, match="never run"):
        load(Spec(), TEXT)


def test_labels_that_are_not_the_heads(tmp_path):
    model = tiny.bert_classifier(labels=2)
    model.config.id2label, model.config.label2id = {0: "spam", 1: "ham"}, {"spam": 0, "ham": 1}
    folder = save_folder(tmp_path / "m", model, tiny.tokenizer(encoder=True))
    with pytest.raises(ModelError, match="knows spam, ham, the data x, y"):
        load(str(folder), "text-classification", labels=["x", "y"])


def test_a_tokenizer_of_another_model(tmp_path):
    folder = save_folder(tmp_path / "m", tiny.llama(vocabulary=300), tiny.tokenizer())
    with pytest.raises(ModelError, match="has 320 tokens, but the model embeds 300"):
        load(str(folder), TEXT)


@pytest.mark.parametrize("leave_out", ["blk.1.ffn_up.weight"])
def test_an_incomplete_gguf(tmp_path, leave_out):
    write_gguf(tmp_path / "m.gguf", tiny.llama(), leave_out=(leave_out,))
    with pytest.raises(ModelError, match="holds 19 tensors, 20 are needed"):
        load(str(tmp_path / "m.gguf"), TEXT)
    assert not list((tmp_path / "cache/gguf").glob("*/config.json"))


def test_the_command_lines_modules_import_no_model_library():
    code = (
        "import sys, tunewright.loading.builtin, tunewright.files.cache; print([m for m in ('torch', "
        "'transformers', 'numpy') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


@pytest.mark.parametrize("weights", [True, False])
def test_a_library_that_cannot_be_imported_is_not_blamed_on_the_model(tmp_path, monkeypatch, weights):
    tiny.llama().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)

    def broken(*_, **__):
        try:
            raise ModuleNotFoundError("No module named '_cffi_backend'")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("Could not import module 'LlamaForCausalLM'.") from error

    for name in ("from_pretrained", "from_config"):
        monkeypatch.setattr(transformers.AutoModelForCausalLM, name, broken)
    with pytest.raises(MissingExtraError, match="_cffi_backend") as caught:
        load(str(tmp_path), "text-generation", weights=weights)
    assert "install it again" in caught.value.remedy
