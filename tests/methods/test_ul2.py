"""UL2: a row and its denoised form say the same; kinds, lengths and shares are the paper's; the loss is on targets."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, changed, text_rows
from tunewright.contract.batch import Row
from tunewright.contract.combining import check_conflicts
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.inputs.masked_thought import MaskedThought
from tunewright.methods.inputs.ul2 import UL2, continued, denoised, fitting
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.methods.preferences.dpo import DPO
from tunewright.models.adapted import Adapted
from tunewright.pieces.spans import pieces, random_spans
from tunewright.training import micro_batches
from tunewright.training.train import Loop

MARKS = [*range(1000, 1100)]


def long_rows(count: int = 200, length: int = 100) -> list[Row]:
    rng = random.Random(5)
    made = [[*(rng.randrange(8, 300) for _ in range(length - 1)), tiny.EOS] for _ in range(count)]
    return [Row(f"new:{i}", "new", ids, [1.0] * len(ids), fields={"kind": "plain"}) for i, ids in enumerate(made)]


def run(method: UL2, rows: list[Row] | None = None, **options) -> Run:
    model = Adapted(tiny.llama(), tiny.tokenizer())
    return Run({"full": FullFineTuning(), "ul2": method}, model=model, sources={"new": rows or long_rows()}, **options)


def made_of(r: Run, rows: list[Row], epoch: int = 0) -> list[Row]:
    """The rows as the loop trains on them."""
    return [row for row, _ in micro_batches.changed(Loop(r.stage), [(row, epoch) for row in rows])]


def put_together(ids: list[int], marks: list[int]) -> list[int]:
    """The text that inputs and targets stand for: each mark's first place filled with what follows its second."""
    places = {m: [i for i, t in enumerate(ids) if t == m] for m in marks}
    split = min(p[1] for p in places.values() if len(p) == 2)
    inputs, targets = ids[:split], ids[split:]
    spans: dict[int, list[int]] = {}
    for token in targets:
        if token in marks:
            spans[last := token] = []
        else:
            spans[last].append(token)
    out = [part for token in inputs for part in (spans[token] if token in marks else [token])]
    assert all(spans.values()), "an empty span"
    return out


@pytest.mark.parametrize("spans", [(3.0, 0.15), (8.0, 0.15), (3.0, 0.5), (8.0, 0.5), (64.0, 0.15), (64.0, 0.5)])
@pytest.mark.parametrize("length", [2, 3, 17, 512])
def test_spans_hide_the_share_that_was_asked_for_and_never_touch(spans, length):
    mean, rate = spans
    for seed in range(20):
        ids = list(range(length))
        found = random_spans(length, rate, mean, 100, random.Random(seed))
        hidden = sum(b - a for a, b in found)
        assert hidden == min(max(round(rate * length), 1), length - 1)
        assert all(a < b for a, b in found) and found[0][0] > 0 and found[-1][1] <= length
        assert all(b < c for (_, b), (c, _) in pairwise(found)), "two spans touch"
        if length == 512:
            assert len(found) == round(hidden / mean)
        inputs, targets = denoised(ids, spans, MARKS, random.Random(seed))
        assert put_together([*inputs, *targets], MARKS) == ids
        assert len(inputs) + len(targets) == length + 2 * len(found)


def test_every_way_to_cut_is_as_likely():
    counts = Counter(tuple(pieces(5, 3, random.Random(i))) for i in range(3000))
    assert len(counts) == 6 and all(sum(cut) == 5 for cut in counts)
    assert all(400 < n < 600 for n in counts.values())


def test_no_more_spans_than_marks():
    assert len(random_spans(512, 0.5, 3.0, 7, random.Random(0))) == 7


def test_the_end_that_is_asked_for_is_a_quarter_on_average():
    ids = list(range(100))
    cuts = [len(continued(ids, 0.25, random.Random(i))[1]) for i in range(2000)]
    assert min(cuts) == 1 and max(cuts) == 50 and abs(sum(cuts) / 2000 - 25.5) < 1
    assert all(sum(continued(ids, 0.25, random.Random(i)), []) == ids for i in range(5))


