"""`python -m tests.browser.compared_runs TAG [odd]`: six runs with curves, as rows alone, all tagged; prints their ids.

Run in a process of its own, with PILOTHOUSE_HOME set. One of them is paused: nothing of them is ever launched.
"""

import json
import math
import os
import sys

import django

RATES = (1e-4, 1e-3, 2e-4, 1e-4, 1e-3, 5e-3)
RANKS = (4, 4, 4, 16, 8, 4)


def main(tag: str, *, odd: bool) -> list[int]:
    """Makes them; `odd`: with names that nothing may stumble over."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    django.setup()
    from django.db import transaction

    from controlplane.models import RunTag
    from controlplane.services import curves
    from tests.controlplane.page_reading import HOSTILE
    from tests.factories import make_dataset, make_model, make_run
    from training.config.loader import parse_config, to_dict

    odd_names = (HOSTILE, "לילה טוב 🌊") if odd else ("a rate between", "rank 16")
    names = ("baseline", "higher rate", *odd_names, "rank 8", "much higher rate")
    turns = [{"role": "user", "content": f"What is {tag}?"}, {"role": "assistant", "content": "A tag."}]
    dataset, model = make_dataset(f"{tag} talk", rows=[{"messages": turns}]), make_model(f"{tag}-model")
    made = []
    with transaction.atomic():
        for place, (name, rate, rank) in enumerate(zip(names, RATES, RANKS, strict=True)):
            config = to_dict(parse_config({"hyperparams": {"learning_rate": rate}, "model": {"lora_r": rank}}))
            worst = 1 + abs(math.log10(rate) + 3.3) - rank / 100
            points = [(step, worst * math.exp(-step / 80) + 0.3, 1.8e9 + 2.0 * step) for step in range(1, 241)]
            last = {"loss": points[-1][1], "eval/rouge.L": 1 / worst, "eval_loss": "NaN" if place == 5 else worst}
            run = make_run(
                name, status="paused" if place == 4 else "done", created_by="use", dataset=dataset, model=model,
                config=config, last=last, last_step=240, total_steps=240, group=tag,
            )  # fmt: skip
            curves.append(run, "loss", points)
            curves.append(run, "eval/rouge.L", [(step, 1 / value, time) for step, value, time in points[::40]])
            RunTag.objects.create(run=run, name=tag)
            made.append(run.pk)
    return made


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], odd="odd" in sys.argv[2:])))
