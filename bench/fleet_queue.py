"""The dispatcher with a long queue: `python -m bench.fleet_queue HOSTS GPUS JOBS`, on an empty home. See `bench.fleet`.

Real rows, the dispatcher's own rounds, hosts that take each launch at once; between two rounds everything that runs is
made done, which isn't counted. Times are the process's own, so that others on the machine don't count. Prints one line
of JSON.
"""

import json
import os
import sys
import time
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
django.setup()

from django.core.management import call_command  # noqa: E402
from django.utils import timezone  # noqa: E402

from controlplane import dispatch  # noqa: E402
from controlplane.models import Attempt, Dataset, Host, Job, LanguageModel, Run  # noqa: E402
from controlplane.models.jobs import Status  # noqa: E402
from tests import factories  # noqa: E402
from tests.controlplane.hosts import AbsentHost  # noqa: E402

ROUNDS = 4


def fill(hosts: int, gpus: int, count: int) -> None:
    """So many hosts that answer and runs that wait."""
    for number in range(hosts):
        factories.make_host(f"node-{number:02d}", gpus=gpus)
    first = factories.make_run("the first")
    fields: dict[str, Any] = {"kind": "train", "title": "a run", "created_by": "somebody", "config": {}}
    Job.objects.bulk_create([Job(**fields) for _ in range(count - 1)], batch_size=500)
    dataset, model = Dataset.objects.get(), LanguageModel.objects.get()
    Run.objects.bulk_create(
        [
            Run(name=f"run {job.pk}", job=job, dataset=dataset, model=model, config=first.config, created_by="somebody")
            for job in Job.objects.filter(run=None)
        ],
        batch_size=500,
    )


def round_() -> tuple[int, float]:
    """Attempts begun in one round of the dispatcher, and how long it took."""
    before, began = Attempt.objects.count(), time.process_time()
    dispatch.launch_pending()
    return Attempt.objects.count() - before, time.process_time() - began


def main(hosts: int, gpus: int, count: int) -> None:
    """Measures."""
    call_command("migrate", verbosity=0)
    fill(hosts, gpus, count)
    absent = AbsentHost()
    setattr(dispatch, "carrier", lambda _host: absent)  # noqa: B010 - it stands for machines
    placed, seconds = round_()
    first_ms = 1000 * seconds
    _, idle = round_()
    placed, seconds = 0, 0.0
    for _ in range(ROUNDS):
        Job.objects.filter(status=Status.RUNNING).update(status=Status.DONE)
        Attempt.objects.update(ended_at=timezone.now())
        Host.objects.update(last_seen_at=timezone.now())
        begun, took = round_()
        placed, seconds = placed + begun, seconds + took
    found = {"jobs": count, "placed": placed, "seconds": seconds, "first_ms": first_ms, "idle_ms": 1000 * idle}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:4]))
