"""Files and folders appear whole or not at all, under names that every system takes, with the rights of new files."""

from __future__ import annotations

import errno
import os
import stat

import numpy as np
import pytest

from unet_motion import video
from unet_motion.files import atomic
from unet_motion.files.atomic import atomic_file, atomic_files, atomic_folder, check_place
from unet_motion.files.saving import write_folder

CLIP = np.zeros((2, 8, 8, 3), np.uint8)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("stem", ["clip", "a" * 100, "a" * 250, "\u661f" * 83, "abcd"])
@pytest.mark.parametrize("context", [atomic_file, atomic_folder])
def test_a_temporary_name_is_no_longer_than_the_final_one(tmp_path, stem, context):
    path = tmp_path / f"{stem}.webp"
    with context(path) as temporary:
        assert temporary != path and temporary.parent.parent == tmp_path
        assert len(os.fsencode(temporary.name)) <= len(os.fsencode(path.name))
        assert context is atomic_folder or temporary.suffix == ".webp"
        if context is atomic_file:
            temporary.write_bytes(b"whole")
    assert names(tmp_path) == [path.name]


def test_two_at_once_with_the_shortest_name_do_not_meet(tmp_path):
    with atomic_file(tmp_path / "a") as first, atomic_file(tmp_path / "a") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "a").read_text() == "1"


@pytest.mark.parametrize("context", [atomic_file, atomic_folder])
def test_a_name_that_is_too_long_is_said_before_any_work(tmp_path, context):
    with pytest.raises(OSError, match="File name too long") as error:
        with context(tmp_path / ("a" * 300 + ".webp")):
            raise AssertionError("work was done")
    assert error.value.errno == errno.ENAMETOOLONG and names(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="Windows has no umask to speak of")
@pytest.mark.parametrize("mask, file, folder", [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775)])
def test_rights_are_those_of_any_new_file(tmp_path, mask, file, folder):
    before = os.umask(mask)
    try:
        for name in ("clip.webp", "clip.gif", "clip.png", "clip"):
            video.write_video(tmp_path / name, CLIP)
        write_folder(tmp_path / "model", {}, {})
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (folder if path.is_dir() else file), path


def refuse(monkeypatch, refused):
    """Make renames to a path fail, as they do where a folder may not be written."""
    replace = os.replace

    def stubborn(source, target):
        if os.fspath(target) == os.fspath(refused) and os.fspath(source) not in kept:
            raise PermissionError(errno.EACCES, "refused", os.fspath(target))
        if os.fspath(source) == os.fspath(refused):
            kept.add(os.fspath(target))
        replace(source, target)

    kept = set()
    monkeypatch.setattr(os, "replace", stubborn)


def test_the_old_file_stays_where_it_cannot_be_replaced(tmp_path, monkeypatch):
    path = tmp_path / "clip.webp"
    path.write_bytes(b"old")
    refuse(monkeypatch, path)
    with pytest.raises(PermissionError):
        video.write_video(path, CLIP)
    assert names(tmp_path) == ["clip.webp"] and path.read_bytes() == b"old"


def test_the_old_folder_is_put_back_where_it_cannot_be_replaced(tmp_path, monkeypatch):
    path = tmp_path / "clip"
    path.mkdir()
    (path / "frame_00000.png").write_bytes(b"old")
    refuse(monkeypatch, path)
    with pytest.raises(PermissionError):
        video.write_video(path, CLIP)
    assert names(tmp_path) == ["clip"] and names(path) == ["frame_00000.png"]
    assert (path / "frame_00000.png").read_bytes() == b"old"


