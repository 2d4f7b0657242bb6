"""A fleet's commands: `bin/up --fleet`, `--join` and `--stop-all` call them.

    python -m controlplane.fleet head --home DIR [--port N] [--address IP]
    python -m controlplane.fleet join HOST:PORT --home DIR [--port N] [--token-file FILE]
    python -m controlplane.fleet stop --home DIR

`head` begins a fleet on this machine, prints its address and leaves its node in the background. `join` stays in the
foreground. `stop` ends this home's node.
"""

import argparse
import contextlib
import getpass
import os
import signal
import socket
import sys
from pathlib import Path

from controlplane.fleet.local import AGENT_VARIABLE, ensure_agent
from controlplane.fleet.protocol import HostUnreachableError
from controlplane.fleet.ray_head import check_version, note_version
from controlplane.fleet.ray_node import PORT, STOP_SECONDS, FleetError, Keeper, Node
from controlplane.fleet.ray_place import PlaceTakenError, end_holder, sole_node
from controlplane.fleet.ray_token import TOKEN_FILE, BadTokenError, keep_token, make_token


def main(arguments: list[str] | None = None) -> int:
    """0, or 1 with a sentence on standard error."""
    options = _parser().parse_args(arguments)
    home = options.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    try:
        if options.command == "stop":
            pid = end_holder(home, STOP_SECONDS + 5)
            print(f"The node of the fleet ({pid}) has ended; agent and jobs go on." if pid else "No node ran here.")
        elif options.command == "head":
            _begin(home, options.port, options.address)
        else:
            _join(Node(home, options.port, fleet=options.fleet), options.token_file)
    except (FleetError, BadTokenError, PlaceTakenError, HostUnreachableError, TimeoutError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m controlplane.fleet", description="A node of a fleet.")
    commands = parser.add_subparsers(dest="command", required=True)
    head = commands.add_parser("head", help="begin a fleet on this machine")
    head.add_argument("--address", default="", help="this machine's address, as other hosts reach it")
    join = commands.add_parser("join", help="join a fleet, until Ctrl-C")
    join.add_argument("fleet", metavar="HOST:PORT", help="the head's address")
    join.add_argument("--token-file", type=Path, metavar="FILE", help="the head's token (else asked for, once)")
    stop = commands.add_parser("stop", help="end this home's node")
    for command in (head, join):
        command.add_argument("--port", type=int, default=PORT, help="the first of this node's ports")
    for command in (head, join, stop):
        command.add_argument("--home", type=Path, required=True, metavar="DIR", help="the PILOTHOUSE_HOME folder")
    return parser


def _join(node: Node, token_file: Path | None) -> None:
    """In the foreground until Ctrl-C or SIGTERM."""
    if ":" not in node.fleet:
        raise FleetError(f"{node.fleet} is no address of a fleet: it has a port, as in {node.fleet}:{PORT}.")
    _take_token(node.home, token_file)
    check_version(node)
    with sole_node(node.home):
        if os.environ.get(AGENT_VARIABLE) != "external":
            ensure_agent(node.home)
        keeper = Keeper(node, _say)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: keeper.ending.set())
        keeper.start()
        _say(f"This machine is in the fleet at {node.address}. Ctrl-C ends that; agent and jobs go on.")
        keeper.keep()


def _take_token(home: Path, token_file: Path | None) -> None:
    if token_file is not None:
        try:
            keep_token(home, token_file.read_text())
        except OSError as error:
            raise FleetError(f"The token can't be read from {token_file}: {error.strerror}.") from error
    elif not (home / TOKEN_FILE).exists() and not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        keep_token(home, getpass.getpass("The fleet's token (not shown): "))


def _begin(home: Path, port: int, address: str) -> None:
    """Starts the head in the background, unless it runs, and prints the fleet's address."""
    make_token(home)
    node = Node(home, port, head=address or _own_address())
    reader, writer = os.pipe()
    if os.fork() == 0:
        _run_head(node, writer)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read().strip()
    if said not in ("up", "runs"):
        raise FleetError(said or f"The head could not be started; the reason is in {node.log}.")
    print(node.address)


def _own_address() -> str:
    """The address by which this machine reaches others; loopback where it is alone. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for documents, nobody's
        except OSError:
            return "127.0.0.1"
        address: str = probe.getsockname()[0]
        return address


def _say(sentence: str) -> None:
    print(sentence, flush=True)


def _run_head(node: Node, writer: int) -> None:
    """Never returns. Leaves the session of whoever has started it; its own words go to Ray's log."""
    os.setsid()
    if os.fork():
        os._exit(0)
    said = "The head failed."
    try:
        with sole_node(node.home):
            keeper = Keeper(node, _say)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: keeper.ending.set())
            keeper.start()
            note_version(node)
            os.write(writer, b"up")
            os.close(writer)
            with node.log.open("ab") as log:
                for descriptor in (0, 1, 2):
                    os.dup2(log.fileno(), descriptor)
            keeper.keep()
            os._exit(0)
    except PlaceTakenError:
        said = "runs"
    except FleetError as error:
        said = str(error)
    finally:
        with contextlib.suppress(OSError):
            os.write(writer, said.encode())
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
