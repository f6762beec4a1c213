"""What each architecture does with each task, by doing it: docs/architectures.md is written from here.

    python -m tests.architecture_matrix            # all pairs anew (tens of minutes)
    python -m tests.architecture_matrix mamba t5   # these alone; the page's other rows stay

A tiny model is drawn, trained two steps with LoRA and with all weights, its run is opened again, exported and loaded by
plain transformers, its adapter by PEFT: all must give the logits of the run.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from tests import architectures, seeing, tiny
from tunewright.errors import TunewrightError
from tunewright.finished.export import check_inputs, export, logits_of
from tunewright.finished.finished import open_run
from tunewright.runs.run import run

PAGE = Path(__file__).parent.parent / "docs" / "architectures.md"
LABELS = ["cash fee", "lost card"]
SUBSET = [
    ("text-generation", "llama"),
    ("text-generation", "gpt2"),
    ("text-generation", "deepseek_v3"),
    ("text-generation", "mamba"),
    ("text-generation", "bert"),
    ("text-classification", "bert"),
    ("text-classification", "distilbert"),
    ("text-classification", "llama"),
    ("fill-mask", "deberta"),
    ("image-classification", "swinv2"),
    ("image-classification", "resnet"),
    ("image-segmentation", "segformer"),
    ("image-text-to-text", "llava"),
    ("image-text-to-text", "idefics3"),
]
"""Pairs that the fast tests do: one of each way in which a layer, a head or a refusal can be special."""
PAIRS: dict[str, str] = {
    "text-generation": """
        apertus arcee bamba bart bert biogpt bitnet bloom codegen cohere cohere2 ctrl deepseek_v2 deepseek_v3 diffllama
        doge dots1 ernie4_5 exaone4 falcon falcon_h1 falcon_mamba gemma gemma2 gemma3_text glm glm4 glm4_moe gpt2
        gpt_bigcode gpt_neo gpt_neox gpt_oss gptj granite granitemoe granitemoehybrid helium hunyuan_v1_dense jamba
        jetmoe lfm2 llama llama4_text mamba mamba2 mimo_v2_flash minimax mistral mixtral modernbert-decoder mpt nanochat
        nemotron nemotron_h olmo olmo2 olmo3 olmoe openai-gpt opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3
        qwen3_moe qwen3_next recurrent_gemma rwkv seed_oss smollm3 stablelm starcoder2 vaultgemma xglm xlnet zamba2
    """,
    "text-classification": """
        albert bart bert bloom camembert deberta deberta-v2 distilbert electra esm gemma2 gemma3_text gpt2 gpt_neox
        llama longformer mistral modernbert mpnet opt qwen3 roberta t5 xlm-roberta xlnet
    """,
    "fill-mask": """
        albert bert big_bird camembert deberta deberta-v2 distilbert electra esm longformer modernbert mpnet roberta
        roformer xlm-roberta
    """,
    "image-classification": """
        beit bit clip convnext convnextv2 deit dinov2 efficientnet levit mobilenet_v1 mobilenet_v2 mobilevit poolformer
        regnet resnet siglip swin swinv2 vit
    """,
    "image-segmentation": "beit data2vec-vision dpt mobilenet_v2 mobilevit mobilevitv2 segformer upernet",
    "image-text-to-text": "gemma3 idefics3 llava llava_next qwen2_vl",
}


def pairs() -> list[tuple[str, str]]:
    """(task, architecture), in the page's order."""
    return [(task, name) for task, names in PAIRS.items() for name in names.split()]


