"""The ASGI application: pages and API over HTTP, live news over the websocket. Runs in the web process."""

import os

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
http = get_asgi_application()

from django.urls import path  # noqa: E402 - apps must be loaded before consumers import models

from controlplane.api.direct import DirectChats  # noqa: E402
from controlplane.api.direct_points import DirectPoints  # noqa: E402
from controlplane.api.limits import BodyLimit  # noqa: E402
from controlplane.live.consumers import LiveConsumer  # noqa: E402

sockets = URLRouter([path("ws/live", LiveConsumer.as_asgi())])  # type: ignore[arg-type, list-item] # channels
application = ProtocolTypeRouter(
    {
        "http": BodyLimit(DirectChats(DirectPoints(http))),
        "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(sockets)),
    }
)
