"""A run with as many points as one likes: `python -m tests.long_run --keys 100 --points 10000 --long 1000000`.

For browser tests and benchmarks; runs in a process of its own on the home that PILOTHOUSE_HOME names, and prints the
run's id. The points are written by the product's own way in. `--runs` makes so many small runs besides, each tenth of
them tagged.
"""

import argparse
import os
import sys
from collections.abc import Iterator

import django

AT_ONCE = 50_000
TAG = "tenth"
BEGIN = 1_790_000_000.0
PREFIXES = ("train", "eval", "system")
LONG_KEY = "long/one million"
ODD_KEY = "odd/<b>loss</b>.with, comma & 'quotes'"


def names(count: int) -> list[str]:
    """The first four as a trainer calls them, the others under prefixes."""
    usual = ["loss", "eval_loss", "learning_rate", "tokens"]
    rest = [f"{PREFIXES[number % 3]}/layer.{number}/norm" for number in range(4, count)]
    return [*usual, *rest][:count]


def main() -> None:
    """Makes the rows and prints the run's id."""
    parser = argparse.ArgumentParser(prog="python -m tests.long_run")
    parser.add_argument("--keys", type=int, default=100)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--long", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    django.setup()

    import numpy as np
    from django.db import transaction

    from controlplane.models import Job, Run, RunTag
    from controlplane.models.jobs import Kind, Status
    from controlplane.services import curves
    from controlplane.services.points import Point
    from tests.factories import make_checkpoint, make_run

    def points(seed: int, count: int) -> Iterator[list[Point]]:
        chance = np.random.default_rng(seed)
        values = 2.0 * np.exp(-np.arange(count) / count * 3) + chance.normal(scale=0.05, size=count)
        steps, times = np.arange(1, count + 1), BEGIN + np.arange(count) * 0.1
        whole = list(zip(steps.tolist(), values.tolist(), times.tolist(), strict=True))
        for start in range(0, count, AT_ONCE):
            yield whole[start : start + AT_ONCE]

    with transaction.atomic():
        run = make_run("a long one", status=Status.DONE)
        for seed, key in enumerate(names(options.keys)):
            for part in points(seed, options.points):
                rising = [(step, step * 512.0, time) for step, _, time in part]
                shown = {"eval_loss": part[99::100], "tokens": rising}
                curves.append(run, key, shown.get(key, part))
        for part in points(1, options.long):
            middle = options.long // 2
            spiked = [(step, 9.0 if step == middle else value, time) for step, value, time in part]
            curves.append(run, LONG_KEY, spiked)
        broken = [(step, float("nan") if step % 50 == 0 else step / 100, BEGIN - step) for step in range(1, 501)]
        curves.append(run, ODD_KEY, broken)
        curves.resumed(run, options.points // 2, BEGIN)
        for step in (options.points // 2, options.points):
            make_checkpoint(run, step)
        Run.objects.filter(pk=run.pk).update(
            last_step=options.points, total_steps=options.points,
            last={metric["key"]: metric["last"] for metric in curves.described(run)},
        )  # fmt: skip
        jobs = Job.objects.bulk_create(
            Job(kind=Kind.TRAIN, status=Status.DONE, title=f"run {number}", created_by="somebody", config={})
            for number in range(options.runs)
        )
        small = Run.objects.bulk_create(
            Run(name=f"run {number}", job=job, dataset=run.dataset, model=run.model, config=run.config,
                last={"loss": number / 1000, "eval_loss": number / 900}, last_step=100, created_by="somebody")
            for number, job in enumerate(jobs)
        )  # fmt: skip
        RunTag.objects.bulk_create(RunTag(run=run, name=TAG) for run in small[::10])
    sys.stdout.write(f"{run.pk}\n")


if __name__ == "__main__":
    main()
