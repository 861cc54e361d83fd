# SPDX-License-Identifier: GPL-2.0-or-later
"""Random rule sets and packets that have something to do with each other."""

from random import Random

from prove_bench import DEVICES
from prove_wire import FILL, LOOSE, STRICT, Wire

from qubes_vpn_formula.prove.packet import ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE

_PORTS = (53, 80, 443, 1000, 1500, 51820)
_FLAGS = (2, 2, 2, 0x12, 4, 0x10, 1, 0x18)
_ADDRESSES = {
    4: ("10.1.0.5", "10.1.0.6", "10.2.0.5", "10.8.0.5", "10.9.0.5", "1.2.3.4", "9.9.9.9"),
    6: ("fd01::5", "fd01::6", "fd02::5", "fd08::5", "fd09::5", "2001:db8::4", "2620:fe::9"),
}
_WIDE = {
    4: ("10.1.0.0/16", "10.0.0.0/8", "1.2.3.0-1.2.3.7", "9.0.0.0/8"),
    6: ("fd01::/64", "fd00::/8", "2001:db8::1-2001:db8::7", "2620::/16"),
}
_NAMES = ("vif1.0", "vif2.0", "eth0", "tun0", "wan9", "gone0", "vif*")
_STATES = ("new", "established", "related", "invalid", "untracked")
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
_TYPES = {4: "ipv4_addr", 6: "ipv6_addr"}
_WORD = {4: "ip", 6: "ip6"}
_REJECTS = {
    "inet": "reject with icmpx type admin-prohibited",
    "ip": "reject with icmp type host-prohibited",
    "ip6": "reject with icmpv6 type admin-prohibited",
}


_PORTLESS = 253


