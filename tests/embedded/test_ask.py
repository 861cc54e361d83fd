# SPDX-License-Identifier: GPL-2.0-or-later
"""Asking a qube: whatever comes, or does not come, there is an answer or a sentence, in time."""

import contextlib
import os
import sys
import time
from pathlib import Path

import pytest

from qubes_vpn_formula.embedded import dom0
from qubes_vpn_formula.lab.qube import children

#: A qube's end of the line; what it gets: QUBE SERVICE USER.
ANSWERS = {
    "echo": "cat",
    "words": 'echo "$@"',
    "huge": "cat /dev/zero",
    "slow": "while :; do echo x; sleep 0.05; done",
    "hung": "sleep 1000",
    "deaf": "exec <&-; echo done",
    "closed": "exec >&-; sleep 1000",
    "orphan": "sleep 1000 & echo $! >orphan",
    "failed": "echo no; exit 3",
    "missing": "exit 127",
    "binary": r"printf '\033[2J\000\377'",
    "noisy": "head -c 1000000 /dev/zero >&2; echo ok",
}


@pytest.fixture
def qube(embedded, monkeypatch, tmp_path):
    """`ask` of the qube "work", which runs and answers by the case that the service names."""
    monkeypatch.setenv("QUBES_VPN_EMBEDDED", "")  # what this sets is taken back
    monkeypatch.setattr(sys, "path", sys.path)
    monkeypatch.chdir(tmp_path)
    cases = "\n".join(f"x.{name}) {what};;" for name, what in ANSWERS.items())
    program = tmp_path / "qrexec"
    program.write_text(f'#!/bin/sh\ncase "${{2%%+*}}" in\n{cases}\nesac\n', "utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("QUBES_VPN_QREXEC", str(program))
    dom0.machine(embedded.path, dry=True)
    embedded.call("work", "admin.vm.Start")
    import qubes_vpn_ask
    import qubes_vpn_qubesd

    def ask(case, *rest, name="work", **more):
        app = qubes_vpn_qubesd.connect()
        return qubes_vpn_ask.ask(app, name, f"x.{case}", *rest, **more)

    ask.NoAnswer = qubes_vpn_ask.NoAnswer
    ask.Silent = qubes_vpn_ask.Silent
    return ask


def test_the_payload_goes_there_and_the_answer_comes_back(qube):
    payload = bytes(range(256)) * 4096  # more than fits into a pipe, both ways
    assert qube("echo", payload, most=len(payload)) == payload
    assert qube("echo") == b""
    assert qube("words+N") == b"work x.words+N root\n"
    assert qube("words", user="DEFAULT") == b"work x.words DEFAULT\n"


def test_a_qube_that_takes_no_payload_is_no_error(qube):
    assert qube("deaf", b"x" * 1_000_000) == b"done\n"


def test_what_it_says_beside_the_answer_is_nobodys(qube):
    assert qube("noisy") == b"ok\n"


def test_bytes_are_bytes(qube):
    assert qube("binary") == b"\033[2J\0\377"


@pytest.mark.parametrize("case", ["huge", "slow", "hung", "closed"])
def test_it_ends_in_time_and_by_size(qube, case):
    begun = time.monotonic()
    most = {"huge": 10_000}.get(case, 65536)
    with pytest.raises(qube.Silent) as told:
        qube(case, seconds=0.5, most=most)
    assert time.monotonic() - begun < 3
    limit = "more than 10000 bytes" if case == "huge" else "no whole answer to"
    assert str(told.value).startswith(f"work: {limit}")
    assert str(told.value).endswith(".")


def test_what_it_left_behind_is_ended_too(qube):
    with pytest.raises(qube.Silent):
        qube("orphan", seconds=0.5)  # the pipe is held open by what it started
    orphan = Path("/proc", Path("orphan").read_text().strip(), "stat")
    until = time.monotonic() + 5
    # Whose child it is now may take its time to notice.
    while orphan.exists() and orphan.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < until, "still alive"
        time.sleep(0.01)


def test_exactly_as_much_as_allowed_is_an_answer(qube):
    assert qube("echo", b"12345", most=5) == b"12345"
    with pytest.raises(qube.Silent):
        qube("echo", b"123456", most=5)


def test_exit_codes_are_words(qube, monkeypatch):
    with pytest.raises(qube.NoAnswer, match=r"^work: x\.failed ended with 3\.$"):
        qube("failed")
    with pytest.raises(qube.NoAnswer, match=r"^work: has no service x\.missing\. Apply"):
        qube("missing")
    monkeypatch.delenv("QUBES_VPN_QREXEC")
    with pytest.raises(qube.NoAnswer, match="qrexec had a problem"):
        qube("echo")


def test_nobody_is_started_or_thawed_by_being_asked(qube, embedded):
    embedded.forget_calls()
    with pytest.raises(qube.NoAnswer, match=r"personal: does not run \(Halted\)"):
        qube("echo", name="personal")
    embedded.call("work", "admin.vm.Pause")
    with pytest.raises(qube.NoAnswer, match=r"work: does not run \(Paused\)"):
        qube("echo")
    with pytest.raises(qube.NoAnswer, match=r"nosuch could not be asked: .*no such qube"):
        qube("echo", name="nosuch")
    assert [call.method for call in embedded.writes()] == ["admin.vm.Pause"]


def test_no_client_is_left(qube):
    before = children(os.getpid())
    for case in ("echo", "failed"):
        with contextlib.suppress(qube.NoAnswer):
            qube(case)
    assert children(os.getpid()) == before
