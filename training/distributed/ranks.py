"""The processes that train one run together: what they agree on, what they add up. Runs in the training process.

One process is the usual case, and then nothing here costs anything. Several were started by `distributed.launch`; on
one host they meet through a file in the attempt's folder, so that nothing listens on an address, on several at the
address where torchrun's agents have met. Control goes over gloo and never waits for a GPU; gradients go over NCCL where
there are GPUs.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import distributed

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


@dataclass(frozen=True)
class Ranks:
    """This process is number `rank` (from 0) of `count`. The first one leads: it alone tells and writes."""

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls, rendezvous: Path | None) -> Self:
        """Meets the others once, through that file or (None) where torchrun's agents have met.

        RANK, LOCAL_RANK and WORLD_SIZE say who is who.
        """
        ranks = cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        place = f"file://{rendezvous}" if rendezvous else "env://"
        distributed.init_process_group(BACKENDS[device], init_method=place, rank=ranks.rank, world_size=ranks.count)
        return ranks

    @property
    def leads(self) -> bool:
        """Whether this process writes events, checkpoints and the model."""
        return self.rank == 0

    def agreed(self, value: int) -> int:
        """What the first process says; the others' own value counts for nothing."""
        if self.count == 1:
            return value
        told = torch.tensor([value], dtype=torch.long)
        distributed.broadcast(told, src=0)
        return int(told.item())

    def sums(self, values: Sequence[int]) -> list[int]:
        """Each figure, added up over all processes."""
        if self.count == 1:
            return list(values)
        totals = torch.tensor(values, dtype=torch.long)
        distributed.all_reduce(totals)
        return totals.tolist()

    def most(self, value: int) -> int:
        """The largest that any process says."""
        if self.count == 1:
            return value
        largest = torch.tensor([value], dtype=torch.long)
        distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
        return int(largest.item())

    def shared(self, value: Any) -> Any:
        """The first process's value, of any kind that pickles."""
        if self.count == 1:
            return value
        held = [value]
        distributed.broadcast_object_list(held, src=0, device=torch.device("cpu"))
        return held[0]

    def join_flags(self, flags: torch.Tensor) -> None:
        """Sets in `flags` (uint8, on the processor) what any process has set."""
        if self.count > 1:
            distributed.all_reduce(flags, op=distributed.ReduceOp.MAX)

    def wait(self) -> None:
        """Returns when all processes have come here."""
        self.agreed(0)
        self.sums([0])
