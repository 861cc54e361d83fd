# SPDX-License-Identifier: GPL-2.0-or-later
"""Attacks on the tunnel: it goes down, vanishes, is replaced (R41, R62)."""

from qubes_vpn_formula.lab import senders
from qubes_vpn_formula.lab.attacks import Section
from qubes_vpn_formula.lab.cell import Cell
from qubes_vpn_formula.lab.machine import SERVER

section = Section("Tunnel")

_FAMILIES = (("-4", SERVER[4]), ("-6", SERVER[6]))
_HALVES = {"-4": ("0.0.0.0/1", "128.0.0.0/1"), "-6": ("::/1", "8000::/1")}
_TABLE = "77"  # a routing table of nobody's


@section.attack("T01", "set down, the default route moves to the uplink", "OUT", fast=True)
def set_down(cell: Cell) -> None:
    """With a standing flow of the client's in it."""
    cell.start()
    cell.standing_flow()
    cell.tunnel_down()
    cell.go_on()
    cell.salvo("all", "tunnel down")


@section.attack("T02", "deleted under a standing flow", "OUT")
def deleted(cell: Cell) -> None:
    """The flow's packets go on, by the uplink's route."""
    cell.start()
    cell.standing_flow()
    cell.vpn.run(["ip", "link", "del", cell.tunnel.device])
    cell.route_to_uplink()
    cell.go_on(0.5)


@section.attack("T03", "another device in the tunnel's place, with another name", "OUT", "IN")
def renamed(cell: Cell) -> None:
    """The tunnel itself, renamed; a tunnel that comes under another name; another program's."""
    cell.start()
    cell.standing_flow()
    marker = cell.phase("the tunnel has another name")
    cell.watch_tunnel(marker)
    cell.vpn.run(f"ip link set {cell.tunnel.device} name wg0-old")
    cell.volley(marker, cell.client, cell.vpn)

    cell.vpn.run("ip link del wg0-old")
    cell.tunnel.down(cell.vpn)
    cell.tunnel.device = "wg7"
    cell.lab.connect("sys-vpn")
    cell.volley(marker, cell.client, cell.vpn)

    other = cell.phase("another program's tun device")
    file = "/run/seen"
    cell.vpn.popen(["socat", "-u", "TUN,tun-name=tun9,iff-no-pi,iff-up", f"CREATE:{file}"])
    cell.vpn.run("n=0; until ip route replace default dev tun9 table 51820; do sleep 0.01; done")
    cell.vpn.run("ip -6 route replace default dev tun9 table 51820")
    cell.volley(other, cell.client, cell.vpn)
    seen = cell.vpn.run(["grep", "-a", "-c", other.decode(), file], check=False).stdout.strip()
    cell.require(seen == "0", f"out of tun9, which is another program's: {seen} packets")


@section.attack("T04", "killed, and started again and again, under flood", "OUT", fast=True)
def killed(cell: Cell) -> None:
    """The device vanishes with its program, and comes back with another index each time."""
    cell.start()
    cell.standing_flow()
    cell.tunnel_kill()
    cell.salvo("all", "killed")
    with (
        cell.flood(cell.client, "a client's flood", rate=500),
        cell.flood(cell.vpn, "the qube's own flood", rate=500, family=6),
    ):
        for _ in range(5):
            cell.tunnel_up()
            cell.tunnel_kill()


@section.attack("T05", "routes flip while the tunnel is up", "OUT", fast=True)
def routes(cell: Cell) -> None:
    """One server's, the two halves, the default route; then the tunnel has no address."""
    cell.start()
    cell.standing_flow()
    for family, server in _FAMILIES:
        cell.vpn.run(_route(cell, family, "add", server))
    cell.go_on(0.1)
    cell.salvo("all", "one server's route")
    for family, server in _FAMILIES:
        cell.vpn.run(["ip", family, "route", "del", server])
        for half in _HALVES[family]:
            cell.vpn.run(_route(cell, family, "add", half))
    cell.go_on(0.1)
    cell.salvo("client", "the two halves")
    for family, _ in _FAMILIES:
        for half in _HALVES[family]:
            cell.vpn.run(["ip", family, "route", "del", half])
        cell.vpn.run([*_route(cell, family, "replace", "default"), "table", "51820"])
    cell.go_on(0.1)
    cell.salvo("client", "the default route")
    for family, _ in _FAMILIES:
        cell.vpn.run(["ip", family, "address", "flush", "dev", cell.tunnel.device])
    cell.salvo("own", "the tunnel has no address")


@section.attack("T06", "policy routing over the uplink", "OUT")
def policy_routing(cell: Cell) -> None:
    """For what comes from clients, for what the qube sends; then wg-quick's own rule is gone."""
    cell.start()
    cell.standing_flow()
    vif = cell.lab.vif("client-1")
    for family, _ in _FAMILIES:
        cell.vpn.run([*_route(cell, family, "add", "default"), "table", _TABLE])
        cell.vpn.run(f"ip {family} rule add priority 10 iif {vif} table {_TABLE}")
    cell.go_on(0.1)
    cell.salvo("client", "a rule for clients")
    for family, _ in _FAMILIES:
        cell.vpn.run(f"ip {family} rule add priority 11 iif lo table {_TABLE}")
    cell.salvo("own", "a rule for what the qube sends")
    for family, _ in _FAMILIES:
        cell.vpn.run(
            f"ip {family} rule del priority 10; ip {family} rule del priority 11;"
            f" ip {family} rule del not fwmark 51820 table 51820"
        )
    cell.go_on(0.1)
    cell.salvo("all", "wg-quick's rule is gone")


@section.attack("T07", "the tunnel is up and its server is dead", "OUT")
def dead_server(cell: Cell) -> None:
    """Nothing answers any more; names and time are asked for as well."""
    cell.start()
    cell.standing_flow()
    port = cell.tunnel.port
    cell.lab.internet.run(
        "nft 'add table inet dead; add chain inet dead in { type filter hook input priority 0; };"
        f" add rule inet dead in udp dport {port} drop'"
    )
    cell.go_on(0.5)
    marker = cell.salvo("all", "the server is dead")
    for qube in (cell.client, cell.vpn):
        for family in (4, 6):
            for to in cell.targets(family):
                cell.send(qube, *senders.dns(to, marker, wait=0.03), senders.ntp(to, marker))


@section.attack("T08", "an Ethernet device with the tunnel's name", "OUT")
def impostor(cell: Cell) -> None:
    """A macvlan of the uplink; then a second uplink.  Each has the default route."""
    cell.start()
    cell.standing_flow()
    cell.tunnel.down(cell.vpn)
    device = cell.tunnel.device
    cell.vpn.run(["ip", "link", "add", "link", "eth0", "name", device, "type", "macvlan"])
    cell.lab.agent.uplink(cell.vpn, device)
    cell.go_on(0.1)
    cell.salvo("all", "a macvlan")
    cell.vpn.run(["ip", "link", "del", device])
    cell.plug("sys-vpn", device, "sys-net")
    cell.lab.agent.uplink(cell.vpn, device)
    cell.go_on(0.1)
    cell.salvo("all", "a second uplink")


def _route(cell: Cell, family: str, verb: str, to: str) -> list[str]:
    """A command for a route over the uplink."""
    gateway = cell.vpn.qubesdb["/qubes-gateway6" if family == "-6" else "/qubes-gateway"]
    return ["ip", family, "route", verb, to, "via", gateway, "dev", "eth0", "onlink"]
