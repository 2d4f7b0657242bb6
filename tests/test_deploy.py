"""deploy/setup-host on a scratch tree, twice and dry; what it installs, judged by systemd, visudo and sudo."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
DEPLOY = CHECKOUT / "deploy"
STAND_IN = CHECKOUT / "tests" / "fakes" / "service_host" / "stand_in"
STANDS_FOR = ("systemctl", "systemd-detect-virt", "timedatectl", "nvidia-smi", "useradd", "usermod")
EVERYWHERE = "0.0.0.0"  # noqa: S104 - nothing listens there
UUID = "GPU-0123abcd-4567-89ab-cdef-0123456789ab"
USER_OPTIONS = (
    "--system --user-group --comment Pilothouse (setup-host) --home-dir /var/lib/pilothouse --no-create-home "
    "--shell /usr/sbin/nologin"
)
UNITS = ("pilothouse-agent", "pilothouse-web", "pilothouse-dispatcher")


def path_of(program: str) -> str | None:
    """Where a program is, the administrator's folders too."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")


def needs(program: str) -> pytest.MarkDecorator:
    """Skips where a program is not installed."""
    return pytest.mark.skipif(path_of(program) is None, reason=f"{program} is not installed")


class Machine:
    """A tree to install into, with stand-ins for what changes a machine. `programs`: a folder of what all have."""

    def __init__(self, folder: Path, port: int, programs: Path) -> None:
        self.folder, self.port = folder, port
        self.tree, self.state, bin_folder = folder / "tree", folder / "state", folder / "bin"
        for place in (self.tree / "etc", self.state, bin_folder):
            place.mkdir(parents=True)
        (self.tree / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
        (self.tree / "etc" / "group").write_text("root:x:0:\nvideo:x:44:\n")
        (self.state / "gpus").write_text("550.54, NVIDIA A100\n550.54, NVIDIA A100\n")
        for name in STANDS_FOR:
            (bin_folder / name).symlink_to(STAND_IN)
        self.smi = bin_folder / "nvidia-smi"
        path = f"{bin_folder}:{programs}"
        self.environment = {"PATH": path, "FAKE_HOST": str(self.state), "LC_ALL": "C.UTF-8"}

    def run(self, *options: str, code: int = 0) -> str:
        """Runs setup-host on the tree; returns what it said."""
        command = [str(DEPLOY / "setup-host"), "--root", str(self.tree), "--start", "--port", str(self.port), *options]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=False, cwd=self.folder
        )
        assert done.returncode == code, f"{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def calls(self) -> list[str]:
        """What was changed on the machine since the last time that this was asked."""
        path = self.state / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def files(self) -> dict[str, tuple[Any, ...]]:
        """Every file and folder of the tree with mode, time of change and content."""
        return {
            str(path.relative_to(self.tree)): (
                oct(path.stat().st_mode), path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None
            )
            for path in sorted(self.tree.rglob("*"))
        }  # fmt: skip

    def text(self, name: str) -> str:
        """A file of the tree."""
        return (self.tree / name).read_text()

    def unit(self, name: str) -> list[str]:
        """The lines of an installed unit."""
        return self.text(f"etc/systemd/system/{name}.service").splitlines()


