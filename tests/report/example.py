"""A realistic report with its metrics and rows: numbers like those of a small run, made here, measured nowhere."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta
from typing import Any

from tunewright.measure.intervals import Interval
from tunewright.report.schema import (
    Answer,
    Cost,
    DataInfo,
    Drift,
    Hardware,
    Measured,
    MethodInfo,
    ModelInfo,
    Probe,
    Report,
    RoleCounts,
    RunInfo,
    SourceInfo,
    StageReport,
    Strength,
    Target,
    Trained,
    Training,
)

INTENTS = (
    "card arrival",
    "lost or stolen card",
    "top up failed",
    "exchange rate",
    "pending transfer",
    "verify my identity",
)
ASKED = (
    "I am still waiting on my card?",
    "What do I do if my card was taken on the tube last night?",
    "My top-up was rejected twice and I don't understand why",
    "what exchange rate do you use when I pay in euros",
    "The transfer I made on Monday still says pending, is something wrong with it?",
    "How do I go about proving who I am",
)
PROMPT = (
    "<|im_start|>",
    "user",
    "\n",
    "Which",
    " support",
    " topic",
    " is",
    " this",
    "?",
    "\n",
    "I",
    " am",
    " still",
    " waiting",
    " on",
    " my",
    " card",
    "?",
    "<|im_end|>",
    "\n",
    "<|im_start|>",
    "assistant",
    "\n",
)
ANSWER = ("card", " arrival", "<|im_end|>")


def of(value: float, half: float, n: int = 240, unit: str = "row") -> Interval:
    return Interval(value=value, low=value - half, high=value + half, n=n, unit=unit, method="bootstrap")


def make_rows(n: int = 240, seed: int = 1) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        k = rng.randrange(len(INTENTS))
        base_right, tuned_right = rng.random() < 0.06, rng.random() < 0.75
        base = (
            INTENTS[k]
            if base_right
            else rng.choice(
                ["I'm sorry to hear that. Please contact your bank's support team", "I can help you with that!"]
            )
        )
        tuned = INTENTS[k] if tuned_right else INTENTS[(k + 1) % len(INTENTS)]
        rows.append(
            {
                "id": f"test.jsonl:{i + 1}",
                "source": "quickstart:test",
                "prompt": f"Which support topic is this?\n{ASKED[k]}",
                "base": base,
                "tuned": tuned,
                "reference": INTENTS[k],
                "base_score": float(base_right),
                "tuned_score": float(tuned_right),
                "weight": 1.0,
            }
        )
    return rows


def make_metrics(steps: int = 65, stages: tuple[str, ...] = ("main",), seed: int = 2) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    out = []
    for s, stage in enumerate(stages):
        for i in range(1, steps + 1):
            warm, total = 0.03 * steps, steps
            rate = 1e-3 * min(1, i / warm) * (1 - max(0, i - warm) / total)
            loss = (0.35 + 3.4 * math.exp(-i / 9) / (1 + s)) * math.exp(rng.gauss(0, 0.16))
            record = {
                "step": s * steps + i,
                "stage": stage,
                "loss": loss,
                "learning_rate": rate,
                "grad_norm": 1.1 * math.exp(rng.gauss(0, 0.3)) + 9 / i,
            }
            if i % 20 == 0:
                record["eval_loss"] = 0.42 + 2.0 * math.exp(-i / 10)
            out.append(record)
    return out


def _target() -> Target:
    """Exact answers and a likelihood choice, before and after."""
    return Target(
        name=None,
        metric="exact_match",
        unit="fraction",
        before=Interval(value=0.017, low=0.006, high=0.042, n=240, method="wilson"),
        after=of(0.758, 0.053),
        difference=of(0.741, 0.055),
        n=240,
        few_shot=of(0.263, 0.056),
        shots=3,
        likelihood=Measured(
            name="likelihood choice",
            metric="accuracy",
            before=of(0.621, 0.061),
            after=of(0.804, 0.05),
            difference=of(0.183, 0.052),
            n=240,
        ),
    )


def _kept() -> Measured:
    """The loss on a general text."""
    return Measured(
        name="general",
        metric="loss",
        direction="lower",
        unit="nats per token",
        before=of(3.114, 0.09, 24, "document"),
        after=of(3.694, 0.12, 24, "document"),
        difference=of(0.58, 0.07, 24, "document"),
        n=24,
    )


def _trade() -> list[Strength]:
    """Four points of the dial."""
    return [
        Strength(
            strength=s,
            target=of(t, 0.055),
            kept={"general": of(k, 0.1, 24, "document")},
            drift=of(d, 0.08 * s + 0.02, 64, "sequence"),
        )
        for s, t, k, d in (
            (0.25, 0.179, 3.136, 0.061),
            (0.5, 0.546, 3.221, 0.294),
            (0.75, 0.704, 3.405, 0.766),
            (1.0, 0.758, 3.694, 1.523),
        )
    ]


def _run(started: datetime) -> RunInfo:
    """Four minutes on two cores."""
    return RunInfo(
        name="quickstart",
        started=started,
        finished=started + timedelta(seconds=252),
        seconds=252.4,
        command="tunewright run quickstart",
        versions={"python": "3.11.7", "tunewright": "0.1.0", "torch": "2.13.0", "transformers": "5.0.0"},
        threads=2,
        load_at_start=0.4,
        seed=0,
        hardware=Hardware(device="cpu", name="AMD EPYC 7763", cores=2, memory_bytes=24 * 2**30, precision="float32"),
    )


def _data() -> DataInfo:
    """The quickstart's rows."""
    return DataInfo(
        sources=[
            SourceInfo(path="quickstart:train", role="train", rows=972, tokens=31_204, licence="CC BY 4.0"),
            SourceInfo(path="quickstart:test", role="eval", rows=240, tokens=7_655, licence="CC BY 4.0"),
            SourceInfo(path="quickstart:keep", role="keep", rows=24, tokens=6_144, licence="public domain"),
        ],
        hash="51ab" * 16,
        rows=972,
        tokens=31_204,
        trained_tokens=4_871,
        dropped=0,
        truncated=3,
        duplicates=2,
    )


