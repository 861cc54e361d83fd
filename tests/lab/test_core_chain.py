# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's machines carry traffic as real ones do; with the killswitch only into the tunnel.

Without a killswitch the same chain leaks when the tunnel dies: the lab can tell.
"""

import pytest
from conftest import MakeLab
from peer import seen_as, server

from qubes_vpn_formula.lab import chains
from qubes_vpn_formula.lab.chains import Member
from qubes_vpn_formula.lab.killswitches import Absent, Ours
from qubes_vpn_formula.lab.machine import PUBLIC
from qubes_vpn_formula.lab.tunnels import Kind

KINDS = [
    Kind("wireguard"),
    Kind("wireguard", 6),
    Kind("openvpn-udp"),
    Kind("openvpn-udp", 6),
    Kind("openvpn-tcp"),
]
FAMILIES = (4, 6)
#: what the server sees of clients of the first and of the second tunnel
INSIDE = {1: ("10.64.1.", "fd64:1::"), 2: ("10.64.2.", "fd64:2::")}


def _name(value: object) -> str:
    if isinstance(value, Kind):
        return f"{value.program}-over-ipv{value.family}"
    return value.__name__


def test_without_a_tunnel_the_internet_sees_sys_net(make_lab: MakeLab) -> None:
    """And neither the client nor a qube between."""
    lab = make_lab((chains.SYS_NET, *(Member(*one) for one in _CLEAR)))
    lab.start()
    with server(lab):
        assert [seen_as(lab, "client", family) for family in FAMILIES] == list(PUBLIC.values())


_CLEAR = (("sys-firewall", "sys-net"), ("client", "sys-firewall", False))


@pytest.mark.parametrize(
    ("order", "kind"),
    [*((chains.simple, kind) for kind in KINDS), (chains.dns, KINDS[0]), (chains.dns, KINDS[2])],
    ids=_name,
)
def test_clients_go_through_the_tunnel(make_lab: MakeLab, order, kind) -> None:
    """R02, R03, R31, R32, R41: both families inside, whichever is outside."""
    lab = make_lab(order(kind), Ours())
    lab.start()
    with server(lab):
        _through(lab, "client-1", 1)
        _through(lab, "sys-vpn", 1)


def test_two_tunnels_side_by_side(make_lab: MakeLab) -> None:
    """R05, R41: each client has its own way."""
    lab = make_lab(chains.parallel(second=Kind("openvpn-udp")), Ours())
    lab.start()
    with server(lab):
        _through(lab, "client-1", 1)
        _through(lab, "client-2", 2)


@pytest.mark.parametrize("inner", [Kind("wireguard"), Kind("openvpn-tcp")], ids=_name)
def test_two_tunnels_in_a_row(make_lab: MakeLab, inner) -> None:
    """R88, R41: the inner one's end is what the internet sees."""
    lab = make_lab(chains.multihop(inner=inner), Ours())
    lab.start()
    with server(lab):
        _through(lab, "client-1", 2)


@pytest.mark.parametrize(
    ("order", "kind"),
    [(chains.simple, Kind("wireguard")), (chains.dns, Kind("openvpn-udp"))],
    ids=_name,
)
def test_the_clear_path_is_closed_by_ours_and_only_by_it(make_lab: MakeLab, order, kind) -> None:
    """R41, R62: the VPN program is killed, and the default route falls back to the uplink."""
    for killswitch, expected in ((Absent(), PUBLIC), (Ours(), {4: "", 6: ""})):
        lab = make_lab(order(kind), killswitch)
        lab.start()
        with server(lab):
            _through(lab, "client-1", 1)
            lab.tunnels["sys-vpn"].kill()
            for name in ("client-1", "sys-vpn"):
                for family in FAMILIES:
                    assert seen_as(lab, name, family, patience=1) == expected[family]


def test_an_uplink_that_was_replugged_works_again(make_lab: MakeLab) -> None:
    """R34: the new device gets its gate from the udev rule."""
    lab = make_lab(chains.simple(), Ours())
    lab.start()
    lab.unplug("sys-vpn")
    with server(lab):
        assert seen_as(lab, "client-1", 4, patience=0.5) == ""
        device = lab.plug("sys-vpn")
        lab.device_event("sys-vpn", "add", device)
        lab.agent.uplink(lab.qubes["sys-vpn"], device)
        lab.tunnels["sys-vpn"].ready(lab.qubes["sys-vpn"])
        _through(lab, "client-1", 1)


def test_a_tunnel_comes_down_and_up_again(make_lab: MakeLab) -> None:
    """R34: with the killswitch, nothing has to be loaded anew."""
    lab = make_lab(chains.simple(), Ours())
    lab.start()
    lab.tunnels["sys-vpn"].down(lab.qubes["sys-vpn"])
    with server(lab):
        assert seen_as(lab, "client-1", 4, patience=0.5) == ""
        lab.connect("sys-vpn")
        lab.tunnels["sys-vpn"].ready(lab.qubes["sys-vpn"])
        _through(lab, "client-1", 1)


def _through(lab, name: str, number: int) -> None:
    for family, prefix in zip(FAMILIES, INSIDE[number], strict=True):
        assert seen_as(lab, name, family).startswith(prefix)
