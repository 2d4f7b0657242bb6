"""What every page's frame shows: navigation, counts, role. Runs in the web process.

Counts are asked of the data base only when a template shows them, so fragments pay nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils.functional import SimpleLazyObject

from controlplane.models import Dataset, Host, Job, Run
from controlplane.models.access import Role
from controlplane.models.jobs import Kind, Status
from controlplane.services import alerts, models


@dataclass(frozen=True)
class Place:
    """One line of the navigation. `count` None: nothing worth a number."""

    name: str
    url: str
    icon: str
    is_current: bool
    count: int | None

    @property
    def key(self) -> str:
        """The key that leads there after g."""
        return self.name[0].lower()


def _open_jobs() -> int:
    return Job.objects.filter(status__in=(Status.PENDING, Status.RUNNING)).exclude(kind=Kind.SERVE).count()


PLACES: tuple[tuple[str, str, Callable[[], int] | None], ...] = (
    ("Bridge", "bridge", None),
    ("Runs", "runs", lambda: Run.objects.filter(job__status=Status.RUNNING).count()),
    ("Models", "models", models.count),
    ("Datasets", "datasets", Dataset.objects.count),
    ("Chat", "chat", None),
    ("Queue", "queue", _open_jobs),
    ("Evaluate", "evaluations", None),
    ("Hosts", "hosts", Host.objects.count),
    ("Alerts", "alerts", alerts.unseen_count),
    ("Settings", "settings", None),
)

UNDER = {"hosts": ("/power/",)}
"""Addresses of pages that belong to a place without lying under it."""


MORE_PLACES: tuple[tuple[str, str, str, Role], ...] = (
    ("New run", "run-new", "start training", Role.USE),
    ("Upload dataset", "dataset-upload", "add", Role.USE),
    ("Add a model", "model-add", "add", Role.USE),
    ("New evaluation", "evaluation-new", "ask a model", Role.USE),
    ("Generate data", "generation-new", "by a model", Role.USE),
    ("New sweep", "run-sweep-new", "start training", Role.USE),
    ("Power and heat", "power", "hosts", Role.READ),
    ("Sweeps", "run-sweeps", "runs", Role.READ),
    ("Run templates", "run-templates", "runs", Role.READ),
    ("Inbox", "inbox", "queue", Role.READ),
    ("Conversations", "conversations", "chat", Role.READ),
    ("Usage", "usage", "models", Role.ADMIN),
    ("API keys", "settings-keys", "settings", Role.ADMIN),
    ("People", "settings-people", "settings", Role.ADMIN),
    ("Doctor", "settings-doctor", "settings", Role.ADMIN),
    ("Values", "settings-values", "settings", Role.READ),
    ("Storage", "settings-storage", "settings", Role.READ),
    ("Wall", "wall", "a screen in the corner", Role.READ),
    ("API docs", "api-docs", "scripts", Role.READ),
    ("Design", "styleguide", "these pages", Role.READ),
)
"""What the command palette offers beside the navigation: name, view, where it belongs, the role that it needs."""

THEMES = (("system", "Auto"), ("light", "Day"), ("dark", "Night"))


def places(path: str) -> list[Place]:
    """The navigation as seen from `path`."""
    found = []
    for name, view, count in PLACES:
        url = reverse(view)
        is_current = path == url if url == "/" else path.startswith((url, *UNDER.get(view, ())))
        found.append(Place(name, url, view, is_current, count() if count else None))
    return found


def navigation(request: HttpRequest) -> dict[str, Any]:
    """The context processor."""
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return {}
    role = user.actor().role
    return {
        "places": SimpleLazyObject(lambda: places(request.path)),
        "role": role.word,
        "may_use": role >= Role.USE,
        "may_admin": role >= Role.ADMIN,
        "more_places": [(name, view, what) for name, view, what, least in MORE_PLACES if role >= least],
        "themes": THEMES,
        "host_count": SimpleLazyObject(Host.objects.count),
    }
