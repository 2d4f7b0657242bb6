"""The gradients of processes that each have the whole model, added up once all of them have theirs.

Runs in the training process. DDP would add them up while the backward pass goes on: a process whose memory does not
suffice in the midst of it would leave the others waiting for ever. So each computes alone, in as many parts as it must,
and the sum comes last. That costs what the exchange would have hidden behind the computation, once a step.
"""

from collections.abc import Iterator, Sequence
from typing import Self

import torch
from torch import distributed

ROOM_BYTES = 32 << 20
"""Gradients that fit in here together are sent together; a larger one is sent by itself, where it lies."""


class GradientSum:
    """One step's gradients, ready to meet the others'. From here on nothing takes memory."""

    def __init__(self, gradients: Sequence[torch.Tensor], room: torch.Tensor) -> None:
        self._gradients = gradients
        self._room = room

    @classmethod
    def of(cls, weights: Sequence[torch.Tensor]) -> Self:
        """The gradients of these weights; one that has none counts as zeros. Raises RuntimeError out of memory."""
        gradients = []
        for weight in weights:
            held = torch.zeros_like(weight) if weight.grad is None else weight.grad
            weight.grad = held.contiguous()
            gradients.append(weight.grad)
        return cls(gradients, torch.empty(ROOM_BYTES, dtype=torch.uint8, device=gradients[0].device))

    def take_mean(self, count: int) -> None:
        """Each gradient becomes the mean of those of all `count` processes. All must call it."""
        for group in self._groups():
            if len(group) == 1:
                distributed.all_reduce(group[0])
                group[0] /= count
                continue
            sizes = [gradient.numel() for gradient in group]
            flat = self._room.view(group[0].dtype)[: sum(sizes)]
            torch.cat([gradient.view(-1) for gradient in group], out=flat)
            distributed.all_reduce(flat)
            flat /= count
            for gradient, part in zip(group, torch.split(flat, sizes), strict=True):
                gradient.view(-1).copy_(part)

    def _groups(self) -> Iterator[list[torch.Tensor]]:
        """Neighbours of one number format that have room together."""
        group: list[torch.Tensor] = []
        taken_bytes = 0
        for gradient in self._gradients:
            fits = taken_bytes + gradient.nbytes <= ROOM_BYTES
            if group and not (fits and gradient.dtype == group[0].dtype):
                yield group
                group, taken_bytes = [], 0
            group.append(gradient)
            taken_bytes += gradient.nbytes
        if group:
            yield group
