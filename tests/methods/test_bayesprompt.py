"""BayesPrompt: a mixture and its gradient, points that become a sample, prompts that are drawn, files and refusals."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from tests import tiny
from tests.methods.driving import Run, assert_resumes, logits, text_rows
from tunewright.contract.batch import Row
from tunewright.contract.left import Earlier, left_of
from tunewright.errors import MethodError
from tunewright.methods.adapters.bayesprompt import BayesPrompt, prompt_of
from tunewright.methods.adapters.lora import LoRA
from tunewright.models.adapted import Adapted
from tunewright.models.prompt import prompted
from tunewright.pieces import mixtures
from tunewright.pieces.mixtures import Mixture, fitted
from tunewright.pieces.stein import direction, moved
from tunewright.training import carry

FIELDS = {"components": 2, "drawn": 3, "moves": 20, "rate": 0.05, "gather": 0.5}


def make(listen=None, *, beside=(), steps: int = 6, count: int = 24, earlier=None, **fields) -> Run:
    methods = {"bayesprompt": BayesPrompt(**{**FIELDS, **fields}), **dict(beside)}
    return Run(methods, sources={"new": text_rows(count)}, steps=steps, listen=listen, earlier=earlier)


def mixture(seed: int = 0, components: int = 3, dims: int = 4) -> Mixture:
    g = torch.Generator().manual_seed(seed)
    roots = torch.randn(components, dims, dims, generator=g, dtype=torch.float64).tril() * 0.3
    roots = roots + torch.eye(dims, dtype=torch.float64)
    weights = torch.rand(components, generator=g, dtype=torch.float64) + 0.2
    return Mixture(weights / weights.sum(), torch.randn(components, dims, generator=g, dtype=torch.float64) * 2, roots)


def torchs(m: Mixture) -> MixtureSameFamily:
    return MixtureSameFamily(Categorical(m.weights), MultivariateNormal(m.means, scale_tril=m.roots))


def test_density_and_gradient_are_those_of_torchs_mixture():
    m, x = mixture(), torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    wanted = torchs(m).log_prob(x)
    torch.testing.assert_close(m.log_density(x), wanted)
    (gradient,) = torch.autograd.grad(wanted.sum(), x)
    torch.testing.assert_close(m.score(x), gradient)
    far = m.score(x.detach() + 1e4)  # where the density itself is 0
    assert bool(far.isfinite().all()) and float(far.norm()) > 1e3


def test_a_mixture_finds_two_heaps_and_adds_the_floor():
    g = torch.Generator().manual_seed(0)
    heaps = torch.cat([torch.randn(90, 3, generator=g) * 0.1 + 4, torch.randn(30, 3, generator=g) * 0.1 - 4])
    m = fitted(heaps, 2, 0.05, random.Random(0))
    order = m.weights.argsort()
    torch.testing.assert_close(m.weights[order], torch.tensor([0.25, 0.75], dtype=torch.float64))
    torch.testing.assert_close(m.means[order[1]], heaps[:90].double().mean(0))
    covariance = m.roots[order[1]] @ m.roots[order[1]].T
    own = torch.cov(heaps[:90].double().T, correction=0)
    torch.testing.assert_close(covariance, own + 0.05 * torch.eye(3, dtype=torch.float64))
    assert len(fitted(heaps[:2], 9, 0.1, random.Random(0)).weights) == 2
    same = fitted(torch.ones(5, 2), 3, 0.1, random.Random(0))
    assert bool(same.log_density(torch.zeros(1, 2, dtype=torch.float64)).isfinite().all())


def test_rounds_of_a_fit_make_the_points_likelier(monkeypatch: pytest.MonkeyPatch):
    g, told = torch.Generator().manual_seed(3), []
    x = torch.randn(60, 2, generator=g) * torch.tensor([3.0, 0.5])
    for rounds in (0, 1, 3, 100):
        monkeypatch.setattr(mixtures, "ROUNDS", rounds)
        told.append(float(fitted(x, 3, 1e-3, random.Random(1)).log_density(x.double()).mean()))
    assert told == sorted(told) and told[-1] > told[0] + 0.03


def by_loops(x: Tensor, score: Tensor) -> Tensor:
    """SVGD's direction, pair by pair."""
    n = len(x)
    squared = [[float((x[i] - x[j]).square().sum()) for j in range(n)] for i in range(n)]
    pairs = torch.tensor([squared[i][j] for i in range(n) for j in range(n) if i != j], dtype=x.dtype)
    width = float(pairs.median()) / (2 * float(torch.tensor(n + 1.0, dtype=x.dtype).log()))
    out = torch.zeros_like(x)
    for i in range(n):
        for j in range(n):
            k = float(torch.exp(torch.tensor(-squared[i][j] / (2 * width), dtype=x.dtype)))
            out[i] += k * score[j] + (x[i] - x[j]) * k / width
    return out / n


