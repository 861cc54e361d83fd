# SPDX-License-Identifier: GPL-2.0-or-later
"""Attacks by what the uplink is called, is, or carries, and by more than one of it (R41, R83)."""

import time

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from qubes_vpn_formula.lab import chains, senders
from qubes_vpn_formula.lab.attacks import Section
from qubes_vpn_formula.lab.cell import Cell
from qubes_vpn_formula.lab.machine import SERVER, Lab
from qubes_vpn_formula.lab.traffic import Job

section = Section("Uplink and other devices")


@section.attack("U01", "the uplink is called ens7", "OUT", fast=True)
def another_name(cell: Cell) -> None:
    """From the boot on."""
    cell.start(chains.simple(uplink="ens7"))
    cell.tunnel_down()
    cell.salvo("all", "tunnel down")


@section.attack("U02", "the uplink is renamed to a tunnel's name", "OUT", fast=True)
def called_as_a_tunnel(cell: Cell) -> None:
    """To each of the names that are a tunnel's by default; there is no tunnel."""
    cell.start(before=_by_default)
    cell.tunnel.down(cell.vpn)
    name = "eth0"
    for new in ("wg0", "tun0", "wg0-mullvad"):
        cell.lab.rename("sys-vpn", name, new)
        cell.lab.agent.uplink(cell.vpn, new)
        marker = cell.salvo("all", f"called {new}")
        cell.send(cell.vpn, *_raw(new, marker))
        name = new


@section.attack("U03", "the uplink is disguised as a client's", "OUT")
def disguised(cell: Cell) -> None:
    """By its group, by its name, by both.

    What goes to a client is routed to it: answers out of the tunnel, then refusals.
    """
    cell.start()
    cell.standing_flow()
    disguises = [("eth0", "2"), ("vif9.0", "1"), ("vif9.0", "2")]
    _disguise(cell, disguises, "tunnel up")
    cell.tunnel_down()
    _disguise(cell, disguises[::-1], "tunnel down")


@section.attack("U04", "the uplink is called like the loopback", "OUT")
def called_as_loopback(cell: Cell) -> None:
    """In no group."""
    cell.start()
    cell.tunnel.down(cell.vpn)
    name = "eth0"
    for new in ("lo0", "lo1"):
        cell.lab.rename("sys-vpn", name, new)
        cell.lab.agent.uplink(cell.vpn, new)
        cell.vpn.run(["ip", "link", "set", new, "group", "0"])
        _salvoes(cell, new, f"called {new}")
        name = new


@section.attack("U05", "unplugged and plugged in again", "OUT", fast=True)
def plugged_again(cell: Cell) -> None:
    """The tunnel is not up yet.  Salvoes at once, raw frames when udev has done its work."""
    cell.start()
    cell.tunnel.down(cell.vpn)
    cell.unplug()
    cell.plug()
    there = time.monotonic()
    cell.lab.agent.uplink(cell.vpn, "eth0")
    cell.salvo("all", "udev has not seen it yet")
    before = time.monotonic()
    cell.lab.device_event("sys-vpn", "add", "eth0")
    now = time.monotonic()
    phase = f"udev took {now - before:.2f} s, {now - there:.2f} s after the device was there"
    cell.send(cell.vpn, *_raw("eth0", cell.phase(phase)))


@section.attack("U06", "a second uplink", "OUT")
def second(cell: Cell) -> None:
    """It takes the default route."""
    cell.start()
    cell.tunnel.down(cell.vpn)
    cell.plug("sys-vpn", "eth1", "sys-net")
    cell.lab.device_event("sys-vpn", "add", "eth1")
    cell.lab.agent.uplink(cell.vpn, "eth1")
    _salvoes(cell, "eth1", "a second uplink")


@section.attack("U07", "devices on top of the uplink", "OUT")
def on_top(cell: Cell) -> None:
    """A macvlan, a VLAN and a bridge take the default route, seen by udev and not."""
    cell.start()
    cell.tunnel.down(cell.vpn)
    kinds = {"macvlan": "type macvlan mode bridge", "vlan": "type vlan id 7"}
    for kind, words in kinds.items():
        if not _made(cell, f"link add link eth0 name top0 {words}"):
            cell.skip(f"{kind}: this kernel has none")
            continue
        _takes_over(cell, "top0", f"a {kind}")
    cell.vpn.run("ip link add top0 type bridge; ip link set eth0 master top0")
    _takes_over(cell, "top0", "a bridge")


