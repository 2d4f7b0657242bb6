"""Wrong passwords, which django-axes counts in the data base by name and network. Runs in the web process."""

import math

from axes.models import AccessAttempt
from django.conf import settings
from django.db import transaction
from django.db.models import Sum
from django.http import HttpRequest
from django.utils import timezone

from controlplane.errors import NotFoundError
from controlplane.models import User
from controlplane.models.access import Actor, Role
from controlplane.services.access import audit
from controlplane.services.wrong_keys import network


def network_of(request: HttpRequest) -> str:
    """Where a request comes from, as guesses are counted."""
    return network(str(request.META.get("REMOTE_ADDR", "")))


def is_locked(request: HttpRequest) -> bool:
    """Whether a login was refused for the number of wrong passwords before it."""
    return bool(getattr(request, "axes_locked_out", False))


def minutes_locked(username: str, request: HttpRequest) -> int:
    """How many minutes a locked name waits yet, at that network."""
    tried = AccessAttempt.objects.filter(username=username, ip_address=network_of(request)).order_by("-attempt_time")
    last = tried.values_list("attempt_time", flat=True).first() or timezone.now()
    left = (last + settings.AXES_COOLOFF_TIME - timezone.now()).total_seconds()
    return max(1, math.ceil(left / 60))


def locked_names() -> set[str]:
    """The names that wait now, at some network."""
    since = timezone.now() - settings.AXES_COOLOFF_TIME
    tried = AccessAttempt.objects.filter(attempt_time__gte=since).values("username", "ip_address")
    many = tried.annotate(wrong=Sum("failures_since_start")).filter(wrong__gte=settings.AXES_FAILURE_LIMIT)
    return {str(row["username"]) for row in many}


def unlock(actor: Actor, user_id: int) -> User:
    """Forgets the wrong passwords for a person's name. Raises NotFoundError."""
    actor.require(Role.ADMIN)
    user = User.objects.filter(pk=user_id).first()
    if user is None:
        raise NotFoundError(f"There is no person {user_id}.")
    with transaction.atomic():
        AccessAttempt.objects.filter(username=user.get_username()).delete()
        audit(actor, "person.unlock", user.get_username())
    return user


def prune() -> None:
    """Takes away what counts no longer: names that nobody has would fill the table."""
    AccessAttempt.objects.filter(attempt_time__lt=timezone.now() - settings.AXES_COOLOFF_TIME).delete()