@pytest.fixture(scope="module")
def health_port() -> Iterator[int]:
    """A web server whose /api/health is well."""

    class Handler(BaseHTTPRequestHandler):
        def version_string(self) -> str:
            return "pilothouse"

        def do_GET(self) -> None:
            """As the product does, which refuses names that it wasn't told of."""
            is_well = self.path == "/api/health" and self.headers["Host"] == "127.0.0.1"
            self.send_response(200 if is_well else 400)
            self.end_headers()
            self.wfile.write(json.dumps({"status": "ok"}).encode())

        def log_message(self, *_args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of this machine without what a machine of the tests may lack."""
    folder = tmp_path_factory.mktemp("programs")
    for place in ("/usr/sbin", "/usr/bin"):
        for program in Path(place).iterdir():
            link = folder / program.name
            if program.name not in STANDS_FOR and not link.is_symlink():
                link.symlink_to(program)
    return folder


@pytest.fixture
def machine(tmp_path: Path, health_port: int, programs: Path) -> Machine:
    """A machine on which nothing has been installed."""
    return Machine(tmp_path, health_port, programs)


# --- Twice, dry, and away ---------------------------------------------------------------------------------------------


@needs("visudo")
def test_the_second_run_changes_nothing(machine: Machine) -> None:
    first = machine.run()
    assert "2 GPUs" in first
    assert machine.calls() == [
        f"useradd --prefix {machine.tree} {USER_OPTIONS} pilothouse",
        f"usermod --prefix {machine.tree} --append --groups video pilothouse",
        "timedatectl set-ntp true",
        "systemctl daemon-reload",
        "systemctl enable pilothouse-persistence.service",
        "systemctl start pilothouse-persistence.service",
        "systemctl daemon-reload",
        "systemctl enable pilothouse-agent.service",
        "systemctl start pilothouse-agent.service",
        "systemctl enable pilothouse-web.service",
        "systemctl start pilothouse-web.service",
    ]
    before = machine.files()
    second = machine.run()
    assert machine.files() == before
    assert machine.calls() == []
    assert "Nothing had to be changed." in second
    assert not re.search(r"^change ", second, re.MULTILINE)


@needs("visudo")
def test_a_dry_run_says_the_same_and_touches_nothing(machine: Machine) -> None:
    before = machine.files()
    dry = machine.run("--dry-run").splitlines()
    assert machine.files() == before
    assert machine.calls() == []
    assert dry[0].startswith("A dry run")
    done = machine.run().splitlines()
    assert [line for line in dry[1:] if " health " not in line] == [line for line in done if " health " not in line]
    (not_yet,), (proven,) = ([line for line in lines if " health " in line] for lines in (dry, done))
    assert not_yet.startswith("note") and "will be asked" in not_yet
    assert proven.startswith("ok") and "answers" in proven


def test_old_clients_keep_their_port_where_it_is_asked_for(machine: Machine) -> None:
    machine.run("--legacy-port", "8765", "--no-start")
    (begun,) = (line for line in machine.unit("pilothouse-web") if line.startswith("ExecStart="))
    assert begun.endswith(f" serve --host 127.0.0.1 --port {machine.port} --legacy-port 8765")
    machine.run("--no-start")
    assert "--legacy-port" not in machine.text("etc/systemd/system/pilothouse-web.service")
    assert "both be" in machine.run("--legacy-port", str(machine.port), code=2)


def test_health_must_answer(machine: Machine) -> None:
    machine.port = 1
    said = machine.run("--wait", "0", code=1)
    assert "FAILED" in said
    assert "journalctl -u pilothouse-web" in said


def test_another_program_on_the_port_proves_nothing(machine: Machine) -> None:
    """Something answers, yet the web server's unit doesn't stay up: `prepare` found its port taken."""
    machine.run("--no-start")
    assert "prepare --no-password --host 127.0.0.1 --port" in machine.text("etc/systemd/system/pilothouse-web.service")
    for name in ("pilothouse-agent", "pilothouse-web"):
        (machine.state / "active" / f"{name}.service").unlink(missing_ok=True)
    systemctl = machine.folder / "bin" / "systemctl"
    systemctl.unlink()
    systemctl.write_text(f"""#!/bin/sh\ncase $* in "is-active --quiet pilothouse-web"*) exit 3 ;; esac\n
        exec /bin/sh -c '. {STAND_IN}' systemctl "$@"\n""")
    systemctl.chmod(0o755)
    said = machine.run("--wait", "0", code=1)
    assert "pilothouse-web.service doesn't stay up" in said


def test_an_address_of_the_network_is_let_in(machine: Machine) -> None:
    """The name by which browsers ask goes into the environment file, and health is asked for by one that is allowed."""
    machine.run("--host", EVERYWHERE)
    lines = machine.text("etc/pilothouse/environment").splitlines()
    (allowed,) = [line for line in lines if line.startswith("PILOTHOUSE_ALLOWED_HOSTS=")]
    assert socket.gethostname() in allowed.partition("=")[2].split(",")
    (machine.tree / "etc/pilothouse/environment").write_text("")
    assert re.search(r"^LOOK +home +set PILOTHOUSE_ALLOWED_HOSTS", machine.run("--host", EVERYWHERE), re.MULTILINE)


def test_a_home_of_somebody_else_is_not_taken(machine: Machine) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives a folder away")
    home = machine.tree / "var/lib/pilothouse"
    home.mkdir(parents=True)
    assert "which is empty, is given to pilothouse" in machine.run("--no-start")
    assert home.stat().st_uid == 999
    (home / "db.sqlite3").touch()
    os.chown(home, 12345, 12345)
    before = machine.files()
    assert "chown -R pilothouse:" in machine.run("--no-start", code=1)
    assert machine.files() == before


def test_a_unit_that_was_written_without_a_start_is_started_again_by_the_next_run(machine: Machine) -> None:
    machine.run()
    running = machine.state / "active" / "pilothouse-web.service"
    os.utime(running, (running.stat().st_mtime - 100,) * 2)
    (machine.state / "stale").mkdir()
    (machine.state / "stale" / "pilothouse-web.service").touch()
    machine.calls()
    machine.run()
    assert machine.calls() == ["systemctl daemon-reload", "systemctl restart pilothouse-web.service"]
    assert "Nothing had to be changed." in machine.run()


def test_a_changed_unit_is_installed_and_its_service_started_again(machine: Machine) -> None:
    machine.run()
    machine.calls()
    said = machine.run("--home", "/srv/pilothouse")
    assert "started again" in said
    assert "ReadWritePaths=/srv/pilothouse" in machine.unit("pilothouse-web")
    assert machine.calls() == [
        "systemctl daemon-reload",
        "systemctl restart pilothouse-agent.service",
        "systemctl restart pilothouse-web.service",
    ]


def test_removing_takes_away_what_was_installed_and_leaves_the_data(machine: Machine) -> None:
    machine.run()
    (machine.tree / "var/lib/pilothouse/db.sqlite3").write_text("precious")
    dry = machine.run("--remove", "--dry-run").splitlines()
    assert machine.text("var/lib/pilothouse/db.sqlite3") == "precious"
    assert dry[1:] == machine.run("--remove").splitlines()
    left = {name for name in machine.files() if "pilothouse" in name}
    assert left == {
        "etc/pilothouse", "etc/pilothouse/environment", "var/lib/pilothouse", "var/lib/pilothouse/db.sqlite3",
    }  # fmt: skip
    assert sorted(path.name for path in (machine.state / "active").iterdir()) == []
    again = machine.run("--remove")
    assert "Nothing had to be changed." in again


def test_removing_goes_by_what_is_installed(machine: Machine) -> None:
    machine.run("--home", "/srv/panel", "--user", "panel")
    said = machine.run("--remove")
    assert f"{machine.tree}/srv/panel (all data)" in said
    assert said.rstrip().splitlines()[-2].endswith("; userdel panel")


def test_a_user_that_was_there_is_not_told_to_be_deleted(machine: Machine) -> None:
    with (machine.tree / "etc/passwd").open("a") as stream:
        stream.write("ada:x:0:0:Ada:/home/ada:/bin/sh\n")
    machine.run("--user", "ada")
    assert "userdel" not in machine.run("--remove")


@pytest.mark.parametrize(("stops", "code"), [(1, 1), (0, 0)])
def test_nothing_is_taken_away_while_jobs_run(machine: Machine, stops: int, code: int) -> None:
    """A stand-in of the agent's commands: `describe` answers, `stop --jobs` ends with what it is told to."""
    machine.run()
    unit = machine.tree / "etc/systemd/system/pilothouse-agent.service"
    checkout = machine.folder / "checkout"
    python = checkout / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$*" >>{machine.folder}/asked\ncase "$*" in *" stop "*) exit {stops} ;; esac\n')
    python.chmod(0o755)
    unit.write_text(unit.read_text().replace(str(CHECKOUT), str(checkout)))
    said = machine.run("--remove", code=code)
    assert f"stop --home {machine.tree}/var/lib/pilothouse --jobs" in (machine.folder / "asked").read_text()
    assert unit.exists() is bool(code)
    assert (machine.state / "active" / "pilothouse-agent.service").exists() is bool(code)
    assert not (machine.state / "active" / "pilothouse-web.service").exists()
    assert ("nothing is taken away" in said) is bool(code)


def test_the_environment_file_is_its_owners(machine: Machine) -> None:
    machine.run()
    path = machine.tree / "etc/pilothouse/environment"
    assert oct(path.stat().st_mode)[-3:] == "640"
    path.write_text("HF_TOKEN=mine\n")
    machine.run()
    assert path.read_text() == "HF_TOKEN=mine\n"


def test_without_a_service_manager_of_the_tree_nothing_is_started(machine: Machine) -> None:
    command = [str(DEPLOY / "setup-host"), "--root", str(machine.tree)]
    done = subprocess.run(command, env=machine.environment, capture_output=True, text=True, timeout=60, check=True)
    assert [line for line in machine.calls() if "start" in line or "timedatectl" in line or "reload" in line] == []
    assert "enabled" in done.stdout


@needs("systemctl")
def test_the_real_systemctl_enables_the_units_of_a_tree(machine: Machine) -> None:
    """Without stand-ins, as an image is built: the links that make units start at boot are there."""
    (machine.folder / "bin" / "systemctl").unlink()
    (machine.folder / "bin" / "systemctl").symlink_to(str(path_of("systemctl")))
    command = [str(DEPLOY / "setup-host"), "--root", str(machine.tree)]
    subprocess.run(command, env=machine.environment, capture_output=True, text=True, timeout=60, check=True)
    wanted = machine.tree / "etc/systemd/system/multi-user.target.wants"
    assert {path.name for path in wanted.iterdir()} >= {"pilothouse-agent.service", "pilothouse-web.service"}
    again = subprocess.run(command, env=machine.environment, capture_output=True, text=True, timeout=60, check=True)
    assert "Nothing had to be changed." in again.stdout


# --- Drivers, clocks, users -------------------------------------------------------------------------------------------


def test_a_container_leaves_the_time_to_the_machine_around_it(machine: Machine) -> None:
    """No time service starts there, whatever timedatectl is told."""
    (machine.state / "container").write_text("lxc\n")
    assert re.search(r"^ok +clock +this is a container \(lxc\)", machine.run(), re.M)
    assert "timedatectl set-ntp true" not in machine.calls()


def test_a_card_without_a_driver_is_told_with_the_fix(machine: Machine) -> None:
    (machine.folder / "bin" / "nvidia-smi").unlink()
    assert "no NVIDIA card and no driver" in machine.run("--dry-run")
    device = machine.tree / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    said = machine.run("--dry-run")
    assert re.search(r"^LOOK +driver .*install it .*reboot", said, re.MULTILINE)
    assert "Wanting a look:" in said


def test_a_driver_that_does_not_answer_is_told(machine: Machine) -> None:
    (machine.state / "gpus").unlink()
    said = machine.run("--dry-run")
    assert re.search(r"^LOOK +driver +nvidia-smi says: cat: .*reboot", said, re.MULTILINE)


def test_a_persistence_daemon_is_used_where_it_is(machine: Machine) -> None:
    (machine.state / "persistenced").touch()
    (machine.state / "persistence").write_text("Enabled\nEnabled\n")
    machine.run()
    assert "systemctl enable nvidia-persistenced.service" in machine.calls()
    assert not (machine.tree / "etc/systemd/system/pilothouse-persistence.service").exists()


def test_a_persistence_daemon_that_keeps_nothing_loaded_isnt_enough(machine: Machine) -> None:
    """Ubuntu's is static, and started with --no-persistence-mode."""
    (machine.state / "persistenced").touch()
    (machine.state / "static").mkdir()
    (machine.state / "static" / "nvidia-persistenced.service").touch()
    (machine.state / "persistence").write_text("Enabled\nDisabled\n")
    said = machine.run()
    assert "nvidia-persistenced.service is enabled" not in said
    calls = machine.calls()
    assert "systemctl start pilothouse-persistence.service" in calls
    assert not any("nvidia-persistenced" in call for call in calls)
    assert "After=nvidia-persistenced.service" in machine.unit("pilothouse-persistence")
    (machine.state / "persistence").write_text("Enabled\nEnabled\n")
    assert "Nothing had to be changed." in machine.run()


def test_a_driver_that_needs_a_reboot_holds_up_nothing(machine: Machine) -> None:
    (machine.state / "gpus").unlink()
    machine.run()
    calls = machine.calls()
    assert "systemctl enable pilothouse-persistence.service" in calls
    assert "systemctl start pilothouse-persistence.service" not in calls
    assert "systemctl start pilothouse-web.service" in calls


def test_persistence_mode_that_can_not_be_set_holds_up_nothing(machine: Machine) -> None:
    (machine.state / "broken").mkdir()
    (machine.state / "broken" / "pilothouse-persistence.service").touch()
    said = machine.run()
    assert re.search(r"^LOOK +persistence +pilothouse-persistence.service doesn't start", said, re.MULTILINE)
    assert "systemctl start pilothouse-web.service" in machine.calls()


def test_root_needs_no_sudoers_file(machine: Machine) -> None:
    assert "root needs no sudoers file" in machine.run("--user", "root")
    assert not (machine.tree / "etc/sudoers.d").exists()
    assert [call for call in machine.calls() if call.startswith("user")] == []
    assert "User=root" in machine.unit("pilothouse-agent")


@pytest.mark.parametrize(
    "options",
    [
        ["--user", "a b"], ["--user", "x=ALL"], ["--user", "1st"], ["--home", "relative"], ["--home", "/a b"],
        ["--home", "/a;b"], ["--home", "/a%b"], ["--prefix", "/a\nb"], ["--port", "http"], ["--port", "70000"],
        ["--legacy-port", "8765x"], ["--legacy-port", "0"], ["--host", "a b"], ["--wait", "-1"], ["--nonsense"],
        ["--user"],
    ],
)  # fmt: skip
def test_what_could_mean_something_in_a_unit_or_a_rule_is_refused(machine: Machine, options: list[str]) -> None:
    before = machine.files()
    machine.run(*options, code=2)
    assert machine.files() == before
    assert machine.calls() == []


def test_an_installation_of_the_dispatcher_by_itself_and_back(machine: Machine) -> None:
    machine.run("--split")
    web = machine.unit("pilothouse-web")
    assert any(line.startswith("ExecStart=") and " serve --no-dispatch " in line for line in web)
    assert not any(line.startswith("ExecStartPre=") for line in web)
    assert any(line.startswith("After=") and line.endswith(" pilothouse-dispatcher.service") for line in web)
    machine.calls()
    machine.run()
    assert not (machine.tree / "etc/systemd/system/pilothouse-dispatcher.service").exists()
    assert any(line.startswith("ExecStartPre=") for line in machine.unit("pilothouse-web"))
    assert "systemctl stop pilothouse-dispatcher.service" in machine.calls()


def test_a_host_with_an_agent_alone(machine: Machine) -> None:
    said = machine.run("--agent-only", "--no-start")
    assert not (machine.tree / "etc/systemd/system/pilothouse-web.service").exists()
    assert "admin-password" not in said
    assert [call for call in machine.calls() if " start " in call] == []


# --- The units --------------------------------------------------------------------------------------------------------


@pytest.fixture
def installed(machine: Machine) -> Machine:
    """A machine with all units installed, on real paths of this checkout and this machine."""
    machine.run("--split", "--home", str(machine.folder), "--user", "root")
    return machine


@needs("systemd-analyze")
@pytest.mark.parametrize("options", [[], ["--split"]], ids=["whole", "split"])
def test_systemd_finds_no_fault_with_the_units(machine: Machine, options: list[str]) -> None:
    machine.run(*options, "--home", str(machine.folder), "--user", "root")
    units = [str(path) for path in (machine.tree / "etc/systemd/system").glob("*.service")]
    assert len(units) == 3 + len(options)
    done = subprocess.run(
        [str(path_of("systemd-analyze")), "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs("systemd-analyze")
@pytest.mark.parametrize(("name", "at_most"), [("pilothouse-web", 2.5), ("pilothouse-dispatcher", 2.5)])
def test_the_units_are_locked_down(installed: Machine, name: str, at_most: float) -> None:
    """systemd's own exposure level, from 0 (locked up) to 10. The agent's is high, since sudo must work in it."""
    unit = str(installed.tree / f"etc/systemd/system/{name}.service")
    done = subprocess.run(
        [str(path_of("systemd-analyze")), "security", "--offline=true", "--no-pager", unit],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    level = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    if level is None:
        pytest.skip("this systemd-analyze judges no unit offline")
    assert float(level[1]) <= at_most


def test_jobs_outlive_their_agent(installed: Machine) -> None:
    agent = installed.unit("pilothouse-agent")
    assert "KillMode=process" in agent
    assert "OOMPolicy=continue" in agent
    for forbidden in ("PrivateTmp", "NoNewPrivileges", "SystemCallFilter", "RestrictAddressFamilies", "PrivateDevices"):
        assert not any(line.startswith(forbidden) for line in agent), f"{forbidden} breaks jobs or sudo"


def test_values_that_look_like_the_shipped_ones_stay_as_they_are(machine: Machine) -> None:
    """A home below the default prefix, and whatever else would be replaced a second time."""
    machine.run("--home", "/opt/pilothouse/data", "--no-start")
    web = machine.unit("pilothouse-web")
    assert "ReadWritePaths=/opt/pilothouse/data" in web
    assert f"WorkingDirectory={CHECKOUT}" in web


def test_units_want_their_home_and_share_nothing_that_ends_with_them(installed: Machine) -> None:
    for name in UNITS:
        unit = installed.unit(name)
        assert f"RequiresMountsFor={installed.folder}" in unit
        assert f"Environment=HOME={installed.folder}" in unit
        assert not any(line.startswith("RemoveIPC") for line in unit), "it would take away what the user's jobs share"


def test_the_web_server_starts_no_agent_in_its_own_cage(installed: Machine) -> None:
    for name in ("pilothouse-web", "pilothouse-dispatcher"):
        unit = installed.unit(name)
        assert any(line.startswith("Environment=") and "PILOTHOUSE_AGENT=external" in line for line in unit)
        assert "NoNewPrivileges=yes" in unit


def test_units_hold_no_secret_and_print_none(installed: Machine) -> None:
    for name in UNITS:
        assert all("prepare" not in line or "--no-password" in line for line in installed.unit(name))


# --- The sudoers file -------------------------------------------------------------------------------------------------


@needs("visudo")
def test_the_sudoers_file_is_valid_and_guarded(machine: Machine) -> None:
    machine.run()
    path = machine.tree / "etc/sudoers.d/pilothouse-power"
    assert oct(path.stat().st_mode)[-3:] == "440"
    assert "." not in path.name
    subprocess.run([str(path_of("visudo")), "-cf", str(path)], check=True, capture_output=True)
    rules = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert not any("*" in line or "ALL" in line.replace("pilothouse ALL=(root)", "") for line in rules)
    assert str(machine.smi) in path.read_text()
    assert [entry.name for entry in path.parent.iterdir()] == ["pilothouse-power"]


@needs("visudo")
def test_a_sudoers_file_that_is_not_valid_is_never_installed(machine: Machine, tmp_path: Path) -> None:
    broken = tmp_path / "deploy"
    shutil.copytree(DEPLOY, broken)
    with (broken / "pilothouse-power.sudoers").open("a") as stream:
        stream.write("pilothouse ALL=(root NOPASSWD: nonsense\n")
    command = [str(broken / "setup-host"), "--root", str(machine.tree), "--prefix", str(CHECKOUT)]
    done = subprocess.run(command, env=machine.environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "isn't valid" in done.stderr
    assert not (machine.tree / "etc/sudoers.d").exists()


ALLOWED = (f"-i {UUID} -pl 90", f"-i {UUID} -pl 280", f"-i {UUID} -pl 1000", f"-i {UUID} -pm 0", f"-i {UUID} -pm 1")
FORBIDDEN = (
    "", "-pl 280", "-i 0 -pl 280", f"-i {UUID}", f"-i {UUID} -pl 9", f"-i {UUID} -pl 12345", f"-i {UUID} -pl 28a",
    f"-i {UUID} -pl 280 -r", f"-i {UUID} --gpu-reset", f"-i {UUID} -pm 2", f"-i {UUID} -pm 10",
    f"-i {UUID},{UUID} -pl 280",
    f"-i {UUID.upper()} -pl 280", f"-i {UUID}  -pl 280 ; reboot", "-r", f"-q -f /etc/shadow -i {UUID} -pl 280",
    f"-i {UUID} -c 0", f"-i {UUID} -mig 1", f"-i {UUID} -pl -280",
)  # fmt: skip


@needs("sudo")
@needs("unshare")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can put another sudoers file before sudo's eyes")
def test_sudo_allows_these_commands_and_no_others(machine: Machine, tmp_path: Path) -> None:
    """The real sudo is asked, in a mount namespace of its own where /etc/sudoers is the file that setup-host made."""
    machine.run("--user", "nobody")
    rules = tmp_path / "sudoers"
    rules.write_text(machine.text("etc/sudoers.d/pilothouse-power"))
    rules.chmod(0o440)
    questions = [*ALLOWED, *FORBIDDEN]
    script = tmp_path / "ask"
    quoted = [shlex.join(question.split()) for question in questions]
    asked = "\n".join(f"sudo -n -l -U nobody {machine.smi} {words} >/dev/null 2>&1; echo $?" for words in quoted)
    script.write_text(f"set -u\nmount --bind {rules} /etc/sudoers || exit 77\n{asked}\n")
    done = subprocess.run(
        [str(path_of("unshare")), "--mount", "sh", str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
    verdicts = dict(zip(questions, done.stdout.split(), strict=True))
    assert [question for question in ALLOWED if verdicts[question] != "0"] == []
    assert [question for question in FORBIDDEN if verdicts[question] == "0"] == []


# --- The scripts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [DEPLOY / "setup-host", STAND_IN], ids=lambda path: path.name)
def test_scripts_are_executable_and_parse(script: Path) -> None:
    assert os.access(script, os.X_OK)
    subprocess.run(["/bin/sh", "-n", script], check=True)


@needs("shellcheck")
def test_shellcheck_finds_no_fault() -> None:
    subprocess.run([str(path_of("shellcheck")), DEPLOY / "setup-host", STAND_IN], check=True)


def test_every_option_of_the_script_is_in_the_guide() -> None:
    guide = (CHECKOUT / "docs" / "gpu-host.md").read_text()
    options = set(re.findall(r"--[a-z-]+", subprocess.run(
        [DEPLOY / "setup-host", "--help"], capture_output=True, text=True, check=True
    ).stdout))  # fmt: skip
    assert len(options) > 10
    assert sorted(option for option in options if f"`{option}" not in guide) == []
