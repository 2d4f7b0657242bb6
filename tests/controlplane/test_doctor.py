"""The doctor: every finding in its state with its fix, and an answer in time whatever hangs."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import Client

from controlplane.fleet.protocol import AgentRefusedError, HostUnreachableError
from controlplane.services import doctor
from controlplane.services.checks import database, hosts, place, versions
from controlplane.services.checks.finding import Check, Examination, Finding, run
from controlplane.services.health import versions as product_versions
from controlplane.sole import sole_web_process
from tests import factories
from tests.controlplane.page_reading import read
from tests.factories import client_of
from tests.product import CHECKOUT, Product


class FakeAgent:
    """Stands for an agent that answers with a host's facts and reading; a host's row has both."""

    def __init__(self, *, skew_seconds: float = 0.0, fails: Exception | None = None, **facts: Any) -> None:
        row = factories.make_host()
        self.facts = {**row.facts, "agent_version": product_versions()["version"], "agent_pid": os.getpid(), **facts}
        self.reading = row.reading
        self.skew_seconds = skew_seconds
        self.fails = fails

    def describe(self) -> dict[str, Any]:
        if self.fails:
            raise self.fails
        return self.facts

    def poll(self, cursors: list[Any], wait_seconds: float) -> dict[str, Any]:
        return {"now": time.time() + self.skew_seconds, "reading": self.reading, "attempts": [], "live": []}


class Away:
    """Stands for an agent that doesn't answer."""

    def describe(self) -> dict[str, Any]:
        raise HostUnreachableError("The agent of /x doesn't answer: gone.")


def look(agent: Any, *, is_here: bool = False, answers: dict[str, Any] | None = None) -> dict[str, Finding]:
    """What is found about a host, by name without the host's."""
    check = hosts.check(hosts.Patient("tower", agent, is_here, answers or {}))
    return {finding.name.removesuffix(" on tower").removesuffix(" of tower"): finding for finding in check.look()}


def with_card(agent: FakeAgent, **reading: Any) -> FakeAgent:
    """The agent with one GPU more."""
    agent.reading = factories.make_gpu(factories.make_host(reading=agent.reading), **reading).host.reading
    return agent


# --- Agents and hosts -------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_host_without_a_card_is_well() -> None:
    found = look(FakeAgent())
    assert {name: finding.state for name, finding in found.items()} == {
        "agent": "ok", "driver": "warn", "cuda": "ok", "clock": "ok",
    }  # fmt: skip
    assert "ms from the web server's" in found["clock"].found


@pytest.mark.django_db
def test_an_agent_of_another_version_is_told() -> None:
    found = look(FakeAgent(agent_version="0.0.1"))["agent"]
    assert found.state == "warn"
    assert "0.0.1" in found.found
    assert "systemctl restart pilothouse-agent" in found.fix


@pytest.mark.django_db
def test_an_agent_that_is_away_or_refuses() -> None:
    away = look(FakeAgent(fails=HostUnreachableError("The agent of /x doesn't answer: gone.")))["agent"]
    assert (away.state, away.found) == ("fail", "The agent of /x doesn't answer: gone.")
    assert "systemctl start pilothouse-agent" in away.fix
    refusal = AgentRefusedError("bad_call", "It knows no such call.", "Update the agent.")
    refuses = look(FakeAgent(fails=refusal))["agent"]
    assert (refuses.state, refuses.fix) == ("fail", "Update the agent.")


@pytest.mark.django_db
def test_a_driver_that_hangs_since_when() -> None:
    agent = with_card(FakeAgent())
    agent.reading.update(gpu_fault="The NVIDIA driver doesn't answer.", gpu_fault_since=1_800_000_000.0)
    found = look(agent)["driver"]
    assert found.state == "fail"
    assert "since" in found.found
    assert "Xid" in found.fix