def _cost() -> Cost:
    """Seconds, tokens and parameters."""
    return Cost(
        seconds={"load": 3.1, "data": 1.2, "base": 58.4, "train": 121.7, "measure": 64.9, "report": 0.6},
        tokens=31_204,
        trained_tokens=4_871,
        steps=65,
        trainable_parameters=4_884_480,
        stored_parameters=4_884_480,
        stored_bytes=19_552_304,
        peak_memory_bytes=1_912_340_480,
        flops=2.52e13,
        tokens_per_second=256.4,
    )


def _trained() -> Trained:
    """LoRA on all linears."""
    return Trained(
        roles={
            "attention": RoleCounts(trained=1_612_800, total=26_542_080),
            "mlp": RoleCounts(trained=3_271_680, total=79_626_240),
            "norm": RoleCounts(trained=0, total=35_136),
            "embedding": RoleCounts(trained=0, total=28_311_552),
        },
        methods=[
            MethodInfo(
                name="lora",
                slots=["attach"],
                parameters={"rank": 16, "alpha": 32.0, "dropout": 0.0, "target_modules": "all-linear"},
                stage="main",
            )
        ],
        frozen=["all of the base's own weights", "embeddings, shared with the head"],
    )


def _stage() -> StageReport:
    """The only stage."""
    return StageReport(
        name="main",
        methods=["lora"],
        ended_by="epochs",
        steps=65,
        tokens=31_204,
        epochs=1.0,
        seconds=121.7,
        loss_first=3.71,
        loss_last=0.36,
    )


def _probe() -> Probe:
    """A probe with values and rows."""
    return Probe(
        description="singular directions of the tuned weight that the base does not have (cosine below 0.6)",
        values={"matrices with at least one": 37, "share of matrices": of(0.176, 0.05, 210)},
        columns=["block", "site", "intruders", "largest singular value"],
        rows=[[0, "q_proj", 2, 4.13], [7, "down_proj", 1, 9.8], [29, "o_proj", 4, 2.211]],
    )


def make_example(**changes: Any) -> Report:
    """A finished run of LoRA on bank messages with everything measured; `changes` replace whole keys of the report."""
    started = datetime(2026, 5, 4, 9, 12, 31, tzinfo=UTC)
    values: dict[str, Any] = {
        "run": _run(started),
        "model": ModelInfo(
            name="smollm2-135m-instruct",
            source="HuggingFaceTB/SmolLM2-135M-Instruct",
            weights="dequantised to float32 from a Q8_0 GGUF file",
            hash="9f2c" * 16,
            licence="Apache-2.0",
            parameters=134_515_008,
        ),
        "task": "text-generation",
        "data": _data(),
        "target": _target(),
        "kept": [_kept()],
        "drift": Drift(
            measure="kl",
            value=of(1.523, 0.1, 64, "sequence"),
            sequences=64,
            tokens=4_096,
            on="sequences that the base wrote itself",
        ),
        "trade": _trade(),
        "cost": _cost(),
        "trained": _trained(),
        "stages": [_stage()],
        "training": Training(steps=65, first=3.71, last=0.36, lowest=0.27, lowest_step=58),
        "tokens_view": {"quickstart:train": [*((t, 0) for t in PROMPT), *((t, 1) for t in ANSWER), ("\n", 0)]},
        "answers": [Answer.of(r) for r in make_rows(3)],
        "probes": {"intruder-dimensions": _probe()},
        "notes": [
            "3 rows were longer than max_length and were shortened.",
            "The kept text has only 24 documents: its interval is wide.",
        ],
        "files": {
            "report.json": "every number of this page",
            "rows.jsonl": "every evaluated row",
            "adapter/": "the change, in PEFT's format",
        },
    }
    return Report(**{**values, **changes})
