"""Every address of the product with the role that it needs: the outer wall. Runs in the web process.

Pages and API ask here before a view begins, whatever the request holds. Services ask for the role again by themselves:
whoever finds a hole in one of the walls stands before the other. An address that isn't in the tables is left to the
services alone; `tests/security/test_doors.py` finds it.
"""

import re
from functools import cache

from django.http import HttpRequest

from controlplane.doors import api, pages
from controlplane.models.access import Actor, Role

SAFE = ("GET", "HEAD", "OPTIONS")
PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")


@cache
def looks() -> dict[str, Role]:
    """Pages by the names of their addresses: who may see them."""
    return {name: role for role, names in pages.LOOKS.items() for name in names.split()}


@cache
def writes() -> dict[str, Role]:
    """Pages by the names of their addresses: whose forms they take."""
    return {name: role for role, names in pages.WRITES.items() for name in names.split()}


@cache
def calls() -> dict[str, Role]:
    """Calls of the API ("GET /api/runs"): who may make them."""
    found = {f"GET {path}": role for role, paths in api.LOOKS.items() for path in paths.split()}
    for role, methods in api.WRITES.items():
        for method, paths in methods.items():
            found.update((f"{method} {path}", role) for path in paths.split())
    return found


def require_for_call(actor: Actor, request: HttpRequest) -> None:
    """Raises ForbiddenError where a call of the API needs a larger role."""
    match = request.resolver_match
    if match is None:
        return
    method = "GET" if request.method in SAFE else request.method
    path = PARAMETER.sub(r"{\1}", match.route)
    role = calls().get(f"{method} /{path}")
    if role is not None:
        actor.require(role)


def require_for_page(actor: Actor, name: str, method: str) -> bool:
    """Raises ForbiddenError where a page needs a larger role. False for a form that it doesn't take."""
    role = (looks() if method in SAFE else writes()).get(name)
    if role is not None:
        actor.require(role)
    return role is not None or name not in looks()
