# SPDX-License-Identifier: GPL-2.0-or-later
"""What has to work with the killswitch loaded: one that stops everything is no use (R41-R44)."""

import random
import re
import subprocess
import time

from qubes_vpn_formula.lab import kernellog, senders, traffic
from qubes_vpn_formula.lab.attacks import Section
from qubes_vpn_formula.lab.cell import Cell
from qubes_vpn_formula.lab.machine import SERVER, Lab

section = Section("Service")

_PROGRAMS = ("wireguard", "openvpn-udp", "openvpn-tcp")
_TABLE = "qubes_vpn"
_SETTINGS = "/rw/config/vpn/killswitch.conf"
#: What ping says of a refusal.
_REFUSED = {4: "Packet filtered", 6: "Administratively prohibited"}
#: How a connection ends that is refused: ICMP's and ICMPv6's.
_ERRORS = {"EHOSTUNREACH", "EACCES"}
#: Beyond the tunnel's server, behind a link with a small MTU.
_NARROW = {4: "203.0.113.200", 6: "2001:db8:80::200"}
_MTU = 1280
_IP_AND_TCP = {4: 40, 6: 60}  # bytes of headers
_LOG = "qubes-vpn drop: "


@section.attack("W01", "a server is reached through the tunnel", "WORK", fast=True)
def reached(cell: Cell) -> None:
    """From a client and from the VPN qube, over TCP, UDP and ICMP, IPv4 and IPv6."""
    for program in _PROGRAMS:
        cell.start(tunnel=program)
        _reached(cell, cell.phase(program))
        if cell.failures:
            return


def _reached(cell: Cell, marker: bytes) -> None:
    for family in (4, 6):
        with traffic.Echo(cell.lab.internet, SERVER[family], 80):
            for qube in (cell.client, cell.vpn):
                done = traffic.works(qube, SERVER[family], 80, marker)
                for protocol, exchange in done.items():
                    cell.require(
                        not exchange.loss,
                        f"{qube.name}, IPv{family}, {protocol}: "
                        f"{exchange.received} of {exchange.sent} messages were answered",
                    )
                ping = qube.run(["ping", "-c1", "-W1", "-n", SERVER[family]], check=False)
                cell.require(not ping.returncode, f"{qube.name}, IPv{family}: no answer to a ping")


@section.attack("W02", "a client is told at once that the tunnel is down", "WORK", fast=True)
def told(cell: Cell) -> None:
    """By ICMP's and ICMPv6's admin-prohibited."""
    cell.start()
    cell.tunnel_down()
    for family in (4, 6):
        marker = cell.phase(f"IPv{family}, tunnel down")
        sent = cell.send(cell.client, senders.tcp(SERVER[family], 443, marker, wait=2))
        cell.require(
            _ERRORS & sent.errors.keys(), f"IPv{family}: a connection ended with {sent.errors}"
        )
        said = cell.client.run(["ping", "-c1", "-W2", "-n", SERVER[family]], check=False).stdout
        cell.require(_REFUSED[family] in said, f"IPv{family}: ping was not told: {said}")


@section.attack("W03", "standing flows during 20 loads", "WORK")
def loads(cell: Cell) -> None:
    """They lose no packet."""
    cell.start()
    command = cell.command
    flows = {family: cell.standing_flow(family) for family in (4, 6)}
    script = f"for n in $(seq 20); do {command} load || exit; done"
    done = cell.vpn.run(script, check=False, timeout=100)
    cell.require(not done.returncode, f"it does not load: {done.stderr[:200]}")
    for family, flow in flows.items():
        for protocol, exchange in flow.stop().items():
            cell.require(
                not exchange.loss,
                f"IPv{family}, {protocol}: {exchange.received} of {exchange.sent} were answered,"
                f" {exchange.gap:.1f} s without an answer",
            )


