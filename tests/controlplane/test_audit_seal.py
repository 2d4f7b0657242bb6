"""The audit log's seals: what is changed, removed, put in or cut off is found out; and the log as a file."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import Client
from pytest_django import Settings

from controlplane.models import AuditLine
from controlplane.models.access import SYSTEM
from controlplane.services import audit_seal
from controlplane.services.access import audit
from tests import factories
from tests.controlplane.page_reading import whole

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("home")]


def write(count: int = 5) -> None:
    for number in range(count):
        audit(SYSTEM, "thing.do", f"thing {number}", weight=number / 4, words="für 🦊", nothing=None)


def line(number: int) -> AuditLine:
    return AuditLine.objects.get(seal_number=number)


def test_lines_are_sealed_once_and_those_that_come_later_follow() -> None:
    write()
    assert audit_seal.seal_new() == 5
    assert audit_seal.seal_new() == 0
    write(2)
    assert audit_seal.examine() == audit_seal.Finding(sealed=5, waiting=2)
    audit_seal.seal_new()
    assert audit_seal.examine() == audit_seal.Finding(sealed=7, waiting=0)


def test_more_lines_than_are_sealed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_seal, "AT_ONCE", 3)
    write(10)
    assert audit_seal.seal_new() == 10
    assert audit_seal.examine().is_sound


def change_who() -> None:
    AuditLine.objects.filter(seal_number=3).update(actor="nobody")


def change_detail() -> None:
    AuditLine.objects.filter(seal_number=3).update(detail={"weight": 9})


def change_time() -> None:
    AuditLine.objects.filter(seal_number=3).update(time=line(1).time)


def take_another_seal() -> None:
    AuditLine.objects.filter(seal_number=3).update(seal=line(2).seal)


def remove() -> None:
    line(3).delete()


def remove_and_close_up() -> None:
    line(3).delete()
    for number in (4, 5):
        AuditLine.objects.filter(seal_number=number).update(seal_number=number - 1)


@pytest.mark.parametrize(
    "tamper", [change_who, change_detail, change_time, take_another_seal, remove, remove_and_close_up]
)
def test_whoever_tampers_with_a_line_is_found_out(tamper: Callable[[], None]) -> None:
    write()
    audit_seal.seal_new()
    tamper()
    found = audit_seal.examine()
    assert not found.is_sound
    assert found.sealed == 2
    assert "Line 3" in found.fault


def test_lines_cut_off_at_the_end_are_missed(home: Path) -> None:
    write()
    audit_seal.seal_new()
    AuditLine.objects.filter(seal_number__gt=3).delete()
    assert audit_seal.examine().fault == "Lines 4 to 5 were cut off at the end."
    write(2)
    audit_seal.seal_new()
    assert audit_seal.examine().fault == "Line 4 is missing: the next one is line 6."  # the gap stays one
    assert (home / audit_seal.HEAD_FILE).stat().st_mode & 0o777 == 0o600


def test_a_chain_made_anew_with_another_key_is_found_out(settings: Settings) -> None:
    write()
    audit_seal.seal_new()
    settings.SECRET_KEY = "somebody else's"
    AuditLine.objects.update(seal_number=None, seal="")
    audit_seal.seal_new()
    settings.SECRET_KEY = "another again"
    assert not audit_seal.examine().is_sound


def test_the_command_tells_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    write()
    audit_seal.seal_new()
    call_command("audit", "verify")
    assert "5 lines are as they were written" in capsys.readouterr().out
    change_who()
    with pytest.raises(CommandError, match=r"Line 3 .* was changed"):
        call_command("audit", "verify")


def test_the_command_writes_all_lines_and_replaces_nothing(tmp_path: Path) -> None:
    write()
    audit_seal.seal_new()
    file = tmp_path / "audit.ndjson"
    call_command("audit", "export", str(file))
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    assert [told["number"] for told in lines] == [1, 2, 3, 4, 5]
    assert lines[2]["detail"] == {"weight": 0.5, "words": "für 🦊", "nothing": None}
    with pytest.raises(CommandError, match="is there already"):
        call_command("audit", "export", str(file))
    with pytest.raises(CommandError, match="There is no folder"):
        call_command("audit", "export", str(tmp_path / "nowhere" / "audit.ndjson"))
    with pytest.raises(CommandError, match="wants a file"):
        call_command("audit", "export")


@pytest.mark.urls("controlplane.api.urls")
def test_the_api_tells_whether_it_is_whole_and_gives_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("channels.db.close_old_connections", lambda: None)  # they would close the one transaction's
    audit(SYSTEM, "thing.do", "=HYPERLINK(1)")
    audit_seal.seal_new()
    client = Client(headers={"X-API-Key": factories.make_key("admin")})
    assert client.get("/api/audit/verification").json()["is_sound"] is True
    rows = list(csv.DictReader(io.StringIO(whole(client.get("/api/audit/export.csv")).decode())))
    assert rows[0]["target"] == "'=HYPERLINK(1)"
    assert [row["action"] for row in rows][-1] == "audit.export"
    lines = whole(client.get("/api/audit/export.ndjson")).decode().splitlines()
    assert json.loads(lines[0])["target"] == "=HYPERLINK(1)"
    change = AuditLine.objects.order_by("id").first()
    assert change is not None
    AuditLine.objects.filter(pk=change.pk).update(actor="nobody")
    assert "Line 1" in client.get("/api/audit/verification").json()["fault"]


@pytest.mark.urls("controlplane.api.urls")
@pytest.mark.parametrize("path", ["verification", "export.csv", "export.ndjson"])
def test_only_admins_may(path: str) -> None:
    assert Client(headers={"X-API-Key": factories.make_key("use")}).get(f"/api/audit/{path}").status_code == 403


def test_the_page_tells_admins_alone() -> None:
    write()
    audit_seal.seal_new()
    page = Client()
    page.force_login(factories.make_user("admin"))
    assert "5 lines are as they were written" in page.get("/settings/audit/seals").content.decode()
    change_who()
    told = page.get("/settings/audit/seals").content.decode()
    assert "Not whole" in told
    assert "Line 3" in told
    page.force_login(factories.make_user("use"))
    assert page.get("/settings/audit/seals").status_code == 403
