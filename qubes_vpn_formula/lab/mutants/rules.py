# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults in the rules themselves."""

from qubes_vpn_formula.lab.mutants.edits import (
    MARK,
    TUNNEL,
    after_mark,
    drop,
    first,
    let,
    no_gate,
    only_first_line,
    policy,
    swap,
    without,
)
from qubes_vpn_formula.lab.mutants.mutant import mutant
from qubes_vpn_formula.lab.mutants.paths import CLOSED, UDEV, core

_RULESET = core("ruleset")
_NFT = core("nft")
_GATE_DROP = 'f"add rule {chain} counter drop\\n"'
_MARKED = "meta mark & 0x10000000 != 0"
_CLIENT_IN = 'iifgroup 2 iifname "vif*"'
_CLIENT_OUT = 'oifgroup 2 oifname "vif*"'

_CHAINS = [
    mutant(
        "input-open",
        "whatever reaches the qube reaches its programs",
        [policy("input"), first("input", f"{_CLIENT_IN} goto from_client", "accept")],
        "C06 N06",
    ),
    mutant(
        "client-input-open",
        "clients reach the qube's own programs",
        first("from_client", "accept"),
        "C06 N06",
    ),
    mutant(
        "forward-open",
        "forward has policy accept and no last drop",
        [policy("forward"), first("client_out", "accept"), *only_first_line()],
        "T01 T02 T04 T05 T06 U05 B02 B04 B07 F01 F04 F05 F09 P05 P07 C02 C03 C07 N04 K01 K02 "
        "D02 D03 D04",
    ),
    mutant(
        "output-open",
        "output has policy accept and no last drop",
        [policy("output"), first("postrouting", "accept"), no_gate()],
        "T01 T04 T05 T06 U08 B01 B04 F09 P04 P05 P07 P11 P13 P15 C08 N05 N07 K02 D03",
    ),
    mutant(
        "postrouting-open",
        "nothing looks again after address translation",
        first("postrouting", "accept"),
        "N01",
    ),
    mutant(
        "forward-only",
        "only forwarded packets are looked at, as in most guides",
        [first("input", "accept"), first("output", "accept"), *only_first_line()],
        "T01 U01 U07 B01 N02 D01",
    ),
    mutant(
        "ipv4-only",
        "IPv6 passes everywhere",
        [
            *(first(chain, "meta nfproto ipv6 accept") for chain in ("input", "forward", "output")),
            first("postrouting", "meta nfproto ipv6 accept"),
            no_gate(),
        ],
        "P01 P04",
    ),
]

_GATE = [
    mutant("no-gate", "the gate lets everything pass", no_gate(), "U03 U09 P08 P09 P10 P17"),
    mutant(
        "gate-ip-only",
        "the gate stops IPv4 and IPv6 only",
        swap(
            _RULESET,
            _GATE_DROP,
            'f"add rule {chain} meta protocol ip counter drop\\n"'
            'f"add rule {chain} meta protocol ip6 counter drop\\n"'
            'f"add rule {chain} accept\\n"',
        ),
        "P09",
    ),
    mutant(
        "gate-eth0-only",
        "only the device called eth0 has a gate",
        swap(_NFT, 'device.name != "lo"', 'device.name == "eth0"'),
        "U06",
    ),
    mutant("gate-boot-only", "a device that comes later has no gate", drop(UDEV), "U06"),
    mutant(
        "fragments-pass",
        "the gate lets later fragments pass, because they have no ports",
        swap(
            _RULESET,
            _GATE_DROP,
            'f"add rule {chain} ip frag-off & 0x1fff != 0 accept\\n"' + _GATE_DROP,
        ),
        "P05",
    ),
    mutant(
        "mark-alone",
        "only the gate looks, and it believes every mark",
        [
            policy("forward"),
            first("client_out", "accept"),
            first("postrouting", f"{_MARKED} accept"),
        ],
        "F08",
    ),
]

_ENDPOINTS = [
    mutant(
        "endpoint-for-clients",
        "clients may send to endpoints too",
        first("client_out", MARK, "jump to_endpoint"),
        "F10 C01 N03 D01 D02",
    ),
    mutant(
        "endpoint-any-port",
        "an endpoint's address is open on every port, with both protocols",
        swap(
            _RULESET,
            "        text += _elements(name, elements)\n",
            "        text += _elements(name, elements)\n"
            '        if name.startswith("endpoints"):\n'
            '            hosts = sorted({one.split(" . ")[0] for one in elements})\n'
            '            both = [f"{one} . {l4} . 0-65535" for one in hosts'
            ' for l4 in ("tcp", "udp")]\n'
            '            text += _elements(name.replace("endpoints", "ranges"), both)\n',
        ),
        "P14",
    ),
    mutant(
        "endpoint-on-the-way",
        "an endpoint may be a stop on the way, by a source route",
        without("to_endpoint", "(ip hdrlength >|exthdr)"),
        "P07",
    ),
    mutant(
        "route-half-used",
        "an endpoint may be a stop on the way, by a source route with a stop behind it",
        swap(CLOSED, "ip hdrlength > 5 goto", "ip option lsrr exists goto"),
        "P07",
    ),
    mutant(
        "copies-are-own",
        "a copy that the kernel made of a client's packet is the qube's own",
        without("to_endpoint", "ct state untracked"),
        "N08",
    ),
]