def test_points_go_where_pairs_say_and_one_alone_climbs():
    m, g = mixture(), torch.Generator().manual_seed(1)
    x = torch.randn(5, 4, generator=g, dtype=torch.float64)
    torch.testing.assert_close(direction(x, m.score(x)), by_loops(x, m.score(x)), rtol=1e-5, atol=1e-7)
    one = x[:1]
    assert torch.equal(direction(one, m.score(one)), m.score(one))
    assert torch.equal(direction(x[[0, 0]], m.score(x[[0, 0]])), m.score(x[[0, 0]])), "equal points have no width"
    first = moved(x, m.score, 1, 0.01)
    phi = direction(x, m.score(x))
    torch.testing.assert_close(first, x + 0.01 * phi / (1e-6 + phi.abs()))
    second = moved(x, m.score, 2, 0.01)
    then = direction(first, m.score(first))
    torch.testing.assert_close(second, first + 0.01 * then / (1e-6 + (0.9 * phi**2 + 0.1 * then**2).sqrt()))
    target = Mixture(
        torch.ones(1, dtype=torch.float64), torch.full((1, 2), 3.0, dtype=torch.float64), torch.eye(2)[None].double()
    )
    sample = moved(torch.randn(40, 2, generator=g, dtype=torch.float64) * 0.1, target.score, 800, 0.05)
    assert sample.mean(0).tolist() == pytest.approx([3.0, 3.0], abs=0.3)
    assert sample.std(0).tolist() == pytest.approx([1.0, 1.0], abs=0.35), "they do not fall onto the peak"


def test_a_rows_prompt_is_what_stands_before_the_loss():
    assert prompt_of(Row("a", "s", [5, 6, 7, 8], [0.0, 0.0, 1.0, 1.0])) == [5, 6]
    assert prompt_of(Row("a", "s", [5, 6, 7], [0.0, 1.0, 1.0])) == [5, 6, 7]
    assert prompt_of(Row("a", "s", [5, 6], [0.0, 0.0])) == [5, 6]


def test_a_pass_is_gathered_then_every_step_draws_a_mean_of_moved_rows():
    prompts: list[Tensor] = []
    tables = [tiny.llama().get_input_embeddings().weight.detach()]

    def note(loop) -> None:
        prompts.append(run.state("bayesprompt").get_buffer("prompt").clone())
        tables.append(run.adapted.model.get_input_embeddings().weight.detach().clone())

    run = make(note, count=8, gather=1.0)
    state, method = run.state("bayesprompt"), next(b.method for b in run.methods)
    start = state.get_buffer("prompt").clone()
    assert all(bool((tables[0] == row).all(1).any()) for row in start)
    run.train()
    theta, rows = state.get_buffer("theta"), state.get_buffer("rows")
    assert len(theta) == len(rows) == 8 and state.data["first"] == {}
    taken = [run.cursor.seen[4 * i : 4 * i + 4] for i in range(6)]
    assert len(set(taken[0] + taken[1])) == 8
    by_id = {r.id: r for r in text_rows(8)}
    for step in (0, 1):  # the two tokens before the loss, by the table before the step
        wanted = torch.stack([tables[step][list(by_id[i].input_ids[:2])].mean(0) for i in taken[step]])
        torch.testing.assert_close(rows[4 * step : 4 * step + 4], wanted)
    # two steps for eight rows; the third brings one again
    assert torch.equal(prompts[0], start) and torch.equal(prompts[1], start) and not torch.equal(prompts[2], start)
    seed = state.data["seed"]
    again = fitted(rows, 2, method.floor, random.Random(f"{seed}/mixture"))
    torch.testing.assert_close(theta, moved(rows.double(), again.score, 20, 0.05).float())
    for step in (2, 3, 4, 5):
        picked = random.Random(f"{seed}/{step}").sample(range(8), 3)
        torch.testing.assert_close(prompts[step], theta[picked].mean(0).expand(2, -1))
    assert not torch.equal(prompts[2], prompts[3])
    run.methods.event("end_task", stage="x", adapted=run.adapted)
    torch.testing.assert_close(state.get_buffer("prompt"), theta.mean(0).expand(2, -1))
    found = method.found(state)
    assert found is not None and found.values["rows"] == 8
    assert found.values["moved"] == pytest.approx(float((theta - rows).norm(dim=1).mean()), rel=1e-4)
    dense = again.log_density(theta.double()) - again.log_density(rows.double())
    assert found.values["gain"] == pytest.approx(float(dense.mean()), rel=1e-3)


def test_gathering_ends_by_share_or_number_and_says_nothing_before():
    early = make(gather=0.2)
    early.train()
    assert len(early.state("bayesprompt").get_buffer("theta")) == 8, "those of the second step are there already"
    few = make(gather=1.0, rows=6)
    few.train()
    assert len(few.state("bayesprompt").get_buffer("theta")) == 6
    waiting = make(steps=1, gather=1.0)
    waiting.train()
    method = next(b.method for b in waiting.methods)
    assert method.found(waiting.state("bayesprompt")) is None


