"""One setting, changed by a field of its own on a page. Runs in the web process."""

from typing import Any

from django.http import HttpRequest

from controlplane.errors import FieldFault, InvalidInputError
from controlplane.pages.actors import actor
from controlplane.pages.forms.edits import one_at_a_time
from controlplane.services import settings


def setting_id(key: str) -> str:
    """The id of its field."""
    return "setting-" + key.replace(".", "-")


def put_as_seen(request: HttpRequest, key: str) -> Any:
    """Sets `value` where the setting still is what the page showed (`seen`); returns it as stored.

    Raises InvalidInputError where it can't be taken, or somebody has changed it meanwhile.
    """
    typed, seen = request.POST.get("value", ""), request.POST.get("seen")
    with one_at_a_time(request):
        now = str(settings.get(key))
        if seen is not None and now not in (seen, typed):
            message = f"Somebody has set {key} to {now} meanwhile. Press Set again to put yours in its place."
            raise InvalidInputError(message, (FieldFault(key, message),))
        return settings.put(actor(request), key, typed)
