"""Which control groups are around us, and whom the kernel killed in them: by files as kernels write them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mesh_supervisor.host import cgroups, memory
from mesh_supervisor.host.cgroups import Group, found_in, tightest
from mesh_supervisor.host.memory import SOON, TOGETHER, OutOfMemory
from mesh_supervisor.lifecycle import Exit

MIB = 2**20
KILLED = Exit(None, signal.SIGKILL)

V1 = "9:name=systemd:/\n4:cpu,cpuacct:/other\n3:memory:/docker/abc/inner\n0::/\n"
V2 = "0::/user.slice/mesh.service\n"


def mounted(kind: str, root: str, point: str, options: str = "rw") -> str:
    return f"30 24 0:26 {root} {point} rw,nosuid shared:4 - {kind} cgroup {options}\n"


# ---- where they are --------------------------------------------------------------------------------------------------


def named(groups: tuple[Group, ...]) -> list[tuple[str, str]]:
    return [(str(group.folder), group.name) for group in groups]


def test_version_2_on_a_machine() -> None:
    groups = found_in(V2, mounted("cgroup2", "/", "/sys/fs/cgroup"))
    assert named(groups) == [
        ("/sys/fs/cgroup/user.slice/mesh.service", "the control group /user.slice/mesh.service"),
        ("/sys/fs/cgroup/user.slice", "the control group /user.slice"),
        ("/sys/fs/cgroup", "the container"),  # which has no limit there: nobody names it
    ]


def test_version_2_in_a_container_with_a_namespace() -> None:
    groups = found_in("0::/\n", mounted("cgroup2", "/", "/sys/fs/cgroup"))
    assert named(groups) == [("/sys/fs/cgroup", "the container")]


def test_version_1_in_a_container_without_a_namespace() -> None:
    table = mounted("cgroup", "/docker/abc", "/sys/fs/cgroup/cpu", "rw,cpu") + mounted(
        "cgroup", "/docker/abc", "/sys/fs/cgroup/me\\040mory", "rw,memory"
    )
    groups = found_in(V1, table)
    assert named(groups) == [
        ("/sys/fs/cgroup/me mory/inner", "the control group /inner"),
        ("/sys/fs/cgroup/me mory", "the container"),
    ]
    assert not groups[0].unified


def test_of_two_mounts_the_one_in_which_we_are() -> None:
    table = mounted("cgroup2", "/", "/a") + mounted("cgroup2", "/elsewhere", "/b") + mounted("cgroup2", "/..", "/c")
    assert found_in(V2, table)[0].folder == Path("/a/user.slice/mesh.service")


@pytest.mark.parametrize(
    ("groups", "mounts"),
    [
        ("", ""),
        ("garbage", "garbage - \n1 2 - cgroup2"),
        (V2, ""),
        (V2, mounted("cgroup", "/", "/sys/fs/cgroup/cpu", "rw,cpu")),
        ("0::/../outside\n", mounted("cgroup2", "/", "/sys/fs/cgroup")),
    ],
)
def test_nothing_is_found(groups: str, mounts: str) -> None:
    assert found_in(groups, mounts) == ()


def test_our_own_are_real() -> None:
    for group in cgroups.around_us():
        assert group.folder.is_dir()


# ---- what they say ---------------------------------------------------------------------------------------------------


def group(folder: Path, *, unified: bool, limit: str, used: int = 0, kills: int | None = 0) -> Group:
    """Files as the kernel writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if unified else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    count(folder, kills, unified=unified)
    return Group(folder, "the container", unified)


def count(folder: Path, kills: int | None, *, unified: bool) -> None:
    rows = ["low 0", "high 7", "oom 9"] if unified else ["oom_kill_disable 0", "under_oom 0"]
    rows += [f"oom_kill {kills}"] if kills is not None else []
    (folder / ("memory.events" if unified else "memory.oom_control")).write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize("unified", [True, False])
