"""A machine of its own under a real systemd, inside this one: for what deploy/setup-host does to a host.

Its root is this machine's own, read-only, under a layer in memory that takes every change; systemd is its process 1, in
namespaces of its own (processes, mounts, network without a way out, names, control groups). `boot` and `power_off` may
be repeated: the layer stays, as a disk does. It needs root, Linux with overlayfs and cgroup2, systemd, and the right to
make namespaces, as a virtual machine has it and most containers don't: `why_not` says what is missing.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

SYSTEMD = Path("/lib/systemd/systemd")
PROGRAMS = ("unshare", "nsenter", "setpriv", "mount", "systemctl", "runuser")
BOOT_SECONDS = 90.0
STOP_SECONDS = 180.0
"""Web and agent may take 30 s each, and what is left then 90 s before systemd-shutdown kills it."""

ASKED_SECONDS = 10.0
"""So long it may take to answer what it is asked when it doesn't go off."""

LAYER = """
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 none "$1"
mkdir "$1/changes" "$1/work" "$1/root"
mount -t overlay none -o "lowerdir=/,upperdir=$1/changes,workdir=$1/work" "$1/root"
root=$1/root
# Whatever this machine starts by itself stays out. With an id it isn't a first boot, at which systemd enables units.
rm -rf "$root"/etc/systemd/system/*.wants "$root"/etc/systemd/system/*.requires
: >"$root/etc/fstab"
tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
# What is mounted on folders of its own is no part of the root.
for folder in $2; do
    if [ "$(stat -c %d "$folder")" != "$(stat -c %d /)" ]; then
        mkdir -p "$root$folder" && mount --bind "$folder" "$root$folder"
    fi
    # The service's user must get there; only in the layer.
    while [ "$folder" != / ]; do chmod o+x "$root$folder" 2>/dev/null || true; folder=$(dirname "$folder"); done
done
echo ready
exec setpriv --pdeathsig KILL sleep infinity
"""
"""Makes the disk in a mount namespace of its own, which the sleeper holds. $1: an empty folder, $2: folders needed."""

BOOT = """
set -eu
root=$1/root
mount --make-rprivate /
mount -t proc none "$root/proc"
mount -t sysfs -o ro none "$root/sys"
mount -t cgroup2 none "$root/sys/fs/cgroup"
mount --bind -o ro "$root/proc/sys" "$root/proc/sys"
mount -o remount,ro,bind "$root/proc/sys"
cat /proc/sys/kernel/random/uuid >"$1/boot_id" # a boot has an id of its own, here too
mount --bind "$1/boot_id" "$root/proc/sys/kernel/random/boot_id"
mount -t tmpfs -o mode=755 none "$root/dev"
for node in null zero full random urandom tty; do
    touch "$root/dev/$node" && mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=666 none "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=1777 none "$root/dev/shm"
mount -t tmpfs -o mode=755 none "$root/run"
mount -t tmpfs -o mode=1777 none "$root/tmp"
for folder in $2; do
    case $folder in /tmp/*) mkdir -p "$root$folder" && mount --bind "$folder" "$root$folder" ;; esac
done
hostname gpu-host
cd "$root"
pivot_root . .
umount -l .
exec env -i container=other PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \\
    setpriv --bounding-set -sys_module,-sys_time,-sys_boot,-sys_rawio,-syslog "$3" --system \\
    --unit=multi-user.target --log-target=journal --show-status=no
"""
"""Becomes systemd. What a container's manager promises is kept: /sys and /proc/sys are read-only, /dev has no devices,
and it can neither set the clock nor load modules."""

DIES_ALONG = ("/usr/bin/setpriv", "--pdeathsig", "KILL")
"""Before a command: it goes with the process that started it, however that ends."""

NAMESPACES = ("/usr/bin/unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup")
ATTEMPT = """
mount --make-rprivate /
mount -t tmpfs none /mnt
mkdir /mnt/changes /mnt/work /mnt/root
mount -t overlay none -o lowerdir=/,upperdir=/mnt/changes,workdir=/mnt/work /mnt/root
mount -t proc none /mnt/root/proc
mount -t sysfs none /mnt/root/sys
mount -t cgroup2 none /mnt/root/sys/fs/cgroup
"""
"""What LAYER and BOOT need, tried in a moment."""


def why_not() -> str:
    """What keeps this machine from having another inside it; empty where nothing does."""
    if os.geteuid() != 0:
        return "it needs root"
    if not SYSTEMD.exists():
        return f"there is no {SYSTEMD}"
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"{missing[0]} is not installed"
    if _control_groups() is None:
        return "no cgroup2 is mounted where groups can be made"
    tried = subprocess.run(
        [*NAMESPACES, "--fork", "sh", "-euc", ATTEMPT], capture_output=True, text=True, check=False, timeout=30
    )
    return tried.stderr.strip().splitlines()[-1] if tried.returncode else ""