def write_base(folder: Path, task: str, name: str) -> None:
    """A model's folder and rows to train it on."""
    if task == "image-text-to-text":
        write_pictured(folder, name)
        return
    labelled = "classification" in task or task == "image-segmentation"
    more: dict[str, Any] = (
        {"id2label": dict(enumerate(LABELS)), "label2id": {n: i for i, n in enumerate(LABELS)}} if labelled else {}
    )
    if name in ("bart", "t5"):
        more["eos_token_id"] = tiny.SEP if labelled else tiny.EOS  # what the tokenizer puts at the end of a text
    architectures.make(name, task, **more).save_pretrained(folder / "base")
    rng = random.Random(0)
    rows: list[dict[str, str]] = []
    if task in ("image-classification", "image-segmentation"):
        from PIL import Image

        architectures.processor_of(name).save_pretrained(folder / "base")
        for i in range(4):
            high, wide = architectures.SIDE + 8 * i, architectures.SIDE + 5
            Image.frombytes("RGB", (wide, high), rng.randbytes(3 * wide * high)).save(folder / f"{i}.png")
            rows.append({"image": f"{i}.png", "label": LABELS[i % 2]})
            if task == "image-segmentation":
                Image.frombytes("L", (wide, high), bytes(rng.choices((0, 1), k=wide * high))).save(
                    folder / f"{i}-mask.png"
                )
                rows[-1] = {"image": f"{i}.png", "mask": f"{i}-mask.png"}
    else:
        tiny.tokenizer(encoder=task != "text-generation").save_pretrained(folder / "base")
        for i in range(8):
            text = " ".join(rng.choices(["card", "lost", "fee", "cash", "rate", "pin"], k=rng.randint(5, 20)))
            rows.append({"text": text, **({"label": LABELS[i % 2]} if labelled else {})})
    (folder / "train.jsonl").write_text("\n".join(json.dumps(r) for r in rows))


