"""How recorded episodes become windows, and where a policy plays, of a recipe whose model is one."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from tunewright.recipe.fields import Real, Spec, Whole, problem
from tunewright.tasks._parts import PLAYING

Numbers = list[Real]


class TrajectorySpec(Spec):
    """How recorded episodes become windows (task: reinforcement-learning). What is left out the model's config.json
    says, else the training rows; a run writes it into its recipe, and into the config of the model that it exports.
    """

    context: Whole | None = Field(
        None, gt=0, description="steps of a window; none: the model's context_steps, else 20", examples=[20]
    )
    stride: Whole | None = Field(
        None,
        gt=0,
        description="steps from one training window to the next; none: `context`, so that an epoch has each step once",
        examples=[10],
    )
    return_scale: Real | None = Field(
        None,
        gt=0,
        description="what returns-to-go are divided by; none: the model's, else the largest of the training rows",
        examples=[1000],
    )
    state_mean: Numbers | None = Field(
        None,
        min_length=1,
        description="what is taken off observations; none: the model's, else the training rows' mean",
        examples=[[0.0, 0.1]],
    )
    state_std: Numbers | None = Field(
        None,
        min_length=1,
        description="what observations are divided by; none: the model's, else the training rows' standard deviation",
        examples=[[1.0, 0.5]],
    )
    action_std: Numbers | None = Field(
        None,
        min_length=1,
        description="standard deviations of actions that are numbers, in which their drift is told; none: the model's, "
        "else the training rows'",
        examples=[[0.6]],
    )
    action_space: Literal["discrete", "continuous"] | None = Field(
        None,
        description="actions to choose from, or numbers; none: the model's, else as the training rows have them",
        examples=["discrete"],
    )


class EnvironmentSpec(Spec):
    """An environment of gymnasium in which base and tuned policy play the same episodes."""

    shorthand: ClassVar[str | None] = "id"
    compact: ClassVar[bool] = True
    id: str = Field(min_length=1, description="its name in gymnasium's registry", examples=["CartPole-v1"])
    name: str | None = Field(
        None, min_length=1, description="its name in the report; none: the id", examples=["on the moon"]
    )
    episodes: Whole = Field(20, gt=0, description="episodes that are played, each from its own seed", examples=[50])
    seed: Whole = Field(0, ge=0, description="seed of the first episode; each later one has the next", examples=[1000])
    target_return: Real | None = Field(
        None,
        description="the return that the policy is asked for; none: the best of the training rows",
        examples=[500],
    )
    expert_return: Real | None = Field(
        None,
        description="mean return of an expert, which normalized_score calls 100; none: no such score",
        examples=[3234.3],
    )
    random_return: Real | None = Field(
        None,
        description="mean return of a policy that acts at random, which normalized_score calls 0; none: measured on "
        "the same episodes",
        examples=[-20.3],
    )
    arguments: dict[str, bool | int | float | str] = Field(
        default_factory=dict,
        description="keywords that the environment is made with (gymnasium.make)",
        examples=[{"max_episode_steps": 200}],
    )
    attributes: dict[str, Annotated[Real, Field()]] = Field(
        default_factory=dict,
        description="numbers of the environment that are set to others after it is made, such as CartPole's gravity",
        examples=[{"gravity": 20.0}],
    )

    @field_validator("id")
    @classmethod
    def _names_no_module(cls, value: str) -> str:
        if ":" in value:
            raise problem(
                f"'{value}' names a module to import, and a recipe chooses no code",
                "write the id alone; a package that is installed registers its environments itself",
            )
        return value

    @property
    def called(self) -> str:
        """Its name in the report."""
        return self.name or self.id


def of_recipe(recipe: Any) -> None:
    """Write into a recipe of policies what it leaves out. An error of pydantic's for what another task does not read,
    and for two environments of one name.
    """
    parts = [(("data",), recipe.data), *((("stages", i, "data"), s.data) for i, s in enumerate(recipe.stages))]
    places = recipe.measurement.environment or []
    if recipe.task != PLAYING:
        for place, data in parts:
            if data is not None and data.trajectories is not None:
                remedy = f"remove trajectories, or write task: {PLAYING}"
                raise problem(f"the task {recipe.task} reads no trajectories", remedy, (*place, "trajectories"))
        if places:
            remedy = f"remove environment, or write task: {PLAYING}"
            raise problem(f"the task {recipe.task} plays no episodes", remedy, ("measurement", "environment"))
        return
    if places and recipe.sequence is not None:
        what = "a sequence of tasks is measured on each task's rows, and an environment is none of these"
        raise problem(what, "remove environment, or tasks", ("measurement", "environment"))
    names = [place.called for place in places]
    if again := next((name for i, name in enumerate(names) if name in names[:i]), None):
        at = ("measurement", "environment", len(names) - 1 - names[::-1].index(again))
        raise problem(f"two environments are called '{again}'", "give each a name: {id: ..., name: ...}", at)
    if recipe.data.trajectories is None:
        recipe.data.trajectories = TrajectorySpec()
    if recipe.train.precision == "auto":
        recipe.train.precision = "float32"  # observations have more digits than bfloat16
