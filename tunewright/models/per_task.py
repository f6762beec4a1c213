"""One delta for each task on a site, chosen by the row's source: plain, or made by a network while it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tunewright.models.context import present
from tunewright.models.delta_forms import Delta, form_class
from tunewright.models.sites import Site

Make = Callable[[str], Mapping[str, Tensor]]
"""task -> tensors of its delta, by the names of the delta's parameters."""


class PerTask(Delta):
    """One delta a task, by the row's source. `template`: a delta of the form and shape; `make`: None once frozen."""

    form = "per-task"
    foldable: ClassVar[bool] = False
    reads_rows: ClassVar[bool] = True
    site_kinds: ClassVar[tuple[str, ...]] = ("linear", "conv1d", "block")

    def __init__(self, template: Delta, tasks: Sequence[str], make: Make | None = None, others: str | None = None):
        super().__init__()
        self.others = others
        self._template = [template]  # in a list: its own tensors stand for shapes alone, and are no part of the model
        self.tasks, self.make = tuple(tasks), make
        self.plain = nn.ModuleList()

    @property
    def made(self) -> bool:
        """Whether a network makes its tensors: they train though it has no parameters of its own."""
        return self.make is not None

    def of(self, task: str, x: Tensor, y: Tensor) -> Tensor:
        """The site's output with one task's change at the present strength."""
        if self.make is None:
            delta: Any = self.plain[self.tasks.index(task)]
            delta.strength = self.strength
            return delta(x, y)  # type: ignore[no-any-return]
        delta = self._template[0]
        delta.strength = self.strength
        out: Tensor = torch.func.functional_call(delta, dict(self.make(task)), (x, y))
        return out

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        now = present()
        row, place = now.at(y)
        rest = -1 if self.others is None else self.tasks.index(self.others)
        known = now.rows.sources or ("",) * (int(row.max()) + 1)
        whose = [self.tasks.index(s) if s in self.tasks else rest for s in known]
        here = torch.tensor(whose, device=y.device)[row]
        out = y
        for k in dict.fromkeys(k for k in whose if k >= 0):
            out = torch.where(((here == k) & (place >= 0))[..., None], self.of(self.tasks[k], x, y), out)
        return out

    def frozen(self, task: str, site: Site) -> Delta:
        """A plain delta with what one task's tensors are now."""
        if self.make is None:
            source: Any = self.plain[self.tasks.index(task)]
            tensors = {n: t.detach().clone() for n, t in source.state_dict().items()}
        else:
            with torch.no_grad():
                tensors = {n: t.detach().clone() for n, t in self.make(task).items()}
        template = self._template[0]
        delta = type(template).rebuild(template.settings(), site)
        delta.load_state_dict(tensors, strict=True)
        return delta.to(site.device)

    def settings(self) -> dict[str, Any]:
        template = self._template[0]
        return {
            "tasks": list(self.tasks),
            "others": self.others,
            "each": {"form": template.form, "settings": template.settings()},
        }

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> PerTask:
        form, about = form_class(settings["each"]["form"]), settings["each"]["settings"]
        delta = cls(form.rebuild(about, site), settings["tasks"], others=settings["others"])
        delta.plain.extend(form.rebuild(about, site) for _ in settings["tasks"])
        return delta
