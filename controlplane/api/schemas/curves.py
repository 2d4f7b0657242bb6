"""What the calls about curves take and answer."""

from ninja import Field, Schema

STEPS = 2**62
"""No step is so large; the data base holds no larger number."""


class MetricSpan(Schema):
    """Which points: those behind `after_step`, or from `from_step` to `to_step`; at most `max_points` a curve."""

    after_step: int | None = Field(None, ge=-STEPS, le=STEPS)
    from_step: int | None = Field(None, ge=-STEPS, le=STEPS)
    to_step: int | None = Field(None, ge=-STEPS, le=STEPS)
    max_points: int = 2000

    @property
    def after(self) -> int | None:
        """The step behind which points are wanted."""
        bounds = [self.after_step, None if self.from_step is None else self.from_step - 1]
        return max((bound for bound in bounds if bound is not None), default=None)


class MetricSeries(Schema):
    """One curve: equally long lists. `time` in Unix seconds; NaN and the infinities are strings. `count`: how many
    points lie in the span, about; where it is more than the list has, a smaller span brings more detail."""

    step: list[int]
    value: list[float | str]
    time: list[float]
    count: int


class Metrics(Schema):
    """Curves by key. `last_seq`: what the live topic `run:ID` says behind it is news."""

    series: dict[str, MetricSeries]
    last_step: int
    last_seq: int


class MetricKey(Schema):
    """What is known of a key. `broken` of its points are NaN or infinite; `min` and `max` are of the others, None where
    there are none."""

    key: str
    count: int
    broken: int
    first_step: int
    last_step: int
    last: float | str | None
    min: float | None
    max: float | None


class Resumed(Schema):
    """Where a run went on from a checkpoint, and when (Unix seconds)."""

    step: int
    time: float


class MetricKeys(Schema):
    """The keys of a run, in order, when the first point came (Unix seconds), and where the run was resumed."""

    keys: list[MetricKey]
    started: float | None
    resumed: list[Resumed]
    last_step: int
    last_seq: int
