# SPDX-License-Identifier: GPL-2.0-or-later
"""Attacks in the windows of a boot, and while services start, stop and die (R41, R82, R83)."""

from collections.abc import Callable
from contextlib import suppress

from qubes_vpn_formula.lab import senders
from qubes_vpn_formula.lab.attacks import Section
from qubes_vpn_formula.lab.boot import show_rw, stop
from qubes_vpn_formula.lab.cell import Cell
from qubes_vpn_formula.lab.machine import Lab
from qubes_vpn_formula.lab.qube import CommandFailed

section = Section("Boot and services")

_UPLINK = "qubes-network-uplink@eth0.service"
_VIFS = "xendriverdomain.service"
_FIREWALL = "qubes-firewall.service"
_RW = "qubes-mount-dirs.service"
#: Nothing of the network may start before it (systemd.special(7)).
_EARLIEST = "network-pre.target"
#: Where a killswitch's hook may be.
_HOOKS = (
    "/etc/qubes/qubes-firewall.d/50-qubes-vpn",
    "/rw/config/qubes-firewall.d/50-qubes-vpn",
)
#: Scripts that Qubes runs beside it, by name: the service dies, with all that it runs by then.
_DEATHS = {
    "40-before": "kill -9 $PPID",
    "45-in": "(sleep 0.05; kill -9 $PPID $(cat /proc/$PPID/task/$PPID/children)) &",
    "60-after": "kill -9 $PPID",
}


@section.attack("B01", "the qube's own packets in each window of the boot", "OUT", fast=True)
def own_windows(cell: Cell) -> None:
    """From the uplink's setup on."""
    cell.start(boot=False, before=_forwarding)
    cell.boot(between=_Windows(_UPLINK, lambda name: cell.salvo("own", f"after {name}")))


@section.attack("B02", "clients' packets in each window of the boot", "OUT", fast=True)
def client_windows(cell: Cell) -> None:
    """From the first client's link on."""
    cell.start(boot=False, before=_forwarding)
    cell.boot(between=_Windows(_VIFS, lambda name: cell.salvo("client", f"after {name}")))


@section.attack("B03", "the network is there before /rw", "OUT", fast=True)
def before_rw(cell: Cell) -> None:
    """Mounting it takes longer than everything else; then it is there."""
    windows = _Windows(
        _EARLIEST,
        lambda name: cell.salvo("all", f"after {name}, no /rw"),
        lambda: _network_up(cell),
    )
    cell.start_without_tunnel(before=_forwarding, without={_RW, _UPLINK, _VIFS}, between=windows)
    show_rw(cell.vpn)
    cell.salvo("all", "/rw is there")


@section.attack("B04", "the tunnel never starts", "OUT")
def no_tunnel(cell: Cell) -> None:
    """Everything else is up."""
    cell.start_without_tunnel()
    cell.salvo("all", "no tunnel")


@section.attack("B05", "qubes-firewall does not start, or is killed", "OUT", fast=True)
def firewall_dies(cell: Cell) -> None:
    """Killed with all that it runs: before, in and after the killswitch's hook."""
    cell.start_without_tunnel(without={_FIREWALL}, before=_forwarding)
    cell.salvo("all", "never started")
    hooks = [path for path in _HOOKS if cell.vpn.exists(path)]
    for hook in hooks:
        cell.vpn.run(["chmod", "-x", hook])
    _start_firewall(cell)
    cell.salvo("all", "the hook is not executable")
    for number, hook in enumerate(hooks):
        cell.vpn.run(["mv", hook, f"/run/hook-{number}"])
    _start_firewall(cell)
    cell.salvo("all", "the hook is missing")
    for number, hook in enumerate(hooks):
        cell.vpn.run(f"mv /run/hook-{number} {hook}; chmod +x {hook}")
    for name, command in _DEATHS.items():
        script = f"/etc/qubes/qubes-firewall.d/{name}"
        cell.vpn.write(script, f"#!/bin/sh\n{command}\n", 0o755)
        _start_firewall(cell)
        cell.salvo("all", f"killed: {name}")
        cell.vpn.run(["rm", script])


def _start_firewall(cell: Cell) -> None:
    with suppress(CommandFailed):  # killed, the unit fails
        cell.lab.agent.firewall_restart(cell.vpn)


@section.attack("B06", "qubes-firewall is restarted 10 times in a flood", "OUT")
def restarts(cell: Cell) -> None:
    """Clients' and own packets, tunnel down."""
    cell.start_without_tunnel()
    own, clients = (
        cell.flood(one, f"{one.name}, restarts", 500) for one in (cell.vpn, cell.client)
    )
    with own, clients:
        for _ in range(10):
            cell.lab.agent.firewall_restart(cell.vpn)


