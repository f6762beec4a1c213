"""The processes that train one run together: which of them this one is, and what they tell each other.

They come from `torchrun` (`RANK`, `WORLD_SIZE`, `MASTER_ADDR` ...) or from `tunewright run --nproc N`. Each goes
through the same program with the same rows; a step's micro-batches are shared out, and gradients summed. Whatever is
not shared out is done by each alike. Only the first one writes the run's folder. Nothing that is exchanged is
unpickled.
"""

from __future__ import annotations

import datetime
import functools
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from tunewright.errors import ModelError, PartedError, RecipeError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
WAITS = datetime.timedelta(hours=24)
"""How long one waits for another, which may be measuring."""
MEETS = datetime.timedelta(minutes=10)
"""How long the first waits for the others to come."""
HEARS = datetime.timedelta(seconds=5)
"""How long one that fails waits for the first to fail too, and one that ends for the others to end."""
FAILED, LEFT, STOPPED = "tunewright/failed", "tunewright/left", "tunewright/stopped"
BUCKET = 1 << 24
"""Numbers that are summed at once, at most: what is laid side by side for it is memory beside the gradients."""


class Group:
    """`size` processes, of which this one is number `rank`; alone where `size` is 1, and then nothing is exchanged.
    `here` of them are on this machine, this one as number `place`.
    """

    def __init__(self, rank: int = 0, size: int = 1, place: int = 0, here: int = 1):
        self.rank, self.size, self.place, self.here = rank, size, place, here
        self._joined = False
        self._store: Any = None

    @property
    def many(self) -> bool:
        return self.size > 1

    @property
    def first(self) -> bool:
        """Whether this process writes, prints and measures."""
        return self.rank == 0

    def join(self) -> None:
        """Meet the others, once. ModelError where they do not come."""
        if self._joined or not self.many:
            return
        import torch
        from torch import distributed

        gpus = torch.cuda.is_available() and torch.cuda.device_count() >= self.here
        try:
            store, rank, size = next(distributed.rendezvous("env://", timeout=MEETS))
            backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
            distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=WAITS)
        except (RuntimeError, ValueError) as e:
            raise ModelError(
                f"the {self.size} processes of this run did not meet: {e}",
                where="torchrun",
                remedy="look at MASTER_ADDR and MASTER_PORT, or begin with tunewright run --nproc N",
            ) from e
        if gpus:
            torch.cuda.set_device(self.place)
        self._joined, self._store = True, store

    def failed(self) -> None:
        """Let the others know that the first one says what is wrong."""
        if self._joined and self.first:
            with suppress(RuntimeError):
                self._store.set(FAILED, "")

    def stopped(self) -> None:
        """Let the others know that this one ends since it was asked to."""
        if self._joined:
            with suppress(RuntimeError):
                self._store.set(STOPPED, "")

    def was_stopped(self) -> bool:
        """Whether another ended since it was asked to, where what was exchanged with it broke off."""
        if not self._joined:
            return False
        try:
            return bool(self._store.check([STOPPED]))
        except RuntimeError:
            return False

    def told_by_first(self) -> bool:
        """Whether the first one says what is wrong, or is gone; waits for that a little."""
        if not self._joined or self.first:
            return False
        try:
            self._store.wait([FAILED], HEARS)
        except RuntimeError as e:
            return "timeout" not in str(e).lower()
        return True

    def leave(self, well: bool = True) -> None:
        """Part from the others. Where all end `well`, none goes before all have come here: what is still to wake up
        from the last exchange would take a connection that is closed for another's end.
        """
        if self._joined:
            from torch import distributed

            if well:
                with suppress(RuntimeError):  # they are gone, or do not come
                    self._store.set(f"{LEFT}/{self.rank}", "")
                    self._store.wait([f"{LEFT}/{rank}" for rank in range(self.size)], HEARS)
            self._joined = False
            distributed.destroy_process_group()

    def share(self, items: Sequence[T]) -> list[tuple[int, T]]:
        """(place, item) of those that are this process's: every `size`-th."""
        return [(i, item) for i, item in enumerate(items) if i % self.size == self.rank]

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Sum tensors of equal shapes over all processes, in place and to the same bits in each."""
        if not self.many:
            return
        import torch

        bucket: list[Tensor] = []
        for tensor in tensors:
            if bucket and (
                tensor.dtype != bucket[0].dtype
                or tensor.device != bucket[0].device
                or sum(t.numel() for t in bucket) + tensor.numel() > BUCKET
            ):
                self._sum(torch, bucket)
                bucket = []
            bucket.append(tensor)
        if bucket:
            self._sum(torch, bucket)

    def _sum(self, torch: Any, tensors: list[Tensor]) -> None:
        flat = torch.cat([t.reshape(-1) for t in tensors])
        self._with_others(lambda distributed: distributed.all_reduce(flat))
        for tensor, summed in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))

    def from_first(self, tensors: Sequence[Tensor]) -> None:
        """Put the first process's values into every other's tensors, in place."""
        for tensor in tensors if self.many else ():
            sent = tensor.detach().contiguous()
            self._with_others(lambda distributed, sent=sent: distributed.broadcast(sent, 0))
            tensor.detach().copy_(sent)

    def told(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What each process says, JSON values by name, in the order of the processes."""
        if not self.many:
            return [dict(values)]
        import torch

        own = torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        self._with_others(lambda d: d.all_gather(sizes, torch.tensor([len(own)])))
        longest = max(int(s) for s in sizes)
        texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        mine = torch.cat([own, torch.zeros(longest - len(own), dtype=torch.uint8)])
        self._with_others(lambda d: d.all_gather(texts, mine))
        return [json.loads(bytes(t[: int(s)].tolist())) for t, s in zip(texts, sizes, strict=True)]

    def gathered(self, tensor: Tensor) -> list[Tensor] | None:
        """What each process gives, tensors of one shape in the CPU's memory, in the order of the processes: in the
        first one. None elsewhere.
        """
        if not self.many:
            return [tensor]
        sent = tensor.contiguous()
        parts = [sent.new_empty(sent.shape) for _ in range(self.size)] if self.first else None
        self._with_others(lambda distributed: distributed.gather(sent, parts, 0))
        return parts

    def parted(self, error: BaseException) -> bool:
        """Whether an error that torch raised, outside of what is exchanged here, says that another process ended."""
        from torch import distributed

        said = str(error).lower()
        return self._joined and (
            isinstance(error, distributed.DistError) or "gloo" in said or "connection closed" in said
        )

    def ended(self) -> PartedError:
        """What is said where another process of the run ended."""
        return PartedError(
            f"another of the {self.size} processes of this run ended",
            remedy="read what it said; `tunewright resume` goes on from the last checkpoint",
        )

    def meet(self) -> None:
        """Wait until every process is here."""
        self.told({})

    def _with_others(self, ask: Any) -> None:
        from torch import distributed

        try:
            ask(distributed)
        except RuntimeError as e:
            raise self.ended() from e


@functools.cache
def present() -> Group:
    """The processes that this one was begun with, by the names that torchrun gives them; else alone. RecipeError for
    names that are no numbers.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        return Group()
    try:
        rank, size, place, here = (int(os.environ.get(n, d)) for n, d in zip(names, "0101", strict=True))
    except ValueError as e:
        raise RecipeError(
            f"the environment's {', '.join(names)} are no numbers: {e}",
            remedy="begin with torchrun, or unset them",
        ) from e
    return Group(rank, size, place, here)
