"""Blocks that stay on disk: what is learnt is what it is with all of them in memory, to the bit, with one in place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from tests import architectures, small, tiny
from tunewright.errors import MethodError, ModelError
from tunewright.loading.load import load
from tunewright.models.recompute import recomputing
from tunewright.models.streamed import streamed
from tunewright.planning.check import check_recipe
from tunewright.recipe import Recipe
from tunewright.runs.run import run

TREE: dict[str, Any] = {
    "model": "./base",
    "task": "text-generation",
    "data": {"train": "train.jsonl", "eval": "test.jsonl"},
    "keep": ["keep.txt"],
    "methods": ["lora"],
    "budget": {"steps": 3},
    "train": {"batch_tokens": 96, "precision": "float32", "threads": 1, "learning_rate": 0.01, "max_grad_norm": None},
    "measurement": {"strengths": [0.5, 1], "drift_sequences": 2, "drift_tokens": 8, "max_new_tokens": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("streamed")
    small.write_inputs(where, train=20, test=3)
    return where


def recipe(folder: Path, offload: str | None, **changes: Any) -> Recipe:
    tree = {**TREE, **changes, "train": {**TREE["train"], "offload_param": offload}}
    tree = {key: value for key, value in tree.items() if value is not None}
    (folder / "r.yaml").write_text(json.dumps(tree))
    return Recipe.load(folder / "r.yaml")


def came_out(out: Path) -> tuple[list[float], dict[str, torch.Tensor], dict[str, Any]]:
    """Losses, trained tensors and figures of a run."""
    report = json.loads((out / "report.json").read_text())
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    tensors = {}
    for file in sorted((out / "stages" / "main").rglob("*.safetensors")):
        tensors |= {f"{file.name}/{name}": t for name, t in load_file(file).items()}
    figures = {key: report[key] for key in ("target", "kept", "drift", "trade", "trained")}
    return [r["loss"] for r in records if "loss" in r], tensors, figures


@pytest.mark.parametrize(
    "methods", [["lora"], ["lora", "masked-thought"], ["loreft"], ["lofit"], [{"corda": {"rank": 4}}]]
)
def test_it_learns_what_a_model_in_memory_learns(folder: Path, tmp_path: Path, methods: list[Any]) -> None:
    came = []
    for offload in (None, "disk"):
        run(recipe(folder, offload, methods=methods), tmp_path / str(offload), quiet=True)
        came.append(came_out(tmp_path / str(offload)))
    (losses, tensors, figures), (other_losses, other_tensors, other_figures) = came
    assert losses == other_losses and len(losses) == 3 and figures == other_figures
    assert tensors and tensors.keys() == other_tensors.keys()
    assert all(torch.equal(t, other_tensors[n]) for n, t in tensors.items())


@pytest.mark.parametrize("model", [tiny.llama, tiny.gpt2, tiny.bert], ids=["llama", "gpt2", "bert"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_logits_are_those_of_a_model_in_memory_and_one_block_is_in_place(
    tmp_path: Path, model: Any, precision: str
) -> None:
    made = model()
    made.save_pretrained(tmp_path / "base"), tiny.tokenizer().save_pretrained(tmp_path / "base")
    task = "fill-mask" if model is tiny.bert else "text-generation"
    whole = load(str(tmp_path / "base"), task, precision=precision).model
    parts = load(str(tmp_path / "base"), task, precision=precision, streams=True).model
    blocks = streamed(parts)
    assert blocks is not None and streamed(whole) is None
    ids = torch.arange(3, 15).view(2, 6)
    with torch.no_grad():
        assert torch.equal(whole(input_ids=ids).logits, parts(input_ids=ids).logits)
    filled = [sum(p.untyped_storage().nbytes() > p.element_size() for p in b.parameters()) for b in blocks.blocks]
    assert [bool(n) for n in filled] == [False] * (len(filled) - 1) + [True] and len(filled) > 1
    blocks.away()
    for (name, p), q in zip(parts.named_parameters(), whole.parameters(), strict=True):
        assert p.shape == q.shape and p.dtype == q.dtype
        assert bool(p.isnan().all()) if p in blocks else torch.equal(p, q), name
    assert {n for n, _ in parts.named_buffers()} == {n for n, _ in whole.named_buffers()}
    assert all(torch.equal(b, c) for b, c in zip(parts.buffers(), whole.buffers(), strict=True))


def test_a_site_that_is_read_has_its_weight_in_place(folder: Path) -> None:
    loaded = load(str(folder / "base"), "text-generation", streams=True)
    whole = load(str(folder / "base"), "text-generation")
    theirs = {s.name: s.matrix() for s in whole.adapted().structure.sites}
    for site in loaded.adapted().structure.sites:
        assert torch.equal(site.matrix(), theirs[site.name]), site.name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": ["full"]}, "'full' trains the base's own weights"),
        ({"methods": ["qlora"]}, "'qlora' changes the model before it is trained"),
        ({"task": "text-classification", "data": {"train": "classes.jsonl"}, "keep": []}, "the head of text-class"),
        (
            {
                "methods": None,
                "budget": None,
                "stages": [
                    {"name": "a", "methods": ["lora"], "budget": {"steps": 1}},
                    {"name": "b", "start": "stages.a", "methods": ["lora"], "budget": {"steps": 1}},
                ],
            },
            "carry: fold puts what a stage learnt into the weights",
        ),
    ],
)
def test_what_changes_the_weights_is_refused_by_check_and_run(
    folder: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    rows = [{"text": f"card {i}", "label": "ab"[i % 2]} for i in range(8)]
    (folder / "classes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = recipe(folder, "disk", **changes)
    (error,) = [e for e in check_recipe(asked).report.errors if said in str(e)]
    assert error.remedy
    with pytest.raises((MethodError, ModelError)) as caught:
        run(asked, tmp_path / "out", quiet=True)
    assert said in str(caught.value)


def test_what_reads_weights_in_another_way_or_asks_for_gradients_is_loud(folder: Path) -> None:
    loaded = load(str(folder / "base"), "text-generation", streams=True)
    adapted = loaded.adapted()
    name = next(n for n, p in adapted.base_parameters().items() if p in streamed(adapted.model))  # type: ignore[operator]
    with pytest.raises(MethodError, match="would change, and the blocks' weights are read"):
        adapted.remember(name)
    ids = torch.arange(3, 9).view(1, 6)
    adapted.model.get_input_embeddings().weight.requires_grad_(True)
    with pytest.raises(MethodError, match="gradients are asked for outside training"):
        adapted.model(input_ids=ids)


def test_weights_that_are_missing_or_not_finite_are_named(folder: Path, tmp_path: Path) -> None:
    write(folder, tmp_path / "lost", lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelError, match=r"no tensor 'model.layers.1.mlp.up_proj.weight' of shape"):
        load(str(tmp_path / "lost"), "text-generation", streams=True)
    write(folder, tmp_path / "nan", lambda t: t["model.layers.1.mlp.up_proj.weight"].view(-1)[3:4].fill_(torch.nan))
    with pytest.raises(ModelError, match=r"NaN or infinity: model.layers.1.mlp.up_proj.weight"):
        model = load(str(tmp_path / "nan"), "text-generation", streams=True).model
        model(input_ids=torch.arange(3, 9).view(1, 6))


def write(folder: Path, to: Path, change: Any) -> None:
    shutil.copytree(folder / "base", to)
    tensors = load_file(to / "model.safetensors")
    change(tensors)
    save_file(tensors, to / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    "name",
    ["qwen3", "gemma3_text", "phi3", "gpt_oss", "falcon", "bloom", "opt", "zamba2", "mamba2", "modernbert", "t5"],
)
def test_logits_and_gradients_are_those_of_a_model_in_memory(tmp_path: Path, name: str) -> None:
    if not architectures.known(name):
        pytest.skip(f"this transformers has no {name}")
    task = {"modernbert": "fill-mask", "t5": "text2text-generation"}.get(name, "text-generation")
    config = architectures.config_of(name, task, vocab_size=len(tiny.tokenizer()))
    auto = {"fill-mask": AutoModelForMaskedLM, "text2text-generation": AutoModelForSeq2SeqLM}.get(
        task, AutoModelForCausalLM
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        auto.from_config(config).save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    ids, outs = torch.arange(4, 16).view(2, 6), []
    inputs = {"input_ids": ids, "use_cache": False} | ({"labels": ids} if name == "t5" else {})
    inputs = {k: v for k, v in inputs.items() if task != "fill-mask" or k == "input_ids"}
    for streams in (False, True):
        model = load(str(tmp_path / "base"), task, streams=streams).model
        with torch.no_grad():
            logits = model(**inputs).logits
        table = model.requires_grad_(False).train().get_input_embeddings().weight.requires_grad_(True)
        with recomputing(model, True), torch.random.fork_rng():
            torch.manual_seed(0)  # of dropout
            model(**inputs).logits.logsumexp(-1).sum().backward()
        outs.append((logits, table.grad))
    assert torch.equal(outs[0][0], outs[1][0]) and torch.equal(outs[0][1], outs[1][1])


def test_experts_that_are_stored_one_by_one_are_refused(tmp_path: Path) -> None:
    architectures.make("qwen3_moe", "text-generation", vocab_size=len(tiny.tokenizer())).save_pretrained(tmp_path / "b")
    tiny.tokenizer().save_pretrained(tmp_path / "b")
    with pytest.raises(ModelError, match="blocks cannot stay on disk: the files have no tensor"):
        load(str(tmp_path / "b"), "text-generation", streams=True)


def test_a_body_that_was_saved_alone_is_read_by_its_own_names(folder: Path, tmp_path: Path) -> None:
    def alone(tensors: dict[str, torch.Tensor]) -> None:
        for name in [n for n in tensors if n.startswith("model.")]:
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    write(folder, tmp_path / "body", alone)
    ids = torch.arange(3, 9).view(1, 6)
    with torch.no_grad():
        one, other = (
            load(str(tmp_path / "body"), "text-generation", streams=s).model(ids).logits for s in (False, True)
        )
    assert torch.equal(one, other)
