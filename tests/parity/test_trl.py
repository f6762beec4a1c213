"""Our preference objectives beside TRL's own loss code (1.16), on the same numbers: values and gradients, and three
steps of training.

What stands beside what:

- `dpo` and `ipo` with `average`: `DPOTrainer`'s loss types sigmoid and ipo.
- `dpo` with `label_smoothing` and `ipo` on sums: `CPOTrainer.cpo_loss` (sigmoid, ipo) fed with log-ratios.
  `DPOTrainer` smooths
  no labels under sigmoid (its "robust" is another formula), and its ipo knows means only.
- `simpo`: `CPOTrainer`'s simpo, from the logits on.

Left out: `kto-pair`, whose loss TRL removed (`KTOTrainer` takes unpaired answers and one reference point from
mismatched ones), and TRL's hinge, which we do not have.
"""

from __future__ import annotations

import random
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import tiny
from tests.methods.driving import Run
from tunewright.contract.batch import Batch, Loss, Outputs, Row
from tunewright.contract.method import Needs
from tunewright.contract.pairs import PairRows
from tunewright.contract.records import Record
from tunewright.contract.task import EncodeOptions
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.methods.preferences.dpo import DPO, dpo_loss
from tunewright.methods.preferences.ipo import IPO, ipo_loss
from tunewright.methods.preferences.simpo import SimPO
from tunewright.tasks import get_task

trl = pytest.importorskip("trl", minversion="1.16", reason="needs trl, of the extra `peers`")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")]

TASK = get_task("text-generation")
PAIRS, VOCABULARY = 5, 17
CLOSE: Any = {"rtol": 1e-5, "atol": 1e-5}
SAID = (
    ("Which support topic is this?", " The card was declined.", " A river rose."),
    ("A user and", " an assistant talk.", " the others stayed for the hills; the water"),
    ("In 1999", " the town left.", " a + b"),
    ("Why was the card", " declined at the shop?", " in the town?"),
)


@pytest.fixture(autouse=True)
def random_state():
    """TRL's trainer seeds everything there is."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(before[0])
    np.random.set_state(before[1])


def laid_out() -> tuple[Batch, dict[str, Tensor], tuple[Tensor, Tensor]]:
    """The same random pairs as our padded batch and as TRL's collator lays them, and where each of our labels lies
    there.

    TRL's sequences are [2R, L], the chosen first; the place of a target is its row and the position that predicts it.
    """
    rng, rows, examples = random.Random(0), [], []
    for i in range(PAIRS):
        prompt, chosen, rejected = (
            [rng.randrange(1, VOCABULARY) for _ in range(rng.randint(low, 7))] for low in (2, 1, 1)
        )
        weights = [[0.0] * len(prompt) + [1.0] * len(x) for x in (chosen, rejected)]
        rows.append(
            Row(
                f"r:{i}",
                "r",
                prompt + chosen,
                weights[0],
                fields={"rejected_ids": prompt + rejected, "rejected_weights": weights[1]},
            )
        )
        examples.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    batch = TASK.collate(PairRows(rows)[:], False)
    theirs = dict(trl.trainer.dpo_trainer.DataCollatorForPreference(pad_token_id=0)(examples))
    length = theirs["input_ids"].shape[1]
    assert batch.positions is not None and batch.inputs["input_ids"].shape == theirs["input_ids"].shape
    place = batch.fields["pair"] * PAIRS + batch.rows, batch.positions % length
    assert int(theirs["completion_mask"].sum()) == len(batch.labels)
    assert torch.equal(theirs["input_ids"][place[0], place[1] + 1], batch.labels)
    return batch, theirs, place


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dpo_trainer(loss: str, beta: float) -> Any:
    """A `DPOTrainer` with nothing but what its loss reads; the reference's sums come with the batch."""
    made = object.__new__(trl.DPOTrainer)
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)
    plain = {
        "aux_loss_enabled": False,
        "ld_alpha": None,
        "f_divergence_type": "reverse_kl",
        "use_weighting": False,
        "precompute_ref_logps": True,
    }
    counters = {"_metrics": {"train": defaultdict(list)}, "_total_train_tokens": 0, "_tp_size": 1}
    made.__dict__.update(
        model=SimpleNamespace(training=True),
        accelerator=accelerator,
        beta=beta,
        label_smoothing=0.0,
        **plain,
        **counters,
    )
    made.loss_types, made.loss_weights = [loss], [1.0]
    return made


