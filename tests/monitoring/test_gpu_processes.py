"""Who holds memory of a GPU, whose it is, and who may be ended how."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monitoring import gpu_processes, process_use
from monitoring.agent import Agent
from monitoring.gpu_processes import ProcessWatch, end_process
from monitoring.process_use import HostUses
from monitoring.processes import ProcessIdentity, boot_id, identify
from monitoring.wire import AgentFaultError, EndAnswer, GpuProcess
from tests.fakes.gpus import FakeGpus
from tests.monitoring.factories import CHECKOUT, agent_process, call, make_spec, wait_for

SLEEP = [sys.executable, "-S", "-c", "import sys, time; print('up', flush=True); time.sleep(600)"]
DEAF = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
NOBODY = 65534


@contextlib.contextmanager
def process(*program: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A real process that is up; ended and reaped afterwards."""
    with subprocess.Popen(program or SLEEP, stdout=subprocess.PIPE, **options) as running:
        try:
            assert running.stdout is not None and running.stdout.readline() == b"up\n"
            yield running
        finally:
            running.kill()


def identity_of(running: subprocess.Popen[bytes]) -> ProcessIdentity:
    identity = identify(running.pid)
    assert identity is not None
    return identity


def end(agent: Agent, identity: ProcessIdentity, **options: Any) -> EndAnswer:
    return agent.end_process(identity.pid, identity.start_ticks, identity.boot_id, **options)


def refusal(agent: Agent, pid: Any, start_ticks: Any, boot: Any, **options: Any) -> str:
    with pytest.raises(AgentFaultError) as caught:
        agent.end_process(pid, start_ticks, boot, **options)
    assert str(caught.value).endswith(".") and str(pid) in str(caught.value)
    return caught.value.fault["code"]


def described(agent: Agent, pid: int) -> GpuProcess:
    agent._monitor.expire()
    return next(one for one in agent.poll([], 0.0)["reading"]["gpus"][0]["processes"] if one["pid"] == pid)


# --- Whose it is ---


def of_job(home: Path) -> dict[str, str]:
    """What the agent gives a job to know."""
    return {"PILOTHOUSE_HOME": str(home), "PILOTHOUSE_JOB": "7"}


def test_a_process_is_told_by_all_that_names_it(gpus: FakeGpus, agent: Agent) -> None:
    with process() as running:
        gpus.set_processes(0, {running.pid: 3 << 20})
        identity, told = identity_of(running), described(agent, running.pid)
        assert (told["start_ticks"], told["boot_id"]) == (identity.start_ticks, boot_id())
        assert (told["memory_used_bytes"], told["job_id"], told["is_ours"]) == (3 << 20, None, False)
        assert told["command"].startswith("python")
        assert told["user"]
        assert told["started_at"] is not None
        assert abs(told["started_at"] - agent.poll([], 0.0)["now"]) < 60


def test_what_this_home_started_is_ours_though_its_job_is_gone(gpus: FakeGpus, agent: Agent, home: Path) -> None:
    theirs, shell = {**of_job(home), "PILOTHOUSE_HOME": f"{home}-of-others"}, {"PILOTHOUSE_HOME": str(home)}
    with process(env=of_job(home)) as orphan, process(env=theirs) as stranger, process(env=shell) as script:
        gpus.set_processes(0, {orphan.pid: 1, stranger.pid: 1, script.pid: 1})
        assert (described(agent, orphan.pid)["job_id"], described(agent, orphan.pid)["is_ours"]) == (None, True)
        assert described(agent, stranger.pid)["is_ours"] is False
        assert described(agent, script.pid)["is_ours"] is False  # started by hand, where the home is exported


def test_a_descendant_in_a_session_of_its_own_belongs_to_the_job(tmp_path: Path) -> None:
    leaders = {os.getpid(): 5}
    watch = ProcessWatch(tmp_path, lambda: leaders)
    with process(start_new_session=True) as child:
        told = watch.describer()(child.pid, None)
        assert (told["job_id"], told["is_ours"]) == (5, True)
        leaders = {}
        assert watch.describer()(child.pid, None)["job_id"] is None  # the job has ended, its process hasn't


