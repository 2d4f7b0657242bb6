"""What the model answered while it was trained: by step on the run's page, gone with the steps that are given up."""

from pathlib import Path

import pytest
from django.utils import timezone

from controlplane.kinds.registry import KINDS
from controlplane.models import Attempt, LiveMessage, Run, Sample
from controlplane.models.jobs import Status
from monitoring import events as ev
from monitoring.events import Event
from tests.controlplane.page_reading import HOSTILE, read
from tests.factories import client_of, make_host, make_run

pytestmark = pytest.mark.django_db


@pytest.fixture
def run(home: Path) -> Run:
    """A run that has answered two prompts at three steps."""
    made = make_run(status=Status.RUNNING)
    for step in (10, 20, 30):
        for prompt in ("Why?", HOSTILE):
            Sample.objects.create(run=made, step=step, prompt=prompt, text=f"Because {step}", time=timezone.now())
    return made


def test_the_newest_step_is_shown_with_its_prompts_side_by_side(run: Run) -> None:
    response = client_of("read").get(f"/runs/{run.pk}/")
    page = read(response)
    groups = page.all("div", class_="sample-group")
    assert [group.get("data-step") for group in groups] == ["10", "20", "30"]
    assert ["hidden" in group.attributes for group in groups] == [True, True, False]
    assert groups[-1].text.count("Because 30") == 2
    assert page.by_id("sample-step").get("type") == "range"
    assert "<script>alert(1)" not in response.content.decode()


def test_a_run_that_goes_back_forgets_what_it_said_after(run: Run) -> None:
    attempt = Attempt.objects.create(job=run.job, number=2, host=make_host())
    told = [
        Event(seq=1, time=1.0, body=ev.Resumed(step=15)),
        Event(seq=2, time=2.0, body=ev.Sample(step=20, prompt="Why?", text="So")),
    ]
    KINDS["train"].on_events(run.job, attempt, told)
    assert list(Sample.objects.order_by("step", "id").values_list("step", "text")) == [
        (10, "Because 10"), (10, "Because 10"), (20, "So"),
    ]  # fmt: skip
    assert LiveMessage.objects.filter(topic_id=f"run:{run.pk}", kind="reset").exists()