def test_a_group_tells_its_limit_its_use_and_its_victims(tmp_path: Path, unified: bool) -> None:
    one = group(tmp_path, unified=unified, limit=str(512 * MIB), used=100 * MIB, kills=3)
    assert (one.limit(), one.used(), one.kills()) == (512 * MIB, 100 * MIB, 3)
    (tmp_path / "memory.stat").write_text("anon 5\nfile 40960\n" if unified else "cache 1\ntotal_cache 40960\n")
    assert one.page_cache() == 40960


@pytest.mark.parametrize(("unified", "limit"), [(True, "max"), (False, str(2**63 - 4096))])
def test_no_limit(tmp_path: Path, unified: bool, limit: str) -> None:
    assert group(tmp_path, unified=unified, limit=limit).limit() is None


def test_a_group_that_says_nothing(tmp_path: Path) -> None:
    one = Group(tmp_path, "the container", True)
    assert (one.limit(), one.used(), one.kills(), one.page_cache()) == (None, None, None, 0)


def test_the_tightest_of_several(tmp_path: Path) -> None:
    wide = group(tmp_path / "wide", unified=True, limit=str(512 * MIB))
    tight = replace(group(tmp_path / "tight", unified=True, limit=str(100 * MIB)), name="the slice")
    endless = group(tmp_path / "endless", unified=True, limit="max")
    assert tightest((endless, wide, tight)) == (tight, 100 * MIB)
    assert tightest((endless,)) is None


# ---- whom the kernel killed ------------------------------------------------------------------------------------------


class Kernel:
    """Kills processes of our control group, as the files tell it."""

    def __init__(self, folder: Path, kills: int | None = 4) -> None:
        self.folder, self.kills = folder, kills or 0
        self.groups = (group(folder, unified=True, limit=str(512 * MIB), kills=kills),)

    def kill(self, processes: int = 1) -> None:
        self.kills += processes
        count(self.folder, self.kills, unified=True)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel(tmp_path)
    monkeypatch.setattr(cgroups, "around_us", lambda: kernel.groups)
    return kernel


