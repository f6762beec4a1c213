"""SkillNet-NLU: copies of feed-forward parts, each for a skill, of which a task uses those on its list (Zhang et al.
2022, arXiv:2203.03312; papers: skillnet-nlu).

A block's feed-forward part F stays as the general skill, which every task uses; each other skill is a copy E_i of it:

    y = (F(h) + sum over i in S(t) of E_i(h)) / (1 + |S(t)|)         h [.., d] enters the part, S(t) a task's skills

There is no gate and no further loss; attention, embeddings and norms are shared by all tasks. All starts as the
model does, whatever S is. Skills that no row of a step uses are not computed, have no gradient and stay.

Tasks are sources of the data (name those that are evaluated as those that are trained on); `skills` lists each one's,
by itself one of its own. A row of another source uses those of the task `others`, or the general one alone.
`cooldown` beside it draws tasks by a temperature (the authors': 4; a step's rows may be of several tasks).

A later stage (`carry: frozen`, or `training`) learns new tasks: a skill that an earlier one has starts there, another
one as a copy of the general. The earlier tasks go on with their own skills, to the bit where `shared` is off too.

Defaults: every second block, the first among them (the sibling's code for generation); the rate is that of full tuning
here. Does not fold.
Raises MethodError for a model whose feed-forward parts are not found or do more than two or three layers and the
config's activation say, for skills that no task has, and for tasks that an earlier stage has learnt.
Differs from the paper in: rows of several tasks share a step; a skill has no norm of its own (there, in the sibling's
code: each has one behind the sum); a later task's skills train apart from those that earlier tasks use.
Source: david-liao/skillnet_nlg, pathway/modeling_pathway.py (read, not run), by the same group for generation. Code of
this paper was not found, nor was the paper's text read: reconstructed from the sibling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, PositiveInt
from transformers.activations import ACT2FN

from tunewright.contract.method import Candidates, Choice, Method, Setup, State
from tunewright.errors import MethodError, did_you_mean
from tunewright.models.bottlenecks import Tap
from tunewright.models.deltas import Delta, check_site, deltas_of
from tunewright.models.sites import Site, Structure
from tunewright.models.skills import Skills
from tunewright.pieces.skill_parts import check_copies, general_of, held, layers_of
from tunewright.pieces.sublayers import check_parts, parts_of

NAME = "skillnet-nlu"


class SkillNetNLU(Method):
    """Copies of feed-forward parts for skills; a task uses those on its list, and their outputs are averaged."""

    skills: dict[str, tuple[str, ...]] = Field(
        {},
        description="source of the data -> its skills beside the general one; none: each source has one of its own",
        examples=[{"small": ["a", "b"], "large": ["b"]}],
    )
    others: str | None = Field(
        None, description="task of rows of other sources; none: they use the general skill alone", examples=["large"]
    )
    every: PositiveInt = Field(2, description="every so-manieth block holds skills, the first among them", examples=[1])
    shared: bool = Field(True, description="whether the rest of the model, the general skill in it, trains too")

    category: ClassVar[str] = "additive"
    folds: ClassVar[bool] = False
    quantised: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {"": 8e-5}
    tasks: ClassVar[tuple[str, ...] | None] = (
        "text-classification",
        "token-classification",
        "text-generation",
        "fill-mask",
        "image-classification",
    )
    papers: ClassVar[tuple[str, ...]] = (NAME,)

    def setup(self, run: Setup) -> State:
        model: Any = run.adapted.model
        found = parts_of(model, run.structure)
        check_parts(found, NAME, attention=False, mlp=True)
        config = model.config.get_text_config()
        activation = str(getattr(config, "hidden_act", None) or getattr(config, "activation_function", None))
        if activation not in ACT2FN:
            raise MethodError(
                f"the config of {type(model).__name__} says no activation that is known",
                where=f"'{NAME}', model",
                remedy="use a transformer whose config has hidden_act",
            )
        learnt = {t for d in held(run.structure) for t in d.tasks}
        new = [s for s in run.plan.sources if s not in run.plan.replay and s not in learnt]
        chosen = self.skills or {s: (s,) for s in new or ([] if learnt else ["all"])}
        if again := next((t for t in chosen if t in learnt), None):
            raise MethodError(
                f"the task '{again}' has its skills from an earlier stage",
                where=f"{NAME}.skills",
                remedy="leave it out: they train on with carry: training",
            )
        names = list(dict.fromkeys(s for own in chosen.values() for s in own))
        if not names:
            raise MethodError(
                "no task has a skill beside the general one", where=f"{NAME}.skills", remedy="list one at least"
            )
        if self.others is not None and self.others not in chosen:
            raise MethodError(
                f"rows of other sources would use the skills of '{self.others}', which is no task",
                where=f"{NAME}.others",
                remedy=did_you_mean(self.others, chosen),
            )
        holding: dict[str, list[Site]] = {}
        for block, parts in found.items():
            if parts.mlp is not None and block % self.every == 0:
                inside = layers_of(run.structure, block, parts.mlp)
                check_site(inside[-1], Skills)
                holding[inside[-1].name] = inside
        if not run.adapted.deltas():  # what hangs there already is no part of a copy
            check_copies(model, holding, activation, f"'{NAME}', model")
        layers = {name: [s.name for s in inside] for name, inside in holding.items()}
        state = State(layers=layers, tasks={t: list(s) for t, s in chosen.items()}, names=names, activation=activation)
        vars(state)["sites"] = run.structure  # for `attach`, which is given one layer at a time: no part of the state
        return state

    def attach(self, site: Site, state: State) -> Delta | None:
        layers: Mapping[str, list[str]] = state.data["layers"]
        if site.name in {names[0] for names in layers.values()}:
            return Tap(site.module, site.name)
        if site.name not in layers:
            return None
        structure: Structure = vars(state)["sites"]
        before = [d for d in deltas_of(site).values() if isinstance(d, Skills)]
        general = general_of([structure.site(n) for n in layers[site.name]])
        start = {n: next((d.layers(n) for d in reversed(before) if n in d.names), general) for n in state.data["names"]}
        return Skills(
            site.module,
            start,
            state.data["tasks"],
            activation=state.data["activation"],
            source=layers[site.name][0],
            others=self.others,
        )

    def choose(self, candidates: Candidates) -> Choice:
        return Choice((*candidates.base, *candidates.deltas) if self.shared else tuple(candidates.deltas))