def test_an_old_folder_that_cannot_be_put_back_is_not_removed(tmp_path, monkeypatch):
    path, replace = tmp_path / "clip", os.replace
    path.mkdir()
    (path / "frame_00000.png").write_bytes(b"old")

    def stubborn(source, target):
        if os.fspath(target) == os.fspath(path):
            raise PermissionError(errno.EACCES, "refused", os.fspath(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", stubborn)
    with pytest.raises(PermissionError):
        video.write_video(path, CLIP)
    assert [file.read_bytes() for file in tmp_path.rglob("frame_*")] == [b"old"]


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("failing", range(3))
def test_several_files_are_replaced_together_or_not_at_all(tmp_path, monkeypatch, failing, links):
    paths = [tmp_path / name for name in ("model-00001-of-00002.safetensors", "index.json", "config.json")]
    for path in paths[1:]:  # the first is new
        path.write_text(f"old {path.name}")
    if not links:
        monkeypatch.setattr(os, "link", lambda *names: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))

    def save():
        with atomic_files(paths) as parts:
            for part in parts:
                part.write_text("new")

    with monkeypatch.context() as patch:
        refuse(patch, paths[failing])
        with pytest.raises(PermissionError):
            save()
    assert names(tmp_path) == ["config.json", "index.json"]
    assert all(path.read_text() == f"old {path.name}" for path in paths[1:])
    save()
    assert names(tmp_path) == sorted(path.name for path in paths)
    assert all(path.read_text() == "new" for path in paths)


def test_a_new_file_that_is_gone_again_does_not_hide_the_error_or_stop_the_others_return(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in ("new.json", "index.json", "config.json")]
    paths[1].write_text("old")
    refuse(monkeypatch, paths[2])
    refusing = os.replace

    def remove_before(source, target):
        if os.fspath(target) == os.fspath(paths[2]):
            paths[0].unlink()
        refusing(source, target)

    monkeypatch.setattr(os, "replace", remove_before)
    with pytest.raises(PermissionError), atomic_files(paths) as parts:
        for part in parts:
            part.write_text("new")
    assert names(tmp_path) == ["index.json"] and paths[1].read_text() == "old"


@pytest.mark.parametrize("name", ["clip.webp", "clip"])
def test_what_was_written_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch, name):
    done, fsync, replace = [], os.fsync, os.replace

    def synced(handle):
        done.append(("sync", os.fstat(handle).st_ino))
        fsync(handle)

    def replaced(source, target):
        done.append(("replace", os.stat(source).st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    path = video.write_video(tmp_path / name, CLIP)
    moved = done.index(("replace", path.stat().st_ino))
    files = [path, *path.iterdir()] if path.is_dir() else [path]
    assert {("sync", file.stat().st_ino) for file in files} <= set(done[:moved])
    assert done[-1] == ("sync", tmp_path.stat().st_ino)


def test_a_system_without_sync_is_no_error_and_a_full_disk_is_one(tmp_path, monkeypatch):
    def answer(number):
        def fsync(handle):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(atomic.os, "fsync", fsync)

    answer(errno.EINVAL)
    video.write_video(tmp_path / "clip.webp", CLIP)
    answer(errno.ENOSPC)
    with pytest.raises(OSError, match="No space left"):
        video.write_video(tmp_path / "other.webp", CLIP)
    assert names(tmp_path) == ["clip.webp"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_file_is_not_replaced(tmp_path):
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        for write in (check_place, lambda path: atomic_file(path).__enter__()):
            with pytest.raises(OSError, match="is a device or a pipe, expected the name of a file to write"):
                write(path)
    assert pipe.is_fifo() and link.is_symlink() and sorted(os.listdir(tmp_path)) == ["link", "pipe"]


def test_a_link_leads_to_the_file_that_is_written(tmp_path):
    (tmp_path / "far").mkdir()
    file, link = tmp_path / "far" / "file", tmp_path / "link.webp"
    link.symlink_to(file)
    for text in ("new", "newer"):
        with atomic_file(link) as part:
            assert part.suffix == ".webp"
            part.write_text(text)
        assert link.is_symlink() and file.read_text() == text
    assert os.listdir(tmp_path / "far") == ["file"] and sorted(os.listdir(tmp_path)) == ["far", "link.webp"]
