"""A claim on a tiny model: its digest comes out again, whatever becomes of files, until what they do changes."""

from __future__ import annotations

import ast
import importlib
import itertools
import json
import sys
from datetime import UTC, datetime

import pytest
import torch

from tests import small
from tests.claims.stand_in import Engine, real
from tests.claims.test_listing import invoke
from tests.claims.test_runner import here  # noqa: F401
from tunewright import catalogue
from tunewright.claims import behaviour, check_listing, checking, code_hash, results_io, runner, work
from tunewright.claims import claim as claims
from tunewright.errors import ClaimError

DECLARED = """
from tunewright.claims.claim import Arm, Claim

CLAIM = Claim(
    paper="asft", says="x", task="stand-in", seeds=2, smallest=0.05, direction="lower", metric="{metric}",
    rates=(3e-3,), method=Arm(name="asft", methods=["full", "asft"]), baselines=[Arm(name="full", methods=["full"])],
)
"""
MEASURE = """

SHARE = 0.5


def measure(run, seed):
    tuned, plain = (run.trial(arm, seed).tuned.kept["general"] for arm in ("asft", "full"))
    return {"asft": SHARE * tuned, "full": SHARE * plain}
"""
KEY_LINE = "self.anchor)"


class WithDigests(Engine):
    """Runs recipes in this process, and computes digests as the product does."""

    def digest(self, loaded, scale, rates, task):
        with behaviour.Digests() as digests:
            return digests.of(loaded, scale, rates, task)


@pytest.fixture
def bench(here, monkeypatch):  # noqa: F811
    """A folder with a claim, a tiny base and rows; `asft` lies in a file of its own there, as a third party's would."""
    small.write_inputs(here, train=12)
    (here / "claims" / "asft.py").write_text(DECLARED.format(metric="kept"))
    monkeypatch.syspath_prepend(str(here))
    return here


NUMBER = itertools.count()


def give(bench, monkeypatch, text):
    """Let `asft` be this text from now on, in a file with a name of its own: the code of a later day."""
    name = f"asft_of_day_{next(NUMBER)}"
    file = bench / f"{name}.py"
    file.write_text(text)
    importlib.invalidate_caches()
    entry = catalogue.lookup("asft")
    every = {**catalogue.entries(), "asft": type(entry)("asft", entry.room, name, file)}
    for module in [m for n, m in sys.modules.items() if n.startswith("tunewright.catalogue")]:
        if hasattr(module, "entries"):
            monkeypatch.setattr(module, "entries", lambda: every)


SOURCE = catalogue.lookup("asft").file.read_text()


def task(bench):
    plain = {k: v for k, v in small.RECIPE.items() if k != "stages"}
    return plain | {
        "model": str(bench / "base"),
        "data": {"train": str(bench / "train.jsonl"), "eval": [{"path": str(bench / "test.jsonl")}], "max_length": 128},
        "keep": [{"data": str(bench / "keep.txt"), "name": "general"}],
        "budget": {"steps": 3},
        "measurement": {**plain["measurement"], "few_shot": 0, "metric": "loss"},
    }


RATES = {"asft": 3e-3, "full": 3e-3}


def digest_of(bench, recipe=None):
    with behaviour.Digests() as digests:
        return digests.of(loaded(bench), "nano", RATES, recipe or task(bench))


def judged(bench):
    """A result as `runner.run_claim` leaves it, without the runs that are judged."""
    claim = loaded(bench)
    result = results_io.ScaleResult(
        **{n: getattr(claim.claim, n) for n in ("paper", "metric", "direction", "smallest")},
        claim={},
        arms=[results_io.ArmResult(name=n, methods=[], rate=rate) for n, rate in RATES.items()],
        started=datetime.now(UTC),
        claim_hash=code_hash.of_claim(claim),
        method_hash=code_hash.of_methods(claim.claim),
        base_hash="abc",
        digest=digest_of(bench),
    )
    results_io.write("asft", "nano", result, bench / "results")
    return claim, results_io.read("asft", bench / "results")["nano"]


