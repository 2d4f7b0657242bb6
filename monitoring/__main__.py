"""The agent's commands: `python -m monitoring agent | stop | describe --home DIR`.

`agent` runs the agent in the foreground or, with --detach, as a process of its own that outlives its starter; either
way `logs/agent.log` has what it logs. `stop` ends it; jobs go on unless --jobs pauses them first, with checkpoints: the
agent then ends only after the last of them. `describe` prints what it says of its host.
"""

import argparse
import json
import logging
import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

from monitoring.agent import AGENT_LOG, Agent
from monitoring.agent_log import AgentLog, rotating
from monitoring.logs import read_tail
from monitoring.server import AgentRunsAlreadyError, ask, serve, sole_agent
from monitoring.wire import AgentFaultError

START_SECONDS = 30.0
READY = b"ready\n"


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 for a refusal (one line on stderr), 2 for bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m monitoring", description="The agent of one GPU host.")
    commands = parser.add_subparsers(dest="command", required=True)
    agent = commands.add_parser("agent", help="run the agent")
    agent.add_argument("--detach", action="store_true", help="run on in the background; return once it answers")
    stop = commands.add_parser("stop", help="end the agent; jobs go on")
    stop.add_argument("--jobs", action="store_true", help="pause all jobs first and wait for their checkpoints")
    stop.add_argument("--deadline", type=float, default=300.0, metavar="SECONDS", help="how long to wait for jobs")
    describe = commands.add_parser("describe", help="print what the agent knows of its host")
    for command in (agent, stop, describe):
        command.add_argument("--home", type=Path, required=True, metavar="DIR", help="the PILOTHOUSE_HOME folder")
    options = parser.parse_args(arguments)
    home = options.home.resolve()
    try:
        if options.command == "agent":
            return _start_detached(home) if options.detach else _run_in_foreground(home)
        if options.command == "stop":
            return _stop(home, options.deadline if options.jobs else None)
        print(json.dumps(ask(home, "describe", {}, 10.0), indent=2))
    except (AgentRunsAlreadyError, AgentFaultError) as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"No agent answers on {home}: {error.strerror or error}.")
    return 0


def _run_in_foreground(home: Path) -> int:
    """Logs for whoever started it (a journal, a terminal), and to the file that pages and API read."""
    (home / AGENT_LOG).parent.mkdir(parents=True, exist_ok=True)
    return _run(home, [logging.StreamHandler(), rotating(home / AGENT_LOG)], lambda: None)


def _run(home: Path, handlers: list[logging.Handler], on_ready: Callable[[], None]) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", handlers=handlers)
    with sole_agent(home):
        serve(Agent(home), on_ready)
    return 0


def _start_detached(home: Path) -> int:
    """Double-forks, so that the agent survives its starter's session and is nobody's child."""
    (home / AGENT_LOG).parent.mkdir(parents=True, exist_ok=True)
    reader, writer = os.pipe()
    if starter := os.fork():
        os.close(writer)
        os.waitpid(starter, 0)
        return _await_ready(home, reader)
    os.close(reader)
    os.setsid()
    if os.fork():
        os._exit(0)
    handler = AgentLog(home / AGENT_LOG)

    def tell() -> None:
        os.write(writer, f"{os.getpid()} ".encode() + READY)
        os.close(writer)

    code = 1
    try:
        code = _run(home, [handler], tell)
    except AgentRunsAlreadyError as error:
        os.write(writer, str(error).encode())
    except BaseException:  # the last thing that this process can do is to say why
        logging.exception("the agent failed")
        os.write(writer, f"The agent failed; the reason is in {home / AGENT_LOG}.".encode())
    finally:
        logging.shutdown()
        os._exit(code)


def _await_ready(home: Path, reader: int) -> int:
    """Prints the pid once the agent says that it listens, or passes on why it doesn't."""
    deadline, said = time.monotonic() + START_SECONDS, b""
    while not said.endswith(READY):
        ready, _, _ = select.select([reader], [], [], max(deadline - time.monotonic(), 0.0))
        if not ready:
            return _refuse(f"The agent hasn't answered within {START_SECONDS:g} s; see {home / AGENT_LOG}.")
        if not (piece := os.read(reader, 4096)):
            tail = "\n".join(read_tail(home / AGENT_LOG, 3)["lines"])
            return _refuse(said.decode() or f"The agent ended at once:\n{tail}")
        said += piece
    print(said.split()[0].decode())
    return 0


def _stop(home: Path, jobs_deadline_seconds: float | None) -> int:
    """Ends the agent; with a deadline, pauses all jobs before that. 1, and it goes on, when jobs outlive the deadline:
    without it nobody could tell them anything."""
    if jobs_deadline_seconds is not None:
        answer = ask(home, "stop_all", {"deadline_seconds": jobs_deadline_seconds}, jobs_deadline_seconds + 30)
        for job_id, attempt in answer["ended"]:
            print(f"Job {job_id} (attempt {attempt}) has ended.")
        for job_id, attempt in answer["still_running"]:
            _refuse(f"Job {job_id} (attempt {attempt}) still runs after {jobs_deadline_seconds:g} s.")
        if answer["still_running"]:
            return _refuse("The agent goes on, for those jobs: stop again with a larger --deadline, or cancel them.")
    pid = ask(home, "describe", {}, 10.0)["agent_pid"]
    ask(home, "shutdown", {}, 10.0)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            with sole_agent(home):
                print(f"The agent ({pid}) has ended.")
                return 0
        except AgentRunsAlreadyError:
            time.sleep(0.02)
    return _refuse(f"The agent ({pid}) doesn't end.")


def _refuse(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
