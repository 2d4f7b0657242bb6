"""What is done to many rows of a table at once, and how the page tells it. Runs in the web process."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_POST

from controlplane.pages.actors import actor
from controlplane.pages.middleware import referrer
from controlplane.services import bulk
from controlplane.services.bulk import Noun, Outcome

REASONS_SHOWN = 5


@require_POST
def many(request: HttpRequest, noun: str) -> HttpResponse:
    """Does one thing to the rows that were chosen, and tells what was refused and why."""
    outcome = bulk.do(actor(request), noun, request.POST.get("action", ""), request.POST.getlist("row"))
    tell(request, bulk.noun(noun), outcome)
    return redirect(referrer(request) or reverse("bridge"))


def tell(request: HttpRequest, noun: Noun, outcome: Outcome) -> None:
    """What was done, and what was left alone for which reason."""
    if outcome.done:
        messages.success(request, f"{noun.counted(outcome.done)} {outcome.word}.")
    reasons = outcome.reasons()
    for reason, refused in list(reasons.items())[:REASONS_SHOWN]:
        messages.error(request, f"{noun.counted(refused)} left alone. {reason}")
    if (others := len(reasons) - REASONS_SHOWN) > 0:
        messages.error(request, f"{others} more were left alone for reasons of their own.")