@pytest.mark.django_db
def test_cards_are_named_and_a_lost_one_fails() -> None:
    agent = with_card(with_card(FakeAgent()), index=1, fault="GPU 1 is lost.")
    agent.facts["driver_version"] = "550.1"
    agent.reading["gpu_fault"] = None
    found = look(agent)
    assert found["driver"].state == "ok"
    assert "0 NVIDIA GeForce RTX 3090, 1 NVIDIA" in found["driver"].found
    assert (found["GPU 1"].state, found["GPU 1"].found) == ("fail", "GPU 1 is lost.")
    assert "GPU 0" not in found


@pytest.mark.django_db
def test_persistence_mode_that_is_off_is_told() -> None:
    found = look(with_card(FakeAgent(), persistence_mode=False))["GPU 0"]
    assert found.state == "warn"
    assert "nvidia-smi -pm 1" in found.fix


@pytest.mark.django_db
@pytest.mark.parametrize(("skew", "state"), [(0.2, "ok"), (5.0, "warn"), (-5.0, "warn"), (3600.0, "fail")])
def test_a_clock_that_runs_ahead_or_behind(skew: float, state: str) -> None:
    found = look(FakeAgent(skew_seconds=skew))["clock"]
    assert found.state == state
    assert state == "ok" or ("ahead" if skew > 0 else "behind") in found.found


@pytest.mark.django_db
@pytest.mark.parametrize(("synchronized", "state"), [(True, "ok"), (False, "warn"), (None, "warn")])
def test_a_clock_that_nothing_disciplines(synchronized: bool | None, state: str) -> None:
    agent = FakeAgent()
    agent.reading["clock_synchronized"] = synchronized
    assert look(agent)["clock"].state == state


def test_cards_that_the_kernel_sees(tmp_path: Path) -> None:
    for number, (vendor, kind) in enumerate(
        [("0x10de", "0x030000"), ("0x10de", "0x030200"), ("0x10de", "0x040300"), ("0x8086", "0x030000")]
    ):
        device = tmp_path / str(number)
        device.mkdir()
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
    (tmp_path / "without-files").mkdir()
    assert hosts.cards_on_the_bus(tmp_path) == 2


# --- Power rights -----------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_power_rights_of_another_host_are_those_of_the_last_attempt() -> None:
    agent = with_card(FakeAgent(), uuid="GPU-a")
    assert look(agent)["power of GPU 0"].state == "ok"
    refused = {"set": False, "reason": "Setting a power limit needs root.", "fix": "two\nlines"}
    found = look(agent, answers={"GPU-a": refused})["power of GPU 0"]
    assert (found.state, found.found, found.fix) == ("warn", "Setting a power limit needs root.", "two\nlines")
    assert "nvml" in look(agent, answers={"GPU-a": {"set": True, "method": "nvml"}})["power of GPU 0"].found


@pytest.mark.django_db
def test_a_card_without_a_limit_wants_no_rights() -> None:
    found = look(with_card(FakeAgent(), power_limit_min_watts=None), is_here=True)["power of GPU 0"]
    assert (found.state, "no power limit" in found.found) == ("ok", True)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts shell scripts on the PATH, before all else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def add(name: str, script: str) -> None:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return add


def test_sudo_is_asked_for_the_rule_and_nothing_is_set(programs: Callable[[str, str], None], tmp_path: Path) -> None:
    programs("nvidia-smi", f"touch {tmp_path}/was-run")
    programs("sudo", f'printf "%s\\n" "$*" >> {tmp_path}/asked; exit 0')
    assert hosts.may_set("somebody", os.geteuid(), "GPU-a", 280) is None
    assert hosts.may_set("somebody", os.geteuid() + 1, "GPU-a", 280) is None
    own, others = (tmp_path / "asked").read_text().splitlines()
    assert own.startswith("-n -l ")
    assert own.endswith("nvidia-smi -i GPU-a -pl 280")
    assert others.startswith("-n -l -U somebody ")
    assert not (tmp_path / "was-run").exists()


def test_a_rule_that_is_missing_is_told_with_what_sudo_said(programs: Callable[[str, str], None]) -> None:
    programs("nvidia-smi", "exit 0")
    programs("sudo", "echo 'sudo: a password is required' >&2; exit 1")
    assert hosts.may_set("somebody", os.geteuid(), "GPU-a", 280) == "sudo: a password is required"
    programs("sudo", "exit 1")
    assert hosts.may_set("somebody", os.geteuid(), "GPU-a", 280) == "no rule of sudo's allows it"