def write_pictured(folder: Path, name: str) -> None:
    """A model of pictures in texts, with rows that have none, one and two of them."""
    (folder / "base").mkdir()
    getattr(seeing, "write_llava" if name == "llava" else name)(folder / "base")
    for i in range(3):
        seeing.picture(i, 16 + 8 * i, 21).save(folder / f"{i}.png")
    own = [{"type": "image", "path": f"{i}.png"} for i in range(3)]
    said, rows = {"role": "assistant", "content": [{"type": "text", "text": "warm"}]}, list[dict[str, Any]]()
    for parts in ([own[0]], [own[1], own[2]], []):
        rows.append({"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "fox"}]}, said]})
    (folder / "train.jsonl").write_text("\n".join(json.dumps(r) for r in rows))


def train(folder: Path, task: str, method: Any, name: str) -> Path:
    """A run of two steps; its folder."""
    recipe = {
        "model": "./base",
        "task": task,
        "data": {
            "train": "train.jsonl",
            **({"labels": LABELS} if task == "image-segmentation" else {}),
            "max_length": 512 if task == "image-text-to-text" else 64,
        },
        "methods": [method],
        "budget": {"steps": 2},
        "train": {
            "learning_rate": 1e-2,
            "batch_tokens": 4 if task == "image-classification" else 16 if task == "image-segmentation" else 64,
            "precision": "float32",
        }
        | {"threads": 1},
        "measurement": {"drift_sequences": 2, "drift_tokens": 4, "strengths": [1.0], "few_shot": 0},
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return run(file, out=folder / name, quiet=True).folder


def differs(ours: torch.Tensor, theirs: torch.Tensor) -> str | None:
    """By how much of the logits' deviation two models differ, where it is more than rounding."""
    gap = float((ours - theirs).abs().max() / ours.std())
    return None if gap < 1e-3 else f"{gap:.1g} of the logits' deviation"


def tried(folder: Path, task: str, method: Any, name: str) -> str:
    """ "yes", or why not: one cell of the page."""
    try:
        made = train(folder, task, method, name)
        opened = open_run(made)
        inputs = check_inputs(opened)
        wanted = logits_of(opened.adapted.model, inputs)
        out = export(made).folder
    except TunewrightError as e:
        said = f"{e.what}; {e.remedy}" if e.remedy else e.what
        return "no: " + re.sub(r"\s+", " ", said.replace(str(folder), "").replace("|", "/"))
    import transformers

    auto = getattr(transformers, architectures.AUTO[task])
    whole = auto.from_pretrained(out, dtype=torch.float32).eval()
    if gap := differs(wanted, logits_of(whole, inputs)):
        raise AssertionError(f"the export, loaded by transformers, differs by {gap}")
    if (made / "adapter").exists():
        import peft

        base = auto.from_pretrained(folder / "base", dtype=torch.float32)
        beside = peft.PeftModel.from_pretrained(base, made / "adapter").eval()
        if gap := differs(wanted, logits_of(beside, inputs)):
            raise AssertionError(f"the adapter, loaded by PEFT, differs by {gap}")
        return "yes"
    return "yes" if method == "full" else "yes, as a whole model"


def row(task: str, name: str) -> str:
    """An architecture's row of the page."""
    if not architectures.known(name):
        return f"| {task} | {name} | not in this transformers | | |"
    with tempfile.TemporaryDirectory() as made:
        folder, before = Path(made), os.environ.get("TUNEWRIGHT_CACHE")
        os.environ["TUNEWRIGHT_CACHE"] = str(folder / "cache")
        try:
            write_base(folder, task, name)
            lora, full = (
                tried(folder, task, method, out) for method, out in (({"lora": {"rank": 4}}, "lora"), ("full", "full"))
            )
            report = folder / "lora" / "report.json"
            notes = json.loads(report.read_text())["notes"] if report.exists() else []
        finally:
            os.environ.pop("TUNEWRIGHT_CACHE")
            if before is not None:
                os.environ["TUNEWRIGHT_CACHE"] = before
    said = [n.removeprefix("left out of all-linear: ") for n in notes if n.startswith("left out")]
    said += ["rows are padded, not packed"] if any("rows are padded" in n for n in notes) else []
    return f"| {task} | {name} | {lora} | {full if full != lora or full == 'yes' else 'as LoRA'} | {'; '.join(said)} |"


HEAD = """\
<!-- Made by `python -m tests.architecture_matrix`: run it anew, do not edit this file. -->
# Architectures

What was tried of each architecture in transformers with each task, on tiny models whose weights are drawn at random:
that the parts fit together, not that a trained model gains anything. Others of the same build should do as well; a
model that needs its own code is refused.

- **LoRA** on all linear layers, two steps. *yes*: it trained, the run was opened again, the adapter was loaded by PEFT,
  and the exported model by plain transformers; each gave the run's logits.
- **full**: all weights, two steps. *yes*: it trained, was opened again, exported, and loaded by plain transformers with
  the run's logits.
- **left out**: layers that LoRA's `all-linear` does not change, as `tunewright plan` says them, with the reason; full
  fine-tuning trains them. Where rows cannot be packed into one sequence they are padded.

Models of convolutions (EfficientNet, ResNet ...) have no linear layer inside their blocks: `lora: {target_modules:
all}` (or `pissa`, `olora`) changes convolutions too, or those that are named. Such a run is a PEFT adapter, unless a
convolution with groups is among them: then its change is `delta.json` and `delta.safetensors`, which `tunewright
export`, `fuse` and `merge` read.
"""
TABLE = "| task | architecture | LoRA | full | left out, and rows |\n| --- | --- | --- | --- | --- |"


def page(rows: dict[tuple[str, str], str]) -> str:
    """The page of these rows."""
    import peft
    import transformers

    with_what = f"Tried with transformers {transformers.__version__}, PEFT {peft.__version__}."
    body = "\n".join(rows[p] for p in pairs() if p in rows)
    return f"{HEAD}\n{with_what}\n\n{TABLE}\n{body}\n"


def written() -> dict[tuple[str, str], str]:
    """The rows that the page has."""
    lines = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.exists() else []
    cells = [(line, [c.strip() for c in line.split("|")]) for line in lines if line.startswith("| ")]
    return {(c[1], c[2]): line for line, c in cells if (c[1], c[2]) in set(pairs())}


def main(names: list[str]) -> None:
    rows = written()
    for task, name in pairs():
        if not names or name in names:
            try:
                rows[task, name] = row(task, name)
            except Exception as e:  # a defect: its row is left as it was, and the others go on
                print(f"| {task} | {name} | FAILS: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
                continue
            print(rows[task, name], flush=True)
            PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