@pytest.mark.parametrize("spans", [(3.0, 0.5), (1.0, 0.9), (64.0, 0.15), None])
def test_a_denoised_row_fits_into_the_model(spans):
    for limit in (8, 60, 256):
        n = fitting(300, spans, 100, limit)
        ids = list(range(n))
        parts = (
            continued(ids, 0.25, random.Random(0)) if spans is None else denoised(ids, spans, MARKS, random.Random(0))
        )
        assert sum(map(len, parts)) + 3 <= limit or n == 2
    assert fitting(100, spans, 100, 10_000) == 100


def test_rows_are_what_the_paper_mixes():
    r = run(UL2())
    tokenizer = r.adapted.tokenizer
    marks = tokenizer.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(100)])
    kinds = dict(zip(tokenizer.convert_tokens_to_ids(["[R]", "[S]", "[X]"]), "RSX", strict=True))
    rows = long_rows(1400)
    counts: Counter[str] = Counter()
    for row, got in zip(rows, made_of(r, rows), strict=True):
        ids, text = list(got.input_ids), list(row.input_ids[:-1])
        kind, asked = kinds[ids[0]], len(got.fields["prompt_ids"])
        assert got.fields["prompt_ids"] == ids[:asked] and got.id == row.id
        assert list(got.weights) == [0.0] * asked + [1.0] * (len(ids) - asked) and ids[-1] == tiny.EOS
        if kind == "S":
            assert ids[1:-1] == text and 1 <= len(ids) - 1 - asked <= 50
            counts["S"] += 1
            continue
        assert put_together(ids[1:-1], marks) == text
        assert ids[asked] == ids[[i for i, t in enumerate(ids) if t in marks][0]] == marks[0]
        spans = sum(t in marks for t in ids[:asked])
        hidden = len(ids) - 1 - asked - spans
        counts[f"{kind} {round(hidden / 99, 1)} {round(hidden / spans)}"] += 1
    # 99 tokens: 15 or 50 hidden in round(hidden / mu) spans; a span of 64 holds all that is hidden
    expected = {"R 0.2 3", "R 0.2 8", "X 0.5 3", "X 0.5 8", "X 0.2 15", "X 0.5 50", "S"}
    assert counts.keys() == expected and all(150 < n < 250 for n in counts.values())


def test_draws_are_anew_in_each_epoch_and_do_not_depend_on_neighbours():
    r, rows = run(UL2()), long_rows(20)
    first, again, later = made_of(r, rows), made_of(r, rows[::-1])[::-1], made_of(r, rows, epoch=1)
    assert first == again and sum(a.input_ids != b.input_ids for a, b in zip(first, later, strict=True)) > 15
    loop = Loop(r.stage)
    pairs = [(row, 0) for row in rows]
    whole = loop.micro_batches(pairs)
    loop.micro_tokens = 300
    parts = loop.micro_batches(pairs)
    assert len(whole) == 1 < len(parts)
    assert torch.equal(whole[0].labels, torch.cat([b.labels for b in parts]))
    assert all(b.tokens <= 300 for b in parts), "rows are split by the tokens that they have once they are changed"


def test_the_loss_is_the_models_own_on_the_targets():
    r, rows = run(UL2(), steps=1), long_rows(4)
    (batch,) = Loop(r.stage).micro_batches([(row, 0) for row in rows])
    loss = r.task.loss(r.task.forward(r.adapted.model, batch), batch).value
    expected = []
    for row in made_of(r, rows):
        ids, asked = torch.tensor([list(row.input_ids)]), len(row.fields["prompt_ids"])
        with torch.no_grad():
            logits = r.adapted.model(input_ids=ids).logits[0].float().log_softmax(-1)
        expected += [-logits[i - 1, int(ids[0, i])] for i in range(asked, ids.shape[1])]
    torch.testing.assert_close(loss.detach(), torch.stack(expected), atol=1e-4, rtol=1e-4)