def loaded(bench):
    return claims.load("asft", bench / "claims")


def checked(bench, result):
    with behaviour.Digests() as digests:
        return checking.check(loaded(bench), "nano", result, digests, task(bench))


@pytest.mark.slow
def test_a_claim_that_is_run_gets_its_digest_before_any_seed(bench, capsys):
    engine = WithDigests(real(bench / "runs"))
    result = runner.run_claim(
        "asft", engine=engine, results=bench / "results", claims=bench / "claims", task=task(bench)
    )
    assert result.verdict is not None and result.no_digest is None
    assert results_io.read("asft", bench / "results")["nano"].digest == result.digest == digest_of(bench)
    assert result.claim_hash == code_hash.of_claim(loaded(bench)) and result.base_hash
    broken = task(bench) | {"model": str(bench / "gone")}
    engine.digest = lambda *args: digest_of(bench, broken)
    run_all, said = engine.run_all, []
    engine.run_all = lambda *given: (said.append(capsys.readouterr().err), run_all(*given))[1]
    result = runner.run_claim(
        "asft", engine=engine, results=bench / "results", claims=bench / "claims", task=task(bench)
    )
    assert result.digest is None and result.no_digest == "there is no such model folder"
    assert "asft: no digest of its first steps will be written" in said[-1]


@pytest.mark.slow
def test_a_digest_comes_out_again_until_the_method_does_something_else(bench, monkeypatch):
    give(bench, monkeypatch, SOURCE)
    claim, result = judged(bench)
    run = result.digest.runs["asft"]
    assert list(result.digest.runs) == ["asft", "full"] and len(run.losses) == 6 and result.no_digest is None
    assert {"base.kept.general", "at 1.kept.general", "at 0.5.drift", "kept", "trainable parameters"} <= set(
        run.figures
    )
    assert checking.known(claim, "nano", result) is None and checking.stale(claim, "nano", result) == []
    assert checked(bench, result) == ([], True) and checking.known(claim, "nano", result) == []

    give(bench, monkeypatch, "# moved, and laid out anew\n" + ast.unparse(ast.parse(SOURCE)))
    assert checking.known(claim, "nano", result) == [] and checked(bench, result) == ([], True)
    assert checking.stale(claim, "nano", result) == []

    assert KEY_LINE in SOURCE
    give(bench, monkeypatch, SOURCE.replace(KEY_LINE, f"2 * {KEY_LINE}"))
    assert checking.known(claim, "nano", result) is None and checking.stale(claim, "nano", result) == []
    differs, exact = checked(bench, result)
    assert len(differs) >= 1 and differs[0].startswith("asft: the loss of step") and not exact
    assert not any(d.startswith("full") for d in differs)
    assert checking.stale(claim, "nano", result) == ["behaviour"]
    give(bench, monkeypatch, SOURCE)  # the old code again: nothing is known of it by now, and it is not stale
    assert checking.stale(claim, "nano", result) == []


def test_where_rows_lie_does_not_count(bench):
    mixed = task(bench)
    parts = []
    for place in ("here", "there/z"):
        folder = bench / place
        folder.mkdir(parents=True)
        for name in ("b", "a"):
            (folder / f"{name}.jsonl").write_text((bench / "train.jsonl").read_text())
        sources = [{"path": str(folder / "b.jsonl")}, {"path": str(folder / "a.jsonl"), "name": "m"}]
        parts.append({**mixed, "data": {**mixed["data"], "train": sources}})
    assert digest_of(bench, parts[0]) == digest_of(bench, parts[1])


