"""The old port: the same API without the prefix /api, for clients whose address can't be changed. Web process.

`manage.py serve --legacy-port` listens on a second port and puts this around the ASGI application.
"""

from typing import Any

from controlplane.api.limits import Application, Receive, Scope, Send

PREFIX = "/api"


class LegacyPort:
    """Puts the prefix before the path of what comes in by `port`; passes everything else on as it is."""

    def __init__(self, application: Application, port: int) -> None:
        self.application = application
        self.port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        server = scope.get("server") or (None, None)
        if scope["type"] == "http" and server[1] == self.port:
            scope = {**scope, **_under_api(scope["path"], scope.get("raw_path"))}
        await self.application(scope, receive, send)


def _under_api(path: str, raw_path: bytes | None) -> dict[str, Any]:
    """The paths as the API knows them; one that has the prefix already (a client half moved) keeps it."""
    if path == PREFIX or path.startswith(f"{PREFIX}/"):
        return {}
    return {"path": PREFIX + path, "raw_path": None if raw_path is None else PREFIX.encode() + raw_path}
