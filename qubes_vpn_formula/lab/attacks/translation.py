# SPDX-License-Identifier: GPL-2.0-or-later
"""Attacks by address translation, and on DNS (R41, R50)."""

from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from qubes_vpn_formula.lab import senders
from qubes_vpn_formula.lab.attacks import Section
from qubes_vpn_formula.lab.cell import Cell
from qubes_vpn_formula.lab.machine import RESOLVER, SERVER, Lab
from qubes_vpn_formula.lab.qube import CommandFailed, Qube
from qubes_vpn_formula.lab.traffic import Flood

section = Section("Address translation and DNS")
_PORT = 8053
_ENDPOINTS = "/rw/config/vpn/endpoints.txt"


@section.attack("N01", "an endpoint's packets get another address", "OUT", fast=True)
def rewritten(cell: Cell) -> None:
    """After our output chain, which sees the endpoint; then by a nat chain, which comes before."""
    cell.start()
    cell.route_to_uplink()
    server, port = cell.tunnel.server, cell.tunnel.port
    for hook, rewrite in (("filter", "ip daddr set"), ("nat", "dnat to")):
        rule = f"ip daddr {server} udp dport {port} {rewrite} {SERVER[4]}"
        _rules(cell, f"chain late {{ type {hook} hook output priority 100; {rule}; }}")
        marker = cell.phase(f"rewritten in a {hook} chain")
        cell.send(cell.vpn, senders.udp(server, port, marker, count=3))


@section.attack("N02", "own traffic for the tunnel, rerouted after the filter", "OUT")
def rerouted(cell: Cell) -> None:
    """Over the uplink, by a mark; then by one that has the bit by which the gate knows ours."""
    cell.start()
    _second_table(cell)
    for mark in ("0x77", "0x10000077"):
        chain = f"type route hook output priority 100; meta mark 0 meta mark set {mark};"
        _rules(cell, f"chain reroute {{ {chain} }}", "inet")
        cell.salvo("own", f"rerouted with mark {mark}")


@section.attack("N03", "clients' traffic, translated to the endpoint", "OUT")
def to_the_endpoint(cell: Cell) -> None:
    """Then from the port of the tunnel's own outer packets, too."""
    cell.start()
    cell.route_to_uplink()
    server, port = cell.tunnel.server, cell.tunnel.port
    dnat = f'iifname "vif*" meta l4proto {{ tcp, udp }} dnat to {server}:{port};'
    own = cell.vpn.run(["wg", "show", cell.tunnel.device, "listen-port"]).stdout.strip()
    source = cell.vpn.qubesdb["/qubes-ip"]
    snat = f"meta l4proto udp ip daddr {server} snat to {source}:{own};"
    for name, rule in (("as Qubes masquerades", ""), ("as the tunnel's own", snat)):
        _rules(
            cell,
            f"chain before {{ type nat hook prerouting priority dstnat - 10; {dnat} }}\n"
            f"chain after {{ type nat hook postrouting priority srcnat - 10; {rule} }}",
        )
        cell.salvo("client", f"translated to the endpoint, {name}")


@section.attack("N04", "clients ask any DNS server", "OUT")
def clients_ask(cell: Cell) -> None:
    """With the tunnel down, while Qubes' translation of DNS changes again and again."""
    cell.start()
    cell.tunnel_down()
    gateway = cell.vpn.qubesdb["/qubes-gateway"]
    marker = cell.phase("questions during the changes")
    question = senders.udp("10.139.1.1", 53, marker, rate=500)
    with Flood(cell.client, question) as flood:
        for servers in ([gateway], [RESOLVER], [SERVER[4], RESOLVER], [], ["10.139.1.1"]):
            lines = "".join(f"nameserver {one}\n" for one in servers)
            cell.vpn.write("/etc/resolv.conf", lines)
            cell.lab.agent.dnat(cell.vpn)
            named = " and ".join(servers) or "nobody"
            _ask(cell, cell.client, f"a client asks, nameserver {named}")
        cell.require(flood.stop().packets, "the client could not ask at all")


@section.attack("N05", "the qube's own resolver asks", "OUT", fast=True)
def own_resolver(cell: Cell) -> None:
    """resolv.conf as Qubes writes it, a public server, over TCP, the qube's own reverse name."""
    cell.start()
    cell.tunnel_down()
    as_qubes = cell.vpn.read("/etc/resolv.conf")
    for name, text in (("Qubes", as_qubes), ("public", f"nameserver {RESOLVER}\n")):
        marker = cell.phase(f"resolver: {name}")
        options = ("timeout:1 attempts:1", "timeout:1 attempts:1 use-vc")
        own = cell.vpn.qubesdb["/qubes-ip"]
        names = (f"{marker.decode()}.example.org", own)
        cell.vpn.write("/etc/resolv.conf", text)
        cell.vpn.run(
            " ".join(
                f"RES_OPTIONS='{option}' timeout 2 getent -s dns hosts {one} & "
                for option in options
                for one in names
            )
            + "wait",
            check=False,
        )
    _ask(cell, cell.vpn, "own questions")