def test_runs_of_a_measure_are_called_by_their_order_whoever_ran_them_first(bench):
    file = bench / "claims" / "asft.py"
    file.write_text(DECLARED.format(metric="measured") + MEASURE)
    with behaviour.Digests() as digests:
        first = digests.of(loaded(bench), "nano", RATES, task(bench))
        other = DECLARED.format(metric="measured").replace('name="full"', 'name="plain"')
        file.write_text(other + MEASURE.replace('"full")', '"plain")').replace('"full"', '"plain"'))
        second = digests.of(loaded(bench), "nano", {"asft": 3e-3, "plain": 3e-3}, task(bench))
    assert list(first.runs) == ["run 1", "run 2"] and second.runs == first.runs


@pytest.mark.slow
def test_what_a_measure_gives_is_in_the_digest(bench):
    file = bench / "claims" / "asft.py"
    file.write_text(DECLARED.format(metric="measured") + MEASURE)
    claim, result = judged(bench)
    assert set(result.digest.measured) == {"asft", "full"} and len(result.digest.runs) == 2
    assert checked(bench, result) == ([], True)
    file.write_text("# words\n" + DECLARED.format(metric="measured").replace('"x"', '"y"') + MEASURE)
    assert checking.stale(loaded(bench), "nano", result) == []
    file.write_text(DECLARED.format(metric="measured") + MEASURE.replace("0.5", "0.25"))
    assert checking.declared(loaded(bench), "nano", result) == ["claim"]
    differs, _ = checked(bench, result)
    assert differs[0].startswith("its measure: asft is")


def test_a_measure_reads_rows_of_short_runs_as_of_whole_ones(bench):
    """What single rows gave, which a measure may split: their mean is the target that the run reports."""
    by_rows = MEASURE.replace('run.trial(arm, seed).tuned.kept["general"]', "means(run.trial(arm, seed), 1)[0]")
    text = "from tunewright.claims.papers._chosen import means\n" + DECLARED.format(metric="measured") + by_rows
    (bench / "claims" / "asft.py").write_text(text.replace("SHARE = 0.5", "SHARE = 1.0"))
    made = digest_of(bench)
    targets = [run.figures["at 1.target"] for run in made.runs.values()]
    assert list(made.measured.values()) == pytest.approx(targets)


def test_a_measure_that_finds_nothing_to_judge_is_in_the_digest_too(bench):
    refusing = MEASURE + '    raise ClaimError("nothing was gained", where="here")\n'
    refusing = refusing.replace('    return {"asft": SHARE * tuned, "full": SHARE * plain}\n', "")
    file = bench / "claims" / "asft.py"
    file.write_text("from tunewright.errors import ClaimError\n" + DECLARED.format(metric="measured") + refusing)
    made = digest_of(bench)
    assert made.refused == "ClaimError: nothing was gained" and made.measured == {} and len(made.runs) == 2
    assert list(checking.differences(made, made.model_copy(update={"refused": "ClaimError: other words"}))) == []
    assert "it gave figures" in next(checking.differences(made, made.model_copy(update={"refused": None})))


def test_arms_that_claims_share_are_run_once(bench, monkeypatch):
    from tunewright.claims import short

    ran = []
    plain = short.run
    monkeypatch.setattr(short, "run", lambda recipe, *a, **k: ran.append(recipe.name) or plain(recipe, *a, **k))
    with behaviour.Digests() as digests:
        first = digests.of(loaded(bench), "nano", RATES, task(bench))
        (bench / "claims" / "asft.py").write_text(DECLARED.format(metric="drift"))
        second = digests.of(loaded(bench), "nano", RATES, task(bench))
        assert ran == ["asft-0", "full-0"]
        digests.of(loaded(bench), "nano", {"asft": 3e-3, "full": 1e-3}, task(bench))
    assert ran == ["asft-0", "full-0", "full-0"]
    assert first.runs["asft"].losses == second.runs["asft"].losses


