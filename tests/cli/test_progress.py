"""Progress: a bar for people at a terminal, one line for logs, nothing where nothing is wanted."""

import builtins
import sys

import pytest

from unet_motion.progress import track


def test_items_come_through_in_order_whatever_is_shown(capsys):
    assert list(track(range(3))) == list(track(iter(range(3)), total=3)) == list(track(range(3), enabled=False))
    assert capsys.readouterr().err.count("3 of 3") == 2


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    pytest.importorskip("tqdm", reason="the bar is tqdm's")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    list(track(range(5), description="sampling"))
    assert "5/5" in capsys.readouterr().err


def test_a_terminal_without_tqdm_gets_one_line(capsys, monkeypatch):
    real = builtins.__import__

    def without_tqdm(name, *rest):
        if name == "tqdm":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(builtins, "__import__", without_tqdm)
    list(track(range(5), description="sampling"))
    assert capsys.readouterr().err.startswith("sampling: 5 of 5 in")