def test_the_same_number_is_not_the_same_process(
    gpus: FakeGpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = ProcessWatch(tmp_path, dict)
    with process() as running:
        first = watch.describer()(running.pid, None)
        later = ProcessIdentity(running.pid, boot_id(), identity_of(running).start_ticks + 1)
        monkeypatch.setattr("monitoring.gpu_processes.identify", lambda pid: later)
        assert first["start_ticks"] != watch.describer()(running.pid, None)["start_ticks"] == later.start_ticks


HOLDS = "import sys, time; held = open(sys.argv[1]); print('up', flush=True); time.sleep(600)"


def test_in_a_container_a_number_of_nvmls_is_told_by_what_the_process_has_open(
    gpus: FakeGpus, agent: Agent, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVML counts in the host's numbers; in a container of its own the same number is another process."""
    monkeypatch.setattr(gpu_processes, "DEVICES", tmp_path)
    device, ours = tmp_path / "nvidia0", of_job(home)
    device.touch()
    with process(env=ours) as bystander, process(sys.executable, "-S", "-c", HOLDS, str(device), env=ours) as holder:
        gpus.set_processes(0, {bystander.pid: 1 << 30, holder.pid: 1 << 30})
        monkeypatch.setattr(gpu_processes, "HOST_PID_NAMESPACE", "pid:[another]")
        assert described(agent, holder.pid)["is_ours"] is True
        told = described(agent, bystander.pid)
        assert (told["start_ticks"], told["is_ours"], told["command"]) == (None, False, "")
        assert told["memory_used_bytes"] == 1 << 30
        identity = identity_of(bystander)
        assert refusal(agent, bystander.pid, identity.start_ticks, identity.boot_id, others=True) == "not_on_gpu"
        assert bystander.poll() is None
        assert end(agent, identity_of(holder)) == {"ended": True, "reason": None}
        monkeypatch.setattr(gpu_processes, "HOST_PID_NAMESPACE", str(Path("/proc/self/ns/pid").readlink()))
        assert described(agent, bystander.pid)["is_ours"] is True  # no container: the numbers are the same


# --- Who may be ended ---


def test_an_orphan_of_ours_ends_by_sigterm(gpus: FakeGpus, agent: Agent, home: Path) -> None:
    with process(env=of_job(home)) as orphan:
        gpus.set_processes(0, {orphan.pid: 1 << 30})
        assert end(agent, identity_of(orphan)) == {"ended": True, "reason": None}
        assert orphan.wait(5) == -signal.SIGTERM


def test_somebody_elses_wants_a_second_confirmation(gpus: FakeGpus, agent: Agent) -> None:
    with process() as stranger:
        gpus.set_processes(0, {stranger.pid: 1 << 30})
        identity = identity_of(stranger)
        assert refusal(agent, stranger.pid, identity.start_ticks, identity.boot_id) == "not_ours"
        assert stranger.poll() is None
        assert end(agent, identity, others=True)["ended"]
        assert stranger.wait(5) == -signal.SIGTERM


def test_a_live_jobs_process_is_the_jobs_affair(gpus: FakeGpus, agent: Agent, tmp_path: Path) -> None:
    pid = agent.launch(make_spec(7, until=str(tmp_path / "never")), {})["pid"]
    assert pid is not None
    gpus.set_processes(0, {pid: 1})
    identity = identify(pid)
    assert identity is not None
    assert refusal(agent, pid, identity.start_ticks, identity.boot_id, others=True) == "belongs_to_job"
    assert identify(pid) == identity


def test_only_what_is_on_a_gpu_now_can_be_ended(gpus: FakeGpus, agent: Agent) -> None:
    with process() as bystander:
        identity = identity_of(bystander)
        assert refusal(agent, bystander.pid, identity.start_ticks, identity.boot_id, others=True) == "not_on_gpu"
        gpus.set_processes(0, {bystander.pid: 1})
        gpus.lose(0)  # then nobody can tell
        assert refusal(agent, bystander.pid, identity.start_ticks, identity.boot_id, others=True) == "not_on_gpu"
        assert bystander.poll() is None


def test_another_process_with_the_same_number_is_left_alone(gpus: FakeGpus, agent: Agent) -> None:
    with process() as running:
        gpus.set_processes(0, {running.pid: 1})
        identity = identity_of(running)
        for ticks, boot in ((identity.start_ticks - 1, identity.boot_id), (identity.start_ticks, "another boot")):
            assert refusal(agent, running.pid, ticks, boot, others=True) == "other_process"
        assert running.poll() is None


def test_no_process_is_named_that_must_never_be_ended(gpus: FakeGpus, agent: Agent) -> None:
    gpus.set(**{"0.processes": f"1:1,{os.getpid()}:1,{os.getppid()}:1"})
    own = identify(os.getpid())
    assert own is not None
    for pid in (1, 0, -1, os.getpid(), os.getppid(), True, "7", None):
        assert refusal(agent, pid, own.start_ticks, own.boot_id, others=True) == "bad_call"


def test_what_has_ended_already_is_no_error(gpus: FakeGpus, agent: Agent) -> None:
    with process() as running:
        identity = identity_of(running)
        running.kill()
        wait_for(lambda: Path(f"/proc/{running.pid}/stat").read_text().split()[2] == "Z", "a zombie")
        told = {"ended": False, "reason": f"Process {running.pid} had ended before."}
        assert end(agent, identity) == told
    assert end(agent, identity) == told


def test_what_does_not_heed_sigterm_is_killed(tmp_path: Path) -> None:
    with process(sys.executable, "-S", "-c", DEAF) as deaf:
        answer = end_process(identity_of(deaf), term_grace_seconds=0.1)
        assert answer == {"ended": True, "reason": "It didn't heed SIGTERM within 0.1 s and was killed."}
        assert deaf.wait(5) == -signal.SIGKILL


def test_what_outlives_sigkill_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitoring.gpu_processes.send", lambda identity, number: True)  # as a hung driver has it
    with process() as running:
        answer = end_process(identity_of(running), term_grace_seconds=0.05, kill_grace_seconds=0.05)
    assert not answer["ended"]
    assert (
        answer["reason"] is not None and "lives on after SIGKILL" in answer["reason"] and "reboot" in answer["reason"]
    )


@pytest.mark.skipif(os.getuid() != 0, reason="takes root to be nobody")
def test_another_users_process_is_refused_with_the_line_that_ends_it() -> None:
    with process() as running:
        identity = identity_of(running)
        reader, writer = os.pipe()
        if not (child := os.fork()):
            os.setuid(NOBODY)
            try:
                end_process(identity)
            except AgentFaultError as error:
                os.write(writer, f"{error.fault['code']}\n{error.fault['fix']}".encode())
            os._exit(0)
        os.close(writer)
        os.waitpid(child, 0)
        with os.fdopen(reader) as stream:
            assert stream.read() == f"not_permitted\nOn the host, type: sudo kill {running.pid}"
        assert running.poll() is None


def test_a_process_is_ended_through_the_socket(nvml_library: Path, home: Path, tmp_path: Path) -> None:
    gpus = FakeGpus(tmp_path / "nvml.txt")
    environment = {"LD_LIBRARY_PATH": str(nvml_library.parent), "FAKE_NVML": str(gpus.path)}
    with agent_process(home, **environment), process(env=of_job(home), cwd=CHECKOUT) as orphan:
        gpus.set_processes(0, {orphan.pid: 1})
        identity = identity_of(orphan)
        args = {"pid": identity.pid, "start_ticks": identity.start_ticks, "boot_id": identity.boot_id, "others": False}
        assert call(home, "end_process", **args) == {"ended": True, "reason": None}
        with pytest.raises(AgentFaultError, match="never ended"):
            call(home, "end_process", **{**args, "pid": 1})


# --- What it uses ---

SPIN = "import sys; print('up', flush=True)\nwhile True: pass"


def test_the_share_of_a_card_is_the_newest_sample_and_0_without_one(gpus: FakeGpus, agent: Agent) -> None:
    mine, parent = os.getpid(), os.getppid()
    gpus.set_processes(0, {mine: 1, parent: 1})
    gpus.set_process_use(0, (mine, 90, 900), (mine, 35, 100), (parent, 60, 5000), (mine, 250, 50))
    assert described(agent, mine)["utilization_sm_percent"] == 35  # 250 % is a row that the driver didn't fill in
    assert described(agent, parent)["utilization_sm_percent"] == 0  # its sample is of five seconds ago
    gpus.set_process_use(0)
    assert described(agent, mine)["utilization_sm_percent"] == 0  # nobody works: NVML says "not found"


@pytest.mark.parametrize(
    "lacking", [{"missing": "nvmlDeviceGetProcessUtilization"}, {"0.process_use": "none"}], ids=["driver", "card"]
)
def test_a_share_that_nobody_measures_is_not_supported(gpus: FakeGpus, agent: Agent, lacking: dict[str, str]) -> None:
    gpus.set(**lacking)
    gpus.set_processes(0, {os.getpid(): 1})
    assert described(agent, os.getpid())["utilization_sm_percent"] is None
    reading = agent.poll([], 0.0)["reading"]["gpus"][0]
    assert "processes.utilization_sm_percent" in reading["unsupported"] and reading["fault"] is None


def test_processor_and_memory_are_counted_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_use, "SHORTEST_SPAN_SECONDS", 0.1)
    uses = HostUses()
    with process(sys.executable, "-S", "-c", SPIN) as busy, process() as idle:
        looked_at = {one.pid: identity_of(one).start_ticks for one in (busy, idle)}
        assert all(uses.of(*one).cpu_percent is None for one in looked_at.items())  # nothing to compare with yet
        wait_for(lambda: (uses.of(busy.pid, looked_at[busy.pid]).cpu_percent or 0) > 20, "the busy one's share")
        assert uses.of(idle.pid, looked_at[idle.pid]).cpu_percent == 0
        rss = uses.of(idle.pid, looked_at[idle.pid]).rss_bytes
        assert rss is not None and 1 << 20 < rss < 1 << 30
    assert HostUses().of(busy.pid, looked_at[busy.pid]) == process_use.NOTHING_KNOWN  # gone


def test_a_second_look_at_once_tells_the_same() -> None:
    """A job on two cards is looked at twice in one reading."""
    uses, mine = HostUses(), identify(os.getpid())
    assert mine is not None
    assert uses.of(mine.pid, mine.start_ticks) is uses.of(mine.pid, mine.start_ticks)


SECRET = "hf_secret"


def test_arguments_are_told_of_jobs_own_processes_alone(gpus: FakeGpus, agent: Agent, home: Path) -> None:
    """A job's is `python -m training train SPEC`; what it starts, and what others run, may hold secrets."""
    as_job = ("-S", "-c", SLEEP[-1], "-m", "training", "train", "/jobs/1/spec.json")
    with (
        process(sys.executable, *as_job, env=of_job(home)) as job,
        process(sys.executable, *as_job) as stranger,
        process(*SLEEP, f"--token={SECRET}", env=of_job(home)) as child,
    ):
        gpus.set_processes(0, {job.pid: 1, stranger.pid: 1, child.pid: 1})
        assert described(agent, job.pid)["command"].endswith(" -m training train /jobs/1/spec.json")
        for other in (stranger, child):
            assert " " not in described(agent, other.pid)["command"]
