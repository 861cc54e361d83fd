# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots are played as systemd would, and what a killswitch does at boot comes from its units."""

import pytest
from conftest import MakeLab
from peer import seen_as, server

from qubes_vpn_formula.lab import boot, chains, tunnelfiles, udev
from qubes_vpn_formula.lab.boot import Unit, parse, play
from qubes_vpn_formula.lab.killswitches import Ours
from qubes_vpn_formula.lab.machine import Lab
from qubes_vpn_formula.lab.qube import Qube
from qubes_vpn_formula.lab.tunnels import Tunnel

FIREWALL = "qubes-firewall.service"
UPLINK = "qubes-network-uplink@eth0.service"
CLOSED, OPEN = "qubes-vpn-closed.service", "qubes-vpn-open.service"
TUNNEL, WATCH = "qubes-vpn-tunnel.service", "qubes-vpn-watch.service"
MANAGER = "NetworkManager.service"


def test_a_unit_file_is_read() -> None:
    unit = parse(
        "a.service",
        "[Unit]\n# After=comment\nAfter=b c\\\n d\nAfter=e\nRequires=b\n"
        "Before=x\nBefore=\nBefore=y\n"
        "ConditionPathExists=!/run/no\nDefaultDependencies=no\n"
        "[Service]\nExecStart=/bin/one 'a b'\nExecStart=-/bin/two\nExecStop=/bin/three\n"
        "[Install]\nRequiredBy=y z\n",
    )
    assert unit == Unit(
        "a.service",
        after=("b", "c", "d", "e"),
        before=("y",),
        requires=("b",),
        required_by=("y", "z"),
        conditions=("!/run/no",),
        commands=("/bin/one 'a b'", "-/bin/two"),
        stops=("/bin/three",),
        default=False,
    )


def _unit(name: str, **fields: object) -> Unit:
    return Unit(name, **{"default": False, **fields})


def test_units_start_after_what_they_wait_for(qube: Qube) -> None:
    units = [_unit("c", after=("b",)), _unit("b"), _unit("a", before=("b",))]
    assert list(play(qube, units)) == ["a", "b", "c"]


def test_units_that_wait_for_each_other_are_an_error(qube: Qube) -> None:
    with pytest.raises(ValueError, match="wait for each other"):
        play(qube, [_unit("a", after=("b",)), _unit("b", after=("a",))])


def test_late_units_come_as_late_as_they_may(qube: Qube) -> None:
    units = [_unit("a"), _unit("b"), _unit("c", after=("a",)), _unit("d")]
    assert list(play(qube, units, late={"a"})) == ["b", "d", "a", "c"]


def test_what_a_failed_unit_is_required_by_does_not_start(qube: Qube) -> None:
    """Also through a third unit; what is only ordered after it does."""
    units = [
        _unit("bad", commands=("false",), required_by=("needs",), before=("needs", "waits")),
        _unit("needs", commands=("touch /run/needs",)),
        _unit("needs-needs", requires=("needs",), after=("needs",)),
        _unit("waits", commands=("touch /run/waits",)),
        _unit("ignored", commands=("-false",)),
    ]
    assert play(qube, units) == {
        "bad": boot.FAILED,
        "needs": boot.DEPENDENCY,
        "needs-needs": boot.DEPENDENCY,
        "waits": boot.STARTED,
        "ignored": boot.STARTED,
    }
    assert not qube.exists("/run/needs")
    assert qube.exists("/run/waits")


def test_a_condition_that_does_not_hold_is_no_failure(qube: Qube) -> None:
    units = [
        _unit("skipped", conditions=("/run/absent",), commands=("false",), required_by=("after",)),
        _unit("after", after=("skipped",), conditions=("!/run/absent",)),
    ]
    assert play(qube, units) == {"skipped": boot.SKIPPED, "after": boot.STARTED}


def test_a_unit_that_is_absent_cannot_be_required(qube: Qube) -> None:
    units = [_unit("a"), _unit("b", requires=("a",)), _unit("c", after=("a",))]
    assert play(qube, units, without={"a"}) == {"b": boot.DEPENDENCY, "c": boot.STARTED}


def test_rw_is_empty_until_it_is_mounted(make_lab: MakeLab) -> None:
    """R82: in the time before, nothing of the configuration is to be had."""
    lab = make_lab(chains.simple(), Ours())
    qube, seen = lab.qubes["sys-vpn"], {}

    def look(unit: str) -> None:
        seen[unit] = qube.exists("/rw/config/vpn/endpoints.txt")

    lab.boot("sys-vpn", between=look, stop_after="sysinit.target")
    assert seen["qubes-sysinit.service"] is False
    assert seen["qubes-mount-dirs.service"] is True
    assert list(seen)[-1] == "sysinit.target"


def test_ours_is_closed_before_anything_of_the_network(make_lab: MakeLab) -> None:
    """R41, R82: by the order in the unit files, whatever else systemd chooses."""
    lab = make_lab(chains.simple(), Ours())
    late = {CLOSED, OPEN}
    order = list(lab.boot("sys-vpn", late=late))
    for network in (UPLINK, "qubes-network.service", "xendriverdomain.service", FIREWALL):
        assert order.index(CLOSED) < order.index(network)
    assert order.index(OPEN) < order.index("qubes-network.service")


