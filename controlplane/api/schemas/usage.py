"""What the calls about usage, speed and splits take and answer."""

from datetime import date

from ninja import Schema


class UsageRow(Schema):
    """What a caller took of a model on a day. `key_id` is null for people; `cut_short`: its client left early."""

    day: date
    caller: str
    key_id: int | None
    model: str
    requests: int
    failures: int
    cut_short: int
    prompt_tokens: int
    completion_tokens: int


class Usage(Schema):
    """Rows, the newest day first."""

    rows: list[UsageRow]


class SpeedPoint(Schema):
    """How a model answered in one stretch of time. Seconds to the first token and tokens a second are null where
    nothing was measured; `median` and `p95` are right to 5 %.
    """

    time: float
    requests: int
    failures: int
    completion_tokens: int
    first_token_median: float | None
    first_token_p95: float | None
    tokens_per_second_median: float | None


class Speed(Schema):
    """Points of `resolution_seconds` each (Unix seconds of their begin); a stretch without requests has none."""

    model: str
    resolution_seconds: int
    points: list[SpeedPoint]


class SplitPart(Schema):
    """A model behind a split's name, and its weight."""

    model: str
    weight: float


class SplitShare(SplitPart):
    """`share` of the requests, from 0 to 1."""

    share: float


class PutSplit(Schema):
    """1 to 8 models with weights."""

    parts: list[SplitPart]


class Split(Schema):
    """A name behind which several models answer."""

    name: str
    parts: list[SplitShare]
    created_by: str
    created_at: str


class SplitList(Schema):
    """All splits by name."""

    splits: list[Split]
