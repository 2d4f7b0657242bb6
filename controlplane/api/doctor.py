"""GET /api/doctor: what is not as it must be. Runs in the web process."""

from dataclasses import asdict
from typing import Any

from ninja import Router

from controlplane.api.keys import ActorRequest
from controlplane.api.schemas.doctor import Diagnosis
from controlplane.services.doctor import examine_from_inside, worst

router = Router(tags=["Health and facts"])


@router.get("/doctor", response=Diagnosis)
def get_doctor(request: ActorRequest) -> dict[str, Any]:
    """Looks at data base, disk, versions, and at every host's agent, driver, clock and power rights (admin).

    It changes nothing and answers within half a minute, whatever hangs.
    """
    findings = examine_from_inside(request.actor)
    return {"state": worst(findings), "findings": [asdict(finding) for finding in findings]}
