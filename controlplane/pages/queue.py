"""The queue: what runs, what waits and why, what ended; its order and its pause. Runs in the web process."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from controlplane.models import Job
from controlplane.models.access import Actor, Role
from controlplane.models.jobs import Kind, Priority, Status
from controlplane.pages.actors import actor
from controlplane.pages.middleware import referrer
from controlplane.pages.tables import shown
from controlplane.pages.topics import mark
from controlplane.services import jobs
from controlplane.services import queue as order
from controlplane.services.tables import jobs as asked

SHOWN, ENDED_SHOWN = 50, 20
"""As many of each stand in the queue; the table of all jobs has the others."""


def queue(request: HttpRequest) -> HttpResponse:
    """All jobs, by what they do now."""
    live = mark("jobs", "models")
    template = "queue/tables.html" if request.headers.get("HX-Request") else "queue/queue.html"
    return render(request, template, {"live": live, **_tables(actor(request))})


def job_list(request: HttpRequest) -> HttpResponse:
    """The jobs that the address asks for, whatever became of them."""
    live, who = mark("jobs"), actor(request)
    table = shown(request.GET, asked.ask(request.GET), "jobs", placeholder="Search jobs", first="status")
    context = {"live": live, "table": table, "rows": [_row(job, who) for job in table.page.rows]}
    return render(request, "queue/job_rows.html" if request.headers.get("HX-Request") else "queue/jobs.html", context)


def _tables(who: Actor) -> dict[str, Any]:
    going = [*jobs.list_jobs(status=Status.RUNNING), *jobs.list_jobs(status=Status.PAUSED)]
    waiting, statistics = jobs.queue(most=SHOWN), jobs.statistics()
    ends = order.ends(waiting)
    rows = [{**_row(job, who), "is_first": ends[job.pk][0], "is_last": ends[job.pk][1]} for job in waiting]
    return {
        "going": [_row(job, who) for job in going[:SHOWN]], "more_going": max(0, len(going) - SHOWN),
        "waiting": rows, "more_waiting": max(0, jobs.count_waiting() - len(waiting)),
        "ended": [_row(job, who) for job in jobs.ended(ENDED_SHOWN)], "statistics": statistics,
        "priorities": [level.name.lower() for level in reversed(Priority)],
        "order": order.facts(), "may_rule": who.role >= Role.ADMIN,
    }  # fmt: skip


def _row(job: Job, who: Actor) -> dict[str, Any]:
    run = getattr(job, "run", None)
    return {
        "job": job, "run": run, "mine": who.may_change(job.created_by), "priority": Priority(job.priority).name.lower(),
        "retriable": job.status in (Status.FAILED, Status.CANCELLED) and job.kind != Kind.SERVE,
    }  # fmt: skip


@require_POST
def job_cancel(request: HttpRequest, job_id: int) -> HttpResponse:
    """Ends a job now."""
    job = jobs.cancel(actor(request), job_id)
    messages.info(request, f"Job {job.pk} ends now.")
    return redirect(referrer(request) or reverse("queue"))


@require_POST
def job_retry(request: HttpRequest, job_id: int) -> HttpResponse:
    """Puts an ended job back."""
    job = jobs.retry(actor(request), job_id)
    messages.info(request, f"Job {job.pk} is in the queue again.")
    return redirect(referrer(request) or reverse("queue"))


@require_POST
def job_priority(request: HttpRequest, job_id: int) -> HttpResponse:
    """Changes a job's place."""
    jobs.set_priority(actor(request), job_id, request.POST.get("priority", ""))
    return redirect(referrer(request) or reverse("queue"))


@require_POST
def job_move(request: HttpRequest, job_id: int) -> HttpResponse:
    """Moves a waiting job among those of its priority."""
    order.move(actor(request), job_id, request.POST.get("to", ""))
    return redirect(referrer(request) or reverse("queue"))


@require_POST
def queue_pause(request: HttpRequest) -> HttpResponse:
    """Lets no further training run start."""
    order.pause(actor(request), request.POST.get("reason", ""))
    messages.info(request, "The queue is paused: runs that train go on, none starts.")
    return redirect("queue")


@require_POST
def queue_resume(request: HttpRequest) -> HttpResponse:
    """Lets training runs start again."""
    order.resume(actor(request))
    messages.success(request, "Training runs start again.")
    return redirect("queue")
