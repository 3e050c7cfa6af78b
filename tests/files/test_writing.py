"""Writers: an OSError with the file where the disk is full, read-only or the name too long; nothing left behind."""

import os
import subprocess
import sys
import time

import pytest
import torch

from tests.formats.files import adapter, to_original, unet2d, write
from tests.full_disk import full_disk
from unet_motion import MotionAdapter, UNetMotionModel, load_motion_module
from unet_motion.cli import main
from unet_motion.files.atomic import PREFIX, atomic_file, atomic_folder
from unet_motion.formats import FileFormatError
from unet_motion.formats.merging import merge_motion_modules, scale_blocks
from unet_motion.formats.save_motion_module import save_motion_file
from unet_motion.lora.saving import save_lora

LAYER = "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def model():
    return UNetMotionModel.from_unet2d(unet2d(), adapter())


@pytest.fixture(scope="module")
def motion_file(tmp_path_factory):
    return write(tmp_path_factory.mktemp("motion") / "a.safetensors", to_original(adapter().state_dict()))


WRITERS = {
    "save_pretrained": lambda model, path: model.save_pretrained(path.with_suffix("")),
    "save_pretrained as a pickle": lambda model, path: model.save_pretrained(
        path.with_suffix(""), safe_serialization=False
    ),
    "save_motion_file": lambda model, path: save_motion_file(model, path, {}),
    "save_lora": lambda model, path: save_lora(
        {LAYER: (torch.zeros(99, 32), torch.zeros(32, 99))}, path, "original", {}
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_an_os_error_and_leaves_nothing(tmp_path, model, writer):
    (tmp_path / "out.safetensors").write_bytes(b"old")
    with full_disk(20_000), pytest.raises(OSError, match=r"out|cannot be written"):
        WRITERS[writer](model, tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_bytes() == b"old"
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [tmp_path / "out.safetensors"]


@pytest.mark.parametrize("command", ["convert", "merge"])
def test_a_full_disk_ends_a_command_with_a_sentence(tmp_path, motion_file, capsys, command):
    out = tmp_path / "out.safetensors"
    arguments = {
        "convert": ["--to", "diffusers", str(motion_file), str(out)],
        "merge": [str(motion_file), "--out", str(out)],
    }
    with full_disk(20_000):
        assert main([command, *arguments[command]]) == 2
    assert "out.safetensors" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("writer", WRITERS)
def test_names_that_are_too_long_are_refused_before_the_work(tmp_path, model, writer):
    with pytest.raises(OSError, match="File name too long"):
        WRITERS[writer](model, tmp_path / f"{'x' * 300}.safetensors")
    assert not list(tmp_path.iterdir())


def test_the_longest_names_can_be_written(tmp_path):
    name = "x" * 250 + ".webp"
    with atomic_file(tmp_path / name) as part:
        assert part.suffix == ".webp"
        part.write_bytes(b"new")
    with atomic_folder(tmp_path / ("y" * 255)) as folder:
        (folder / "a").write_bytes(b"")
    assert sorted(p.name for p in tmp_path.iterdir()) == [name, "y" * 255]
    assert (tmp_path / name).read_bytes() == b"new"


def test_a_name_that_is_too_long_never_enters_the_block(tmp_path):
    for writes in (atomic_file, atomic_folder):
        with pytest.raises(OSError, match="File name too long"), writes(tmp_path / ("x" * 256)):
            pytest.fail("work was done for a name that cannot be")


@pytest.mark.skipif(
    sys.platform == "win32" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere"
)
def test_a_folder_that_cannot_be_written_to(tmp_path, model):
    tmp_path.chmod(0o500)
    for writer in WRITERS.values():
        with pytest.raises(PermissionError):
            writer(model, tmp_path / "out.safetensors")


KILLED = """
import sys, time
from pathlib import Path
from unet_motion.files.atomic import atomic_file
with atomic_file(Path(sys.argv[1]) / "out.bin") as part:
    part.write_bytes(b"half")
    print("written", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there leftovers are told by their age alone")
def test_what_a_killed_writer_leaves_is_removed_and_what_a_living_one_has_is_not(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for writer in writers:
            assert writer.stdout.readline() == "written\n"
        writers[0].kill()
        writers[0].wait()
        hidden = [entry for entry in tmp_path.iterdir() if entry.name.startswith(PREFIX)]
        assert len(hidden) == 2
        with atomic_file(tmp_path / "new.bin") as part:
            part.write_bytes(b"new")
        # Folders made just now may be about to be locked: they are left.
        assert len([entry for entry in tmp_path.iterdir() if entry.name.startswith(PREFIX)]) == 2
        for entry in hidden:
            os.utime(entry, (time.time() - 100,) * 2)
        with atomic_file(tmp_path / "new.bin") as part:
            part.write_bytes(b"new")
        left = [entry for entry in tmp_path.iterdir() if entry.name.startswith(PREFIX)]
        assert len(left) == 1 and (left[0] / "out.bin").read_bytes() == b"half"
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="modes of files are POSIX")
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_have_the_mode_that_any_other_has(tmp_path, mask):
    old = os.umask(mask)
    try:
        save_lora({LAYER: (torch.zeros(2, 32), torch.zeros(32, 2))}, tmp_path / "a.safetensors", "original", {})
        (tmp_path / "plain").write_bytes(b"")
    finally:
        os.umask(old)
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_old_folder_is_put_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "old").write_bytes(b"old")
    replace, calls = os.replace, []

    def fail_second(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise PermissionError("not now")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_second)
    with pytest.raises(PermissionError, match="not now"), atomic_folder(tmp_path / "clip") as folder:
        (folder / "new").write_bytes(b"new")
    assert [p.name for p in (tmp_path / "clip").iterdir()] == ["old"] and len(list(tmp_path.iterdir())) == 1


def test_content_is_on_the_disk_before_its_name_is(tmp_path, monkeypatch):
    synced, replace, fsync = [], os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_ino), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda source, target: (synced.append("replace"), replace(source, target)))
    with atomic_file(tmp_path / "a") as part:
        part.write_bytes(b"new")
        content = part.stat().st_ino
    assert synced == [content, "replace", tmp_path.stat().st_ino]


def test_merges_that_no_dtype_holds_are_refused(tmp_path, motion_file, capsys):
    for weight in ("1e39", "nan", "inf", "-2e6"):
        out = tmp_path / "out.safetensors"
        assert main(["merge", f"{motion_file}:{weight}", "--out", str(out)]) == 2
        assert "expected 1 finite numbers of at most 1e+06" in capsys.readouterr().err and not out.exists()
    half = load_motion_module(motion_file, torch.float16)
    with pytest.raises(ValueError, match="gets values that float16 does not hold"):
        merge_motion_modules([half], [1e6])
    with pytest.raises(ValueError, match="gets values that float16 does not hold"):
        scale_blocks(half, {"mid_block": 1e6})
    with pytest.raises(ValueError, match="`mid_block` is nan"):
        scale_blocks(half, {"mid_block": float("nan")})


def test_inspect_goes_on_behind_a_file_that_cannot_be_read(tmp_path, motion_file, capsys):
    import json

    bad, gone = tmp_path / "bad.ckpt", tmp_path / "gone.ckpt"
    bad.write_bytes(b"\x80\x02garbage")
    assert main(["inspect", str(bad), str(motion_file), str(gone)]) == 2
    printed = capsys.readouterr()
    assert "a.safetensors: an AnimateDiff motion module" in printed.out
    errors = printed.err.splitlines()
    assert len(errors) == 2 and "bad.ckpt: is damaged" in errors[0] and "gone.ckpt does not exist" in errors[1]
    assert main(["inspect", "--json", str(bad), str(motion_file)]) == 2
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["path"], first["loadable"]) == (str(bad), False) and "damaged" in first["problem"]
    assert second["loadable"]


def test_readers_of_a_folder_keep_their_errors(tmp_path):
    MotionAdapter(block_out_channels=(32, 64)).save_pretrained(tmp_path)
    for name in ("../part.safetensors", "x" * 300, "a\nb", "\ud800"):
        (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(json_index(name))
        with pytest.raises(FileFormatError, match="expected names of files in its own folder") as caught:
            load_motion_module(tmp_path)
        assert str(caught.value).isprintable()


def json_index(name):
    import json

    return json.dumps({"weight_map": {"a": name}})
