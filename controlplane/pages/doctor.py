"""Settings, Doctor: what is not as it must be, and what mends it. Runs in the web process."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache

from controlplane.pages.actors import actor
from controlplane.services.doctor import examine_from_inside, worst

WORDS = {"ok": "as it must be", "warn": "look here", "fail": "broken"}
TONES = {"ok": "ok", "warn": "warn", "fail": "bad"}
SENTENCES = {
    "ok": "Everything is as it must be.",
    "warn": "Everything works; some things want a look.",
    "fail": "Something is broken.",
}


@never_cache
def doctor(request: HttpRequest) -> HttpResponse:
    """Looks now, and shows a line for each thing; what is broken comes first."""
    findings = examine_from_inside(actor(request))
    order = list(reversed(WORDS))
    rows = [
        {"finding": finding, "word": WORDS[finding.state], "tone": TONES[finding.state]}
        for finding in sorted(findings, key=lambda finding: order.index(finding.state))
    ]
    return render(
        request, "settings/doctor.html", {"rows": rows, "verdict": SENTENCES[worst(findings)], "now": timezone.now()}
    )