def test_without_its_rules_a_vpn_qube_has_no_network(make_lab: MakeLab) -> None:
    """R41, R83: what requires the closing unit does not start."""
    lab = make_lab(chains.simple(), Ours())
    lab.qubes["sys-vpn"].write("/usr/lib/qubes-vpn/closed.nft", "not nft\n")
    outcomes = lab.boot("sys-vpn")
    assert outcomes[CLOSED] == boot.FAILED
    for name in ("network-pre.target", UPLINK, "qubes-network.service", "xendriverdomain.service"):
        assert outcomes[name] == boot.DEPENDENCY
    assert "state DOWN" in lab.qubes["sys-vpn"].run(["ip", "link", "show", "eth0"]).stdout
    assert lab.qubes["sys-vpn"].read("/proc/sys/net/ipv4/ip_forward") == "0\n"


@pytest.mark.parametrize("options", [{"without": {FIREWALL}}, {"late": {FIREWALL}}])
def test_the_tunnel_needs_no_qubes_firewall(make_lab: MakeLab, options) -> None:
    """R41: and clients behind it work whenever it comes."""
    lab = make_lab(chains.simple(), Ours())
    lab.start(without={"sys-vpn"})
    lab.boot("sys-vpn", **options)
    lab.tunnels["sys-vpn"].ready(lab.qubes["sys-vpn"])
    with server(lab):
        assert seen_as(lab, "client-1", 4).startswith("10.64.1.")


class WithTunnel(Ours):
    """With the tunnel's units too; their program notes whether it was called behind the rules."""

    PROGRAM = (
        "#!/bin/sh\nif nft list chain inet qubes_vpn output | grep -q 'policy drop'; then\n"
        'echo "$1 behind" >>/run/called; else echo "$1 bare" >>/run/called; fi\n'
    )

    def __init__(self) -> None:
        super().__init__(units=(*Ours().units, *tunnelfiles.UNITS))

    def install(self, qube: Qube, tunnel: Tunnel) -> None:
        super().install(qube, tunnel)
        for path in tunnelfiles.UNITS:
            qube.write(path, *tunnelfiles.files()[path])
        qube.write("/usr/lib/qubes-vpn/tunnel", self.PROGRAM, 0o755)
        qube.qubesdb["/qubes-service/network-manager"] = "1"


@pytest.mark.parametrize("late", [(), (CLOSED, OPEN), (TUNNEL,), (MANAGER,)])
def test_no_order_lets_a_tunnel_start_before_the_rules(make_lab: MakeLab, late) -> None:
    """R41, R83: connections come before NetworkManager, and who brings one up comes after it."""
    lab = make_lab(chains.simple(), WithTunnel())
    order = list(lab.boot("sys-vpn", late=set(late)))
    places = [order.index(name) for name in (CLOSED, OPEN, TUNNEL, MANAGER, WATCH)]
    assert places == sorted(places)
    assert order.index("qubes-mount-dirs.service") < order.index(TUNNEL)
    wait = "until grep -q watch /run/called; do sleep 0.01; done; cat /run/called"
    assert lab.qubes["sys-vpn"].run(wait).stdout == "prepare behind\nwatch behind\n"


def test_without_the_rules_there_is_no_tunnel(make_lab: MakeLab) -> None:
    lab = make_lab(chains.simple(), WithTunnel())
    lab.qubes["sys-vpn"].write("/usr/lib/qubes-vpn/closed.nft", "not nft\n")
    outcomes = lab.boot("sys-vpn")
    assert {outcomes[name] for name in (TUNNEL, MANAGER, WATCH)} == {boot.DEPENDENCY}
    assert not lab.qubes["sys-vpn"].exists("/run/called")


@pytest.mark.parametrize("service", ["qubes-vpn", "network-manager"])
def test_without_its_services_a_qube_has_no_tunnel(make_lab: MakeLab, service) -> None:
    """The Mullvad app's qube is one without NetworkManager."""
    lab = make_lab(chains.simple(), WithTunnel())
    del lab.qubes["sys-vpn"].qubesdb[f"/qubes-service/{service}"]
    outcomes = lab.boot("sys-vpn", without={MANAGER})
    assert outcomes[TUNNEL] == outcomes[WATCH] == boot.SKIPPED


def test_without_the_flag_a_qube_of_the_same_template_has_its_network(make_lab: MakeLab) -> None:
    """The files do nothing in a qube that is no VPN qube."""
    lab = make_lab(chains.simple(), Ours())
    del lab.qubes["sys-vpn"].qubesdb["/qubes-service/qubes-vpn"]
    lab.start(without={"sys-vpn"})
    outcomes = lab.boot("sys-vpn", without={"NetworkManager.service"})
    assert outcomes[CLOSED] == outcomes[OPEN] == boot.SKIPPED
    with server(lab):
        assert seen_as(lab, "client-1", 4) == "192.0.2.2"


def test_our_udev_rule_gates_what_comes_and_not_clients(make_lab: MakeLab) -> None:
    lab = make_lab(chains.simple(), Ours())
    lab.boot("sys-vpn")
    for name, gated in (("eth7", True), ("vif9.0", False)):
        lab.qubes["sys-vpn"].run(["ip", "link", "add", name, "type", "veth", "peer", f"x-{name}"])
        lab.device_event("sys-vpn", "add", name)
        assert (f'"{name}"' in _gates(lab)) is gated


def test_a_udev_rule_that_is_not_understood_is_an_error(qube: Qube) -> None:
    qube.write("/etc/udev/rules.d/1.rules", 'ACTION=="add", PROGRAM=="/bin/true", RUN+="/bin/x"\n')
    with pytest.raises(ValueError, match="not understood"):
        udev.event(qube, ["/etc/udev/rules.d/1.rules"], "add", "eth0")


def _gates(lab: Lab) -> str:
    done = lab.qubes["sys-vpn"].run(["nft", "list", "table", "netdev", "qubes_vpn"])
    return done.stdout