def test_a_stage_of_the_domain_trains_nothing_and_its_mixture_draws_the_next_ones_rows():
    first, base = make(domain=True, rows=5, beside={}, steps=4), tiny.llama()
    torch.testing.assert_close(logits(first.adapted.outer), logits(base))
    loop = first.train()
    assert loop.trained.count() == 0 and not first.adapted.originals
    first.methods.event("end_task", stage="domain", adapted=first.adapted)
    state = first.state("bayesprompt")
    assert len(state.get_buffer("rows")) == 16 and state.get("theta") is None
    torch.testing.assert_close(logits(first.adapted.outer), logits(base))
    wanted = fitted(state.get_buffer("rows"), 2, 0.1, random.Random(f"{state.data['seed']}/mixture"))
    torch.testing.assert_close(state.get_buffer("mixture_means"), wanted.means.float())
    left = Earlier((left_of("domain", "bayesprompt", BayesPrompt.leaves, state, state.data),))
    second = make(earlier=left, count=8)
    second.train()
    kept = second.state("bayesprompt")
    held = Mixture(*(left[0].values[n].double() for n in BayesPrompt.leaves))
    wanted_theta = moved(kept.get_buffer("rows").double(), held.score, 20, 0.05).float()
    torch.testing.assert_close(kept.get_buffer("theta"), wanted_theta)
    alone = make(count=8)
    alone.train()
    none = left_of("few", "bayesprompt", BayesPrompt.leaves, alone.state("bayesprompt"), {})
    assert none is not None and not len(none.values["mixture_weights"]), "a stage's own rows are no domain to the next"
    passed = left_of("few", "bayesprompt", BayesPrompt.leaves, kept, {})
    assert passed is not None and torch.equal(passed.values["mixture_means"], left[0].values["mixture_means"])
    assert not torch.allclose(alone.state("bayesprompt").get_buffer("theta"), wanted_theta, atol=1e-4)
    assert_resumes(lambda listen: make(listen, earlier=left, count=8), 4)


def test_the_model_trains_behind_the_prompt_alone_or_by_what_stands_beside_it():
    run, base = make(), tiny.llama()
    run.train()
    assert not torch.equal(logits(run.adapted.model), logits(base))
    moved_ones = [
        n for n, p in run.adapted.base_parameters().items() if not torch.equal(p, dict(base.named_parameters())[n])
    ]
    assert len(moved_ones) == len(run.adapted.base_parameters())
    state = run.state("bayesprompt")
    ids = torch.tensor([list(range(10, 20))])
    with torch.no_grad():
        embeds = torch.cat([state.get_buffer("prompt"), run.adapted.model.get_input_embeddings()(ids[0])])
        wanted = run.adapted.model(inputs_embeds=embeds[None]).logits[:, 2:]
        got = run.adapted.outer(input_ids=ids).logits
        assert not torch.allclose(got, run.adapted.model(ids).logits, atol=1e-3)
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    beside = make(beside={"lora": LoRA(rank=2)})
    beside.train()
    assert not beside.adapted.originals
    with beside.adapted.base() as net:
        assert torch.equal(logits(net), logits(base))


def test_every_field_changes_the_prompt():
    def after(**fields) -> Tensor:
        run = make(**fields)
        run.train()
        return run.state("bayesprompt").get_buffer("prompt").clone()

    first = after()
    for other in (
        {"components": 1, "floor": 0.001},
        {"drawn": 1},
        {"moves": 2},
        {"rate": 0.5},
        {"gather": 0.3},
        {"rows": 5},
    ):
        assert not torch.equal(after(**other), first), other
    assert not torch.equal(after(floor=0.001), after(floor=0.001, components=1))
    assert after(length=3).shape == (3, 32)
    plain = BayesPrompt()
    assert (plain.length, plain.floor, plain.moves, plain.rate) == (2, 0.1, 1000, 0.01)


def test_it_resumes_while_it_gathers_and_afterwards_and_comes_back_from_its_files(tmp_path: Path):
    assert_resumes(make, 2)
    assert_resumes(make, 4)
    run = make()
    run.train()
    run.methods.event("end_task", stage="x", adapted=run.adapted)
    carry.save_stage(tmp_path / "one", run.adapted, {})
    again = Adapted(tiny.llama())
    carry.load_stage(tmp_path / "one", again)
    torch.testing.assert_close(logits(again.outer), logits(run.adapted.outer))
    bare = prompted(run.adapted.model, run.state("bayesprompt").get_buffer("prompt"))
    torch.testing.assert_close(logits(bare), logits(again.outer))


def test_a_prompt_that_leaves_no_place_is_refused():
    with pytest.raises(MethodError, match="leave no place") as caught:
        make(length=5000)
    assert caught.value.where == "bayesprompt.length"