class Rules:
    """Makes one rule set; the same seed, the same rules."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311 -- repeatable

    def text(self) -> str:
        count = self._random.randint(1, 3)
        tables = [self._table(number) for number in range(count)]
        if self._random.random() < 0.4:
            tables.append(self._netdev())
        return "\n".join(tables)

    def _pick(self, choices):
        return self._random.choice(list(choices))

    def _some(self, choices, most: int) -> list:
        choices = list(choices)
        return self._random.sample(choices, self._random.randint(1, min(most, len(choices))))

    def _likely(self, chance: float) -> bool:
        return self._random.random() < chance

    # Tables.

    def _table(self, number: int) -> str:
        self._family = self._pick(("inet", "inet", "ip", "ip6"))
        self._versions = {"inet": (4, 6), "ip": (4,), "ip6": (6,)}[self._family]
        self._sets, definitions = self._made_sets()
        lines = [f"table {self._family} t{number} {{", *definitions]
        own = [f"u{depth}" for depth in range(self._random.randint(1, 4))]
        hooks = self._some(_HOOKS, 4)
        self._rejecting = "postrouting" not in hooks  # where the kernel has no reject
        # A chain jumps only to those before it.
        for depth, name in enumerate(own):
            lines += self._chain(name, own[:depth], "", 4)
        for hook in hooks:
            # Each table has priorities of its own; below -200 is before connection tracking.
            low = -390 if hook in ("prerouting", "output") and self._likely(0.3) else -190
            priority = self._random.randrange(low, -205 if low < -200 else 250, 10) + number + 3
            policy = self._pick(("accept", "accept", "drop"))
            base = f"type filter hook {hook} priority {priority}; policy {policy};"
            self._early = priority < -200
            lines += self._chain(f"b_{hook}", own if not self._early else [], base, 6)
        self._early = False
        if self._likely(0.6):
            lines += self._translation(number)
        return "\n".join([*lines, "}"])

    def _netdev(self) -> str:
        device = self._pick(("eth0", "vif1.0", "wan9"))
        self._family, self._versions, self._sets, self._early = "netdev", (4, 6), {}, True
        base = f'type filter hook egress device "{device}" priority 0; policy accept;'
        lines = self._chain("gate", [], base, 5)
        return "\n".join(["table netdev g {", *lines, "}"])

    def _chain(self, name: str, targets: list[str], base: str, most: int) -> list[str]:
        self._early = getattr(self, "_early", False)
        rules = [self._rule(targets) for _ in range(self._random.randint(1, most))]
        return [f"chain {name} {{", *([base] if base else []), *rules, "}"]

    # Sets.

    def _made_sets(self) -> tuple[dict[str, tuple[int, ...]], list[str]]:
        """Names with the shape of their keys, and their definitions."""
        names, lines = {}, ['set names { type ifname; elements = { "eth0", "tun0", "gone0" } }']
        for version in self._versions:
            kind = _TYPES[version]
            some = ", ".join(self._some(_ADDRESSES[version], 4))
            wide = ", ".join(self._some(_WIDE[version][::2] if version == 4 else _WIDE[6][1:], 2))
            keys = ", ".join(self._triple(version) for _ in range(4))
            spans = f"{self._pick(_WIDE[version])} . udp . 1000-1600"
            lines += [
                f"set a{version} {{ type {kind}; elements = {{ {some} }} }}",
                f"set w{version} {{ type {kind}; flags interval; elements = {{ {wide} }} }}",
                f"set k{version} {{ type {kind} . inet_proto . inet_service; "
                f"elements = {{ {keys} }} }}",
                f"set s{version} {{ type {kind} . inet_proto . inet_service; flags interval; "
                f"elements = {{ {spans} }} }}",
                f"map m{version} {{ type inet_proto : {kind}; elements = {{ "
                f"udp : {self._pick(_ADDRESSES[version])} }} }}",
            ]
            names[version] = ()
        return names, lines

    def _triple(self, version: int) -> str:
        return (
            f"{self._pick(_ADDRESSES[version])} . {self._pick(('tcp', 'udp', 'udplite'))}"
            f" . {self._pick(_PORTS)}"
        )

    # Rules.

    def _rule(self, targets: list[str]) -> str:
        words = [self._match() for _ in range(self._pick((0, 1, 1, 1, 2, 2, 3)))]
        if self._likely(0.03):
            words.append("limit rate 1/hour burst 3 packets")
        if self._likely(0.12):
            words.append(self._change())
        if self._likely(0.08):
            return " ".join([*words, self._verdict_map(targets)])
        verdicts = ["accept", "drop", "return", "continue", "", ""]
        if self._rejecting and self._family != "netdev" and not self._early:
            verdicts.append(_REJECTS[self._family])
        verdicts += [f"{self._pick(('jump', 'jump', 'goto'))} {name}" for name in targets]
        return " ".join([*words, "counter", self._pick(verdicts)])

    def _verdict_map(self, targets: list[str]) -> str:
        ends = ["accept", "drop", "return", *[f"jump {name}" for name in targets]]
        ports = self._some(_PORTS[:3], 3)
        elements = [f"{port} : {self._pick(ends)}" for port in ports]
        elements.append(f"900-1100 : {self._pick(ends)}")
        key = self._pick(("tcp dport", "udp dport", "udp sport"))
        return f"{key} vmap {{ {', '.join(elements)} }}"

    def _change(self) -> str:
        if self._early or self._likely(0.5):
            if self._early and self._family != "netdev" and self._likely(0.4):
                return "notrack"
            return "meta mark set " + self._pick(
                ("meta mark | 0x10000000", "0x5", "meta mark & 0xfffffff0", "meta mark ^ 0x7")
            )
        return self._pick(("ct mark set 0x7", "ct mark set meta mark", "meta mark set ct mark"))

    def _match(self) -> str:
        version = self._pick(self._versions)
        kinds = [
            self._address, self._address, self._ports, self._ports, self._device, self._device,
            self._protocol, self._mark, self._odd, self._key,
        ]  # fmt: skip
        if not self._early:
            kinds += [self._flow, self._flow]
        return self._pick(kinds)(version)

    def _not(self) -> str:
        return self._pick(("", "", "", "!= "))

    def _address(self, version: int) -> str:
        end = f"{_WORD[version]} {self._pick(('saddr', 'daddr'))}"
        if self._family != "netdev" and self._likely(0.4):
            return f"{end} {self._not()}@{self._pick('aw')}{version}"
        if self._likely(0.3):
            some = ", ".join(self._some(_ADDRESSES[version], 3))
            return f"{end} {self._not()}{{ {some} }}"
        return f"{end} {self._not()}{self._pick(_ADDRESSES[version] + _WIDE[version])}"

    def _ports(self, version: int) -> str:
        name = self._pick(("tcp", "udp", "th", "th"))
        end = f"{name} {self._pick(('sport', 'dport'))}"
        some = ", ".join(str(port) for port in self._some(_PORTS, 3))
        value = self._pick((f"{{ {some} }}", "1000-2000", ">= 1000", "< 444", str(_PORTS[0])))
        return f"{end} {'' if value[0] in '<>' else self._not()}{value}"

    def _device(self, version: int) -> str:
        side = self._pick(("iif", "oif"))
        kinds = [
            f'{side}name {self._not()}"{self._pick(_NAMES)}"',
            f"{side}group {self._not()}{self._pick((0, 1, 2, 7))}",
            f"meta {side}kind {self._not()}{self._pick(('tun', 'veth', 'wireguard'))}",
            f'meta {side}kind {{ "tun", "wireguard" }}',
            f'{side} "{self._pick(("lo", "eth0", "vif1.0"))}"',
        ]
        if self._family != "netdev":
            kinds.append(f"{side}name {self._not()}@names")
        return self._pick(kinds)

    def _protocol(self, version: int) -> str:
        kinds = [
            "meta l4proto { tcp, udp }",
            f"meta l4proto {self._not()}{self._pick(('tcp', 'udp', 'icmp', 'ipv6-icmp', '132'))}",
        ]
        if version == 4:
            kinds += [f"ip protocol {self._not()}{self._pick(('tcp', 'udp', 'icmp'))}"]
        else:
            kinds += [f"ip6 nexthdr {self._not()}{self._pick(('tcp', 'udp', '60', '43'))}"]
        if self._family == "inet":
            kinds.append(f"meta nfproto {self._pick(('ipv4', 'ipv6'))}")
        if self._family == "netdev":
            kinds.append(f"meta protocol {self._not()}{self._pick(('ip', 'ip6', 'arp'))}")
        return self._pick(kinds)

    def _mark(self, version: int) -> str:
        return self._pick(
            (
                f"meta mark {self._not()}{self._pick(('0', '5', '7'))}",
                "meta mark & 0x10000000 == 0",
                "meta mark & 0x10000000 != 0",
                "meta mark & 0x7 == 0x5",
                "meta mark < 0x6",
            )
        )

    def _odd(self, version: int) -> str:
        kinds = [
            "tcp flags & (syn | rst) == syn", "tcp flags syn", "tcp flags != syn",
            "tcp flags ! syn,ack",
        ]  # fmt: skip
        if version == 4:
            kinds += [
                "icmp type echo-request", "icmp type { echo-reply, destination-unreachable }",
                "icmp code 1", "ip option lsrr exists", "ip option lsrr missing",
                "ip option ssrr exists", "ip hdrlength 5", "ip hdrlength != 5", "ip hdrlength > 7",
                "ip hdrlength 8-14", "ip frag-off & 0x1fff != 0", "ip frag-off & 0x4000 != 0",
                "ip frag-off 0", "ip ttl 63", "ip ttl 64", "ip ttl < 64",
            ]  # fmt: skip
        else:
            kinds += [
                "icmpv6 type echo-request", "icmpv6 type { destination-unreachable, echo-reply }",
                "icmpv6 type < 128", "exthdr rt exists", "exthdr rt missing",
                "ip6 hoplimit 64", "ip6 nexthdr { tcp, udp }",
            ]  # fmt: skip
        if self._family != "netdev":
            kinds += ["meta skuid 0", "meta skuid != 0"]
        return self._pick(kinds)

    def _key(self, version: int) -> str:
        word = _WORD[version]
        end = f"{word} {self._pick(('saddr', 'daddr'))} . meta l4proto . th dport"
        if self._family != "netdev" and self._likely(0.7):
            return f"{end} {self._not()}@{self._pick('ks')}{version}"
        triples = ", ".join(self._triple(version) for _ in range(3))
        return f"{end} {{ {triples} }}"

    def _flow(self, version: int) -> str:
        some = self._some(_STATES, 2)
        kinds = [
            f"ct state {','.join(some)}",
            f"ct state {{ {', '.join(some)} }}",
            f"ct state != {some[0]}",
            "ct direction reply",
            "ct direction original",
            f"ct mark {self._not()}0x7",
            "ct direction reply ct state established",
        ]
        word = _WORD[version]
        kinds.append(f"ct original {word} daddr {self._pick(_ADDRESSES[version])}")
        kinds.append(f"ct original {word} saddr {self._not()}{self._pick(_ADDRESSES[version])}")
        kinds.append("meta l4proto { tcp, udp } ct original proto-dst { 53, 443 }")
        return self._pick(kinds)

    # Address translation.

    def _translation(self, number: int) -> list[str]:
        lines = []
        if self._likely(0.7):
            priority = -100 - 10 * self._random.randint(-2, 3) + number
            lines += self._nat("n_pre", "prerouting", priority, ("dnat", "dnat", "redirect"))
        if self._likely(0.5):
            lines += self._nat("n_post", "postrouting", 100 + number, ("masquerade", "snat"))
        if self._likely(0.3):
            lines += self._nat("n_out", "output", -100 + number, ("dnat",))
        return lines

    def _nat(self, name: str, hook: str, priority: int, kinds: tuple[str, ...]) -> list[str]:
        base = f"type nat hook {hook} priority {priority}; policy accept;"
        rules = [self._nat_rule(self._pick(kinds)) for _ in range(self._random.randint(1, 3))]
        return [f"chain {name} {{", base, *rules, "}"]

    def _nat_rule(self, kind: str) -> str:
        version = self._pick(self._versions)
        match = self._match() if self._likely(0.5) else ""
        if self._likely(0.15):
            return f"{match} counter {self._pick(('accept', 'return'))}"
        if kind == "masquerade":
            return f"{match} masquerade"
        if kind == "redirect":
            asked = f"{match} {self._pick(('tcp', 'udp'))} dport 53"
            return f"{asked} redirect to :{self._pick((53, 1000))}"
        family = f" {_WORD[version]}" if self._family == "inet" else ""
        target = self._pick(_ADDRESSES[version])
        if kind == "snat":
            # The qube's own, so that answers come back.
            return (
                f"{match} snat{family} to {DEVICES[-1].own4 if version == 4 else DEVICES[-1].own6}"
            )
        if self._likely(0.3):
            return f"{match} dnat{family} to meta l4proto map @m{version}"
        if self._likely(0.4):
            ended = target if version == 4 else f"[{target}]"
            return f"{match} udp dport 53 dnat{family} to {ended}:{self._pick(_PORTS)}"
        return f"{match} dnat{family} to {target}"


def packets(seed: int, count: int, first: int) -> list[tuple[str | None, Wire]]:
    """Packets of as many flows, and the devices that they come by; None for the qube's own."""
    random = Random(seed)  # noqa: S311 -- repeatable
    found, taken = [], set()
    while len(found) < count:
        device = random.choice([*DEVICES, None])
        version = random.choice((4, 4, 6))
        wire = _wire(random, device, version, first + len(found))
        flow = wire.source, wire.destination, wire.protocol, wire.first, wire.second
        # Without ports two flows that are translated to one address clash, and one is lost.
        lonely = wire.protocol if wire.protocol == _PORTLESS else None
        if flow in taken or lonely in taken:
            continue
        taken.add(lonely or flow)
        # An answer would be no first packet.
        taken |= {flow, (wire.destination, wire.source, wire.protocol, wire.second, wire.first)}
        found.append((device.name if device else None, wire))
    return found