@section.attack("N06", "to a program on 127.0.0.1 by translation", "IN")
def to_loopback(cell: Cell) -> None:
    """From a client and from upstream, which also says that it is 127.0.0.1 itself."""
    cell.start()
    _trusting(cell)
    own, device = cell.vpn.qubesdb["/qubes-ip"], cell.lab.vif("sys-vpn")
    _rules(
        cell,
        "chain before { type nat hook prerouting priority dstnat - 10;"
        f' iifname {{ "vif*", "eth0" }} meta l4proto {{ tcp, udp }} dnat to 127.0.0.1:{_PORT}; }}',
    )
    cell.listen(cell.vpn, "127.0.0.1", _PORT)
    marker = cell.phase("a client")
    both = [make(SERVER[4], 53, marker) for make in (senders.udp, senders.tcp)]
    cell.send(cell.client, *both)
    marker = cell.phase("upstream")
    upstream = cell.lab.qubes["sys-firewall"]
    upstream.run(["ip", "route", "replace", "192.0.2.99", "via", own, "dev", device, "onlink"])
    cell.send(
        upstream,
        *(make(own, _PORT, marker) for make in (senders.udp, senders.tcp)),
        senders.udp("192.0.2.99", 53, marker),
    )
    datagram = UDP(sport=40000, dport=_PORT) / Raw(marker)
    frames = [IP(src=SERVER[4], dst="127.0.0.1"), IP(src="127.0.0.1", dst=own)]
    mac = cell.vpn.qubesdb["/qubes-mac"].replace(":", "")
    for header in frames:
        cell.send(upstream, senders.on_link(header / datagram, device=device, to=mac))


@section.attack("N07", "a transparent proxy, and own packets to 127.0.0.1", "OUT")
def proxy(cell: Cell) -> None:
    """The proxy's own connections, and the translated packets, take the uplink."""
    cell.start()
    cell.route_to_uplink()
    _trusting(cell)
    _rules(
        cell,
        "chain before { type nat hook prerouting priority dstnat - 10;"
        f' iifname "vif*" meta l4proto {{ tcp, udp }} redirect to :{_PORT}; }}\n'
        "chain own { type nat hook output priority -100;"
        f" ip daddr 127.0.0.1 meta l4proto {{ tcp, udp }} dnat to {SERVER[4]}; }}",
    )
    for kind in ("TCP", "UDP"):
        words = f"{kind}-LISTEN:{_PORT},fork,reuseaddr {kind}:{SERVER[4]}:443"
        cell.vpn.popen(["socat", *words.split()])
    cell.salvo("client", "clients' connections to the proxy")
    cell.salvo("own", "the proxy's own")
    marker = cell.phase("own packets to 127.0.0.1")
    own = [make("127.0.0.1", 443, marker) for make in (senders.udp, senders.tcp)]
    cell.send(cell.vpn, *own)


@section.attack("N08", "a copy of a client's packet to the endpoint", "OUT")
def copied(cell: Cell) -> None:
    """Which nft makes, and which the kernel sends as if it were the qube's own."""
    endpoints = {"ip": "198.51.100.1", "ip6": "2001:db8:51::1"}

    def another_endpoint(lab: Lab) -> None:
        line = f"[{endpoints['ip6']}]:{lab.tunnels['sys-vpn'].port}/udp"
        lab.qubes["sys-vpn"].run(f"[ ! -e {_ENDPOINTS} ] || echo '{line}' >>{_ENDPOINTS}")

    cell.start(before=another_endpoint)
    vif, port = cell.lab.vif("client-1"), cell.tunnel.port
    for family, endpoint in endpoints.items():
        gateway = cell.vpn.qubesdb["/qubes-gateway" + family.removeprefix("ip")]
        for hook in ("prerouting", "forward"):
            rule = f'iifname "{vif}" dup to {gateway} device "eth0"'
            chain = f"type filter hook {hook} priority -150; {rule};\n"  # before our forward chain
            try:
                _rules(cell, f"chain copy {{ {chain} }}", family)
            except CommandFailed as error:
                cell.not_run(f"this kernel's nft copies no packets (NFT_DUP_IPV4 and 6): {error}")
            marker = cell.phase(f"copied in {hook}, {family}")
            cell.send(cell.client, senders.udp(endpoint, port, marker, count=3))


def _ask(cell: Cell, qube: Qube, phase: str) -> None:
    """Every server, on 53 and 853, over UDP and TCP."""
    marker = cell.phase(phase)
    servers = [*cell.targets(4), RESOLVER, *cell.targets(6)]
    cell.send(qube, *(job for one in servers for job in senders.dns(one, marker)), routed=False)


def _trusting(cell: Cell) -> None:
    """127.0.0.1 may be on any link, and Qubes lets everything in."""
    cell.vpn.run(
        "echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet;"
        " nft insert rule ip qubes custom-input accept"
    )


def _rules(cell: Cell, chains: str, family: str = "ip") -> None:
    """A table of somebody else's, in place of the one before."""
    table = f"table {family} other"
    text = f"{table}\ndelete {table}\n{table} {{\n{chains}\n}}\n"
    cell.vpn.run(["nft", "-f", "-"], input=text)


def _second_table(cell: Cell) -> None:
    """What has one of two marks is routed over the uplink."""
    for family, key in (("-4", ""), ("-6", "6")):
        gateway = cell.vpn.qubesdb[f"/qubes-gateway{key}"]
        cell.vpn.run(
            f"ip {family} route add default via {gateway} dev eth0 onlink table 77;"
            f" ip {family} rule add priority 50 fwmark 0x77/0xff table 77"
        )
