"""How much memory there is: asked before an array of a stranger's size is allocated."""

from __future__ import annotations

import os
from pathlib import Path

from gengen.types import InputError

# DEFLATE packs at most 258 bytes into 2 bits: no honest member of a zip or gzip file grows by more.
MAX_DEFLATE_RATIO = 1032

MAX_RESIDENT = 2 * 10**9  # bytes of a set that is kept whole, on the devices; larger ones stream

# Reading holds the bytes and at times a converted copy of them.
_COPIES = 2

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")  # version 2: a container's own limit


def available_memory() -> int | None:
    """Bytes that can be allocated now without swapping; None where the system does not say."""
    found = []
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except OSError:  # not Linux: all the memory there is, rather than what is free of it
        names = getattr(os, "sysconf_names", {})
        if "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names:
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        found.append(max(0, limit - int((_CGROUP / "memory.current").read_text())))
    except (OSError, ValueError):  # no such limit; "max" means none either
        pass
    return min(found, default=None)


def is_resident(num_bytes: int) -> bool:
    """Whether a set of that size is kept in memory, and so on the devices, rather than streamed."""
    available = available_memory()
    return num_bytes <= (MAX_RESIDENT if available is None else min(MAX_RESIDENT, available // 4))


def check_fits(num_bytes: int, what: str) -> None:
    """Refuse an array that memory has no room for.

    Args:
        num_bytes: its size.
        what: its name in the message.

    Raises:
        InputError: if reading it would take more memory than is available.
    """
    available = available_memory()
    if available is not None and num_bytes * _COPIES > available:
        raise InputError(
            f"{what} takes {num_bytes / 1e9:.1f} GB, too much for the {available / 1e9:.1f} GB of "
            "memory available: give a smaller set"
        )
