"""Points of one curve as packed arrays: put together, cut, thinned. Runs in the web process.

Thinning is tsdownsample's min/max: the same points at every refresh, and no spike is lost. A point whose value is no
number stays where a row of such begins, so that a gap shows.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from tsdownsample import MinMaxDownsampler

from controlplane.models.curves import Packed
from monitoring.events import encode_number

Buffer = bytes | memoryview
Point = tuple[int, float, float]
"""step, value, Unix seconds"""

BROKEN_SHARE = 10
"""At most every tenth of the points that stay marks the begin of a gap."""


@dataclass(frozen=True)
class Points:
    """Equally long arrays; steps rise."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    times: NDArray[np.float64]

    @classmethod
    def of(cls, points: Sequence[Point]) -> Self:
        """Points as the events brought them."""
        return cls(
            np.array([point[0] for point in points], dtype="<i8"),
            np.array([point[1] for point in points], dtype="<f8"),
            np.array([point[2] for point in points], dtype="<f8"),
        )

    @classmethod
    def unpacked(cls, rows: Iterable[tuple[Buffer, Buffer, Buffer]]) -> Self:
        """Rows of the data base (steps, values, times), one behind the other."""
        packed = list(rows)
        return cls(
            np.frombuffer(b"".join(bytes(row[0]) for row in packed), dtype="<i8"),
            np.frombuffer(b"".join(bytes(row[1]) for row in packed), dtype="<f8"),
            np.frombuffer(b"".join(bytes(row[2]) for row in packed), dtype="<f8"),
        )

    def __len__(self) -> int:
        return len(self.steps)

    def at(self, chosen: NDArray[np.intp] | NDArray[np.bool_] | slice) -> "Points":
        """Those of the points."""
        return Points(self.steps[chosen], self.values[chosen], self.times[chosen])

    def between(self, after: int | None, until: int | None) -> "Points":
        """Those behind step `after` and not beyond step `until`; steps rise, so they lie together."""
        begin = 0 if after is None else int(np.searchsorted(self.steps, after, side="right"))
        end = len(self) if until is None else int(np.searchsorted(self.steps, until, side="right"))
        return self.at(slice(begin, end))

    def thinned(self, most: int) -> "Points":
        """At most `most` of the points: the extremes of each bin, the ends, and the first of each row of no numbers."""
        if len(self) <= most:
            return self
        finite = np.isfinite(self.values)
        broken = np.flatnonzero(~finite & np.concatenate(([True], finite[:-1])))[: most // BROKEN_SHARE]
        room = max(0, (most - len(broken) - 2) // 2 * 2)
        numbers = np.flatnonzero(finite)
        if len(numbers) > room:
            steps, values = self.steps[numbers], np.ascontiguousarray(self.values[numbers])
            numbers = numbers[_extremes(steps, values, room)]
        ends = np.array([0, len(self) - 1])
        return self.at(np.unique(np.concatenate((numbers, broken, ends))))

    def encoded(self) -> list[float | str]:
        """The values as JSON can hold them."""
        values = self.values.tolist()
        if np.isfinite(self.values).all():
            return values  # type: ignore[no-any-return] # numpy's types say object
        return [value if math.isfinite(value) else encode_number(value) for value in values]

    def fill(self, row: Packed, stands_for: "Points | None" = None) -> None:
        """Makes a row of them; what it tells of count and extremes is of the points that it stands for."""
        told = stands_for or self
        finite = told.values[np.isfinite(told.values)]
        row.count, row.broken = len(told), len(told) - len(finite)
        row.first_step, row.last_step = int(told.steps[0]), int(told.steps[-1])
        row.low, row.high = (float(finite.min()), float(finite.max())) if len(finite) else (None, None)
        row.steps, row.values, row.times = self.steps.tobytes(), self.values.tobytes(), self.times.tobytes()


def _extremes(steps: NDArray[np.int64], values: NDArray[np.float64], room: int) -> NDArray[np.integer[Any]]:
    """Where the lowest and the highest value of each bin lie; of one bin, which tsdownsample doesn't know, by hand."""
    if room >= 4:
        places: NDArray[np.integer[Any]] = MinMaxDownsampler().downsample(steps, values, n_out=room)
        return places
    return np.array([values.argmin(), values.argmax()][:room], dtype=np.intp)


def joined(parts: Sequence[Points]) -> Points:
    """Parts of one curve, one behind the other."""
    return Points(
        np.concatenate([part.steps for part in parts]) if parts else np.empty(0, dtype="<i8"),
        np.concatenate([part.values for part in parts]) if parts else np.empty(0, dtype="<f8"),
        np.concatenate([part.times for part in parts]) if parts else np.empty(0, dtype="<f8"),
    )
