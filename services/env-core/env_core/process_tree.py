"""What the operating system says of a process and all below it (Linux, /proc)."""

import contextlib
import os


def tree(pid: int) -> list[int]:
    """Return the process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            children.setdefault(int(_stat(int(entry))[1]), []).append(int(entry))
    found = [pid]
    for parent in found:
        found.extend(children.get(parent, []))
    return found


def cpu_s(pids: list[int]) -> float:
    """Return the CPU seconds, user and system, that the processes have used."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            stat = _stat(pid)
            total += int(stat[11]) + int(stat[12])
    return total / os.sysconf("SC_CLK_TCK")


def pss_mb(pids: list[int]) -> float:
    """Return the processes' memory in MiB; pages that several share count once."""
    total_kb = 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
            total_kb += sum(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
    return total_kb / 1024


def command(pid: int) -> str:
    """Return a process's command line, empty where it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
            return cmdline.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
        return stat.read().rpartition(")")[2].split()
