"""The memory that a process may have, as the kernel's files tell it."""

from pathlib import Path

import pytest

from monitoring.memory_limits import memory_free_bytes, memory_limit_bytes, oom_kills

MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000 kB\nMemAvailable:    9000000 kB\n"


def lay(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("membership", "groups", "expected"),
    [
        ("0::/\n", {}, 16_384_000_000),
        ("0::/a/b\n", {"a/memory.max": "8000000000\n", "a/b/memory.max": "max\n"}, 8_000_000_000),
        ("5:cpu:/x\n4:memory:/x\n0::/\n", {"memory/x/memory.limit_in_bytes": "9000000000\n"}, 9_000_000_000),
        ("4:memory:/x\n", {"memory/x/memory.limit_in_bytes": "9223372036854771712\n"}, 16_384_000_000),
    ],
)
def test_the_least_limit_holds(tmp_path: Path, membership: str, groups: dict[str, str], expected: int) -> None:
    proc = lay(tmp_path / "proc", {"meminfo": MEMINFO, "self/cgroup": membership})
    assert memory_limit_bytes(proc, lay(tmp_path / "cgroup", groups)) == expected


@pytest.mark.parametrize(
    ("membership", "groups", "expected"),
    [
        ("0::/\n", {}, 9_216_000_000),
        ("0::/a\n", {"a/memory.max": "max\n", "a/memory.current": "7000000000\n"}, 9_216_000_000),
        (
            "0::/a/b\n",
            {
                "a/memory.max": "8000000000\n", "a/memory.current": "7000000000\n",
                "a/memory.stat": "anon 5000000000\ninactive_file 500000000\n",
                "a/b/memory.max": "max\n", "a/b/memory.current": "6000000000\n",
            },
            1_500_000_000,
        ),
        (
            "4:memory:/x\n",
            {
                "memory/x/memory.limit_in_bytes": "3000000000\n", "memory/x/memory.usage_in_bytes": "2000000000\n",
                "memory/x/memory.stat": "total_inactive_file 100000000\n",
            },
            1_100_000_000,
        ),
        ("0::/a\n", {"a/memory.max": "1000\n", "a/memory.current": "2000\n"}, 0),
    ],
)  # fmt: skip
def test_what_the_host_and_the_groups_around_leave_is_free(
    tmp_path: Path, membership: str, groups: dict[str, str], expected: int
) -> None:
    proc = lay(tmp_path / "proc", {"meminfo": MEMINFO, "self/cgroup": membership})
    assert memory_free_bytes(proc, lay(tmp_path / "cgroup", groups)) == expected


def test_what_the_kernel_does_not_tell_is_not_known(tmp_path: Path) -> None:
    assert memory_limit_bytes(tmp_path, tmp_path) is None
    assert memory_free_bytes(tmp_path, tmp_path) is None
    assert oom_kills(tmp_path) is None
    assert oom_kills(lay(tmp_path, {"vmstat": "nr_free 1\noom_kill 3\n"})) == 3