_DEVICES = [
    mutant(
        "tunnel-by-name",
        "a tunnel is what is called so, whatever kind of device it is",
        [
            swap(CLOSED, TUNNEL.format("oif"), ""),
            swap(CLOSED, TUNNEL.format("iif"), ""),
            no_gate(),
        ],
        "T08 U02 I09",
    ),
    mutant(
        "tunnel-by-kind",
        "every tun device is the tunnel, whatever its name",
        [swap(CLOSED, "oifname @tunnel_names ", ""), swap(CLOSED, "iifname @tunnel_names ", "")],
        "T03",
    ),
    mutant(
        "client-by-group",
        "a client is what is in group 2, whatever its name",
        [
            swap(CLOSED, _CLIENT_IN, "iifgroup 2"),
            swap(CLOSED, _CLIENT_OUT, "oifgroup 2"),
            no_gate(),
        ],
        "U03",
    ),
    mutant(
        "client-by-name",
        "a client is what is called vif*, whatever its group",
        [
            swap(CLOSED, _CLIENT_IN, 'iifname "vif*"'),
            swap(CLOSED, _CLIENT_OUT, 'oifname "vif*"'),
            no_gate(),
        ],
        "U03",
    ),
    mutant(
        "loopback-by-pattern",
        "whatever is called lo* is the loopback",
        [
            swap(CLOSED, "oif lo accept", 'oifname "lo*" accept'),
            swap(CLOSED, "iif lo accept", 'iifname "lo*" accept'),
            no_gate(),
        ],
        "U04",
    ),
    mutant(
        "uplink-named",
        "closed is what is called eth0, everything else is open",
        [
            *(first(one, 'oifname != "eth0" accept') for one in ("client_out", "postrouting")),
            first("forward", 'oifname != "eth0" accept'),
            after_mark('oifname != "eth0" accept'),
            no_gate(),
        ],
        "U01 U06 U07",
    ),
]

_STATE = [
    mutant(
        "established-first",
        "established and related come first, whichever way they go",
        [
            first("forward", "ct state established,related accept"),
            after_mark("ct state established,related accept"),
            *only_first_line(),
        ],
        "F03 F05",
    ),
    mutant(
        "conntrack-kept",
        "the same, and flows from before the rules are not forgotten",
        [
            first("forward", "ct state established,related accept"),
            after_mark("ct state established,related accept"),
            *only_first_line(),
            swap(core("killswitch"), "qubes_vpn_nft.flush_conntrack()", "pass"),
        ],
        "F01",
    ),
    mutant(
        "flowtable-kept",
        "Qubes' flowtable stays, and nothing behind it looks",
        [
            swap(CLOSED, "add table inet qubes-nat-accel\ndelete table inet qubes-nat-accel\n", ""),
            swap(core("killswitch"), "qubes_vpn_nft.flush_conntrack()", "pass"),
            no_gate(),
        ],
        "F02",
    ),
    mutant(
        "new-only",
        "only new flows are stopped",
        [
            first("client_out", "ct state != new accept"),
            after_mark("ct state != new accept"),
            *only_first_line(),
        ],
        "F04",
    ),
    mutant(
        "output-established",
        "the qube's own established flows go on, to endpoints that are none any more",
        [
            after_mark("ct state established accept"),
            first("postrouting", f"{_MARKED} ct state established accept"),
        ],
        "L06",
    ),
    mutant(
        "answers-uplink",
        "the uplink gets answers",
        [
            first("input", "accept"),
            after_mark("ct direction reply accept", "ct state related accept"),
            first("postrouting", f"{_MARKED} ct direction reply accept"),
            first("postrouting", f"{_MARKED} ct state related accept"),
        ],
        "P16",
    ),
    mutant(
        "related-anything",
        "whatever conntrack calls related may pass, not errors only",
        swap(
            CLOSED,
            "ct direction reply ct state related jump errors",
            "ct state related accept",
        ),
        "F07",
    ),
]

