"""Who calls: a key in a header, or a person in a browser. Runs in the web process.

Each of `KEYS` sets `request.actor`. A key that is sent and isn't valid is refused at once, whatever else the request
holds. A browser session must send Django's CSRF token with every write; a key needs none.
"""

from django.conf import settings
from django.http import HttpRequest
from ninja.security import APIKeyCookie, APIKeyHeader, HttpBearer
from ninja.utils import check_csrf

from controlplane.errors import ForbiddenError, NotAuthenticatedError
from controlplane.models import User
from controlplane.models.access import Actor
from controlplane.services import access


class ActorRequest(HttpRequest):
    """A request whose sender is known."""

    actor: Actor


def _address(request: HttpRequest) -> str:
    return str(request.META.get("REMOTE_ADDR", ""))


def _by_key(request: HttpRequest, plain: str | None) -> Actor | None:
    """The actor of a key; None where no key was sent. Raises NotAuthenticatedError for one that isn't valid."""
    if not plain:
        return None
    actor = access.authenticate_key(plain.strip(), _address(request))
    if actor is None:
        raise NotAuthenticatedError("This key is not known, has been revoked or has expired. Ask an admin for another.")
    request.actor = actor  # type: ignore[attr-defined]
    return actor


class HeaderKey(APIKeyHeader):
    """`X-API-Key: KEY`."""

    param_name = "X-API-Key"

    def authenticate(self, request: HttpRequest, key: str | None) -> Actor | None:
        """The key's actor."""
        return _by_key(request, key)


class BearerKey(HttpBearer):
    """`Authorization: Bearer KEY`."""

    def authenticate(self, request: HttpRequest, token: str) -> Actor | None:
        """The key's actor."""
        return _by_key(request, token)


class BrowserSession(APIKeyCookie):
    """The session of somebody who has logged in."""

    param_name = settings.SESSION_COOKIE_NAME

    def __call__(self, request: HttpRequest) -> Actor | None:
        """The person as the one who acts. Raises ForbiddenError for a write without the CSRF token."""
        return self.authenticate(request, request.COOKIES.get(self.param_name))

    def authenticate(self, request: HttpRequest, key: str | None) -> Actor | None:
        """See `__call__`."""
        if not request.user.is_authenticated:
            return None
        if check_csrf(request) is not None:
            raise ForbiddenError("The request lacks the CSRF token (header X-CSRFToken). Load the page again.")
        person: User = request.user
        if person.must_change_password:
            raise ForbiddenError("Change the one-time password first: log in with a browser.")
        actor = person.actor(_address(request))
        request.actor = actor  # type: ignore[attr-defined]
        return actor


KEYS = [HeaderKey(), BearerKey(), BrowserSession()]


def caller(request: HttpRequest) -> Actor | None:
    """Who calls, for a view that also answers nobody. Raises as the members of KEYS do."""
    for key in KEYS:
        actor = key(request)
        if isinstance(actor, Actor):
            return actor
    return None
