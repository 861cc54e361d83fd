# SPDX-License-Identifier: GPL-2.0-or-later
"""What every command has: help, exit codes, colour on a terminal only, no traceback."""

import os
import pty
import subprocess
import sys

import pytest
from generator.cases import PROFILES

from qubes_vpn_formula.cli import main
from qubes_vpn_formula.commands import COMMANDS
from qubes_vpn_formula.console import say

NAMES = [command.__name__.rpartition(".")[2] for command in COMMANDS]
PROFILE = str(PROFILES / "home.conf")


def run(*words, **how):
    return subprocess.run(
        [sys.executable, "-m", "qubes_vpn_formula", *words],
        capture_output=True, text=True, check=False, **how,
    )  # fmt: skip


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in NAMES:
        assert f"\n    {name} " in shown
    assert "exit codes:" in shown


@pytest.mark.parametrize("name", NAMES)
def test_help_of_each_command(name, capsys):
    """Each has examples that begin with its own name, its exit codes, and options explained."""
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"\n  qubes-vpn {name}" in shown.partition("example")[2]
    assert "exit codes:" in shown


@pytest.mark.parametrize("words", [[], ["nothing"], ["check"], ["set", "x"], ["init", "--nothing"]])
def test_wrong_words(words, capsys):
    assert main(words) == 2
    assert "usage: qubes-vpn" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["check", "plan", "set"])
def test_a_file_that_is_not_there(name, tmp_path, capsys):
    """Every command that reads a pillar says the same of it."""
    path = str(tmp_path / "none.sls")
    words = [name, path, *(["vaults", "[]"] if name == "set" else [])]
    assert main(words) == 2
    shown = capsys.readouterr()
    assert f"{path}: no such file. Check the name." in shown.out + shown.err


def test_a_pipe_gets_plain_text():
    """Findings and problems are coloured on a terminal only; the pillar alone is on stdout."""
    done = run("init", "--from", PROFILE)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stdout.startswith("# A machine's network")
    assert "PostUp" in done.stderr


def test_a_terminal_gets_colour():
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        [sys.executable, "-m", "qubes_vpn_formula", "init", "--from", PROFILE],
        stdout=subprocess.DEVNULL, stderr=slave, env=environment,
    ) as process:  # fmt: skip
        os.close(slave)
        shown = b""
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # the other side is closed
                break
            shown += piece
    os.close(master)
    assert process.returncode == 0
    assert b"\x1b[" in shown


def test_a_reader_that_has_seen_enough():
    """`qubes-vpn ... | head -1` ends without a traceback."""
    with subprocess.Popen(
        [sys.executable, "-m", "qubes_vpn_formula", "init", "--from", PROFILE, "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        process.stdout.close()
        problems = process.stderr.read()
    assert b"Traceback" not in problems
    assert b"Exception" not in problems


def test_text_is_never_markup(capsys):
    """A file name such as [red].conf is shown as it is."""
    say("[red]x[/red].conf:1: what", "bold")
    assert capsys.readouterr().out == "[red]x[/red].conf:1: what\n"
