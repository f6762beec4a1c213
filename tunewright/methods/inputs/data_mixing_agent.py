"""Data Mixing Agent: a small network that has seen other stages' mixtures and what came of them gives this one's shares
(Yang et al. 2025, arXiv:2507.15640; papers: data-mixing-agent).

At each of `looks` looks, evenly over the stage, the losses of held-out rows of every domain are taken. What is seen at
look k, for each domain: its shares in the last four intervals, the logarithms of its losses over those at the first
look, whether it is of the source field (what the model could do before) or of the target field; beside them how far the
stage is and both fields' means. The agent gives the shares up to the next look. What they were worth is

    r_k = b (target field's mean fall of log loss to the next look) + (1 - b) (source field's),    b = `balance`

and the agent is to gain the most over a whole stage. It is fitted to trajectories of finished stages, before the first
batch: by imitation of the better half of them, then by conservative Q-learning. With two critics Q and slow copies Q'

    minimise  (Q(s, a) - r - g min Q'(s', p(s')))^2 + c (log mean exp Q(s, a') - Q(s, a)),        g = `discount`
    p climbs  min Q(s, p(s)) over its mean size;  a' drawn over all mixtures and around p(s),     c = `conservatism`

The order, names and number of domains are not seen, so that an agent steers domains that it never met.

Trajectories: a stage keeps its own and leaves it to whoever reads its folder. `policy` any, random, anneal, losses or
kept draws mixtures without an agent, to gather them: runs of a small model with other seeds, whose folders the run of
the large one then names in `runs`. "simulated" stands for 400 stages of simulated domains (`_simulated_domains.py`:
ours), so that there is an agent before there is a run.

Domains are the sources of `data.train` and `data.replay`, a held-out text of the same name in `data.validation` is a
domain's own; a domain without one is seen by its field's mean. `source_field` names what is of the source field, by
default what is replayed. The recipe's shares are those of the first features alone: the agent sets all, replayed
sources' too.

Defaults: balance 0.5 (the paper weighs both fields alike), 10 looks (the paper's trajectories have 80), discount 0.99;
updates, conservatism and networks (two layers of 32, `_mixing_agent.py`) are ours, by trials on simulated domains.
Raises MethodError for one source, an unknown name in `source_field`, and folders without a trajectory.

Differs from the paper in: its text was not read whole (reconstructed from the abstract and accounts of it): there the
agent is a decoder over the whole trajectory of a fixed space of 52 domains, fitted to 20 trajectories of 80 steps of a
model of 50M parameters with benchmark scores as feedback. Here feedback is held-out losses, four looks are seen, one
network reads every domain, the actor has no noise of its own, and samples of the conservative term are not weighted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from tunewright.contract.found import Found
from tunewright.contract.method import Method, Plan, Setup, State, torch_generator
from tunewright.errors import MethodError, did_you_mean
from tunewright.methods.inputs import _mixing_agent, _simulated_domains, _trajectories

NAME = "data-mixing-agent"
AGENT = "agent."
SIMULATED, STAGES = "simulated", 400


class DataMixingAgent(Method):
    """Shares of the sources by an agent that was fitted to what mixtures did in other stages."""

    runs: tuple[str, ...] = Field(
        (SIMULATED,),
        description="folders of finished runs with this method (or folders of such) that the agent is fitted to; "
        "simulated: 400 simulated stages, others each time it is named",
        examples=[[SIMULATED, SIMULATED]],
    )
    policy: Literal["agent", "any", "random", "anneal", "losses", "kept"] = Field(
        "agent",
        description="who gives the shares: the agent, or, to gather trajectories, draws at random, a move from one "
        "field to the other, more of what has risen, the recipe's own; any: one of these, drawn by the seed",
    )
    source_field: tuple[str, ...] = Field(
        (),
        description="domains and held-out texts of which nothing should be lost; none: what is replayed",
        examples=[["small"]],
    )
    balance: float = Field(0.5, ge=0, le=1, description="weight of the target field's gain, b; the rest: the other's")
    looks: int = Field(10, ge=2, description="how often in the stage shares are set", examples=[3])
    rows: PositiveInt = Field(32, description="held-out rows of each text that are looked at", examples=[1])
    warmup: NonNegativeInt = Field(300, description="updates of imitation")
    updates: NonNegativeInt = Field(1500, description="updates of conservative Q-learning")
    conservatism: NonNegativeFloat = Field(0.1, description="weight of the conservative term, c")
    discount: float = Field(0.99, ge=0, le=1, description="worth of the next look's gain against this one's, g")

    papers: ClassVar[tuple[str, ...]] = ("data-mixing-agent",)
    leaves: ClassVar[tuple[str, ...]] = ("trajectory",)
    conformance: ClassVar[dict[str, object]] = {"looks": 2, "warmup": 2, "updates": 2}

    def setup(self, run: Setup) -> State:
        if len(run.plan.sources) < 2:
            raise MethodError(
                f"'{NAME}' shares tokens out among sources, and there is only {sorted(run.plan.sources)}",
                where="data.train",
                remedy="name more: data: {train: [new.jsonl], replay: {general.jsonl: 0.3}}",
            )
        known = {*run.plan.sources, *run.plan.measured}
        for name in self.source_field:
            if known and name not in known:
                raise MethodError(
                    f"no source or held-out text is called '{name}'",
                    where="source_field",
                    remedy=did_you_mean(name, known),
                )
        if self.policy == "agent":
            self._trajectories()
        return State(trajectory=None, behaviour=None)

    def caution(self, plan: Plan) -> str | None:
        old = self.source_field or plan.replay
        if not old or set(old) & set(plan.measured):
            return None
        return (
            f"nothing of {', '.join(old)} is followed, so that its loss weighs nothing: name held-out rows of it in "
            f"data.validation ({{path: FILE, name: {old[0]}}})"
        )

    def _trajectories(self) -> list[_trajectories.Trajectory]:
        """What the agent is fitted to. MethodError for a folder that holds nothing."""
        found: list[_trajectories.Trajectory] = []
        for i, name in enumerate(self.runs):
            if name == SIMULATED:
                first = STAGES * self.runs[:i].count(SIMULATED)
                found += [_simulated_domains.explored(n, self.looks) for n in range(first, first + STAGES)]
            else:
                found += _trajectories.of_runs(name, NAME, "runs")
        if not found:
            raise MethodError(
                "an agent is fitted to trajectories, and none are named",
                where="runs",
                remedy="name folders of finished runs, or write runs: [simulated]",
            )
        return found

    def mixture(
        self, weights: Mapping[str, float], validation: Any, step: int, plan: Plan, state: State
    ) -> dict[str, float] | None:
        due = {k * plan.steps // self.looks for k in range(self.looks)}
        if step not in due and step != plan.steps:
            return None
        losses = validation.losses(self.rows)
        if state.data["trajectory"] is None:
            self._begin(weights, losses, plan, state)
        seen = state.data["trajectory"]
        look = {"losses": [losses[n] for n in sorted(losses)]}
        seen["looks"].append(look)
        if state.data["behaviour"] is None:
            net = {n: t.cpu() for n in _mixing_agent.PARTS if (t := state.get(f"{AGENT}{n}")) is not None}
            look["shares"] = _mixing_agent.shares_of(net, seen)
        else:
            look["shares"] = _trajectories.drawn(seen, state.data["behaviour"], state.rng)
        return dict(zip(seen["domains"], look["shares"], strict=True))

    def _begin(self, weights: Mapping[str, float], losses: Mapping[str, float], plan: Plan, state: State) -> None:
        count = min(self.looks, plan.steps) + 1
        state.data["trajectory"] = _trajectories.begun(weights, losses, self.source_field or plan.replay, count)
        if self.policy != "agent":
            kinds = _trajectories.BEHAVIOURS
            state.data["behaviour"] = state.rng.choice(kinds) if self.policy == "any" else self.policy
            return
        agent = _mixing_agent.fitted(
            self._trajectories(),
            balance=self.balance,
            warmup=self.warmup,
            updates=self.updates,
            conservatism=self.conservatism,
            discount=self.discount,
            generator=torch_generator(state.rng),
        )
        for name, tensor in agent.items():
            state.set_buffer(f"{AGENT}{name}", tensor)

    def found(self, state: State) -> Found | None:
        seen = state.data["trajectory"]
        if seen is None or len(seen["looks"]) < 2:
            return None
        gained = [_trajectories.fields(seen, _trajectories.gains(seen, k)) for k in range(len(seen["looks"]))]
        rows = [
            [k, *(round(s, 4) for s in look["shares"]), *(round(g, 4) for g in each)]
            for k, (look, each) in enumerate(zip(seen["looks"], gained, strict=True))
        ]
        followed = set(seen["texts"])
        notes = [
            f"no held-out rows of the {name} field were followed: its losses weighed nothing"
            for name, is_old in (("source", True), ("target", False))
            if is_old not in followed and any((n in seen["old"]) is is_old for n in seen["domains"])
        ]
        return Found(
            title="Mixture",
            description=f"shares from each look on ({state.data['behaviour'] or 'agent'}), and the mean logarithm of "
            "held-out losses over those at the first look, of the target and the source field",
            columns=["look", *seen["domains"], "target field", "source field"],
            rows=rows,
            notes=notes,
        )
