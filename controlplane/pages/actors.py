"""Who acts on a page: the person who is logged in. Runs in the web process."""

from typing import cast

from django.http import HttpRequest

from controlplane.models import User
from controlplane.models.access import Actor


def person(request: HttpRequest) -> User:
    """The person who is logged in (LoginRequiredMiddleware lets nobody else through)."""
    return cast(User, request.user)


def actor(request: HttpRequest) -> Actor:
    """The same as the one who acts, with the address that they act from."""
    return person(request).actor(address(request))


def address(request: HttpRequest) -> str:
    """Where a request comes from."""
    return str(request.META.get("REMOTE_ADDR", ""))