def test_without_sudo_nobody_may(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hosts.may_set("somebody", 1000, "GPU-a", 280) == "sudo isn't installed"


@pytest.mark.django_db
def test_the_power_rights_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the agent's user: root needs none, of another sudo is asked. An agent that has just ended has no user."""
    monkeypatch.setattr(hosts, "_may_gain_no_rights", lambda: False)
    sentences: list[str | None] = [None, "no rule of sudo's allows it"]
    monkeypatch.setattr(hosts, "may_set", lambda _user, _uid, uuid, watts: sentences.pop(0) if uuid == "GPU-a" else "?")
    agent = with_card(FakeAgent(), uuid="GPU-a")
    with subprocess.Popen(["/bin/sleep", "60"], user=None if os.geteuid() else 65534) as of_another:
        agent.facts["agent_pid"] = of_another.pid
        allowed, refused = (look(agent, is_here=True)["power of GPU 0"] for _ in range(2))
        of_another.kill()
    assert (allowed.state, "asks no password" in allowed.found) == ("ok", True)
    assert (refused.state, "no rule of sudo's allows it" in refused.found) == ("warn", True)
    assert "sudoers file" in refused.fix
    gone = look(agent, is_here=True)["power of GPU 0"]
    assert (gone.state, gone.fix) == ("warn", "Ask again.")
    agent.facts["agent_pid"] = 1
    assert Path("/proc/1").stat().st_uid != 0 or "root" in look(agent, is_here=True)["power of GPU 0"].found


@pytest.mark.parametrize(("script", "state"), [("echo 580.1", "ok"), ("echo No devices >&2; exit 9", "fail")])
def test_the_driver_of_this_machine_where_no_agent_tells(
    programs: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, script: str, state: str
) -> None:
    programs("nvidia-smi", script)
    monkeypatch.setattr(hosts, "cards_on_the_bus", lambda: 1)
    monkeypatch.setattr(hosts, "_may_gain_no_rights", lambda: False)
    found = look(Away(), is_here=True)
    assert (found["agent"].state, found["driver"].state) == ("fail", state)
    assert "driver" not in look(Away(), is_here=False)


def test_a_locked_up_service_judges_no_driver_that_it_can_not_see(
    programs: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs("nvidia-smi", "echo no device here >&2; exit 9")
    monkeypatch.setattr(hosts, "cards_on_the_bus", lambda: 1)
    monkeypatch.setattr(hosts, "_may_gain_no_rights", lambda: True)
    monkeypatch.setattr(hosts, "CONTROL_DEVICE", tmp_path / "nvidiactl")
    assert set(look(Away(), is_here=True)) == {"agent"}
    (tmp_path / "nvidiactl").touch()
    assert look(Away(), is_here=True)["driver"].state == "fail"


# --- Versions ---------------------------------------------------------------------------------------------------------


def test_this_installation_is_as_pyproject_wants_it() -> None:
    found = {finding.name: finding for finding in versions.check().look()}
    assert found["python"].state == "ok"
    assert found["packages"].state == "ok", found["packages"].found


def test_a_package_that_is_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["django>=99", "no-such-package>=1", 'ray>=2; extra == "ray"', "httpx"]
    monkeypatch.setattr(versions, "requires", lambda _name: needs)
    found = versions.check().look()[1]
    assert found.state == "fail"
    assert "no-such-package is missing" in found.found
    assert "wanted >=99" in found.found
    assert "ray" not in found.found
    assert "httpx" not in found.found


@pytest.mark.parametrize(
    ("driver", "built_for", "state"),
    [("12.4", "12.8", "ok"), ("13.0", "12.6", "ok"), ("12.4", "13.0", "fail"), ("12.4", None, "warn"),
     (None, "12.8", "warn")],
)  # fmt: skip
def test_a_driver_that_is_too_old_for_torch(driver: str | None, built_for: str | None, state: str) -> None:
    found = versions.cuda("cuda", driver, ["a card"], built_for)
    assert found.state == state
    assert bool(found.fix) is (state != "ok")


def test_the_cuda_of_torch_is_read_from_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('torch was imported')")
    (package / "version.py").write_text("__version__ = '2.13.0'\ncuda: Optional[str] = '12.8'\nhip = None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: _Spec(package / "__init__.py"))
    assert versions.torch_cuda() == "12.8"
    (package / "version.py").write_text("cuda: Optional[str] = None\n")
    assert versions.torch_cuda() is None


class _Spec:
    def __init__(self, origin: Path) -> None:
        self.origin = str(origin)


# --- Disk and port ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("free", "state"), [(1 << 29, "fail"), (10 << 30, "warn"), (500 << 30, "ok")])
def test_room_on_the_disk(home: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    usage = type("Usage", (), {"free": free, "total": 1000 << 30})
    monkeypatch.setattr("shutil.disk_usage", lambda _home: usage)
    room, writing = place.disk(home).look()
    assert room.state == state
    assert (writing.state, list(home.glob("tmp*/*"))) == ("ok", [])


def test_a_home_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    _, writing = place.disk(tmp_path / "file").look()
    assert writing.state == "fail"
    assert "can't be written" in writing.found


def test_a_free_port(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
    (found,) = place.port(home, "127.0.0.1", number).look()
    assert found.state == "ok"
    assert "free" in found.found


def test_a_port_that_another_program_has(home: Path) -> None:
    with answering("nginx") as number:
        (found,) = place.port(home, "127.0.0.1", number).look()
    assert found.state == "fail"
    assert f"sport = :{number}" in found.fix


def test_a_port_on_which_a_pilothouse_of_another_home_answers(home: Path) -> None:
    with answering("pilothouse") as number:
        (found,) = place.port(home, "127.0.0.1", number).look()
    assert (found.state, "not of this home" in found.found) == ("warn", True)


def test_a_web_server_on_another_port(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            with sole_web_process(home):
                os.write(writer, b"held")
                time.sleep(60)
        finally:
            os._exit(0)
    os.close(writer)  # the child alone has it now: where that stumbles, reading ends
    try:
        assert os.read(reader, 4) == b"held"
        (found,) = place.port(home, "127.0.0.1", number).look()
        assert (found.state, f"pid {child}" in found.found) == ("warn", True)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(reader)


@contextmanager
def answering(server: str) -> Iterator[int]:
    """A web server that calls itself so; the port that it listens on."""

    class Handler(BaseHTTPRequestHandler):
        server_version = server
        sys_version = ""

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"status": "ok"}')

        def version_string(self) -> str:
            return server

        def log_message(self, *_args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        try:
            yield listening.server_port
        finally:
            listening.shutdown()


# --- The data base ----------------------------------------------------------------------------------------------------


@pytest.mark.sqlite
@pytest.mark.django_db
def test_a_data_base_that_is_well() -> None:
    found = {finding.name: finding for finding in database.check().look()}
    assert {finding.state for finding in found.values()} == {"ok"}
    assert set(found) == {"data base tables", "data base journal", "data base integrity"}


@pytest.mark.sqlite
@pytest.mark.django_db
def test_a_data_base_that_is_damaged_or_on_a_slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"journal_mode": "delete", "quick_check(1)": "row 5 missing from index"}
    monkeypatch.setattr(database, "_pragma", said.get)
    found = {finding.name: finding for finding in database.check().look()}
    assert found["data base journal"].state == "warn"
    assert found["data base integrity"].state == "fail"
    assert "backup" in found["data base integrity"].fix


# --- As a whole -------------------------------------------------------------------------------------------------------


def test_a_check_that_hangs_is_left_behind() -> None:
    forever = Event()
    begun = time.monotonic()

    def hangs() -> list[Finding]:
        forever.wait(60)
        return []

    examination = Examination(Check("sick disk", 0.2, hangs))
    (found,) = examination.findings(0.2)
    assert time.monotonic() - begun < 5
    assert (found.name, found.state) == ("sick disk", "fail")
    assert "0.2 s" in found.found
    forever.set()


def test_a_check_that_stumbles_is_a_finding() -> None:
    def stumbles() -> list[Finding]:
        raise RuntimeError("unforeseen")

    (found,) = Examination(Check("x", 5.0, stumbles)).findings(5.0)
    assert (found.state, "unforeseen" in found.found) == ("fail", True)


def test_a_command_that_hangs_or_is_missing() -> None:
    assert run(["sleep", "60"], 0.1) == (None, "sleep doesn't answer within 0.1 s")
    code, said = run(["/no/such/command"])
    assert code is None
    assert "can't be run" in said


def test_the_worst_counts() -> None:
    well, so_so, broken = (Finding("x", state, "") for state in ("ok", "warn", "fail"))
    assert doctor.worst([well, so_so, broken]) == "fail"
    assert doctor.worst([well, so_so]) == "warn"
    assert doctor.worst([well]) == doctor.worst([]) == "ok"


@pytest.fixture
def two_findings(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the doctor finds on a home where something is set up."""
    found = [Finding("disk", "ok", "There is room."), Finding("driver", "fail", "No driver.", "Install <one>.")]
    monkeypatch.setattr(doctor, "_examine", lambda _checks: found)
    (home / "db.sqlite3").touch()


def test_where_nothing_is_set_up_nothing_is_made(tmp_path: Path) -> None:
    environment = {**os.environ, "PILOTHOUSE_HOME": str(tmp_path / "home")}
    environment.pop("DATABASE_URL", None)
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [sys.executable, "manage.py", "doctor"],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"Nothing is set up in {tmp_path}/home" in done.stderr
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.usefixtures("two_findings")
def test_the_command_prints_lines_and_fails(home: Path) -> None:
    out = StringIO()
    with pytest.raises(CommandError, match="1 of 2 checks failed"):
        call_command("doctor", stdout=out)
    assert out.getvalue().splitlines() == [
        "ok    disk    There is room.",
        "FAIL  driver  No driver.",
        "              → Install <one>.",
    ]


@pytest.mark.usefixtures("two_findings")
def test_the_command_prints_json(home: Path) -> None:
    out = StringIO()
    with pytest.raises(CommandError):
        call_command("doctor", "--json", stdout=out)
    document = json.loads(out.getvalue())
    assert document["state"] == "fail"
    assert document["findings"][0] == {"name": "disk", "state": "ok", "found": "There is room.", "fix": ""}


@pytest.mark.django_db
@pytest.mark.usefixtures("two_findings")
def test_the_api_answers_an_admin_alone() -> None:
    answer = factories.make_client("admin").get("/api/doctor").json()
    assert (answer["state"], [finding["name"] for finding in answer["findings"]]) == ("fail", ["disk", "driver"])
    assert factories.make_client("use").get("/api/doctor").status_code == 403
    assert Client().get("/api/doctor").status_code == 401


@pytest.mark.django_db
@pytest.mark.usefixtures("two_findings")
def test_the_page_shows_what_is_broken_first() -> None:
    page = read(client_of("admin").get("/settings/doctor"))
    main = page.by_id("main").text
    assert main.index("No driver.") < main.index("There is room.")
    assert "Install <one>." in main
    assert "Something is broken." in main
    assert client_of("use").get("/settings/doctor").status_code == 403


def test_the_doctor_of_a_product_that_runs(product: Product) -> None:
    """From outside, as an owner types it, and from inside, as a page asks: what is well is found well."""
    port = product.url.rpartition(":")[2]
    found = json.loads(product.manage("doctor", "--json", "--port", port))
    states = {finding["name"].split(" on ")[0]: finding["state"] for finding in found["findings"]}
    assert {states[name] for name in ("data base tables", "data base integrity", "packages", "port", "agent")} == {"ok"}
    with product.client("admin") as client:
        inside = client.get("/api/doctor").json()["findings"]
    names = {finding["name"] for finding in inside}
    assert names == {finding["name"] for finding in found["findings"]} - {"port"}
