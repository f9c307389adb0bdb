from __future__ import annotations

import pytest

from gengen.data import memory
from gengen.types import InputError


def test_this_machine_has_some_memory():
    available = memory.available_memory()
    assert available is None or 2**20 < available < 2**50


def test_the_smaller_of_machine_and_container_counts(tmp_path, monkeypatch):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.available_memory() == 5000 * 1024
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_memory() == 5000 * 1024
    (tmp_path / "memory.max").write_text("3000\n")
    assert memory.available_memory() == 2000


def test_without_meminfo_the_physical_memory_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    available = memory.available_memory()
    assert available is None or available > 2**20


def test_check_fits(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    memory.check_fits(500, "it")
    with pytest.raises(InputError, match="it takes"):
        memory.check_fits(501, "it")
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    memory.check_fits(10**15, "it")
