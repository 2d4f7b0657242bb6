"""`python -m tests.product_rows MODEL`: a prepared home with people, keys and the tiny model. Prints them as JSON.

Run by `tests.product` in a process of its own, with PILOTHOUSE_HOME set; the agent runs afterwards.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import django


def main(model_folder: Path) -> dict[str, Any]:
    """Passwords, session cookies and keys by role."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    django.setup()
    from django.core.management import call_command

    call_command("prepare", no_starter=True, stdout=sys.stderr)
    from django.db import transaction
    from django.test import Client

    from controlplane.models import LanguageModel, User
    from controlplane.models.access import SYSTEM
    from controlplane.services import access, models
    from tests.factories import PASSWORD, make_user
    from training.fetch.inspect import inspect_model

    if not User.objects.filter(username="use").exists():
        User.objects.filter(username="admin").delete()
        (Path(os.environ["PILOTHOUSE_HOME"]) / access.ONE_TIME_PASSWORD_FILE).unlink(missing_ok=True)
        for role in ("admin", "use", "read"):
            make_user(role, role)
        tiny = LanguageModel.objects.create(name="tiny", source="directory", created_by="admin")
        tiny.folder.parent.mkdir(parents=True, exist_ok=True)
        tiny.folder.symlink_to(model_folder)
        with transaction.atomic():
            models.fetched(str(tiny.uuid), dict(inspect_model(model_folder)))
    cookies = {}
    for user in User.objects.all():
        client = Client()
        client.force_login(user)
        cookies[user.get_username()] = client.cookies["sessionid"].value
    keys = {role: access.create_key(SYSTEM, f"{role} key", role)[1] for role in ("admin", "use", "read")}
    return {"password": PASSWORD, "cookies": cookies, "keys": keys}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]))))
