"""The log of a job, whatever its kind: each attempt's, searched and followed. Runs in the web process."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from controlplane.models.access import Actor
from controlplane.models.jobs import Kind
from controlplane.pages.actors import actor
from controlplane.pages.topics import mark
from controlplane.services import job_logs, jobs, waiting


def job_log(request: HttpRequest, job_id: int) -> HttpResponse:
    """The page; log.js reads the lines by the API. As a fragment: its head alone."""
    live = mark("jobs")
    job = jobs.get(job_id)
    who: Actor = actor(request)
    context = {
        "live": live, "job": job, "run": getattr(job, "run", None), "mine": who.may_change(job.created_by),
        "deployment": getattr(job, "deployment", None) if job.kind == Kind.SERVE else None,
        "attempts": job_logs.attempts(job), "without_process": job.kind in job_logs.WITHOUT_PROCESS,
        "why": waiting.explain(job_id),
    }  # fmt: skip
    template = "queue/log_head.html" if request.headers.get("HX-Request") else "queue/log.html"
    return render(request, template, context)
