"""One writer a folder: on disks that are full, and on disks without locks."""

import errno
import os

import pytest

from advface_jax import lock

fcntl = pytest.importorskip("fcntl", reason="there are no such locks on Windows")


def raising(number: int, calls: list[int]):
    def call(*_):
        calls.append(number)
        assert len(calls) < 9, "it tries for ever"
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_keeps_nobody_waiting(tmp_path, monkeypatch, number):
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", raising(number, []))
        with lock.only_writer(tmp_path):
            assert (tmp_path / lock.NAME).is_file()
            with pytest.raises(ValueError, match="being written by another process"):
                lock._locked(tmp_path / lock.NAME)
    assert not list(tmp_path.iterdir())


def test_a_disk_without_locks_is_no_other_process(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", raising(errno.ENOLCK, []))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    with pytest.raises(ValueError, match="cannot be locked .No locks"), lock.only_writer(tmp_path):
        pass
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_lock_that_its_holder_removed_is_asked_for_again(tmp_path, monkeypatch):
    file, stat, gone = tmp_path / lock.NAME, os.stat, []

    def removed(path, *more, **options):
        if path == file and not gone:
            gone.append(path)
            file.unlink()
        return stat(path, *more, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", removed)
        held = lock._locked(file)
    try:
        assert gone and file.read_text() == str(os.getpid())
    finally:
        os.close(held)
