"""The last lines of a component's log, by the component's name and never by a path. Runs in the web process."""

from pathlib import Path

from django.conf import settings as django_settings

from controlplane.errors import InvalidInputError, NotFoundError, UnavailableError
from controlplane.fleet.protocol import AgentRefusedError, HostUnreachableError
from controlplane.fleet.registry import carrier, local
from controlplane.models import Attempt, Deployment, Job, Run
from controlplane.row_ids import row_id

MAX_LINES = 5000
TAIL_BYTES = 4 << 20
COMPONENTS = ("api_server", "gpu_worker", "jobs", "agent", "run-ID", "deployment-ID")
DISPATCHER_LOGGERS = (
    "controlplane.dispatch", "controlplane.services.ingest", "controlplane.services.jobs",
    "controlplane.services.deployments", "controlplane.kinds",
)  # fmt: skip
"""Whose lines of the web log are the dispatcher's."""


def component_lines(component: str, lines: int) -> list[str]:
    """The last `lines` lines. Raises NotFoundError for an unknown component, UnavailableError when its host is away."""
    if not 1 <= lines <= MAX_LINES:
        raise InvalidInputError(f"lines must lie between 1 and {MAX_LINES}.")
    noun, _, text = component.partition("-")
    number = row_id(text)
    if noun in ("run", "deployment") and number is not None:
        return _of_job(_job_of(noun, number), lines)
    if component == "api_server":
        return _tail(lines)
    if component == "jobs":
        return [line for line in _tail(None) if _is_dispatchers(line)][-lines:]
    if component == "gpu_worker":
        return _of_active_engine(lines)
    if component == "agent":
        return _of_agent(lines)
    raise NotFoundError(f"There is no component {component!r}. There are: {', '.join(COMPONENTS)}.")


def _tail(lines: int | None) -> list[str]:
    """The last whole lines of the web server's log: `lines` of them, None for all within TAIL_BYTES."""
    path = Path(django_settings.HOME) / "logs" / "web.log"
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - TAIL_BYTES))
            text = stream.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    found = text.splitlines()
    if size > TAIL_BYTES:
        found = found[1:]
    return found if lines is None else found[-lines:]


def _is_dispatchers(line: str) -> bool:
    words = line.split(" ", 4)
    return len(words) == 5 and words[3].rstrip(":").startswith(DISPATCHER_LOGGERS)


def _job_of(noun: str, number: int) -> Job:
    if noun == "run":
        run = Run.objects.select_related("job").filter(pk=number).first()
        if run is not None:
            return run.job
    else:
        deployment = Deployment.objects.select_related("job").filter(pk=number).first()
        if deployment is not None:
            return deployment.job
    raise NotFoundError(f"There is no {noun} {number}.")


def _of_active_engine(lines: int) -> list[str]:
    active = Deployment.objects.filter(is_active=True).select_related("job").first()
    return [] if active is None else _of_job(active.job, lines)


def _of_job(job: Job, lines: int) -> list[str]:
    """The log of the job's last attempt; [] before the first."""
    attempt = Attempt.objects.filter(job=job).select_related("host").order_by("-number").first()
    if attempt is None:
        return []
    try:
        return carrier(attempt.host).read_log(job.pk, attempt.number, lines=lines)["lines"]
    except AgentRefusedError:  # nothing written yet, or cleaned away
        return []
    except HostUnreachableError as error:
        raise away(attempt.host.name) from error


def _of_agent(lines: int) -> list[str]:
    try:
        return local().read_agent_log(lines)["lines"]
    except (AgentRefusedError, HostUnreachableError) as error:
        raise away("this machine") from error


def away(host: str) -> UnavailableError:
    """The refusal while a host's agent is silent."""
    return UnavailableError(f"The agent of {host} doesn't answer. Start it (bin/up), then ask again.")