def _wire(random: Random, device, version: int, ident: int) -> Wire:
    own = [one.own4 if version == 4 else one.own6 for one in DEVICES]
    source = random.choice(_ADDRESSES[version] if device else own)
    targets = [*_ADDRESSES[version]] * 2 + (own if device else [])
    destination = random.choice([one for one in targets if one != source])
    icmp = ICMP if version == 4 else ICMPV6
    protocol = random.choice((TCP, TCP, UDP, UDP, UDP, icmp, UDPLITE, SCTP, _PORTLESS))
    first, second, flags = random.choice((*_PORTS, 40000)), random.choice(_PORTS), 0
    if protocol == TCP:
        flags = random.choice(_FLAGS)
    if protocol == icmp:
        asked, answer = (0x0800, 0x0000) if version == 4 else (0x8000, 0x8100)
        first, second = random.choice((asked, asked, answer)), 0
    # Not to the qube itself, which would go on along the route.
    routes = (LOOSE,) if destination not in own and second != 53 else ()
    if routes and not device:
        routes += (STRICT,)  # which nobody forwards
    return Wire(
        ident,
        source,
        destination,
        protocol,
        first,
        second,
        flags,
        extensions=random.choice(((), (), (), (60,), (43,), (60, 43))) if version == 6 else (),
        options=_options(random, routes) if version == 4 and random.random() < 0.2 else b"",
        whole=random.random() < 0.3,
        cut=random.choice((0, 1, 2, 3, 6)) if random.random() < 0.06 else None,
        echo=ident,
    )