def test_each_option_changes_what_is_trained_on():
    def rows_of(**options) -> list[Row]:
        return made_of(run(UL2(**options)), long_rows(40))

    plain = rows_of()
    for options in (
        {"r": 0.0},
        {"x": 0.0},
        {"s": 20.0},
        {"r_spans": [(2.0, 0.3)]},
        {"x_spans": [(5.0, 0.3)]},
        {"s_rate": 0.6},
        {"modes": []},
        {"modes": ["<|mask|>", "<|cls|>", "<|sep|>"]},
        {"sentinels": 3},
    ):
        assert rows_of(**options) != plain, options
    for method, kind in ((UL2(r=0, x=0), "S"), (UL2(s=0, x=0), "R"), (UL2(r=0, s=0), "X")):
        r = run(method)
        announced = r.adapted.tokenizer.convert_ids_to_tokens([m.input_ids[0] for m in made_of(r, long_rows(9))])
        assert set(announced) == {f"[{kind}]"}
    unannounced = made_of(run(UL2(modes=[], r=0, x=0)), long_rows(5))
    assert [list(r.input_ids) for r in unannounced] == [list(r.input_ids) for r in long_rows(5)]


def test_the_start_token_stays_first_and_tiny_rows_stay_whole():
    rows = [Row("a", "new", [tiny.BOS, 20, 21, 22, tiny.EOS], [1.0] * 5), Row("b", "new", [20, tiny.EOS], [1.0] * 2)]
    got = made_of(run(UL2()), rows)
    assert got[0].input_ids[0] == tiny.BOS and got[0].input_ids[1] >= 320 and got[0].input_ids[-1] == tiny.EOS
    assert got[1] is rows[1]


def test_new_tokens_differ_from_each_other_and_known_ones_stay():
    tokenizer, model = tiny.tokenizer(), tiny.llama()
    before = model.get_input_embeddings().weight.detach().clone()
    random_state = torch.get_rng_state()
    method = UL2(sentinels=5, modes=["<|mask|>", "[S]", "[X]"])
    r = Run({"lora": LoRA(rank=2), "ul2": method}, model=Adapted(model, tokenizer))
    assert torch.equal(torch.get_rng_state(), random_state)
    now = model.get_input_embeddings().weight.detach()
    assert len(now) == len(before) + 7 and torch.equal(now[: len(before)], before)
    assert r.state("ul2").data["modes"]["R"] == tiny.MASK and tiny.MASK not in model.generation_config.suppress_tokens
    new = now[len(before) :]
    assert torch.pdist(new).min() > 0.1 * before.std() and (new.mean(0) - before.mean(0)).abs().max() < 3 * before.std()


def test_a_stopped_run_goes_on_and_stands_beside_others():
    def make(listen) -> Run:
        methods = {"lora": LoRA(rank=2), "ul2": UL2(sentinels=8), "masked-thought": MaskedThought(rate=0.2)}
        return Run(methods, model=Adapted(tiny.llama(), tiny.tokenizer()), sources={"new": text_rows(6)}, listen=listen)

    assert_resumes(make, 3)
    both = changed(make(None).train())
    alone = changed(Run({"lora": LoRA(rank=2)}, sources={"new": text_rows(6)}).train())
    assert any(n in both and not torch.equal(alone[n], both[n]) for n in alone)


def test_faults_are_refused():
    for options, words in (
        ({"r": 0, "x": 0, "s": 0}, "no denoiser has a share"),
        ({"modes": ["[R]", "[S]"]}, "names 2"),
        ({"modes": ["[R]", "[R]", "[X]"]}, "names 2"),
    ):
        with pytest.raises(MethodError, match=words):
            run(UL2(**options))
    with pytest.raises(MethodError, match="do not fit into a vocabulary of 320"):
        Run({"full": FullFineTuning(), "ul2": UL2(sentinels=400)})
    with pytest.raises(MethodError, match="'ul2' changes rows of the data, and 'dpo'"):
        check_conflicts([("full", FullFineTuning()), ("ul2", UL2()), ("dpo", DPO())], stage="main")


def test_what_is_no_row_is_refused():
    class Careless(UL2):
        def row(self, row, state, row_rng):
            return row.replace(input_ids=[1, 2, 3])

    with pytest.raises(MethodError, match="weights that are not its tokens'"):
        made_of(run(Careless()), long_rows(1))
