"""Which attempts have a process on a host, or will have one. Runs in the web process."""

from django.db.models import Q, QuerySet

from controlplane.models import Attempt, Host
from controlplane.models.jobs import Status


def at_work_on(host: Host) -> QuerySet[Attempt]:
    """Attempts of running jobs there, those led from another host too."""
    there = Q(host=host) | Q(members__host=host)
    return Attempt.objects.filter(there, job__status=Status.RUNNING).distinct()