@section.attack("W04", "path-MTU messages reach the client", "WORK")
def path_mtu(cell: Cell) -> None:
    """From beyond the tunnel, where a link is narrow."""
    cell.start()
    cell.phase("path MTU")
    far = cell.lab.internet
    far.run(
        "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding;"
        f" ip link add narrow mtu {_MTU} type veth peer name end;"
        " ip link set narrow up; ip link set end up"
    )
    for family, address in _NARROW.items():
        far.run(["ip", f"-{family}", "route", "add", address, "dev", "narrow"])
        ping = ["ping", "-c1", "-W2", "-n", "-M", "do", "-s", "1340", address]
        said = cell.client.run(ping, check=False).stdout
        cell.require(re.search(rf"mtu ?= ?{_MTU}", said), f"IPv{family}: not told: {said}")


@section.attack("W05", "MSS is clamped both ways", "WORK")
def maximum_segment(cell: Cell) -> None:
    """To what the tunnel carries, though both ends offer more."""
    cell.start()
    cell.lab.internet.run(["ip", "link", "set", f"wgs{cell.tunnel.number}", "mtu", "1500"])
    for family in (4, 6):
        cell.standing_flow(family)
        most = cell.tunnel.mtu - _IP_AND_TCP[family]
        sides = ((cell.client, "dport"), (cell.lab.internet, "sport"))
        for qube, port in sides:
            said = qube.run(f"ss -{family} -Htin state established {port} = :7").stdout
            found = [int(size) for size in re.findall(r"\bmss:(\d+)", said)]
            cell.require(found, f"IPv{family}, {qube.name}: no connection: {said}")
            for size in found:
                cell.require(size <= most, f"IPv{family}, {qube.name}: MSS {size}, not {most}")


@section.attack("W06", "without the service flag there is no killswitch", "WORK", fast=True)
def no_flag(cell: Cell) -> None:
    """A qube of the same template: clients and the qube itself reach a server by the uplink."""

    def flag_off(lab: Lab) -> None:
        lab.qubes["sys-vpn"].qubesdb[f"/qubes-service/{_TABLE.replace('_', '-')}"] = "0"

    cell.start(before=flag_off)
    tables = cell.vpn.run(["nft", "list", "tables"]).stdout
    cell.require(_TABLE not in tables, f"there are rules: {tables}")
    cell.route_to_uplink()
    _reached(cell, traffic.new_marker())
    cell.from_now()


@section.attack("W07", "the tunnel comes back", "WORK")
def comes_back(cell: Cell) -> None:
    """As a new device of the same name; clients' flows go on, and nothing is loaded."""
    cell.start()
    flow = cell.standing_flow()
    begin = time.monotonic()
    cell.tunnel_kill()
    cell.tunnel_up()
    away = time.monotonic() - begin
    time.sleep(away + 1)  # TCP has waited for longer and longer
    done = flow.stop()
    lost = done["tcp"].sent - done["tcp"].received
    cell.require(not lost, f"TCP: {lost} messages were not answered: {done['tcp'].errors}")
    gap = done["udp"].gap
    cell.require(gap < away + 1, f"UDP: {gap:.1f} s without an answer, {away:.1f} s no tunnel")


@section.attack("W08", "drops are in the kernel's log, not too many", "WORK")
def logged(cell: Cell) -> None:
    """10,000 packets, of which the limit lets a few be told."""
    port = random.randrange(20_000, 60_000)  # noqa: S311 - tells this cell's lines from others'
    with kernellog.of_all() as possible:
        if not possible:
            cell.not_run("the kernel's log has nothing of network namespaces here")
        cell.start()
        cell.vpn.write(_SETTINGS, f"interface = {cell.tunnel.device}\nlog = yes\n")
        loaded = cell.load()
        cell.require(not loaded.returncode, f"it does not load: {loaded.stderr[:200]}")
        cell.route_to_uplink()
        marker = cell.phase("10,000 packets")
        begin = time.monotonic()
        cell.send(cell.vpn, senders.udp(SERVER[4], port, marker, count=10_000))
        most = 20 + 10 * (time.monotonic() - begin + 1)
        log = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    lines = [line for line in log.splitlines() if f"DPT={port} " in line and _LOG in line]
    cell.require(lines, "nothing is in the log")
    cell.require(len(lines) <= most, f"{len(lines)} lines are in the log, not {most:.0f} at most")
