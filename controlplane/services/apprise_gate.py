"""The one gate to Apprise. Runs in a process of its own: `python -m controlplane.services.apprise_gate`.

Apprise with its plug-ins takes a second and 30 MB to import, and a plug-in that hangs in a thread can't be ended. So
the web process never imports it: it starts this module (`services.sending`), writes one JSON object to its standard
input (an address holds secrets, which have no place among arguments) and reads one from its output.

    {"do": "describe", "url"}                                    -> {"service", "masked_url"} or {"refused"}
    {"do": "send", "url", "title", "body", "kind", "deadline"}   -> {"error": ""} when it was taken, else why not

Standard library and Apprise alone: neither Django nor anything of ours. What it says never holds a secret of the URL.
"""

import json
import logging
import os
import re
import signal
import sys
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

LOCAL_SERVICES = {
    "syslog": "it writes to the server's own log", "dbus": "it talks to the server's desktop",
    "qt": "it talks to the server's desktop", "kde": "it talks to the server's desktop",
    "glib": "it talks to the server's desktop", "gio": "it talks to the server's desktop",
    "gnome": "it talks to the server's desktop", "windows": "it talks to the server's desktop",
    "macosx": "it runs a program on the server", "blink1": "it drives a USB device of the server",
    "vapid": "it reads keys and subscriptions from the server's files", "file": "it names a file of the server",
}  # fmt: skip
"""Schemes that stay on this machine. All others reach it by the network alone: that is what a route is for."""

FILE_PARAMETERS = frozenset(
    {"template", "keyfile", "subfile", "pgpkey", "pgp_key", "pemkey", "pem_key", "key_file", "attach", "config"}
)
"""Query parameters by which plug-ins read a file of the server's and send what is in it."""

GENERIC_SCHEMES = frozenset({"json", "jsons", "xml", "xmls", "form", "forms", "apprise", "apprises"})
"""Plain web hooks, whose path is often the secret itself; Apprise shows it, we don't."""

NTFY_SCHEMES = frozenset({"ntfy", "ntfys"})
"""Of ntfy://SERVER/TOPIC the topic is the secret; ntfy://TOPIC is one of the public server's."""

MIN_SECRET_CHARACTERS = 4
MAX_ERROR_CHARACTERS = 400
SPARE_SECONDS = 3
HIDDEN = "****"
UNKNOWN = "unknown service"


