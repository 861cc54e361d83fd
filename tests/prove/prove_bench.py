# SPDX-License-Identifier: GPL-2.0-or-later
"""A qube's network in a namespace, into which concrete packets are put, to see what comes out.

The kernel tells what the model takes as given: the conntrack state of each packet, and its flow's
mark.  It tells what is compared, too: what left by which device, what was accepted at the input
hook, and how often each rule was met.
"""

import contextlib
import ctypes
import fcntl
import ipaddress
import json
import os
import re
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prove_wire import Seen, Wire, read

from qubes_vpn_formula.prove import nftjson
from qubes_vpn_formula.prove.collect import complete
from qubes_vpn_formula.prove.notmodelled import NotModelled
from qubes_vpn_formula.prove.ruleset import Ruleset

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 1, 0x1000
_MAC, _OTHER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
_REFUSED = re.compile(r"^/dev/stdin:(\d+):", re.MULTILINE)
_PATIENCE = 5  # seconds for the last packet to be through
_SETTINGS = {
    "net/ipv4/ip_forward": 1,
    "net/ipv6/conf/all/forwarding": 1,
    "net/ipv6/conf/all/accept_source_route": 1,
    "net/ipv4/conf/all/accept_source_route": 1,
    "net/ipv4/conf/default/accept_source_route": 1,
    "net/ipv4/conf/all/rp_filter": 0,
    "net/ipv4/conf/default/rp_filter": 0,
    "net/ipv4/conf/all/accept_local": 1,
    "net/ipv4/conf/all/send_redirects": 0,
    "net/ipv4/conf/default/send_redirects": 0,
    "net/ipv6/conf/default/accept_dad": 0,
    "net/ipv6/conf/default/addr_gen_mode": 1,
    "net/ipv6/conf/default/router_solicitations": 0,
}
#: Once conntrack is there.
_TRACKING = {"net/netfilter/nf_conntrack_tcp_loose": 0}


@dataclass(frozen=True)
class Device:
    """own4, own6: the qube's addresses there.  net4, net6: what is routed to it."""

    name: str
    kind: str
    group: int
    own4: str
    own6: str
    net4: str
    net6: str


DEVICES = (
    Device("vif1.0", "veth", 2, "10.137.1.1", "fd01::ff", "10.1.0.0/16", "fd01::/32"),
    Device("vif2.0", "veth", 2, "10.137.2.1", "fd02::ff", "10.2.0.0/16", "fd02::/32"),
    Device("tun0", "tun", 0, "10.137.8.1", "fd08::ff", "10.8.0.0/16", "fd08::/32"),
    Device("wan9", "veth", 7, "10.137.9.1", "fd09::ff", "10.9.0.0/16", "fd09::/32"),
    Device("eth0", "veth", 1, "10.137.0.1", "fd00::ff", "0.0.0.0/0", "::/0"),
)
_WATCH = """
add table inet zz_watch
delete table inet zz_watch
table inet zz_watch {
	set came4 { typeof ip id; flags dynamic; size 65535; }
	set came6 { typeof ip6 flowlabel; flags dynamic; size 65535; }
	set state4 { typeof ip id . ct state; flags dynamic; size 65535; }
	set state6 { typeof ip6 flowlabel . ct state; flags dynamic; size 65535; }
	set mark4 { typeof ip id . ct mark; flags dynamic; size 65535; }
	set mark6 { typeof ip6 flowlabel . ct mark; flags dynamic; size 65535; }
	set in4 { typeof ip id; flags dynamic; size 65535; }
	set in6 { typeof ip6 flowlabel; flags dynamic; size 65535; }
	chain came {
		add @came4 { ip id }
		add @came6 { ip6 flowlabel }
	}
	chain tracked {
		add @state4 { ip id . ct state }
		add @state6 { ip6 flowlabel . ct state }
		add @mark4 { ip id . ct mark }
		add @mark6 { ip6 flowlabel . ct mark }
	}
	chain c1 { type filter hook prerouting priority -399; goto came; }
	chain c2 { type filter hook output priority -399; counter goto came; }
	chain t1 { type filter hook prerouting priority -199; goto tracked; }
	chain t2 { type filter hook output priority -199; goto tracked; }
	chain i { type filter hook input priority 2000;
		add @in4 { ip id }
		add @in6 { ip6 flowlabel }
	}
}
"""


@dataclass
class Observed:
    """Of one salvo.  left: (device, packet).  delivered: idents at the end of the input hook.

    state, mark: by ident.  hits: by rule's handle, (family, table, handle).  noise: how many
    packets the kernel sent of its own accord, which met rules, too.
    """

    left: list[tuple[str, Seen]] = field(default_factory=list)
    delivered: set[int] = field(default_factory=set)
    state: dict[int, int] = field(default_factory=dict)
    mark: dict[int, int] = field(default_factory=dict)
    hits: dict[tuple[str, str, int], int] = field(default_factory=dict)
    noise: int = 0


