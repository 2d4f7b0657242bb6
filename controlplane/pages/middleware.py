"""What holds for every page: a one-time password is changed first, and a refusal becomes a sentence. Web process."""

from collections.abc import Callable
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib import messages
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
    JsonResponse,
)
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme

from controlplane import doors
from controlplane.errors import PilothouseError
from controlplane.kept_connections import give_back
from controlplane.pages.actors import actor

PAGES_PACKAGE = "controlplane.pages."


class PagesMiddleware:
    """Goes behind the authentication and messages middleware."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Sends whoever still has a one-time password to the form that changes it."""
        if getattr(request.user, "must_change_password", False) and not _is_open(request.path):
            if request.path.startswith(("/api/", "/v1/")):
                return JsonResponse({"detail": "Change your one-time password on the web page first."}, status=403)
            return redirect("password")
        response = self.get_response(request)
        if response.streaming:
            give_back()  # it may be sent for minutes
        return response

    def process_view(
        self, request: HttpRequest, view: Callable[..., HttpResponseBase], _args: object, _kwargs: object
    ) -> HttpResponseBase | None:
        """Shuts the doors of pages before a view begins. The API has its own, and translates its own errors."""
        request.is_page = view.__module__.startswith(PAGES_PACKAGE)  # type: ignore[attr-defined]
        match = request.resolver_match
        if not request.is_page or match is None or not request.user.is_authenticated:  # type: ignore[attr-defined]
            return None
        try:
            is_taken = doors.require_for_page(actor(request), match.url_name or "", request.method or "")
        except PilothouseError as error:
            return self.process_exception(request, error)
        return None if is_taken else HttpResponseNotAllowed(doors.SAFE)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponseBase | None:
        """A refusal of a service: beside the button that asked where there was one, else as an error page."""
        if not isinstance(error, PilothouseError) or not getattr(request, "is_page", False):
            return None
        if request.headers.get("HX-Request"):
            return HttpResponse(error.message, status=error.status_code, content_type="text/plain; charset=utf-8")
        if request.method == "POST" and (back := referrer(request)):
            messages.error(request, error.message)
            return HttpResponseRedirect(back)
        template = f"{error.status_code}.html" if error.status_code in (403, 404) else "refused.html"
        return render(
            request, template, {"exception": error.message, "reason": error.message}, status=error.status_code
        )


def _is_open(path: str) -> bool:
    return path in (reverse("password"), reverse("logout"), reverse("login")) or path.startswith(
        str(settings.STATIC_URL)
    )


def referrer(request: HttpRequest) -> str:
    """The page of ours that a form was sent from, or nothing."""
    whole = str(request.META.get("HTTP_REFERER", ""))
    if not url_has_allowed_host_and_scheme(whole, {request.get_host()}):
        return ""
    parts = urlsplit(whole)
    return parts.path + (f"?{parts.query}" if parts.query else "")