def dpo_trainers_loss(trainer: Any, inputs: dict[str, Tensor], log_probs: Tensor, reference: Tensor) -> Tensor:
    """The loss of `DPOTrainer` where the model's log-probabilities [2R, L-1] are `log_probs`, the base's
    `reference`.
    """
    mask = inputs["completion_mask"][:, 1:]
    told = {"entropy": torch.zeros_like(reference), "mean_logits": torch.zeros_like(reference), "is_top1": mask > 0}
    chosen, rejected = (reference * mask).sum(1).chunk(2)
    known = {**inputs, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
    return trainer._compute_loss(lambda **_: SimpleNamespace(log_probs=log_probs * mask, **told), known, False)


@pytest.mark.parametrize("beta", [0.1, 0.7])
@pytest.mark.parametrize(
    ("loss", "make"),
    [("sigmoid", lambda b: DPO(beta=b)), ("ipo", lambda b: IPO(tau=b, average=True))],
    ids=["dpo", "ipo"],
)
def test_losses_gradients_and_rewards_equal_those_of_the_dpo_trainer(loss, make, beta):
    batch, inputs, place = laid_out()
    shape = (2 * PAIRS, inputs["input_ids"].shape[1] - 1)
    log_probs, reference = 3 * draw(*shape, seed=1) - 6, 3 * draw(*shape, seed=2) - 6
    theirs, ours = log_probs.clone().requires_grad_(), log_probs.clone().requires_grad_()
    trainer, method = dpo_trainer(loss, beta), make(beta)
    expected = dpo_trainers_loss(trainer, inputs, theirs, reference)
    outputs = Outputs(lambda: pytest.fail("asks for logits"), batch.labels, log_probs=lambda: ours[place])
    told = method.objective(outputs, batch, Needs({"reference_log_probs": reference[place]}))
    value = told.value.mean()
    expected.backward(), value.backward()
    torch.testing.assert_close(value, expected, **CLOSE)
    torch.testing.assert_close(ours.grad, theirs.grad, **CLOSE)
    assert theirs.grad is not None and theirs.grad.abs().max() > 1e-3
    if loss == "sigmoid":  # of ipo with means TRL logs the sums all the same
        names = {
            "chosen_reward": "chosen",
            "rejected_reward": "rejected",
            "margin": "margins",
            "accuracy": "accuracies",
        }
        for mine, other in names.items():
            assert told.logs[mine].detach().mean().item() == pytest.approx(
                trainer._metrics["train"][f"rewards/{other}"][0], rel=1e-5, abs=1e-5
            )


def cpo_trainer(loss: str, **settings: float) -> Any:
    """A `CPOTrainer` with nothing but what `cpo_loss` reads."""
    cpo = pytest.importorskip("trl.experimental.cpo", reason="this trl has no CPOTrainer")
    made = object.__new__(cpo.CPOTrainer)
    made.__dict__.update(
        {
            "loss_type": loss,
            "alpha": 0.0,
            "label_smoothing": 0.0,
            "accelerator": SimpleNamespace(device=torch.device("cpu")),
            **settings,
        }
    )
    return made


@pytest.mark.parametrize(
    ("trainer", "ours"),
    [
        (("sigmoid", {"beta": 0.3, "label_smoothing": 0.2}), lambda c, r: dpo_loss(c, r, 0.3, 0.2)),
        (("ipo", {"beta": 0.3}), lambda c, r: ipo_loss(c, r, 0.3)),
    ],
    ids=["dpo-label-smoothing", "ipo-sums"],
)
def test_each_pairs_loss_equals_that_of_the_cpo_trainer_on_log_ratios(trainer, ours):
    ratios = 5 * draw(2, 40, seed=3)
    theirs, mine = ratios.clone().requires_grad_(), ratios.clone().requires_grad_()
    expected, value = cpo_trainer(trainer[0], **trainer[1]).cpo_loss(*theirs)[0], ours(*mine)
    torch.testing.assert_close(value, expected, **CLOSE)
    expected.mean().backward(), value.mean().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, **CLOSE)


