"""What GPUs drew over days: /api/energy. Runs in the web process."""

from datetime import datetime, timedelta
from typing import Annotated, Any

from django.utils import timezone
from ninja import Router
from ninja.params.functions import Query

from controlplane.api.keys import ActorRequest
from controlplane.api.moments import moment
from controlplane.api.schemas.energy import EnergyDays
from controlplane.services import energy_history

router = Router(tags=["Power"])
DEFAULT_DAYS = 7


@router.get("/energy", response=EnergyDays, by_alias=True)
def get_energy(
    request: ActorRequest,
    begin: Annotated[datetime | None, Query(alias="from")] = None,
    end: Annotated[datetime | None, Query(alias="to")] = None,
) -> dict[str, Any]:
    """Each day, host and GPU: joules, kWh and cost, whoever used it; the last seven days without `from` and `to`."""
    until = moment("to", end) if end else timezone.now()
    return energy_history.totals(moment("from", begin) if begin else until - timedelta(days=DEFAULT_DAYS), until)