@section.attack("B07", "qubes-firewall is reloaded 100 times in a flood", "OUT")
def reloads(cell: Cell) -> None:
    """Meanwhile another client comes and goes."""
    cell.start_without_tunnel()
    own, clients = (cell.flood(one, f"{one.name}, reloads", 500) for one in (cell.vpn, cell.client))
    with own, clients:
        for turn in range(100):
            cell.lab.agent.firewall_reload(cell.vpn)
            if turn % 10 == 0:
                cell.lab.unplug("client-2")
                cell.lab.plug("client-2")


@section.attack("B08", "custom-persist: nothing of /rw runs", "OUT")
def custom_persist(cell: Cell) -> None:
    """What is below /rw is there, and Qubes does not run it."""

    def before(lab: Lab) -> None:
        lab.qubes["sys-vpn"].qubesdb["/qubes-service/custom-persist"] = "1"

    cell.start_without_tunnel(before=before)
    cell.salvo("all", "custom-persist")


@section.attack("B09", "/rw is read-only, empty, missing", "OUT", "STATE")
def broken_rw(cell: Cell) -> None:
    """A boot with each; without a configuration the endpoint is none any more."""
    cell.start_without_tunnel(before=lambda _: cell.vpn.run("mount -o remount,ro /rw"))
    cell.salvo("all", "/rw is read-only")
    for state, without in (("empty", set()), ("missing", {_RW})):
        _switch_off(cell)
        cell.allow()
        cell.vpn.run("mount -o remount,rw /rw; rm -rf /rw/*")
        cell.boot(without={"NetworkManager.service", *without})
        marker = cell.salvo("all", f"/rw is {state}")
        cell.send(cell.vpn, senders.udp(cell.tunnel.server, cell.tunnel.port, marker))


def _switch_off(cell: Cell) -> None:
    """What a restart does away with: links, rules, services."""
    cell.vpn.run("ip link set eth0 down; nft flush ruleset; rm -f /run/qubes-service/*")
    for name in cell.lab.clients("sys-vpn"):
        vif = cell.lab.vif(name)
        cell.vpn.run(
            f"ip link set {vif} down; ip address flush dev {vif}; ip route flush dev {vif};"
            f" ip neighbour flush dev {vif} nud permanent"
        )


@section.attack("B10", "qubes-iptables fails, or comes after qubes-firewall", "OUT")
def late_base(cell: Cell) -> None:
    """As seen where nothing pulls in network-pre.target."""
    cell.start_without_tunnel(
        before=_forwarding, without={"qubes-iptables.service", _UPLINK, _VIFS}
    )
    _network_up(cell)
    cell.salvo("all", "without qubes-iptables")
    cell.lab.agent.base(cell.vpn)
    cell.salvo("all", "qubes-iptables at last")


@section.attack("B11", "the uplink comes up before Qubes' own unit", "OUT")
def early_uplink(cell: Cell) -> None:
    """Forwarding and clients' links with it; DHCP and router solicitations too."""

    def fire(name: str) -> None:
        marker = cell.salvo("all", f"after {name}")
        solicitation = senders.icmp("ff02::2", 133, marker, device="eth0")
        cell.send(cell.vpn, *senders.dhcp("eth0", marker), solicitation)

    windows = _Windows(_EARLIEST, fire, lambda: _network_up(cell))
    cell.start_without_tunnel(before=_forwarding, without={_UPLINK, _VIFS}, between=windows)


@section.attack("B12", "shutdown: the units stop, the uplink is still up", "OUT")
def shutdown(cell: Cell) -> None:
    """Ours first, then qubes-firewall."""
    cell.start_without_tunnel()
    for unit in reversed(cell.lab.units("sys-vpn")):
        stop(cell.vpn, unit)
    cell.salvo("all", "the killswitch's units have stopped")
    cell.lab.agent.firewall_kill(cell.vpn)
    cell.vpn.run("nft 'delete table ip qubes-firewall; delete table ip6 qubes-firewall'")
    cell.salvo("all", "qubes-firewall has stopped")


class _Windows:
    """Looks into the window after each unit of a boot, from the unit *first* on.

    look: called with the unit's name.  begin: called before the first of these calls.
    """

    def __init__(
        self, first: str, look: Callable[[str], object], begin: Callable[[], None] = lambda: None
    ) -> None:
        self._first, self._look, self._begin, self._open = first, look, begin, False

    def __call__(self, name: str) -> None:
        if name == self._first:
            self._begin()
            self._open = True
        if self._open:
            self._look(name)


def _forwarding(lab: Lab) -> None:
    """On from the first moment: an attacker does not wait for Qubes to switch it on."""
    lab.qubes["sys-vpn"].run(
        "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"
    )


def _network_up(cell: Cell) -> None:
    """The uplink and clients' links, by whoever it may be."""
    cell.lab.agent.uplink(cell.vpn, "eth0")
    for name in cell.lab.clients("sys-vpn"):
        addresses = cell.lab.addresses(name)
        cell.lab.agent.vif(cell.vpn, cell.lab.vif(name), addresses, "online")
