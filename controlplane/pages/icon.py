"""The icon where browsers ask for it without being told (`/favicon.ico`). Runs in the web process."""

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.templatetags.static import static
from django.views.decorators.http import require_safe


@login_not_required
@require_safe
def favicon(_request: HttpRequest) -> HttpResponse:
    """Where the icon is."""
    return redirect(static("img/icon.svg"))
