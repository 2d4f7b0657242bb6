"""What the calls about energy answer. Runs in the web process."""

from ninja import Field, Schema


class Energy(Schema):
    """What GPUs drew for a job, as far as it was measured. Seconds are GPU-seconds: two GPUs for a minute are 120.

    `gap_seconds` is time that no reading speaks for: its joules are not guessed. `joules_per_token` counts the tokens
    of the measured time alone. `cost` is None where no price is set (setting `energy.price_per_kwh`).
    """

    joules: float
    watt_hours: float
    kwh: float
    mean_watts: float | None
    covered_seconds: float
    gap_seconds: float
    tokens: int | None
    joules_per_token: float | None
    cost: float | None
    currency: str | None


class ServedEnergy(Energy):
    """The same of a deployment since it became ready, its idle time included."""

    requests: int
    prompt_tokens: int
    joules_per_request: float | None


class EnergyDay(Schema):
    """One GPU's day (local time), whoever used it. `covered_seconds`: how much of it was measured."""

    day: str
    host: str
    gpu: int
    gpu_uuid: str
    gpu_name: str
    joules: float
    kwh: float
    covered_seconds: float
    cost: float | None


class EnergyDays(Schema):
    """Days in order. `resolution_seconds`: how exactly a gap is known (60 up to two days, else 900).

    `kwh` is None where no power was read in that time; `cost` None where no price is set.
    """

    begin: str = Field(alias="from")
    end: str = Field(alias="to")
    resolution_seconds: int
    days: list[EnergyDay]
    kwh: float | None
    cost: float | None
    currency: str | None