def refusal(url: str) -> str:
    """Why an address can't be a route, before Apprise is asked; empty where nothing speaks against it."""
    scheme, separator, _ = url.partition("://")
    scheme = scheme.strip().lower()
    if not separator or not re.fullmatch(r"[a-z0-9]+", scheme):
        return "An address begins with a service, as in ntfy://HOST/TOPIC, mailto://… or json://HOST/PATH."
    if scheme in ("http", "https"):
        return "Name the service: json:// or jsons:// for a plain web hook, or that of the messenger it belongs to."
    if scheme in LOCAL_SERVICES:
        return f"{scheme}:// can't be a route: {LOCAL_SERVICES[scheme]}. Choose one that is reached by the network."
    named = {key.lower() for key, _value in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    if named & FILE_PARAMETERS:
        word = sorted(named & FILE_PARAMETERS)[0]
        return f"The parameter {word!r} reads a file of the server, which no route may. Leave it out."
    return ""


def scrub(text: str, url: str) -> str:
    """`text` with every part of the address that may be a secret hidden: all but its service and host."""
    parts = urlsplit(url)
    _, _, host = parts.netloc.rpartition("@")
    pieces = {parts.username or "", parts.password or "", *parts.path.split("/")}
    pieces |= {value for _key, value in parse_qsl(parts.query)}
    if parts.scheme in NTFY_SCHEMES:
        hides_host = not _has_ntfy_server(parts)
    else:
        hides_host = parts.scheme not in GENERIC_SCHEMES | {"mailto", "mailtos"}
    if hides_host:
        pieces.add(host)  # slack://TOKEN/…, ntfy://TOPIC: what stands where a host would is a secret
    secrets = {form for piece in pieces for form in (piece, unquote(piece)) if len(form) >= MIN_SECRET_CHARACTERS}
    for secret in sorted(secrets, key=len, reverse=True):
        text = re.sub(re.escape(secret), HIDDEN, text, flags=re.IGNORECASE)  # a host's letters get small on the way
    return text


def _has_ntfy_server(parts: SplitResult) -> bool:
    """Whether an address of ntfy names a server, as Apprise reads it; else all of it are topics of ntfy.sh."""
    modes = [value.strip().lower() for key, value in parse_qsl(parts.query) if key.lower() == "mode"]
    if modes:
        return modes[-1] == "private"
    is_name = re.fullmatch(r"[a-z0-9][a-z0-9._:-]*", parts.netloc.rpartition("@")[2], re.IGNORECASE) is not None
    return is_name and bool(parts.path.strip("/"))


def mask(url: str, private: str) -> str:
    """Apprise's own masked form without its parameters; no path either where that alone opens the door: of a plain web
    hook, and of ntfy, whose topics are as good as passwords and stand in the host's place without a server."""
    shown, _, said = private.partition("?")
    scheme = url.partition("://")[0].strip().lower()
    if scheme not in GENERIC_SCHEMES | NTFY_SCHEMES:
        return shown.rstrip("/")
    head, _, rest = shown.partition("://")
    if scheme in NTFY_SCHEMES and dict(parse_qsl(said)).get("mode") != "private":
        return f"{head}://{HIDDEN}"
    host, slash, path = rest.partition("/")
    return f"{head}://{host}" + (f"/{HIDDEN}" if slash and path else "")


def describe(url: str) -> dict[str, str]:
    """Which service an address belongs to and how it may be shown, or why it is refused."""
    reason = refusal(url)
    if reason:
        return {"refused": reason}
    service, said = _service(url)
    if said == UNKNOWN:
        return {"refused": f"Apprise knows no service called {urlsplit(url).scheme}://."}
    if service is None:
        return {"refused": "Apprise can't use this address: " + (scrub(said, url) or "something in it is missing.")}
    return {"service": str(service.service_name), "masked_url": mask(url, service.url(privacy=True))}


def send(url: str, title: str, body: str, kind: str, deadline: float) -> dict[str, str]:
    """Sends one message. `kind`: info, success, warning or failure. Returns {"error"}, empty when it was taken.

    It is said to be plain text: Apprise takes what doesn't say for the service's own format, and alerts quote names
    that anybody may choose. Where a service knows no plain text, Apprise escapes it.
    """
    from apprise import Apprise, NotifyFormat

    described = describe(url)
    if "refused" in described:
        return {"error": described["refused"]}
    service, _ = _service(url)
    sender = Apprise(asset=service.asset)
    sender.add(service)
    result = sender.notify(
        body=body, title=title, notify_type=kind, body_format=NotifyFormat.TEXT, timeout=deadline,
        log_level=logging.WARNING,
    )  # fmt: skip
    if result:
        return {"error": ""}
    said = [entry.message for entry in result.logs() if entry.level != "INFO"]
    return {"error": scrub(" ".join(said) or "The service did not take the message.", url)[:MAX_ERROR_CHARACTERS]}


def _service(url: str) -> tuple[Any, str]:
    """The plug-in's object for an address, or None and what Apprise said."""
    from apprise import Apprise, AppriseAsset, AppriseAttachment
    from apprise.manager_plugins import NotificationManager

    known = NotificationManager()
    if urlsplit(url).scheme not in known:
        return None, UNKNOWN
    known.disable(*LOCAL_SERVICES)
    # Whatever a parameter calls it, a plug-in opens a file as an attachment: there are none here.
    AppriseAttachment.instantiate = staticmethod(lambda *_names, **_options: None)
    asset = AppriseAsset(
        app_id="Pilothouse", app_desc="Pilothouse", app_url="", image_path_mask=False, storage_mode="memory",
        allow_templates=False, http_redirects=False, async_mode=False, pgp_autogen=False, pem_autogen=False,
    )  # fmt: skip
    heard = _Heard()
    logging.getLogger("apprise").addHandler(heard)
    service = Apprise.instantiate(url, asset=asset)
    logging.getLogger("apprise").removeHandler(heard)
    return service, " ".join(heard.lines)


class _Heard(logging.Handler):
    """What Apprise logs, as lines."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the line."""
        self.lines.append(record.getMessage())


def main() -> None:
    """Reads what to do, does it, says what became of it. Ends by SIGALRM where a plug-in hangs."""
    asked = json.load(sys.stdin)
    logging.getLogger("apprise").propagate = False
    if asked["do"] == "send":
        signal.alarm(int(asked["deadline"]) + SPARE_SECONDS)
        answer = send(asked["url"], asked["title"], asked["body"], asked["kind"], asked["deadline"])
    else:
        answer = describe(asked["url"])
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # a plug-in's thread that hangs still is not waited for


if __name__ == "__main__":
    main()
