"""One dispatcher of several processes: who has the lease, who gets it, and what a late one may still do: nothing."""

import contextlib
import threading
from collections.abc import Callable

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from controlplane import fence, threads
from controlplane.fence import LeaseLostError
from controlplane.fleet.registry import carrier
from controlplane.models import Host, Lease, Setting
from controlplane.services import leases
from controlplane.services.leases import Held
from tests.factories import make_host

pytestmark = pytest.mark.usefixtures("committed")


def taken(holder: str = "one") -> Held:
    """A lease that nobody else has."""
    lease = leases.take("test", holder)
    assert lease is not None
    return lease


def run_out() -> None:
    """Its time is over by the data base's clock, as after a machine has slept; its holder doesn't know."""
    Lease.objects.filter(name="test").update(expires_at=Now())


def test_one_has_it_and_the_other_waits_until_it_is_given_up() -> None:
    lease = taken()
    assert leases.take("test", "two") is None
    assert leases.holder("test") == "one"
    lease.renew()
    lease.release()
    assert leases.holder("test") is None
    assert taken("two").token == lease.token + 1


def test_a_late_holder_can_neither_renew_nor_begin_a_transaction() -> None:
    late = taken()
    run_out()
    taken("two")
    with pytest.raises(LeaseLostError):
        late.renew()
    with fence.behind(late):
        with pytest.raises(LeaseLostError), transaction.atomic():
            Setting.objects.create(key="late", value=1)
        assert connection.get_autocommit()
    assert not Setting.objects.exists()


def test_one_that_ran_out_is_lost_even_where_nobody_took_it() -> None:
    late = taken()
    run_out()
    with pytest.raises(LeaseLostError):
        late.renew()
    with fence.behind(late), pytest.raises(LeaseLostError), transaction.atomic():
        pass


def test_behind_a_lease_that_is_held_all_goes_on() -> None:
    with fence.behind(taken()), transaction.atomic():
        Setting.objects.create(key="in time", value=1)
    assert Setting.objects.filter(key="in time").exists()


def test_whoever_slept_too_long_asks_nothing_and_speaks_to_no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    host, late = make_host(), taken()
    now = leases._clock()
    monkeypatch.setattr(leases, "_clock", lambda: now + leases.LEASE_SECONDS)
    with fence.behind(late):
        with pytest.raises(LeaseLostError):
            Host.objects.update(name="renamed")
        with pytest.raises(LeaseLostError):
            carrier(host)
    assert Host.objects.get().name == host.name


def test_nobody_takes_it_while_its_holder_writes() -> None:
    """The fence is asked inside the transaction, and taking is one too: so one of them comes first, never both."""
    lease, took = taken(), threading.Event()

    def take() -> None:
        assert leases.take("test", "two") is not None
        took.set()

    with fence.behind(lease), transaction.atomic():
        Setting.objects.create(key="mine", value=1)
        run_out()  # in the middle of its transaction
        other = threads.begin("the other", lambda: _outside(take))
        assert not took.wait(0.3), "the other must wait for the end of the transaction"
    assert took.wait(20)
    other.join(20)
    assert Setting.objects.filter(key="mine").exists()


def _outside(work: Callable[[], None]) -> None:
    with fence.behind(None):
        work()


def test_of_many_who_ask_at_once_one_gets_it() -> None:
    found: list[Held | None] = []
    many = [threads.begin(f"asker {n}", lambda n=n: found.append(leases.take("test", f"{n}"))) for n in range(6)]  # type: ignore[misc]
    for each in many:
        each.join(20)
    assert len(found) == 6
    assert len([lease for lease in found if lease]) == 1


def test_a_thread_behind_a_lost_lease_ends_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    late, went_on = taken(), []
    run_out()

    def work() -> None:
        while True:  # a loop that lives through every Exception
            with contextlib.suppress(Exception), transaction.atomic():
                went_on.append(1)

    with fence.behind(late):
        thread = threads.begin("worker", work)
    thread.join(20)
    assert not thread.is_alive()
    assert went_on == []
    assert "Traceback" not in caplog.text