class Bench:
    """A context manager; needs root."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._cables: dict[str, socket.socket] = {}
        self._tun = -1

    def __enter__(self) -> "Bench":
        with self._stack:
            self._qube, self._outside = self._namespace(), self._namespace()
            self._links()
            self._open()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _namespace(self) -> int:
        holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo ready; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._stack.callback(holder.wait)
        self._stack.callback(holder.stdin.close)
        holder.stdout.readline()
        return holder.pid

    def run(self, *words: str, text: str = "", where: int | None = None) -> str:
        """A program's output in the qube's network."""
        done = self._try(*words, text=text, where=where)
        assert done.returncode == 0, (words, done.stderr[:2000])
        return done.stdout

    def _try(self, *words: str, text: str = "", where: int | None = None):
        enter = ["nsenter", f"--net=/proc/{where or self._qube}/ns/net", "--"]
        return subprocess.run(
            [*enter, *words], input=text, capture_output=True, text=True, check=False
        )

    def loadable(self, text: str) -> str:
        """*text* without the lines that nft or the kernel refuses, which random text has."""
        while True:
            done = self._try("nft", "-f", "-", text="flush ruleset\n" + text)
            refused = {int(number) - 2 for number in _REFUSED.findall(done.stderr)}
            if not refused:
                assert done.returncode == 0, done.stderr
                return text
            lines = text.split("\n")
            text = "\n".join(line for place, line in enumerate(lines) if place not in refused)

    def _set(self, settings: dict[str, int]) -> None:
        text = "".join(f"echo {value} >/proc/sys/{key}\n" for key, value in settings.items())
        self.run("sh", "-e", text=text)

    def _links(self) -> None:
        self._set(_SETTINGS)
        lines = ["link set lo up"]
        for one in DEVICES:
            if one.kind == "tun":
                self._tun = self._made_tun(one.name)
            else:
                peer = f"peer name p-{one.name} netns {self._outside}"
                lines.append(f"link add {one.name} address {_MAC} type veth {peer}")
            lines.append(f"link set {one.name} group {one.group} up")
            lines.append(f"addr add {one.own4}/32 dev {one.name}")
            lines.append(f"addr add {one.own6}/128 dev {one.name} nodad")
            for number, (own, net) in enumerate(((one.own4, one.net4), (one.own6, one.net6))):
                if one.kind == "tun":
                    lines.append(f"route add {net} dev {one.name} src {own}")
                    continue
                gateway = str(ipaddress.ip_address(own) + 1)
                lines.append(
                    f"neighbour add {gateway} dev {one.name} lladdr {_OTHER_MAC} nud permanent"
                )
                via = f"via {gateway} dev {one.name} onlink src {own}"
                lines.append(f"{'-6 ' if number else ''}route add {net} {via}")
        script = "".join(f"ip {line}\n" for line in lines)
        peers = "".join(
            f"echo 1 >/proc/sys/net/ipv6/conf/p-{one.name}/disable_ipv6\n"
            f"ip link set p-{one.name} up\n"
            for one in DEVICES
            if one.kind == "veth"
        )
        self.run("sh", "-e", text=script)
        self.run("sh", "-e", text=peers, where=self._outside)
        time.sleep(0.1)
        self._index = {
            link["ifname"]: link["ifindex"] for link in json.loads(self.run("ip", "-j", "link"))
        }

    def _made_tun(self, name: str) -> int:
        with self._inside(self._qube):
            file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        self._stack.callback(os.close, file)
        with self._inside(self._qube):
            fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
        return file

    @contextlib.contextmanager
    def _inside(self, pid: int) -> Iterator[None]:
        """What is opened here is in another network."""
        own, other = Path("/proc/self/ns/net"), Path(f"/proc/{pid}/ns/net")
        with own.open() as own, other.open() as other:
            _setns(other.fileno())
            try:
                yield
            finally:
                _setns(own.fileno())

    def _open(self) -> None:
        with self._inside(self._outside):
            for one in DEVICES:
                if one.kind == "veth":
                    cable = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
                    cable.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
                    cable.bind((f"p-{one.name}", 3))
                    cable.setblocking(False)
                    self._cables[one.name] = self._stack.enter_context(cable)
        with self._inside(self._qube):
            self._raw4 = self._stack.enter_context(
                socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
            )
            self._raw6 = self._stack.enter_context(
                socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
            )
        self._raw4.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
        self._raw6.setsockopt(socket.IPPROTO_IPV6, 36, 1)  # IPV6_HDRINCL

    def index(self, name: str) -> int:
        return self._index[name]

    def load(self, text: str) -> Ruleset:
        """The rule set in *text*, and nothing else, is in force."""
        self.run("nft", "-f", "-", text="flush ruleset\n" + text)
        document = json.loads(self.run("nft", "-j", "list", "ruleset"))
        listed = self._try("nft", "-a", "-t", "--debug=netlink", "list", "ruleset")
        if listed.returncode:  # nft 1.0.6 aborts at a range of ports behind `ip6 nexthdr 43`
            raise NotModelled("nft", "what it cannot list")
        complete(document, listed.stdout)
        ruleset = nftjson.read(document)
        self.run("nft", "-f", "-", text=_WATCH)
        self._set(_TRACKING)
        self.run("conntrack", "-F")
        return ruleset

    def salvo(self, packets: list[tuple[str | None, Wire]], mark: int = 0) -> Observed:
        """Puts packets in by devices, or, by None, has the qube send them."""
        self.run("nft", "-f", "-", text=_WATCH)
        before = self._hits()
        self._drain()
        for device, wire in packets:
            self._put(device, wire, mark)
        seen = self._watched({wire.ident for _device, wire in packets})
        seen.left = self._drain()
        after = self._hits()
        seen.hits = {rule: count - before.get(rule, 0) for rule, count in after.items()}
        # Asked last: what was sent until the rules were counted has met them.
        seen.noise = self._watched(set()).noise - sum(device is None for device, _wire in packets)
        return seen

    def _put(self, device: str | None, wire: Wire, mark: int) -> None:
        data = wire.data()
        if device is None:
            raw, place = self._raw4, (wire.destination, 0)
            if wire.version == 6:
                raw, place = self._raw6, (wire.destination, 0, 0, 0)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            with contextlib.suppress(OSError):  # what a rule refuses, send may tell
                raw.sendto(data, place)
        elif device in self._cables:
            head = bytes.fromhex((_MAC + _OTHER_MAC).replace(":", ""))
            kind = struct.pack("!H", 0x0800 if wire.version == 4 else 0x86DD)
            self._cables[device].send(head + kind + data)
        else:
            os.write(self._tun, data)

    def _watched(self, idents: set[int]) -> Observed:
        until = time.monotonic() + _PATIENCE
        while True:
            seen, came = Observed(), set()
            for entry in json.loads(self.run("nft", "-j", "list", "table", "inet", "zz_watch"))[
                "nftables"
            ]:
                if "set" in entry:
                    _take(entry["set"], seen, came)
                if entry.get("rule", {}).get("chain") == "c2":
                    seen.noise = entry["rule"]["expr"][0]["counter"]["packets"]
            if idents <= came:
                return seen
            assert time.monotonic() < until, f"lost on the way: {idents - came}"
            time.sleep(0.01)

    def _hits(self) -> dict[tuple[str, str, int], int]:
        found = {}
        for entry in json.loads(self.run("nft", "-j", "list", "ruleset"))["nftables"]:
            rule = entry.get("rule")
            if rule and rule["table"] != "zz_watch":
                for statement in rule["expr"]:
                    if "counter" in statement:
                        place = rule["family"], rule["table"], rule["handle"]
                        found[place] = statement["counter"]["packets"]
        return found

    def _drain(self) -> list[tuple[str, Seen]]:
        found = []
        for name, cable in self._cables.items():
            with contextlib.suppress(BlockingIOError):
                while True:
                    data, place = cable.recvfrom(4096)
                    packet = read(data[14:])
                    if place[2] != socket.PACKET_OUTGOING and packet:
                        found.append((name, packet))
        with contextlib.suppress(BlockingIOError):
            while True:
                packet = read(os.read(self._tun, 4096))
                if packet:
                    found.append(("tun0", packet))
        return found


_STATES = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}


def _take(data: dict[str, Any], seen: Observed, came: set[int]) -> None:
    for plain in data.get("elem", []):
        element = plain["elem"]["val"] if isinstance(plain, dict) and "elem" in plain else plain
        parts = element["concat"] if isinstance(element, dict) else [element]
        if data["name"].startswith("came"):
            came.add(parts[0])
        elif data["name"].startswith("in"):
            seen.delivered.add(parts[0])
        elif data["name"].startswith("state"):
            seen.state[parts[0]] = _STATES[parts[1]]
        else:
            seen.mark[parts[0]] = parts[1]


def _setns(file: int) -> None:
    if _LIBC.setns(file, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
