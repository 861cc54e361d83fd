# SPDX-License-Identifier: GPL-2.0-or-later
"""Every broken profile under tests/bad/profiles/ gives exactly the message beside it.

NAME.expected is all that goes to standard error; NAME.args are further options of `init`.
"""

import shlex

import pytest
from generator.cases import BAD, secrets_of

from qubes_vpn_formula.cli import main

PROFILES = sorted(
    path for path in BAD.iterdir() if path.suffix in (".conf", ".ovpn", ".json", ".txt")
)


def test_there_are_enough():
    """The issue asks for 40 broken pillars and profiles; at least 14 of them are profiles."""
    assert len(PROFILES) >= 14


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.name)
def test_message(path, capsys, monkeypatch):
    """R35, R36: one message that names file, line, key and fix; no pillar, no secret."""
    monkeypatch.chdir(BAD)
    options = path.with_suffix(".args")
    words = shlex.split(options.read_text()) if options.exists() else []
    source = ["--provider", "mullvad", "--relays"] if path.suffix == ".json" else ["--from"]
    assert main(["init", *source, path.name, *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == path.with_suffix(path.suffix + ".expected").read_text(encoding="utf-8")
    for secret in secrets_of(path):
        assert secret not in shown.err


@pytest.mark.parametrize("name", ["a\x1b[2J.conf", "a\nb.conf", "\u202eg.conf", "{{7}}.conf"])
@pytest.mark.parametrize("command", [["init", "--from"], ["check"], ["check", "x", "--profile"]])
def test_a_name_writes_nothing_else_on_a_terminal(name, command, tmp_path, capsys, monkeypatch):
    """A file that another qube sent may be called anything."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("[Interface]\n")
    assert main([*command, name]) == 2
    shown = capsys.readouterr()
    assert all(line.isprintable() for line in (shown.out + shown.err).splitlines())
    assert "\nb.conf" not in shown.err
