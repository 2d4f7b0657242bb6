"""Who calls: a key in a header, or a person in a browser. Runs in the web process.

Each of `KEYS` sets `request.actor`. A key that is sent and isn't valid is refused at once, whatever else the request
holds. A browser session must send Django's CSRF token with every write; a key needs none.
"""

from django.conf import settings
from django.http import HttpRequest, HttpResponseForbidden
from django.middleware.csrf import CsrfViewMiddleware
from ninja.security import APIKeyCookie, APIKeyHeader, HttpBearer

from controlplane import doors
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
        raise not_valid()
    doors.require_for_call(actor, request)
    request.actor = actor  # type: ignore[attr-defined]
    return actor


def not_valid() -> NotAuthenticatedError:
    """What is said of a key that isn't valid."""
    return NotAuthenticatedError("This key is not known, has been revoked or has expired. Ask an admin for another.")


class _CsrfCheck(CsrfViewMiddleware):
    """Django's own check, without the page that it would render."""

    def _reject(self, request: HttpRequest, reason: str) -> HttpResponseForbidden:
        return HttpResponseForbidden(reason)


def _no_view(_request: HttpRequest) -> HttpResponseForbidden:
    """Stands for the view that the check wants to know: one that isn't exempt."""
    return HttpResponseForbidden()


def _lacks_csrf_token(request: HttpRequest) -> bool:
    """Whether a write comes without the token: Django left the check to us, since a key needs none."""
    check = _CsrfCheck(_no_view)
    check.process_request(request)
    return check.process_view(request, _no_view, (), {}) is not None


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
        if _lacks_csrf_token(request):
            raise ForbiddenError("The request lacks the CSRF token (header X-CSRFToken). Load the page again.")
        person: User = request.user
        if person.must_change_password:
            raise ForbiddenError("Change the one-time password first: log in with a browser.")
        actor = person.actor(_address(request))
        doors.require_for_call(actor, request)
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
