"""Schedules of power profiles: what is due at which moment, who wins, what a press by hand and a clock's jumps do."""

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from controlplane.errors import ForbiddenError, InvalidInputError, NotFoundError
from controlplane.fleet.protocol import HostUnreachableError
from controlplane.models import Alert, AuditLine, Gpu, PowerSchedule
from controlplane.models.access import SYSTEM, Actor, Role
from controlplane.services import power, power_agent, schedules
from tests import factories
from tests.controlplane.hosts import AbsentHost
from tests.controlplane.moments import Clock, heard

pytestmark = [pytest.mark.django_db, pytest.mark.urls("controlplane.api.urls")]
ADDRESS = "/api/settings/power_schedules"
NIGHT = {"profile": "quiet", "begins": "22:00", "until": "07:00"}
MADE = datetime(2026, 11, 1, tzinfo=UTC)
"""A Sunday, weeks before anything happens."""


@pytest.fixture(autouse=True)
def zone(settings: Settings) -> Iterator[None]:
    """Berlin: summer time ends on 25 October 2026 at 3:00 and begins on 28 March 2027 at 2:00."""
    settings.TIME_ZONE = "Europe/Berlin"
    yield


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Wednesday, 18 November 2026, noon."""
    return Clock.install(monkeypatch, local(18, 12))


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> AbsentHost:
    """The agent of every host."""
    absent = AbsentHost()
    monkeypatch.setattr(power_agent, "carrier", lambda _host: absent)
    return absent


def local(day: int, hour: int, minute: int = 0, month: int = 11, year: int = 2026) -> datetime:
    """A moment as the clocks in Berlin show it."""
    return datetime(year, month, day, hour, minute, tzinfo=timezone.get_default_timezone())


def make(gpu: Gpu | None = None, made: datetime = MADE, **values: Any) -> PowerSchedule:
    """A schedule that was made long ago; of one card where one is given."""
    where = {"host": gpu.host.name, "gpu": gpu.index} if gpu else {}
    row = schedules.create(SYSTEM, {**NIGHT, **where, **values})
    PowerSchedule.objects.filter(pk=row.pk).update(effective_from=made)
    return schedules.get(row.pk)


def due(gpu: Gpu, now: datetime) -> tuple[str, datetime] | None:
    """What a card should have at a moment, and since when."""
    found = schedules.verdict(schedules.list_schedules(), gpu, now)
    return (found.profile, found.since.astimezone(UTC)) if found else None


def pass_time(clock: Clock, gpu: Gpu, to: datetime | None = None) -> Gpu:
    """Time passes, the host reports, the duty looks."""
    clock.now = to or clock.now + timedelta(seconds=30)
    heard(gpu)
    schedules.apply_due()
    gpu.refresh_from_db()
    return gpu


# --- What is due ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ((17, 21, 59), ("normal", (17, 7))),
        ((17, 22, 0), ("quiet", (17, 22))),
        ((18, 0, 30), ("quiet", (17, 22))),
        ((18, 6, 59), ("quiet", (17, 22))),
        ((18, 7, 0), ("normal", (18, 7))),
        ((18, 12, 0), ("normal", (18, 7))),
    ],
)
def test_a_window_past_midnight(now: tuple[int, int, int], expected: tuple[str, tuple[int, int]]) -> None:
    gpu = factories.make_gpu()
    make()
    profile, since = expected
    assert due(gpu, local(*now)) == (profile, local(*since).astimezone(UTC))


def test_days_are_those_on_which_it_begins() -> None:
    gpu = factories.make_gpu()
    make(days=[4])  # Fridays
    assert due(gpu, local(21, 3)) == ("quiet", local(20, 22).astimezone(UTC))  # Saturday night
    assert due(gpu, local(22, 3)) == ("normal", local(21, 7).astimezone(UTC))
    assert due(gpu, local(26, 23)) == ("normal", local(21, 7).astimezone(UTC))


def test_before_its_first_edge_a_schedule_asks_for_nothing() -> None:
    gpu = factories.make_gpu()
    make(made=local(18, 12))
    assert due(gpu, local(18, 21)) is None
    assert due(gpu, local(18, 23)) == ("quiet", local(18, 22).astimezone(UTC))


def test_made_inside_its_window_it_holds_at_once() -> None:
    gpu = factories.make_gpu()
    make(made=local(18, 23))
    assert due(gpu, local(18, 23, 1)) == ("quiet", local(18, 23).astimezone(UTC))


def test_of_overlapping_ones_the_narrower_wins_then_the_later() -> None:
    host = factories.make_host("a")
    one, other = factories.make_gpu(host, 0), factories.make_gpu(host, 1)
    elsewhere = factories.make_gpu(factories.make_host("b"))
    make(one, profile="max", begins="20:00", until="23:00")
    make(host="a", profile="normal", begins="21:00", until="06:00", profile_after="max")
    make()
    make(host="b", begins="22:00", until="23:00", profile="normal")
    make(host="b", begins="22:00", until="23:00", profile="max")
    assert [due(gpu, local(18, 22, 30)) for gpu in (one, other, elsewhere)] == [
        ("max", local(18, 20).astimezone(UTC)),
        ("normal", local(18, 21).astimezone(UTC)),
        ("max", local(18, 22).astimezone(UTC)),
    ]
    assert due(one, local(18, 23, 30)) == ("normal", local(18, 23).astimezone(UTC)), "the host's is still open"
    assert due(one, local(19, 6, 30)) == ("quiet", local(19, 6).astimezone(UTC)), "the general one is still open"
    assert due(one, local(19, 7)) == ("normal", local(19, 7).astimezone(UTC))


def test_the_edges_of_a_loser_are_no_edges() -> None:
    gpu = factories.make_gpu()
    make(gpu, profile="max", begins="20:00", until="23:00")
    make(begins="21:00", until="22:00")
    assert due(gpu, local(18, 22, 30)) == ("max", local(18, 20).astimezone(UTC))


def test_a_time_that_summer_time_skips_is_the_moment_of_the_change() -> None:
    gpu = factories.make_gpu()
    make(begins="02:30", until="05:00", made=local(1, 0, month=3, year=2027))
    change = datetime(2027, 3, 28, 1, tzinfo=UTC)  # 2:00 becomes 3:00
    assert due(gpu, change - timedelta(seconds=1)) == ("normal", datetime(2027, 3, 27, 4, tzinfo=UTC))
    assert due(gpu, change) == ("quiet", change)
    assert due(gpu, datetime(2027, 3, 28, 3, tzinfo=UTC)) == ("normal", datetime(2027, 3, 28, 3, tzinfo=UTC))


def test_the_hour_that_comes_twice_is_one_window() -> None:
    gpu = factories.make_gpu()
    make(begins="01:00", until="02:30", made=local(1, 0, month=10))
    assert due(gpu, datetime(2026, 10, 25, 0, 29, tzinfo=UTC)) == ("quiet", datetime(2026, 10, 24, 23, tzinfo=UTC))
    for minute in (31, 59):  # the clocks show 2:31 and 2:59, then 2:31 again
        assert due(gpu, datetime(2026, 10, 25, 0, minute, tzinfo=UTC)) == (
            "normal", datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
        )  # fmt: skip
    assert due(gpu, datetime(2026, 10, 25, 1, 20, tzinfo=UTC)) == ("normal", datetime(2026, 10, 25, 0, 30, tzinfo=UTC))


# --- Carrying it out --------------------------------------------------------------------------------------------------


def test_a_card_is_set_when_a_window_begins_and_when_it_ends(agent: AbsentHost, clock: Clock) -> None:
    gpu = factories.make_gpu()
    row = make(profile_after="max", made=local(18, 12))
    assert pass_time(clock, gpu, local(18, 21, 59)).power_profile == ""
    gpu = pass_time(clock, gpu, local(18, 22, 0))
    assert (gpu.power_profile, gpu.reading["power_limit_watts"]) == ("quiet", 220)
    assert AuditLine.objects.get(action="power.set").actor == f"schedule {row.pk}"
    row.refresh_from_db()
    assert row.applied_since == local(18, 22)
    for _ in range(5):
        pass_time(clock, gpu)
    assert agent.card(gpu.uuid).asked == [220], "once an edge"
    gpu = pass_time(clock, gpu, local(19, 7, 0))
    assert (gpu.power_profile, agent.card(gpu.uuid).asked) == ("max", [220, 350])
    row.refresh_from_db()
    assert row.applied_since is None


def test_a_press_by_hand_stays_until_the_next_edge(agent: AbsentHost, clock: Clock) -> None:
    gpu = factories.make_gpu()
    make(made=local(18, 12))
    pass_time(clock, gpu, local(18, 22))
    clock.forward(600)
    power.request(SYSTEM, "max")
    assert pass_time(clock, gpu, local(19, 6, 59)).power_profile == "max"
    assert pass_time(clock, gpu, local(19, 7)).power_profile == "normal"


def test_edges_missed_while_the_server_was_down_are_caught_up(agent: AbsentHost, clock: Clock) -> None:
    gpu = factories.make_gpu()
    make(made=local(18, 12))
    pass_time(clock, gpu, local(18, 22))
    assert pass_time(clock, gpu, local(20, 12)).power_profile == "normal", "the last edge alone counts"
    assert agent.card(gpu.uuid).asked == [220, 280]


def test_a_host_that_is_away_at_the_edge_gets_it_when_it_is_back(agent: AbsentHost, clock: Clock) -> None:
    gpu = factories.make_gpu()
    make(made=local(18, 12))
    clock.now = local(18, 22)
    schedules.apply_due()
    assert agent.cards == {}
    assert pass_time(clock, gpu, local(18, 23)).power_profile == "quiet"


def test_a_refusal_is_told_and_tried_again_later(agent: AbsentHost, clock: Clock) -> None:
    gpu = factories.make_gpu(factories.make_host("tower"))
    card = agent.card(gpu.uuid)
    card.refuse = "Insufficient permissions."
    make(made=local(18, 12))
    pass_time(clock, gpu, local(18, 22))
    for _ in range(19):
        pass_time(clock, gpu)
    assert card.asked == [220]
    alert = Alert.objects.get(rule="power_schedule")
    assert "can't set quiet on GPU 0 on tower: Insufficient permissions." in alert.message
    card.refuse = None
    pass_time(clock, gpu)
    assert (card.asked, pass_time(clock, gpu).power_profile) == ([220, 220], "quiet")
    alert.refresh_from_db()
    assert alert.ended_at is not None


def test_a_press_that_was_refused_is_no_press(agent: AbsentHost, clock: Clock) -> None:
    gpu = factories.make_gpu(factories.make_host("tower"))
    card = agent.card(gpu.uuid)
    make(made=local(18, 12))
    clock.now = local(18, 22, 5)  # the host was away until now
    card.refuse = HostUnreachableError("connection refused")
    power.request(SYSTEM, "max")
    card.refuse = None
    assert pass_time(clock, gpu).power_profile == "quiet"


def test_a_refused_press_takes_nothing_from_the_one_before(agent: AbsentHost, clock: Clock) -> None:
    gpu = factories.make_gpu(factories.make_host("tower"))
    card = agent.card(gpu.uuid)
    make(made=local(18, 12))
    pass_time(clock, gpu, local(18, 22))
    clock.forward(600)
    power.request(SYSTEM, "max")
    clock.forward(600)
    card.refuse = "Not now."
    power.request(SYSTEM, "normal")
    card.refuse = None
    assert pass_time(clock, gpu, local(19, 6)).power_profile == "max"
    assert pass_time(clock, gpu, local(19, 7)).power_profile == "normal"


def test_a_press_while_another_card_is_being_set_stays(agent: AbsentHost, clock: Clock) -> None:
    host = factories.make_host("tower")
    one, other = factories.make_gpu(host, 0), factories.make_gpu(host, 1)
    make(made=local(18, 12))
    clock.now = local(18, 22)
    for row in (one, other):
        heard(row)

    def press_meanwhile() -> None:
        agent.card(one.uuid).before_answer = None
        clock.forward(90)  # sudo and a slow driver
        power.request(SYSTEM, "max", host="tower", gpu=1)

    agent.card(one.uuid).before_answer = press_meanwhile
    schedules.apply_due()
    other.refresh_from_db()
    assert (agent.card(one.uuid).asked, agent.card(other.uuid).asked) == ([220], [350])
    assert other.power_profile == "max"


def test_a_clock_that_ran_ahead_and_was_put_right_blocks_nothing(agent: AbsentHost, clock: Clock) -> None:
    gpu = factories.make_gpu()
    make(made=local(18, 12))
    clock.now = local(18, 12, year=2030)
    power.request(SYSTEM, "max")
    assert pass_time(clock, gpu, local(18, 22)).power_profile == "quiet"
    pass_time(clock, gpu)
    assert agent.card(gpu.uuid).asked == [350, 220]


def test_one_that_is_switched_off_does_nothing(agent: AbsentHost, clock: Clock) -> None:
    gpu = factories.make_gpu()
    row = make(made=local(18, 12), is_enabled=False)
    pass_time(clock, gpu, local(18, 23))
    assert agent.cards == {}
    assert schedules.next_edge(row) is None
    schedules.update(SYSTEM, row.pk, {"is_enabled": True})
    assert pass_time(clock, gpu).power_profile == "quiet", "switched on inside its window it holds at once"


# --- Making and changing them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "path", "words"),
    [
        ({"profile": "loud"}, "profile", "choose quiet, normal or max"),
        ({"profile_after": "loud"}, "profile_after", "choose quiet, normal or max"),
        ({"begins": "25:00"}, "begins", "no time of day"),
        ({"until": "soon"}, "until", "no time of day"),
        ({"until": "22:00"}, "until", "no time at all"),
        ({"days": []}, "days", "at least one weekday"),
        ({"days": [7]}, "days", "at least one weekday"),
        ({"days": ["x"]}, "days", "no weekdays"),
        ({"gpu": 0}, "host", "on which host"),
    ],
)
def test_bad_values_are_refused_by_name(values: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words) as caught:
        schedules.create(SYSTEM, {**NIGHT, **values})
    assert [fault.path for fault in caught.value.faults] == [path]
    assert PowerSchedule.objects.count() == 0


def test_places_that_are_not_there_are_refused() -> None:
    factories.make_host("a", gpus=1)
    for where in ({"host": "b"}, {"host": "a", "gpu": 3}, {"host": "b", "gpu": 0}):
        with pytest.raises(NotFoundError, match="There is no"):
            schedules.create(SYSTEM, {**NIGHT, **where})


def test_who_may_not_rule_may_not_schedule() -> None:
    user = Actor(name="u", role=Role.USE)
    row = make()
    for call in (
        lambda: schedules.create(user, NIGHT),
        lambda: schedules.update(user, row.pk, {"is_enabled": False}),
        lambda: schedules.delete(user, row.pk),
    ):
        with pytest.raises(ForbiddenError):
            call()


def test_a_schedule_in_words() -> None:
    gpu = factories.make_gpu(factories.make_host("tower"))
    assert schedules.describe(make()) == "quiet 22:00 to 07:00, every day, every GPU"
    assert schedules.describe(make(host="tower", days=range(5))) == (
        "quiet 22:00 to 07:00, Mon to Fri, every GPU of tower"
    )
    assert schedules.describe(make(gpu, days=[2, 0])) == "quiet 22:00 to 07:00, Mon, Wed, GPU 0 on tower"


def test_the_api_makes_changes_and_forgets_schedules(clock: Clock) -> None:
    factories.make_host("tower", gpus=1)
    admin = factories.make_client("admin", "ops")
    made = admin.post(ADDRESS, {**NIGHT, "host": "tower", "gpu": 0, "days": [0, 1]}, content_type="application/json")
    assert made.status_code == 201, made.content
    row = made.json()
    assert (row["host"], row["gpu"], row["begins"], row["until"]) == ("tower", 0, "22:00", "07:00")
    assert (row["in_force"], row["is_enabled"], row["profile_after"]) == (False, True, "normal")
    assert datetime.fromisoformat(row["next_change_at"]) == local(23, 22)
    assert (row["created_by"], row["days"]) == ("key ops", [0, 1])
    one = f"{ADDRESS}/{row['id']}"
    changed = admin.patch(one, {"begins": "11:00", "days": [2], "host": None, "gpu": None},
                          content_type="application/json").json()  # fmt: skip
    assert (changed["begins"], changed["host"], changed["in_force"], changed["profile"]) == (
        "11:00", None, True, "quiet"
    )  # fmt: skip
    assert PowerSchedule.objects.get().begins == time(11)
    answer = factories.make_client("read").get(ADDRESS).json()
    assert (answer["time_zone"], [item["id"] for item in answer["schedules"]]) == ("Europe/Berlin", [row["id"]])
    assert admin.get(one).json() == changed
    assert admin.delete(one).status_code == 204
    assert admin.get(one).status_code == 404
    assert [line.action for line in AuditLine.objects.filter(action__startswith="power_schedule")] == [
        "power_schedule.delete", "power_schedule.update", "power_schedule.create"
    ]  # fmt: skip


def test_the_api_names_what_is_wrong(client: Client) -> None:
    admin = factories.make_client("admin")
    refused = admin.post(ADDRESS, {**NIGHT, "until": "22:00"}, content_type="application/json")
    assert (refused.status_code, refused.json()["faults"][0]["path"]) == (422, "until")
    assert admin.patch(f"{ADDRESS}/99", {"is_enabled": False}, content_type="application/json").status_code == 404
    assert factories.make_client("use").post(ADDRESS, NIGHT, content_type="application/json").status_code == 403
    assert client.get(ADDRESS).status_code == 401