@section.attack("U08", "encapsulation over the uplink", "OUT")
def encapsulated(cell: Cell) -> None:
    """The outer packets are the qube's own, of other protocols or to other ports."""
    cell.start()
    cell.tunnel.down(cell.vpn)
    own, peer = cell.vpn.qubesdb["/qubes-ip"], SERVER[4]
    ends = f"local {own} remote {peer} dev eth0"
    kinds = {
        "VXLAN": (0, f"link add out0 type vxlan id 7 dstport 4789 {ends}"),
        "IPIP": (4, f"tunnel add out0 mode ipip {ends}"),
        "SIT": (41, f"tunnel add out0 mode sit {ends}"),
        "GRE": (47, f"tunnel add out0 mode gre {ends}"),
    }
    gateway = cell.vpn.qubesdb["/qubes-gateway"]
    cell.vpn.run(f"ip route replace {peer} via {gateway} dev eth0 onlink")
    for kind, (number, words) in kinds.items():
        if not _made(cell, words):
            cell.skip(f"{kind}: this kernel has no such device; its outer packets were sent raw")
            cell.send(cell.vpn, senders.protocol(peer, number, cell.phase(f"{kind}, raw")))
            continue
        cell.vpn.run("ip link set out0 up")
        for family in ("-4", "-6"):
            cell.vpn.run(f"ip {family} route replace default dev out0")
        marker = cell.salvo("all", kind)
        cell.send(cell.vpn, *_raw("out0", marker))
        cell.vpn.run("ip link del out0")


@section.attack("U09", "switched to the uplink, never routed", "OUT")
def switched(cell: Cell) -> None:
    """By a copy of what comes in from a client, by a bridge."""
    cell.start()
    cell.tunnel.down(cell.vpn)
    vif = cell.lab.vif("client-1")
    hook = f"type filter hook ingress device {vif} priority 0;"
    cell.vpn.run(
        "nft -f -",
        input=f"table netdev copy {{ chain in {{ {hook} dup to eth0; }}\n}}\n",
    )
    marker = cell.salvo("client", "copied")
    cell.send(cell.client, *_raw("eth0", marker))
    cell.vpn.run("nft delete table netdev copy; ip link add br0 type bridge; ip link set br0 up")
    cell.vpn.run(f"ip link set eth0 master br0; ip link set {vif} master br0")
    # Where there is br_netfilter, bridged packets pass our forward chain as well; not here.
    calls = "/proc/sys/net/bridge/bridge-nf-call-ip"
    cell.vpn.run(f"for one in {calls}*tables; do [ ! -e $one ] || echo 0 >$one; done")
    # A bridge takes nothing from, and keeps all to, the addresses of its own ports.
    header = Ether(src="02:00:00:00:00:07", dst="02:00:00:00:00:08")
    frames = [bytes(header / one) for one in _packets(cell.phase("bridged"))]
    cell.send(cell.client, Job("frame", frames, device="eth0"))


def _by_default(lab: Lab) -> None:
    """No names are configured, so that the default ones are tunnels."""
    lab.qubes["sys-vpn"].run("rm -f /rw/config/vpn/killswitch.conf")


def _raw(device: str, marker: bytes) -> list[Job]:
    """Frames of a packet socket, which pass by netfilter's IP hooks."""
    return [senders.on_link(one, device=device) for one in _packets(marker)]


def _packets(marker: bytes) -> list[Packet]:
    headers = (
        IP(src="10.137.0.3", dst=SERVER[4]),
        IPv6(src="fd09:24ef:4179::a89:3", dst=SERVER[6]),
    )
    return [one / UDP(sport=68, dport=443) / Raw(marker) for one in headers]


def _salvoes(cell: Cell, device: str, phase: str) -> None:
    cell.send(cell.vpn, *_raw(device, cell.salvo("all", phase)))


def _disguise(cell: Cell, disguises: list[tuple[str, str]], when: str) -> None:
    """Names and groups for the uplink, each with a client's salvo, routes to it, raw frames."""
    for device, group in disguises:
        if not cell.vpn.exists(f"/sys/class/net/{device}"):
            cell.lab.rename("sys-vpn", "eth0" if device != "eth0" else "vif9.0", device)
        cell.lab.agent.uplink(cell.vpn, device)
        cell.vpn.run(["ip", "link", "set", device, "group", group])
        for to, via in zip(
            cell.lab.addresses("client-1"), cell.lab.addresses("sys-firewall"), strict=True
        ):
            cell.vpn.run(f"ip route replace {to} via {via} dev {device} onlink metric 1")
        marker = cell.salvo("client", f"{device} in group {group}, {when}")
        cell.send(cell.vpn, *_raw(device, marker))


def _made(cell: Cell, words: str) -> bool:
    return cell.vpn.run(f"ip {words}", check=False).returncode == 0


def _takes_over(cell: Cell, device: str, phase: str) -> None:
    """A device takes the default route, before and after udev has seen it, and goes."""
    cell.lab.agent.uplink(cell.vpn, device)
    _salvoes(cell, device, phase)
    cell.lab.device_event("sys-vpn", "add", device)
    cell.salvo("all", f"{phase}, seen by udev")
    cell.vpn.run(["ip", "link", "del", device])
    cell.lab.agent.uplink(cell.vpn, "eth0")
