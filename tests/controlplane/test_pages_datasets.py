"""Pages of datasets: checks and what they found, generators."""

import pytest
from django.test import Client

from controlplane.services import dataset_checks
from tests import factories
from tests.controlplane.test_datasets import REPORT

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]

DEEP = {
    "rows": 3, "compared_rows": 2, "checked_at": "2026-11-25T02:00:00+00:00",
    "leaks": {"count": 1, "rows": [{"row": 2, "message": "An answer stands in its own question."}]},
    "near_duplicates": {"count": 0, "rows": []},
    "evaluation": {"count": None, "rows": [], "expected_in_split": 4, "eval_fraction": 0.05},
    "profile": {"name": "plain", "count": 0, "rows": [], "codes": {}},
}  # fmt: skip


def test_the_page_asks_for_a_check_and_shows_what_it_found(client: Client) -> None:
    lengths = {"fence_characters": 900, "median_characters": 80, "count": 1, "rows": [{"line": 7, "characters": 9000}]}
    roles = {"roles": {"user": 3, "assistant": 3}, "role_characters": {"user": 30, "assistant": 90}}
    dataset = factories.make_dataset("chats", report={**REPORT, **roles, "length_outliers": lengths, "deep": DEEP})
    client.force_login(factories.make_user("use"))
    text = " ".join(client.get(f"/datasets/{dataset.pk}/").content.decode().split())
    assert "assistant 75 %" in text
    assert "1 row of more than 900 characters" in text
    assert "An answer stands in its own question." in text
    assert "about 4 compared rows will have a near double" in text
    path = f"/datasets/{dataset.pk}/validate"
    client.post(path, {"level": "quick", "profile": "plain", "eval_dataset": ""})  # what deep alone wants is left out
    dataset.refresh_from_db()
    assert dataset.job is not None
    assert dataset.job.config == {"dataset": dataset.pk, "level": "quick"}
    assert "is being checked by job" in client.post(path, {"level": "deep"}, follow=True).content.decode()
    reader = factories.make_user("read")
    client.force_login(reader)
    assert client.post(path, {"level": "quick"}).status_code == 403


def test_a_finding_leads_to_its_row(client: Client) -> None:
    dataset = factories.make_dataset(rows=factories.chat_rows(30))
    client.force_login(factories.make_user("read"))
    assert "row 17<" in client.get(f"/datasets/{dataset.pk}/?row=17").content.decode()


def test_generators_are_listed_the_worst_first(client: Client) -> None:
    for generator, accepted, faulty in (("careful", 100, 0), ("sloppy", 80, 20)):
        dataset = factories.make_dataset(generator=generator, status="validating")
        report = {"fault_codes": {"bad_json": faulty} if faulty else {}}
        values = {"status": "ready", "examples": accepted, "reason": "", "report": report, "faulty": faulty}
        dataset_checks.finished(dataset.pk, values)
    factories.make_dataset("unsaid")
    client.force_login(factories.make_user("read"))
    text = client.get("/datasets/generators").content.decode()
    assert text.index("sloppy") < text.index("careful") < text.index("not named")
    assert "20.00 %" in text
    assert "bad_json" in text


def test_a_long_text_is_cut_in_the_preview(client: Client) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "x" * 5000}]
    dataset = factories.make_dataset(rows=[{"messages": turns}, {"text": "y" * 5000}])
    client.force_login(factories.make_user("read"))
    text = client.get(f"/datasets/{dataset.pk}/preview").content.decode()
    assert (text.count("x" * 1500), text.count("x" * 1501), text.count("y" * 1501)) == (1, 0, 0)
    assert text.count("3,500 characters more") == 2