_PROTOCOLS = [
    mutant(
        "udp-tcp-icmp-only",
        "only UDP, TCP and ICMP are stopped",
        [
            *let("meta l4proto != { tcp, udp, icmp, ipv6-icmp }"),
            first("forward", "meta l4proto != { tcp, udp, icmp, ipv6-icmp } accept"),
        ],
        "P06",
    ),
    mutant(
        "icmp-open",
        "ICMP passes",
        let("meta l4proto { icmp, ipv6-icmp }"),
        "F05 P02 C02",
    ),
    mutant(
        "nd-is-icmpv6",
        "all of ICMPv6 passes for neighbour discovery",
        first("neighbours", "meta l4proto ipv6-icmp accept"),
        "P02",
    ),
    mutant(
        "nd-forwarded",
        "neighbour discovery passes with any hop limit, clients' too",
        [
            swap(CLOSED, " ip6 hoplimit 255 accept", " accept"),
            first("client_out", MARK, "jump neighbours"),
        ],
        "P03",
    ),
    mutant(
        "dhcp-allowed",
        "DHCP passes",
        [
            *let("udp dport { 67, 547 }"),
            swap(
                _RULESET,
                _GATE_DROP,
                'f"add rule {chain} meta l4proto udp th dport 67 accept\\n"' + _GATE_DROP,
            ),
        ],
        "P10",
    ),
    mutant(
        "dns-allowed",
        "port 53 passes, as where an allowlist says 'any'",
        let("meta l4proto { tcp, udp } th dport { 53, 853 }"),
        "T07 N04 N05",
    ),
    mutant("ntp-allowed", "NTP passes", let("udp dport 123"), "T07 P11"),
    mutant(
        "lan-allowed",
        "local networks, multicast and broadcast pass",
        [
            *let(
                "ip daddr { 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 169.254.0.0/16, "
                "224.0.0.0/4, 255.255.255.255 }"
            ),
            *let("ip6 daddr { fc00::/7, fe80::/10, ff00::/8 }"),
        ],
        "P12 P13",
    ),
]

_TOWARDS_CLIENTS = [
    mutant(
        "tunnel-to-clients",
        "what comes out of the tunnel reaches clients unasked",
        first("forward", f"iifname @tunnel_names {_CLIENT_OUT} accept"),
        "C04 D04",
    ),
    mutant(
        "uplink-to-clients",
        "what comes in from the uplink reaches clients",
        first("forward", f"{_CLIENT_OUT} accept"),
        "F06 C05 K01",
    ),
    mutant(
        "clients-to-clients",
        "clients reach each other",
        first("forward", f"{_CLIENT_IN} {_CLIENT_OUT} accept"),
        "C03",
    ),
]

_DNS = [
    mutant(
        "dns-late",
        "clients' DNS is translated after Qubes has done so",
        swap(CLOSED, "priority dstnat - 10", "priority dstnat + 5"),
        "Q01",
    ),
    mutant(
        "dns-udp-only",
        "clients' DNS over TCP is not translated",
        swap(
            CLOSED, "meta l4proto { tcp, udp } goto client_dns", "meta l4proto udp goto client_dns"
        ),
        "Q01",
    ),
    mutant(
        "dns-ipv4-only",
        "clients' DNS to IPv6 addresses is not translated",
        without("client_dns", "dnat ip6"),
        "Q01",
    ),
    mutant(
        "dns-one-address",
        "clients' DNS is translated for the first of Qubes' addresses only",
        first("client_dns", "ip daddr != 10.139.1.1 accept", "meta nfproto ipv6 accept"),
        "Q01",
    ),
    mutant(
        "dns-anywhere",
        "clients' DNS that is not for the tunnel's resolver may pass into the tunnel",
        without("client_out", "th dport 53"),
        "Q02",
    ),
    mutant(
        "dns-port-changed",
        "clients' DNS that somebody's rule translates to another port may pass into the tunnel",
        without("client_out", "(tcp|udp) dport != 53"),
        "Q06",
    ),
    mutant(
        "dns-unasked",
        "a resolver need not have answered",
        swap(core("follow"), "qubes_vpn_question.ask(devices, wake=wake)", "devices"),
        "Q02",
    ),
    mutant(
        "dns-by-any-way",
        "what goes to the tunnel's resolver may take the uplink",
        [
            swap(CLOSED, "@resolvers4 return", "@resolvers4 accept"),
            swap(CLOSED, "@resolvers6 return", "@resolvers6 accept"),
            *only_first_line(),
        ],
        "Q03",
    ),
    mutant(
        "dns-old-flows",
        "a resolver that is no longer the tunnel's goes on for flows from before",
        [
            swap(_RULESET, "in _RESOLVERS.items())", 'in _RESOLVERS.items() if kind == "map")'),
            swap(core("killswitch"), "qubes_vpn_nft.cut(address, 53)", "pass"),
        ],
        "Q04",
    ),
    mutant(
        "dns-not-cut",
        "clients' flows to the old resolver are stopped, and not forgotten",
        swap(core("killswitch"), "qubes_vpn_nft.cut(address, 53)", "pass"),
        "Q04",
    ),
    mutant(
        "dns-forgotten",
        "a load forgets the tunnel's resolvers",
        swap(core("killswitch"), "elements, resolvers())", "elements)"),
        "Q05",
    ),
]

MUTANTS = [
    *_CHAINS,
    *_GATE,
    *_ENDPOINTS,
    *_DEVICES,
    *_STATE,
    *_PROTOCOLS,
    *_TOWARDS_CLIENTS,
    *_DNS,
]