def test_a_claim_goes_stale_with_what_it_declares_and_with_its_base(bench):
    claim, result = judged(bench)
    assert checking.declared(claim, "nano", result, "abc") == []
    assert checking.declared(claim, "nano", result, "other") == ["base"]
    for old, new in (("0.05", "0.06"), ("seeds=2", "seeds=3"), ("3e-3", "1e-3"), ('["full"]', '["hft"]')):
        changed = DECLARED.format(metric="kept").replace(old, new)
        assert changed != DECLARED.format(metric="kept")
        (bench / "claims" / "asft.py").write_text(changed)
        assert checking.declared(loaded(bench), "nano", result) == ["claim"], old
    (bench / "claims" / "asft.py").write_text(
        "# moved\n" + DECLARED.format(metric="kept").replace('says="x"', 'says="y"')
    )
    assert checking.declared(loaded(bench), "nano", result) == []


def test_the_lab_task_is_declared_with_the_claim(monkeypatch):
    from tunewright.claims.lab import tasks

    hft = claims.load("hft")
    before = code_hash.of_claim(hft), code_hash.of_claim(hft, "real")
    assert before[0] != before[1]
    task = tasks.TASKS["intents"]
    nano = {**task.scales["nano"], "budget": {"tokens": 17_000}}
    monkeypatch.setitem(tasks.TASKS, "intents", type(task)(task.name, "", {**task.scales, "nano": nano}))
    assert code_hash.of_claim(hft) != before[0] and code_hash.of_claim(hft, "real") == before[1]


def test_where_there_is_no_digest_the_methods_files_stand_in(bench, monkeypatch):
    give(bench, monkeypatch, SOURCE)
    claim, result = judged(bench)
    result.digest, result.no_digest = None, "no data"
    give(bench, monkeypatch, ast.unparse(ast.parse(SOURCE)))
    assert checking.stale(claim, "nano", result) == []
    give(bench, monkeypatch, SOURCE.replace(KEY_LINE, f"2 * {KEY_LINE}"))
    assert checking.stale(claim, "nano", result) == ["method"]
    with pytest.raises(ValueError, match="no digest"):
        checked(bench, result)


@pytest.mark.slow
def test_of_time_and_memory_what_they_are_made_of_is_counted(bench, monkeypatch):
    file = bench / "claims" / "asft.py"
    file.write_text(DECLARED.format(metric="cost.peak_memory_bytes"))
    give(bench, monkeypatch, SOURCE)
    claim, result = judged(bench)
    for run in result.digest.runs.values():
        assert run.figures[work.WRITTEN] > 1e5 and run.figures[work.KEPT] > 1e5
        assert "cost.peak_memory_bytes" not in run.figures
    assert result.digest.runs["asft"].figures[work.WRITTEN] > result.digest.runs["full"].figures[work.WRITTEN]
    twice = "2 * (asft_loss(outputs.logits, needs.base_logits, outputs.labels, self.anchor) / 2)"
    assert (line := "asft_loss(outputs.logits, needs.base_logits, outputs.labels, self.anchor)") in SOURCE
    give(bench, monkeypatch, SOURCE.replace(line, twice))
    assert checked(bench, result)[0] == []  # some scalars more
    again = f"sum({line} for _ in range(30)) / 30"
    give(bench, monkeypatch, SOURCE.replace(line, again))
    then, now = (d.runs["asft"].figures[work.WRITTEN] for d in (result.digest, digest_of(bench)))
    assert now > (1 + checking.WORK_APART) * then


def test_work_counts_what_is_written_and_what_the_graph_keeps():
    weight, x = torch.ones(4, 3, requires_grad=True), torch.ones(3, 2)
    with work.weighed() as counted:
        y = (weight @ x).T[1:]
        torch.empty(50)  # neither views nor empty memory are written
    assert counted == {work.WRITTEN: 8.0, work.KEPT: 4 * (3 * 2)}  # x is kept for the weight's gradient
    with work.weighed() as counted:
        y.sum().backward()
    assert counted[work.WRITTEN] >= 1 + 12 and counted[work.KEPT] == 0


# -- two digests -------------------------------------------------------------------------------------------------------

HERE = {"cpu": "AVX2", "torch": "2", "transformers": "5"}
THERE = {**HERE, "cpu": "AVX512"}


