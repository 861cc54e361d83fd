# SPDX-License-Identifier: GPL-2.0-or-later
"""What a killswitch stops: from the kernel by a booted qube's journal to dom0's table (R66)."""

import random
import time

import pytest
from tunnelled import template
from verifying import Dom0

from qubes_vpn_formula.lab import kernellog
from qubes_vpn_formula.lab.booted.machine import AppVM, Booted
from qubes_vpn_formula.lab.qube import SLOWNESS, Qube
from qubes_vpn_formula.lab.senders import tcp, udp
from qubes_vpn_formula.lab.traffic import send

SERVER, NOBODY = "198.51.100.1", {4: "192.0.2.77", 6: "2001:db8::77"}
PILLAR = {
    "topology": "simple",
    "tunnels": {
        "sys-vpn": {
            "kind": "openvpn",
            "template": "t-vpn",
            "profile": "one.ovpn",
            "endpoints": [f"{SERVER}:1194/udp"],
            "log_drops": True,
        }
    },
    "routes": {"qubes": {"work": "sys-vpn"}},
}
_WORD = b"word-of-the-lab"


@pytest.fixture(scope="module")
def qube(lab: Booted) -> AppVM:
    qube = lab.appvm("sys-vpn", template(lab), services=["qubes-vpn"])
    folder = qube.volume / "config/vpn"
    folder.mkdir(0o700, parents=True)
    (folder / "endpoints.txt").write_text(f"{SERVER}:1194/udp\n")
    return qube


@pytest.fixture(scope="module")
def client(lab: Booted, qube: AppVM) -> Qube:
    return lab.client("work", netvm=qube)


def _log(qube: AppVM, word: str) -> None:
    """The pillar's `log_drops`, for the qube's next start."""
    text = f"interface = tun0\nlog = {word}\n"
    (qube.volume / "config/vpn/killswitch.conf").write_text(text)


def test_what_is_stopped_is_in_dom0s_table(lab, qube, client, tmp_path):
    """By the formula's own service and function; the journal is the qube's own systemd's."""
    port = random.randrange(20_000, 60_000)  # noqa: S311 - tells this test's lines from others'
    _log(qube, "yes")
    with kernellog.of_all() as possible:
        if not possible:
            pytest.skip("the kernel's log has nothing of network namespaces here")
        qube.start(kernel_log=True)
        time.sleep(3)  # what it sends at its start may have used the limit up
        for address in NOBODY.values():
            send(client, udp(address, port, _WORD, count=2), tcp(address, port, _WORD, wait=0.5))
            send(qube.network, udp(address, port, _WORD))
        send(lab.internet, udp(qube.qubesdb["/qubes-ip"], port, _WORD))
        time.sleep(SLOWNESS)
    dom0 = Dom0(tmp_path, PILLAR)
    dom0.runs("sys-vpn", qube)
    dom0.runs("work", client)
    found = dom0.asked("drops", "data")
    assert found["silent"] == {}
    rows = {
        (row["qube"], row["direction"], row["from"], row["to"], row["protocol"]): row["times"]
        for row in found["rows"]
        if row["port"] == port
    }
    own = (qube.qubesdb["/qubes-ip"], qube.qubesdb["/qubes-ip6"])
    theirs = client.qubesdb["/qubes-ip6"]
    assert rows == {
        ("sys-vpn", "through it", "work", NOBODY[4], "udp"): 2,
        ("sys-vpn", "through it", "work", NOBODY[4], "tcp"): 1,
        ("sys-vpn", "through it", theirs, NOBODY[6], "udp"): 2,
        ("sys-vpn", "through it", theirs, NOBODY[6], "tcp"): 1,
        ("sys-vpn", "its own", own[0], NOBODY[4], "udp"): 1,
        ("sys-vpn", "its own", own[1], NOBODY[6], "udp"): 1,
        ("sys-vpn", "to it", "10.138.0.1", own[0], "udp"): 1,
    }
    assert all(abs(row["last"] - time.time()) < 60 * SLOWNESS for row in found["rows"])
    words = ["sys-vpn", "through", "it", "work", NOBODY[4], "udp", str(port), "2"]
    assert words in [line.split()[2:] for line in dom0.asked("drops").splitlines()]
    # Who notes nothing says so: an empty table would look as if nothing was stopped.
    _log(qube, "no")
    qube.run(["/usr/lib/qubes-vpn/killswitch", "load"])
    assert dom0.asked("drops", "data")["silent"] == {
        "sys-vpn": "its rules note nothing (pillar: log_drops, of a tunnel)."
    }
