# SPDX-License-Identifier: GPL-2.0-or-later
"""A qube is apart from the machine, and nothing of it outlives the lab."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qubes_vpn_formula.lab.qube import CommandFailed, Inside, Qube

_LAB = """
import time
from qubes_vpn_formula.lab.qube import Qube
with Qube("short-lived") as qube:
    orphan = qube.run("setsid sleep 600 >/dev/null 2>&1 & sleep 600 >/dev/null 2>&1 & true")
    program = qube.popen(["sleep", "600"])
    print(qube.pid, program.program(), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    "path", ["/etc/qubes/new", "/usr/lib/new/file", "/rw/config/new", "/run/x"]
)
def test_what_is_written_stays_in_the_qube(qube: Qube, path: str) -> None:
    qube.write(path, "text\n", 0o750)
    assert qube.read(path) == "text\n"
    assert qube.run(["stat", "--format=%a", path]).stdout == "750\n"
    assert not Path(path).exists()


def test_an_absolute_link_does_not_lead_out(qube: Qube) -> None:
    """/var/run is one on most machines."""
    qube.run("ln -sfn /run /etc/way-out")
    qube.write("/etc/way-out/marker", "")
    assert qube.exists("/run/marker")
    assert not Path("/run/marker").exists()


def test_network_settings_are_the_qubes_own(qube: Qube) -> None:
    before = _machine()
    qube.run("ip link add x0 type veth peer name x1; echo 1 >/proc/sys/net/ipv4/ip_forward")
    qube.run(["nft", "add table inet lab_test"])
    assert _machine() == before


def test_a_signal_reaches_the_program(qube: Qube) -> None:
    process = qube.popen(["sleep", "600"])
    process.terminate()
    assert process.wait(5) == -signal.SIGTERM
    assert qube.run("pidof sleep", check=False).stdout == ""


def test_a_signal_reaches_a_program_in_its_network_alone(qube: Qube) -> None:
    process = Inside("network", qube.pid, ["net"]).popen(["sleep", "600"])
    process.terminate()
    assert process.wait(5) == -signal.SIGTERM


def test_a_command_that_fails_says_what_it_said(qube: Qube) -> None:
    with pytest.raises(CommandFailed, match=r"exit 3\nreason"):
        qube.run("echo reason >&2; exit 3")


def test_a_command_that_takes_too_long_is_ended(qube: Qube) -> None:
    with pytest.raises(CommandFailed, match="longer than"):
        qube.run(["sleep", "600"], timeout=0.2)
    assert qube.run("pidof sleep", check=False).stdout == ""


def test_a_qube_outlives_its_orphans(qube: Qube) -> None:
    qube.run("(sleep 0.05 &) >/dev/null 2>&1")
    time.sleep(0.2)
    assert qube.run(["echo", "here"]).stdout == "here\n"


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_everything_ends_with_the_lab(namespaces: None, end: signal.Signals) -> None:
    """However the lab's process ends; programs, orphans and the network."""
    lab = subprocess.Popen(
        [sys.executable, "-c", _LAB], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    holder, _ = (int(word) for word in lab.stdout.readline().split())
    network = Path(f"/proc/{holder}/ns/net").readlink()
    assert len(_inside(network)) == 6  # unshare, the holder, nsenter, its child, two orphans
    lab.send_signal(end)
    lab.wait(10)
    lab.stdout.close()
    deadline = time.monotonic() + 5
    while _inside(network) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _inside(network) == []


def _inside(network: Path) -> list[str]:
    """Processes whose network this is."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "ns/net").readlink() == network:
                found.append(folder.name)
        except OSError:
            continue
    return found


def _machine() -> tuple[str, ...]:
    """Of the machine itself: links, rule tables, forwarding, named namespaces."""
    commands = (["ip", "-o", "link"], ["nft", "list", "tables"], ["ip", "netns"])
    texts = [subprocess.run(one, capture_output=True, text=True).stdout for one in commands]
    return *texts, Path("/proc/sys/net/ipv4/ip_forward").read_text("ascii")