def digest(losses=(1.0, 0.5, 0.4, 0.3), machine=HERE, refused=None, **figures):
    run = results_io.ShortRun(
        losses=list(losses), figures={"base.kept.general": 2.0, "at 1.target": 0.5, **figures}, refused=refused
    )
    return results_io.Behaviour(machine=machine, runs={"arm": run})


def compared(**now):
    return list(checking.differences(digest(), digest(**now)))


def test_on_one_kind_of_machine_every_bit_counts():
    assert compared() == []
    assert compared(losses=(1.0, 0.5, 0.4, 0.3 + 1e-15)) == ["arm: the loss of step 4 is 0.3, then 0.3"]
    assert compared(**{"base.kept.general": 2.0 + 1e-12}) == ["arm: base.kept.general is 2, then 2"]


def test_work_is_compared_within_a_hundredth_everywhere():
    assert checking.WORK == (work.WRITTEN, work.KEPT)
    then = digest(**{work.WRITTEN: 1000.0})
    assert list(checking.differences(then, digest(**{work.WRITTEN: 1009.0}))) == []
    assert "numbers written" in next(checking.differences(then, digest(**{work.WRITTEN: 1011.0})))
    assert "numbers written" in next(checking.differences(then, digest(machine=THERE, **{work.WRITTEN: 985.0})))


def test_on_another_kind_rounding_is_allowed_for():
    assert compared(machine=THERE, losses=(1.0005, 0.5, 0.4, 0.32), **{"at 1.target": 0.83}) == []
    assert "step 1" in compared(machine=THERE, losses=(1.01, 0.5, 0.4, 0.3))[0]
    assert "step 4" in compared(machine=THERE, losses=(1.0, 0.5, 0.4, 0.4))[0]
    assert "base.kept.general" in compared(machine=THERE, **{"base.kept.general": 2.5})[0]
    assert "at 1.target" in compared(machine=THERE, **{"at 1.target": 1.01})[0]


def test_what_is_not_there_or_was_refused_differs():
    assert "3 losses, then 4" in compared(losses=(1.0, 0.5, 0.4))[0]
    assert "other figures: new" in compared(new=1.0)[0]
    assert "MethodError: no, then it ran" in compared(refused="MethodError: no")[0]
    other = digest().model_copy(update={"runs": {"else": digest().runs["arm"]}})
    assert "other runs: else, then arm" in next(checking.differences(digest(), other))


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_says_what_came_out_and_ends_with_1_where_something_is_stale(bench, monkeypatch):
    give(bench, monkeypatch, SOURCE)
    _, result = judged(bench)
    plain = claims.load
    monkeypatch.setattr(claims, "load", lambda name, folder=bench / "claims": plain(name, folder))
    monkeypatch.setattr(check_listing, "lab_recipe", lambda claim, scale: task(bench))
    monkeypatch.setattr(check_listing, "base_today", lambda loaded, scale: result.base_hash)
    command = ("papers", "check", "asft", "--results", str(bench / "results"))
    done = invoke(*command)
    assert done.exit_code == 0 and "comes out again in every bit" in done.stdout and "0 stale" in done.stdout
    give(bench, monkeypatch, SOURCE.replace(KEY_LINE, f"2 * {KEY_LINE}"))
    done = invoke(*command, "--json")
    assert done.exit_code == 1 and json.loads(done.stdout)[0]["stale"] == ["behaviour"]
    text = invoke("papers", "verdicts", "asft", "--results", str(bench / "results")).stdout
    assert "behaviour" in text and "were not checked" not in text
    monkeypatch.setattr(check_listing, "base_today", lambda loaded, scale: None)
    done = invoke(*command)
    assert done.exit_code == 0 and "not checked: the base is not on this machine" in done.stdout
    with pytest.raises(ClaimError, match="none of these claims has a result"):
        check_listing.check_all(["asft"], results=bench / "nothing")
