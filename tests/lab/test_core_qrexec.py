# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands for qrexec-client in the lab: dom0's question gets into a qube, and only there."""

import shutil
import sys

import pytest
from in_qube import skip_where_impossible

from qubes_vpn_formula.embedded import dom0
from qubes_vpn_formula.lab import qrexec
from qubes_vpn_formula.lab.qube import Qube

SAY = '#!/bin/sh\necho "$(hostname) $QREXEC_REMOTE_DOMAIN $QREXEC_SERVICE_FULL_NAME $# $1"; cat\n'


@pytest.mark.parametrize(
    ("service", "words"),
    [
        ("qubes.VMExec+python3+--I+--", ["python3", "-I", "-"]),
        ("qubes.VMExec+sh+--c+echo-20-E2-82-AC-2B1", ["sh", "-c", "echo €+1"]),
        ("qubes.VMShell", ["/bin/bash"]),
    ],
)
def test_qubes_own_services_are_their_commands(service, words):
    assert qrexec.words(service) == words


def test_dom0_asks_a_qube_of_the_lab(embedded, monkeypatch, tmp_path):
    skip_where_impossible()
    monkeypatch.setenv("QUBES_VPN_EMBEDDED", "")
    monkeypatch.setattr(sys, "path", sys.path)
    dom0.machine(embedded.path, dry=True)
    import qubes_vpn_ask
    import qubes_vpn_qubesd

    def ask(name, service, payload=b"", **more):
        return qubes_vpn_ask.ask(qubes_vpn_qubesd.connect(), name, service, payload, **more)

    with Qube("work") as qube, Qube("personal") as other:
        qube.write("/etc/qubes-rpc/x.say", SAY, 0o755)
        monkeypatch.setenv(
            "QUBES_VPN_QREXEC", str(qrexec.client(tmp_path, {"work": qube, "personal": other}))
        )
        for name in ("work", "personal", "vault"):
            embedded.call(name, "admin.vm.Start")
        assert ask("work", "x.say", b"more") == b"work dom0 x.say+ 0 \nmore"
        assert ask("work", "x.say+N", b"") == b"work dom0 x.say+N 1 N\n"
        with pytest.raises(qubes_vpn_ask.NoAnswer, match="personal: has no service"):
            ask("personal", "x.say")
        with pytest.raises(qubes_vpn_ask.NoAnswer, match="qrexec had a problem"):
            ask("vault", "x.say")
        program = b"import socket; print(socket.gethostname())"
        assert ask("personal", "qubes.VMExec+python3+--I+--", program) == b"personal\n"
        with pytest.raises(qubes_vpn_ask.Silent):
            ask("personal", "qubes.VMShell", b"sleep 1000\n", seconds=1)
        assert shutil.which("pgrep", path="/usr/bin:/bin")
        assert qube.run(["pgrep", "-x", "sleep"], check=False).returncode == 1
        assert other.run(["pgrep", "-x", "sleep"], check=False).returncode == 1
