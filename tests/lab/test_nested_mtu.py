# SPDX-License-Identifier: GPL-2.0-or-later
"""R43, R88: a tunnel inside a tunnel carries packets of full size, whichever kind is in which.

What programs set by themselves, 1420 for WireGuard and 1500 for OpenVPN, does not fit into another
tunnel: it goes through in pieces, which errors about sizes and the clamp of TCP's sizes allow.
"""

from subprocess import PIPE

import pytest
from conftest import MakeLab

from qubes_vpn_formula.lab import chains, mutants
from qubes_vpn_formula.lab.capture import Capture
from qubes_vpn_formula.lab.killswitches import Ours
from qubes_vpn_formula.lab.machine import SERVER
from qubes_vpn_formula.lab.packets import decode
from qubes_vpn_formula.lab.traffic import Echo
from qubes_vpn_formula.lab.tunnels import Kind

FAMILIES = (4, 6)
_BYTES = 300_000
_SERVE = f"""
import socket
one = socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
while True:
    client, _ = one.accept()
    with client:
        while client.recv(65536):
            pass
        client.sendall(bytes({_BYTES}))
"""
#: Sends and fetches; says how much came.
_TCP = f"""
import socket, sys
with socket.create_connection((sys.argv[1], 8080), 8) as one:
    one.sendall(bytes({_BYTES}))
    one.shutdown(socket.SHUT_WR)
    came = 0
    while data := one.recv(65536):
        came += len(data)
print(came)
"""
#: Datagrams that fill each link on the way, and one that no link takes whole; says which came back.
_SIZES = (1200, 1372, 1392, 1420, 1472, 4000)
_UDP = f"""
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
one = socket.socket(family, socket.SOCK_DGRAM)
one.connect((sys.argv[1], 7))
one.settimeout(1)
for size in {_SIZES}:
    for _ in range(4):  # the first ones may be what the path's size is learnt by
        try:
            one.send(bytes(size))
            if len(one.recv(9000)) == size:
                print(size)
                break
        except OSError:
            pass
"""


class Carried:
    """What a client's programs have got, and the frames that left the inner tunnel's qube."""

    def __init__(self, lab, folder):
        with (
            Echo(lab.internet, SERVER[4], 7),
            Echo(lab.internet, SERVER[6], 7),
            Capture(lab.qubes["sys-vpn-2"], *lab.far_side("sys-vpn-2"), folder / "a") as capture,
        ):
            server = lab.internet.popen(["python3", "-c", _SERVE], stdout=PIPE, text=True)
            assert server.stdout.readline() == "ready\n"
            self.tcp, self.udp = self._both(lab, _TCP), self._both(lab, _UDP)
            captured = capture.finish()
        assert captured.trouble == ""
        packets = [decode(frame.data) for frame in captured.frames]
        self.pieces = sum(1 for packet in packets if packet.offset or packet.more)

    @staticmethod
    def _both(lab, program):
        client = lab.qubes["client-1"]
        return [
            client.run(["python3", "-c", program, SERVER[family]], check=False).stdout.split()
            for family in FAMILIES
        ]


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        (Kind("wireguard"), Kind("wireguard", mtu=1420)),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (
                (Kind("wireguard"), Kind("wireguard", 6, mtu=1420)),
                (Kind("wireguard"), Kind("openvpn-udp", mtu=1500)),
                (Kind("wireguard"), Kind("openvpn-tcp", mtu=1500)),
                (Kind("openvpn-udp", mtu=1500), Kind("wireguard", mtu=1420)),
            )
        ),
    ],
    ids=lambda kind: f"{kind.program}-{kind.family}",
)
def test_packets_of_full_size_get_through(make_lab: MakeLab, tmp_path, outer, inner) -> None:
    lab = make_lab(chains.multihop(outer, inner), Ours())
    lab.start()
    carried = Carried(lab, tmp_path)
    assert carried.tcp == [[str(_BYTES)]] * 2
    assert carried.udp == [[str(size) for size in _SIZES]] * 2


@pytest.mark.slow
def test_with_room_for_the_outer_tunnel_nothing_is_cut(make_lab: MakeLab, tmp_path) -> None:
    """`MTU = 1340` in the inner profile; but for what the client itself cuts, inside."""
    pieces = []
    for mtu in (1420, 1340):
        lab = make_lab(chains.multihop(inner=Kind("wireguard", mtu=mtu)), Ours())
        lab.start()
        pieces.append(Carried(lab, tmp_path).pieces)
    assert pieces[0] > 100
    assert pieces[1] == 0


@pytest.mark.slow
def test_without_errors_about_sizes_they_do_not(make_lab: MakeLab, tmp_path) -> None:
    """R90."""
    lab = make_lab(
        chains.multihop(inner=Kind("openvpn-udp", mtu=1500)), mutants.named("no-path-mtu")
    )
    lab.start()
    carried = Carried(lab, tmp_path)
    assert carried.tcp + carried.udp != [[str(_BYTES)]] * 2 + [[str(s) for s in _SIZES]] * 2