_RECORD, _TIME, _ALERT, _UNKNOWN = 7, 68, 148, 94
#: So many bytes an IPv4 header has room for.
_ROOM = 40


def _options(random: Random, routes: tuple[int, ...]) -> bytes:
    """IPv4 options of any length, each kind once; *routes*: those that there may be, of routes."""
    kinds = [_RECORD, _TIME, _ALERT, FILL, FILL]
    # One that the kernel does not know hides a route, or not, by who is running then.
    kinds += random.choice((routes, (_UNKNOWN,)))
    if LOOSE in kinds and STRICT in kinds:
        kinds.remove(random.choice(routes))
    random.shuffle(kinds)
    found = b""
    for kind in kinds[: random.randint(1, len(kinds))]:
        one = _option(random, kind)
        if len(found + one) <= _ROOM:
            found += one
    return found + bytes(-len(found) % 4)


def _option(random: Random, kind: int) -> bytes:
    if kind == FILL:
        return bytes((FILL,))
    if kind == _ALERT:
        return bytes((kind, 4, 0, 0))
    count = random.randint(1, 5)
    begin = 5 if kind == _TIME else 4
    pointer = begin + 4 * random.choice((0, 0, 0, random.randint(1, count)))
    data = bytes((192, 0, 2, 1)) * count
    head = bytes((pointer, 0)) if kind == _TIME else bytes((pointer,))
    return bytes((kind, 2 + len(head + data))) + head + data