class Clock:
    """Stands still."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def passes(self, seconds: float) -> None:
        self.now += seconds + 0.001


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


def explained(memory: OutOfMemory, how: Exit = KILLED, *, ours: bool = False, peak: int | None = None) -> str:
    return str(memory.explained(how, ours=ours, peak=peak))


def test_a_victim_is_named_with_limit_and_use(kernel: Kernel) -> None:
    memory = OutOfMemory()
    kernel.kill()
    said = explained(memory, peak=48_000 * MIB)
    assert said == "killed: out of memory (limit of the container 512 MiB; it used 48000 MiB)"


def test_a_use_that_may_be_our_own_is_not_told(kernel: Kernel) -> None:
    memory = OutOfMemory()
    kernel.kill()
    assert explained(memory, peak=1 * MIB) == "killed: out of memory (limit of the container 512 MiB)"


def test_what_started_us_may_be_large() -> None:
    """An editor, a test run: the kernel counts its memory as ours from before the exec."""
    ask = "from mesh_supervisor.host.memory import _own_peak; print(_own_peak())"
    large = f"import subprocess, sys; held = b'x' * {400 * MIB}; subprocess.run([sys.executable, '-c', {ask!r}])"
    told = subprocess.run([sys.executable, "-c", large], capture_output=True, text=True, check=True).stdout
    assert MIB < int(told) < 200 * MIB


def test_a_shell_says_it_of_its_program(kernel: Kernel) -> None:
    memory = OutOfMemory()
    kernel.kill()
    assert explained(memory, Exit(137)) == "killed: out of memory (limit of the container 512 MiB)"


def test_who_was_killed_by_somebody_else(kernel: Kernel) -> None:
    memory = OutOfMemory()
    assert explained(memory) == "killed by SIGKILL"
    kernel.kill()
    assert "out of memory" in explained(memory)
    assert explained(memory) == "killed by SIGKILL"  # one victim, one death


def test_what_we_killed_ourselves_is_no_victim(kernel: Kernel) -> None:
    memory = OutOfMemory()
    kernel.kill()
    assert explained(memory, ours=True) == "killed by SIGKILL"
    assert "out of memory" in explained(memory)


@pytest.mark.parametrize("how", [Exit(0), Exit(None, signal.SIGSEGV), Exit(None, signal.SIGTERM)])
def test_other_ends_are_as_they_are(kernel: Kernel, how: Exit) -> None:
    memory = OutOfMemory()
    kernel.kill()
    assert explained(memory, how) == str(how)
    assert "out of memory" in explained(memory)


def test_several_at_once(kernel: Kernel) -> None:
    memory = OutOfMemory()
    kernel.kill(2)
    assert ["out of memory" in explained(memory) for _ in range(3)] == [True, True, False]


def test_a_worker_that_was_killed_long_ago_explains_nothing(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = OutOfMemory()
    kernel.kill(2)
    assert "out of memory" in explained(memory)
    later = time.monotonic() + TOGETHER + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert explained(memory) == "killed by SIGKILL"


def test_a_worker_that_was_killed_is_said_at_a_later_start(kernel: Kernel, clock: Clock) -> None:
    said: list[str] = []
    memory = OutOfMemory(said.append)
    memory.look()
    assert said == []
    kernel.kill()
    memory.look()
    clock.passes(SOON)
    memory.look()
    memory.look()
    assert said == ["the kernel has killed a process: out of memory (limit of the container 512 MiB)"]
    assert explained(memory) == "killed by SIGKILL"


def test_of_two_that_were_killed_at_once_one_is_started_again_before_the_other_is_reaped(
    kernel: Kernel, clock: Clock
) -> None:
    said: list[str] = []
    memory = OutOfMemory(said.append)
    kernel.kill()
    kernel.kill()
    assert "out of memory" in explained(memory)
    memory.look()
    assert "out of memory" in explained(memory)
    clock.passes(TOGETHER)
    memory.look()
    assert said == []


def test_one_that_nobody_accounts_for_is_said_at_last(kernel: Kernel, clock: Clock) -> None:
    said: list[str] = []
    memory = OutOfMemory(said.append)
    kernel.kill()
    memory.look()
    clock.passes(TOGETHER)
    assert explained(memory) == "killed by SIGKILL"
    assert said == ["the kernel has killed a process: out of memory (limit of the container 512 MiB)"]


def test_who_ends_because_a_worker_was_killed(kernel: Kernel) -> None:
    memory = OutOfMemory()
    kernel.kill()
    said = explained(memory, Exit(1, last_words="a worker died"))
    words = "a process here was killed: out of memory (limit of the container 512 MiB)"
    assert said == f"exit 1: a worker died; {words}"
    kernel.kill()
    assert explained(memory, Exit(1)) == f"exit 1: {words}"


def test_where_no_group_counts_the_machine_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victims = [7]
    monkeypatch.setattr(cgroups, "around_us", lambda: (Group(tmp_path, "the container", True),))
    monkeypatch.setattr(cgroups, "machine_kills", lambda: victims[0])
    memory = OutOfMemory()
    victims[0] += 1
    assert explained(memory, peak=48_000 * MIB) == "killed: out of memory (of the whole machine; it used 48000 MiB)"


def test_where_nobody_counts_nothing_is_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "around_us", tuple)
    monkeypatch.setattr(cgroups, "machine_kills", lambda: None)
    assert explained(OutOfMemory()) == "killed by SIGKILL"


# ---- whether there is any to spare -----------------------------------------------------------------------------------


@pytest.mark.parametrize("unified", [True, False])
@pytest.mark.parametrize(("used", "cache", "short"), [(100, 0, False), (500, 0, True), (500, 300, False)])
def test_a_container_that_is_nearly_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unified: bool, used: int, cache: int, short: bool
) -> None:
    one = group(tmp_path, unified=unified, limit=str(512 * MIB), used=used * MIB)
    (tmp_path / "memory.stat").write_text(f"{'file' if unified else 'total_cache'} {cache * MIB}\n")
    monkeypatch.setattr(cgroups, "around_us", lambda: (one,))
    monkeypatch.setattr(memory, "_machine", lambda: (0, 0))
    assert memory.is_short() is short