def _control_groups() -> Path | None:
    """Where cgroup2 is mounted and takes new groups."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup2" and "rw" in options.split(","):
            return Path(place)
    return None


class SystemdMachine:
    """A machine to set up. `needed`: folders that it has besides the root (the checkout, the interpreter)."""

    def __init__(self, folder: Path, needed: list[Path]) -> None:
        self.folder = folder
        self._needed = " ".join(str(path) for path in needed)
        groups = _control_groups()
        assert groups is not None
        self._group = groups / f"pilothouse-test-{os.getpid()}"
        self._layer: subprocess.Popen[str] | None = None
        self._machine: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "SystemdMachine":
        self._layer = subprocess.Popen(
            [*DIES_ALONG, NAMESPACES[0], "--mount", "/bin/sh", "-c", LAYER, "layer", str(self.folder), self._needed],
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self._layer.stdout is not None
        if self._layer.stdout.readline() != "ready\n":
            raise AssertionError(f"the disk could not be made (exit {self._layer.wait()})")
        return self

    def __exit__(self, *_error: object) -> None:
        self.cut_power()
        assert self._layer is not None and self._layer.stdout is not None
        self._layer.kill()
        self._layer.wait()
        self._layer.stdout.close()

    def boot(self) -> None:
        """Starts systemd, and waits until it says that all that starts at boot has been started."""
        assert self._layer is not None
        self._group.mkdir(exist_ok=True)
        enter = f'echo $$ >{self._group}/cgroup.procs && exec "$@"'
        self._machine = subprocess.Popen(
            ["/bin/sh", "-c", enter, "enter", "nsenter", f"--mount=/proc/{self._layer.pid}/ns/mnt",
             *DIES_ALONG, *NAMESPACES, "--fork", "--kill-child",
             "/bin/sh", "-c", BOOT, "boot", str(self.folder), self._needed, str(SYSTEMD)],
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + BOOT_SECONDS
        while (state := self._state(deadline - time.monotonic())) not in ("running", "degraded"):
            assert self._machine.poll() is None, f"systemd ended with {self._machine.returncode}"
            assert time.monotonic() < deadline, f"after {BOOT_SECONDS:g} s systemd is {state or 'not there'}"
            time.sleep(0.2)

    def _state(self, seconds: float) -> str:
        try:
            return self.run("systemctl", "is-system-running", check=False, timeout=max(seconds, 1.0)).strip()
        except (ProcessLookupError, FileNotFoundError, subprocess.TimeoutExpired):
            return ""

    @property
    def _init(self) -> int:
        """The pid, seen from outside, of its process 1."""
        assert self._machine is not None
        # nsenter, sh and setpriv have become unshare, whose only child is systemd.
        children = Path(f"/proc/{self._machine.pid}/task/{self._machine.pid}/children").read_text().split()
        if not children:
            raise ProcessLookupError("systemd isn't there yet")
        return int(children[0])

    def run(self, *command: str, check: bool = True, timeout: float = 300) -> str:
        """Runs a command inside as root, in a group of its own beside the services; returns what it said.

        Raises subprocess.TimeoutExpired after so many seconds.
        """
        done = subprocess.run(
            ["/usr/bin/nsenter", f"--target={self._init}", "--mount", "--pid", "--net", "--uts", "--ipc", "--root",
             "--wdns=/", "env", "-i", "LC_ALL=C.UTF-8", "HOME=/root", "TERM=dumb", "SYSTEMD_PAGER=",
             "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            timeout=timeout,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}"
        return done.stdout

    def power_off(self) -> float:
        """Shuts it down as `poweroff` does: services are stopped in order. Returns the seconds it took."""
        assert self._machine is not None
        began = time.monotonic()
        os.kill(self._init, signal.SIGRTMIN + 4)
        try:
            self._machine.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"after {STOP_SECONDS:g} s it isn't off\n{self._told()}") from None
        took = time.monotonic() - began
        sys.stdout.write(f"powered off in {took:.1f} s\n")
        self._clear()
        return took

    def _told(self) -> str:
        """What still runs inside and what systemd waits for, as far as it answers."""
        asked = (
            ("ps", "-eo", "pid,stat,wchan:20,args"),
            ("systemctl", "list-jobs", "--no-pager"),
            ("journalctl", "-b", "-n", "60", "--no-pager"),
        )
        told = []
        for command in asked:
            try:
                said = self.run(*command, check=False, timeout=ASKED_SECONDS)
            except (OSError, subprocess.SubprocessError) as error:
                said = f"no answer: {error}"
            told.append(f"$ {' '.join(command)}\n{said}")
        return "\n".join(told)

    def cut_power(self) -> None:
        """Ends it at once."""
        if self._machine is not None and self._machine.poll() is None:
            self._machine.kill()  # its process 1 goes with it, and with that all the others
            self._machine.wait(STOP_SECONDS)
        self._clear()

    def _clear(self) -> None:
        """Takes the emptied control groups away, deepest first; none may be left."""
        self._machine = None
        deadline = time.monotonic() + 10
        while self._group.exists() and time.monotonic() < deadline:
            for folder in sorted(self._group.rglob("*"), key=lambda path: -len(path.parts)):
                if folder.is_dir():
                    with contextlib.suppress(OSError):
                        folder.rmdir()
            with contextlib.suppress(OSError):
                self._group.rmdir()
            time.sleep(0.05)
        assert not self._group.exists(), f"{self._group} can't be taken away: something of the machine still runs"


def interpreter_folders() -> list[Path]:
    """Where this interpreter lies, beyond its virtual environment."""
    return [Path(sys.base_prefix).resolve()]