@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 1.0), (10.0, 3.0), (2.5, 0.0)])
def test_simpo_equals_that_of_the_cpo_trainer_from_the_logits_on(beta, gamma):
    batch, inputs, place = laid_out()
    logits = 2 * draw(*inputs["input_ids"].shape, VOCABULARY, seed=4)
    theirs, mine = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
    trainer = cpo_trainer("simpo", beta=beta, simpo_gamma=gamma)
    expected, *rewards = trainer.cpo_loss(*trainer.get_batch_logps(theirs, labels, average_log_prob=True).chunk(2))
    told: Loss = SimPO(beta=beta, gamma=gamma).objective(Outputs(mine[place], batch.labels), batch)
    torch.testing.assert_close(told.value, expected, **CLOSE)
    for name, reward in zip(("chosen_reward", "rejected_reward"), rewards, strict=True):
        torch.testing.assert_close(told.logs[name].detach(), reward, **CLOSE)
    expected.mean().backward(), told.value.mean().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, **CLOSE)


def encoded() -> PairRows:
    tokenizer = tiny.tokenizer(chat=False)
    records = [
        Record({"prompt": p, "chosen": c, "rejected": r}, id=f"p:{i}", where=f"p:{i}", source="new")
        for i, (p, c, r) in enumerate(SAID)
    ]
    return PairRows([TASK.encode(r, tokenizer, EncodeOptions()) for r in records])


@pytest.mark.parametrize(
    ("loss", "method"), [("sigmoid", DPO(beta=0.5)), ("ipo", IPO(tau=0.5, average=True))], ids=["dpo", "ipo"]
)
def test_three_steps_of_training_follow_the_dpo_trainer(loss, method, tmp_path):
    """Same texts, same start, plain SGD: the loss of each step, and every weight at the end.

    The first loss is that of h = 0.
    """
    datasets = pytest.importorskip("datasets")
    losses: list[float] = []
    plain: dict[str, Any] = {
        "report_to": "none",
        "save_strategy": "no",
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }
    step: dict[str, Any] = {
        "max_steps": 3,
        "per_device_train_batch_size": len(SAID),
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
    }
    args = trl.DPOConfig(output_dir=str(tmp_path), beta=0.5, loss_type=loss, max_grad_norm=1.0, **plain, **step)
    theirs, texts = tiny.llama(), [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in SAID]
    trainer = trl.DPOTrainer(
        theirs,
        ref_model=tiny.llama(),
        args=args,
        train_dataset=datasets.Dataset.from_list(texts),
        processing_class=tiny.tokenizer(chat=False),
    )
    whole = trainer.compute_loss

    def watched(*args: Any, **more: Any) -> Tensor:
        value = whole(*args, **more)
        losses.append(float(value.detach()))
        return value

    trainer.compute_loss = watched
    rows = encoded()
    for row, seen in zip(rows, trainer.train_dataset, strict=True):
        assert list(row.input_ids) == seen["prompt_ids"] + seen["chosen_ids"]
        assert list(row.fields["rejected_ids"]) == seen["prompt_ids"] + seen["rejected_ids"]
    trainer.train()

    ours = tiny.llama()
    methods = {"full": FullFineTuning(), "preference": method}
    spec: dict[str, Any] = {"optimizer": SimpleNamespace(name="sgd", params={}), "learning_rate": 0.1}
    run = Run(methods, model=ours, sources={"new": rows}, steps=3, batch=len(SAID), plan={"learning_rate": 0.1}, **spec)
    run.train()
    assert len(losses) == 3 and abs(losses[2] - losses[0]) > 1e-2
    assert [r["loss"] for r in run.records] == pytest.approx(losses, rel=1e-5, abs=1e-5)
    end = {n: p.detach() for n, p in theirs.named_parameters()}
    start = dict(tiny.llama().named_parameters())
    assert any(not torch.allclose(end[n], start[n], atol=1e-3) for n in end)
    for name, weight in ours.named_parameters():
        torch.testing.assert_close(weight.detach(), end[name], **CLOSE, msg=name)
