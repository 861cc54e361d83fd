# SPDX-License-Identifier: GPL-2.0-or-later
"""Qubes' units in an order that was seen, and that a user's own rules do not survive (R41, R45).

Without anything that pulls in network-pre.target, qubes-firewall ran before qubes-iptables: a user
script's rules for Qubes' chains fail then, and a killswitch made of them is silently not there.
"""

from pathlib import Path

import pytest
import talker

from qubes_vpn_formula.lab.booted.machine import AppVM, Booted
from qubes_vpn_formula.lab.capture import Capture
from qubes_vpn_formula.lab.killswitches import Ours
from qubes_vpn_formula.lab.oracle import Oracle
from qubes_vpn_formula.lab.senders import udp
from qubes_vpn_formula.lab.traffic import send

_MARKER, _ELSEWHERE = b"leak-of-the-order", "198.51.100.7"
_UNITS = "/usr/lib/systemd/system"
_OTHER_ORDER = f"""cd {_UNITS}
sed -i /^Wants=network-pre.target/d qubes-early-vm-config.service
sed -i /^After=/d qubes-firewall.service
sed -i s/^Before=network-pre.target/After=qubes-firewall.service/ qubes-iptables.service
rm -f network-pre.target.requires/qubes-iptables.service
"""
_SCRIPT = """#!/bin/sh
nft add rule ip qubes custom-forward drop || touch /run/not-there
"""
_TALK = "#!/bin/sh\npython3 /rw/config/talker </dev/null >/dev/null 2>&1 &\n"


@pytest.fixture(scope="module")
def qube(lab: Booted) -> AppVM:
    template = lab.template("t-vpn")
    for path, (text, mode) in Ours().files().items():
        template.write(path, text, mode)
    names = (unit.rpartition("/")[2] for unit in Ours().units)
    template.run(["systemctl", "enable", *names])
    template.run(_OTHER_ORDER)
    template.stop()
    qube = lab.appvm("sys-vpn", template, services=["qubes-vpn"])
    qube.start()
    qube.write("/rw/config/qubes-firewall-user-script", _SCRIPT, 0o755)
    qube.write("/rw/config/talker", talker.program(_MARKER, _ELSEWHERE))
    qube.write("/rw/config/rc.local-early.d/talker.rc", _TALK, 0o755)
    qube.stop()
    return qube


def test_rules_for_qubes_chains_are_not_there_and_ours_are(lab, qube, tmp_path):
    """Recorded from before the first process, with somebody in the qube who talks."""
    client = lab.client("work", netvm=qube)
    captures: list[Capture] = []

    def watch() -> None:
        file: Path = tmp_path / "boot.pcap"
        captures.append(Capture(qube.network, qube.upstream, qube.vif, file, proven=False))

    qube.start(plugged=watch)
    send(client, udp(_ELSEWHERE, 443, _MARKER))
    assert qube.exists("/run/not-there")
    assert "drop" not in qube.run("nft list chain ip qubes custom-forward").stdout
    assert qube.run("pgrep -f config/talker", check=False).stdout
    captured = captures[0].finish()
    assert (str(Oracle([], _MARKER).judge(captured)), captured.marked(_MARKER)) == ("closed", [])
    qube.run("nft 'delete table inet qubes_vpn; delete table netdev qubes_vpn'")
    with Capture(qube.network, qube.upstream, qube.vif, tmp_path / "mutant.pcap") as capture:
        send(client, udp(_ELSEWHERE, 443, _MARKER))
        assert capture.finish().marked(_MARKER)  # and so they would have been seen
