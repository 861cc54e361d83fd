# SPDX-License-Identifier: GPL-2.0-or-later
"""`qubes-vpn demo`: shows what happened, and fails when something else did."""

import os
import pty
import subprocess
import sys

import pytest

from qubes_vpn_formula import demonstration
from qubes_vpn_formula.cli import main
from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.masterless import Masterless

ESCAPE = "\x1b["


def demo(topology, **streams):
    return subprocess.Popen(
        [sys.executable, "-m", "qubes_vpn_formula", "demo", "--topology", topology],
        env={**os.environ, "TERM": "xterm-256color"},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        **streams,
    )


def test_plain_text_in_a_pipe():
    """R02: no resolver on the way."""
    with demo("simple", stdout=subprocess.PIPE, text=True) as running:
        printed = running.stdout.read()
    assert running.returncode == 0, printed
    assert ESCAPE not in printed
    assert "sys-dns" not in printed
    assert "The same again: changes nothing" in printed


def test_colours_on_a_terminal():
    """R03: with a resolver."""
    ours, terminal = pty.openpty()
    with demo("dns", stdout=terminal) as running:
        os.close(terminal)
        printed = b"".join(iter(lambda: read(ours), b"")).decode()
    os.close(ours)
    assert running.returncode == 0, printed
    assert ESCAPE in printed
    assert "sys-dns" in printed


def read(terminal):
    """What was written to it; nothing when all who could write are gone."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


class Failing(EmbeddedQubes):
    """A qubesd that refuses to make a qube."""

    def __init__(self, path):
        super().__init__(path)
        self.fail(method="admin.vm.Create.*", error="QubesVMError")


class WritingDryRun(Masterless):
    """States that do not heed `test=True`."""

    def salt_call(self, *arguments, **more):
        return super().salt_call(*(one for one in arguments if one != "test=True"), **more)


class Drifting(Masterless):
    """Somebody turns a qube round before each run."""

    def salt_call(self, *arguments, machine):
        qubes = EmbeddedQubes(machine)
        qubes.call("personal", "admin.vm.property.Set", "netvm", b"")
        qubes.forget_calls()
        return super().salt_call(*arguments, machine=machine)


@pytest.mark.parametrize(
    ("name", "sabotaged", "last_title", "why"),
    [
        ("EmbeddedQubes", Failing, "The real run", "injected fault"),
        ("Masterless", WritingDryRun, "A dry run", "not what this run should do"),
        ("Masterless", Drifting, "The same again", "not what this run should do"),
    ],
)
def test_fails_when_a_step_does_something_else(
    name, sabotaged, last_title, why, monkeypatch, capsys
):
    """A demo that cannot fail would show nothing."""
    # What the demo sets for its process is undone after the test.
    monkeypatch.setenv("QUBES_VPN_EMBEDDED", "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(demonstration, name, sabotaged)
    assert main(["demo"]) == 1
    printed = capsys.readouterr().out
    titles = [line for line in printed.splitlines() if line and not line.startswith(" ")]
    failed = next(number for number, line in enumerate(titles) if "The demo failed: " in line)
    assert last_title in titles[failed - 1]
    assert why in titles[failed]
