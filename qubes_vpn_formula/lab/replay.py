# SPDX-License-Identifier: GPL-2.0-or-later
"""A counterexample of `qubes-vpn prove`, sent through a real kernel.

A qube gets the counterexample's rules and devices of the names, groups and kinds that its packet
came and went by; that packet is sent, and what comes out at the other end is looked at.
"""

import contextlib
import ipaddress
import json
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import ICMPv6Unknown, IPv6, IPv6ExtHdrRouting
from scapy.packet import Packet, Raw

from qubes_vpn_formula.errors import UserError, read_text
from qubes_vpn_formula.lab import packets
from qubes_vpn_formula.lab.agent import CLIENT_MAC, NETVM_MAC
from qubes_vpn_formula.lab.capture import Capture, Frame
from qubes_vpn_formula.lab.closing import Closing
from qubes_vpn_formula.lab.qube import CommandFailed, Qube
from qubes_vpn_formula.lab.traffic import Job, new_marker, send

#: Of a counterexample that is understood here.
VERSION = 1
#: As in a qube that forwards.  A TCP flow that conntrack does not know is invalid at once.
_SETTINGS = """
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
echo 0 >/proc/sys/net/ipv4/conf/default/rp_filter
echo 0 >/proc/sys/net/netfilter/nf_conntrack_tcp_loose
"""
#: The qube's own addresses, on each of its devices, and what they end with: the packet has other
#: ones, as what comes from the qube's own is not taken, and what is for them not sent on.
_OWN, _ENDS = ("10.137.0.{}", "fd09:24ef:4179::a89:{}"), (3, 2, 1)
_SO_MARK = 36  # asm-generic/socket.h
_INSIDE = Path(__file__).with_name("inside")
_ERRORS = {packets.ICMP: (3, 4, 5, 11, 12), packets.ICMPV6: (1, 2, 3, 4)}
_FLOWS = {packets.TCP: "tcp", packets.UDP: "udp"}


class CannotReplay(Exception):
    """The packet cannot be made here; the text says why."""


@dataclass(frozen=True)
class Replayed:
    """What the kernel did.

    agrees: as the counterexample says.  left: what came out at the other end, in words.
    """

    agrees: bool
    expected: str
    left: tuple[str, ...]


def read(path: str) -> list[dict[str, Any]]:
    """The counterexamples in what `qubes-vpn prove --json` has printed.  Raises UserError."""
    try:
        content = json.loads(read_text(path))
        found = [one["counterexample"] for one in content["answers"] if one["counterexample"]]
        if all(one["version"] == VERSION for one in found):
            return found
    except (ValueError, TypeError, KeyError):
        pass
    raise UserError(
        "it is not the result of a proof, or of another version",
        "Make it by qubes-vpn prove PILLAR --json.",
        path,
    )


def replay(found: Mapping[str, Any]) -> Replayed:
    """Sends the packet of a counterexample.

    Raises :class:`CannotReplay`, :class:`qubes_vpn_formula.lab.qube.CommandFailed`.
    """
    packet, leaves = found["packet"], found["leaves"]
    if found.get("offloaded"):
        raise CannotReplay("its flow is offloaded, and none is offloaded here")
    if leaves and found["ends_as"]["out_name"] != packet["out_name"]:
        raise CannotReplay("it is routed again on its way, to another device")
    if packet["in_index"] and ipaddress.ip_address(found["ends_as"]["destination"]).is_multicast:
        raise CannotReplay("it is multicast, which a kernel forwards for a multicast router only")
    if not packet["first"] and packet["protocol"] in _FLOWS and _is_ported_anew(found):
        raise CannotReplay("a flow whose port was translated is not made here")
    marker, control = new_marker(), new_marker()
    with contextlib.ExitStack() as stack:
        qube, world = (stack.enter_context(Qube(name)) for name in ("replay", "world"))
        qube.run(_SETTINGS)
        ends = {
            side: stack.enter_context(_device(qube, world, packet, side))
            for side in ("in", "out")
            if packet[f"{side}_index"]
        }
        if "out" in ends:
            _route(qube, packet, found["ends_as"])
            target: _Target = ends["out"]
        else:
            target = stack.enter_context(_Program(qube, packet))
        _load(qube, found["rules"])
        _flow(qube, packet)
        target.watch()

        def send_one(mark: bytes) -> None:
            made = _made(packet, mark)
            if "in" in ends:
                ends["in"].send(made)
            else:
                _send_own(qube, packet, made, raw=found["hooks"] == ["egress"])
            qube.run(["sleep", "0.2"])

        send_one(marker)
        if not leaves:  # then it must be the rules that stop it
            qube.run(["nft", "flush", "ruleset"])
            send_one(control)
        frames = target.seen()
    if not leaves and not any(control in frame.data for frame in frames):
        raise CannotReplay("it does not get through here without any rules either")
    left = [packets.decode(frame.data) for frame in frames if marker in frame.data]
    agrees = bool(left) == leaves and (not leaves or any(_is(one, found) for one in left))
    return Replayed(agrees, "gets through" if leaves else "is stopped", tuple(map(str, left)))


def _is_ported_anew(found: Mapping[str, Any]) -> bool:
    return bool(found["packet"]["destination_port"] != found["ends_as"]["destination_port"])


def _is(seen: packets.Packet, found: Mapping[str, Any]) -> bool:
    """Whether a frame is the packet as the counterexample says that it ends."""
    ends = found["ends_as"]
    same = seen.ethertype == ends["ethertype"]
    if seen.ethertype in (packets.IPV4, packets.IPV6):
        same &= str(ipaddress.ip_address(seen.destination)) == ends["destination"]
        same &= seen.protocol == ends["protocol"]
    if seen.destination_port is not None:
        same &= seen.destination_port == ends["destination_port"]
    return same


# The packet


def _made(packet: Mapping[str, Any], marker: bytes) -> bytes:
    """The packet from its IP header on."""
    if packet["ethertype"] not in (packets.IPV4, packets.IPV6):
        return marker * 4
    if packet["later_fragment"]:
        raise CannotReplay("it is a later fragment, and the kernel puts fragments together")
    source, destination = packet["source"], packet["destination"]
    if packet["ethertype"] == packets.IPV4:
        options = []
        if packet["loose_route"] or packet["strict_route"]:
            kind = 131 if packet["loose_route"] else 137
            options = [IPOption(bytes([kind, 7, 4]) + socket.inet_aton(destination))]
        elif packet["header_words"] > 5:
            options = [IPOption(_half_used(packet["header_words"] - 5, destination))]
        head = IP(src=source, dst=destination, ttl=packet["hop_limit"] or 64, options=options)
        head.proto = packet["protocol"]
    else:
        head = IPv6(src=source, dst=destination, hlim=packet["hop_limit"] or 64)
        if packet["routing_header"]:
            head = head / IPv6ExtHdrRouting(type=2, addresses=[destination])
        else:
            head.nh = packet["protocol"]
    return bytes(head / _transport(packet, marker))


def _half_used(words: int, stop: str) -> bytes:
    """An option of that many words: a source route whose first stop is used, where it has room."""
    if words < 3:
        return bytes([1] * words * 4)
    return bytes([131, 11, 8]) + socket.inet_aton(stop) * 2 + bytes([1] * (words * 4 - 11))


def _transport(packet: Mapping[str, Any], marker: bytes) -> Packet:
    protocol = packet["protocol"]
    ports = {"sport": packet["source_port"], "dport": packet["destination_port"]}
    if protocol == packets.UDP:
        return UDP(**ports) / Raw(marker)
    if protocol == packets.TCP:
        flags = packet["tcp_flags"] & 0x3F
        return TCP(**ports, flags=flags, seq=1, ack=1) / Raw(marker)
    kind, code = packet["source_port"] >> 8, packet["source_port"] & 255
    if protocol in (packets.ICMP, packets.ICMPV6):
        body = bytes(4) + _quoted(packet) + marker
        if protocol == packets.ICMPV6:
            return ICMPv6Unknown(type=kind, code=code, msgbody=body)
        return ICMP(type=kind, code=code) / Raw(body[4:])
    ports = packet["source_port"].to_bytes(2) + packet["destination_port"].to_bytes(2)
    return Raw(ports + bytes(20) + marker)


def _is_error(packet: Mapping[str, Any]) -> bool:
    return packet["source_port"] >> 8 in _ERRORS.get(packet["protocol"], ())


def _quoted(packet: Mapping[str, Any]) -> bytes:
    """What an ICMP error is about: the first packet of its flow; nothing for other messages."""
    if packet["state"] != "related" or not _is_error(packet):
        return b""
    original = {**packet, "later_fragment": False, "routing_header": False}
    for name in ("source", "destination", "source_port", "destination_port", "protocol"):
        original[name] = packet[f"original_{name}"]
    if original["protocol"] not in _FLOWS:
        raise CannotReplay(f"a flow of protocol {original['protocol']} is not made here")
    if packet["reply"]:
        return _made(original, b"")
    turned = {"source": "destination", "destination": "source"}
    for name, other in turned.items():
        original[name] = packet[f"original_{other}"]
        original[f"{name}_port"] = packet[f"original_{other}_port"]
    return _made(original, b"")


# The qube


class _Target(Protocol):
    """Where the packet gets if nothing stops it; a context manager."""

    def watch(self) -> None:
        """Looks at what comes from now on."""

    def seen(self) -> list[Frame]:
        """What has come, with an Ethernet header; called once."""


def _device(qube: Qube, world: Qube, packet: Mapping[str, Any], side: str) -> Any:
    name, kind = packet[f"{side}_name"], packet[f"{side}_kind"]
    if kind in ("tun", "wireguard"):
        end: Any = _Tun(qube, name)
    elif kind in ("", "veth"):
        end = _Cable(qube, world, name, side)
    else:
        raise CannotReplay(f"a device of kind {kind} is not made here")
    settings = f"ip link set dev {name} group {packet[f'{side}_group']}; "
    settings += f"ip link set dev {name} up; "
    settings += "".join(f"ip address add {one} dev {name} nodad || :; " for one in _own(packet))
    qube.run(settings)
    return end


def _own(packet: Mapping[str, Any]) -> list[str]:
    taken = {packet["source"], packet["destination"]} if packet["in_index"] else set()
    families = [[one.format(end) for end in _ENDS] for one in _OWN]
    return [next(one for one in family if one not in taken) for family in families]


class _Cable(Closing):
    """An Ethernet device, its other end in a qube of its own."""

    def __init__(self, qube: Qube, world: Qube, name: str, side: str) -> None:
        self._qube, self._world, self._far = qube, world, f"far-{side}"
        self._folder = tempfile.TemporaryDirectory(prefix="qubes-vpn-replay-")
        self._capture: Capture | None = None
        words = ["nsenter", f"--target={qube.pid}", "--net", "ip", "link", "add", name]
        words += ["address", NETVM_MAC, "type", "veth", "peer", "name", self._far]
        words += ["address", CLIENT_MAC, "netns", str(world.pid)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise CommandFailed(f"{name}: {done.stderr}")
        world.run(f"ip link set dev {self._far} up")

    def watch(self) -> None:
        file = Path(self._folder.name, "left.pcap")
        # Whether it would have seen something is known by the other side of the same question:
        # a rule set may stop even a control frame.
        self._capture = Capture(self._qube, self._world, self._far, file, proven=False)

    def send(self, packet: bytes) -> None:
        ethertype = packets.IPV6 if packet[0] >> 4 == 6 else packets.IPV4
        to = NETVM_MAC.replace(":", "")
        send(self._world, Job("link", [packet], to, protocol=ethertype, device=self._far))

    def seen(self) -> list[Frame]:
        return list(self._capture.finish(proven=False).frames)

    def close(self) -> None:
        """Its file goes."""
        self._folder.cleanup()


class _Listener(Closing):
    """A program of the lab's in the qube, that tells at its end what has come to it."""

    def __init__(self, qube: Qube, name: str, *arguments: str) -> None:
        words, pipe = ["python3", "-I", str(_INSIDE / name), *arguments], subprocess.PIPE
        self._process = qube.popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        if self._process.stdout.readline() != "ready\n":
            raise CommandFailed(f"{arguments[0]}: {self._process.stderr.read()}")

    def watch(self) -> None:
        """It has listened from the start."""

    def close(self) -> None:
        """End it, if nobody has."""
        if self._process.poll() is None:
            self._process.communicate()

    def _heard(self) -> list[bytes]:
        told, _ = self._process.communicate()
        return [bytes.fromhex(line) for line in told.split()]


class _Tun(_Listener):
    """A tunnel's device, its other end a program in the qube."""

    def __init__(self, qube: Qube, name: str) -> None:
        super().__init__(qube, "tun.py", name)

    def send(self, packet: bytes) -> None:
        self._process.stdin.write(packet.hex() + "\n")
        self._process.stdin.flush()

    def seen(self) -> list[Frame]:
        found = self._heard()
        ethertypes = [packets.IPV6 if one[0] >> 4 == 6 else packets.IPV4 for one in found]
        return [
            Frame(0.0, bytes(12) + ethertype.to_bytes(2) + one)
            for ethertype, one in zip(ethertypes, found, strict=True)
        ]


class _Program(_Listener):
    """A program in the qube itself, at the packet's own address and port."""

    def __init__(self, qube: Qube, packet: Mapping[str, Any]) -> None:
        if packet["protocol"] != packets.UDP:
            raise CannotReplay("a program in the qube is reached by UDP only here")
        address, port = packet["destination"], packet["destination_port"]
        qube.run(["ip", "address", "add", address, "dev", "lo"])
        super().__init__(qube, "hear.py", address, str(port))

    def seen(self) -> list[Frame]:
        return [Frame(0.0, data) for data in self._heard()]


def _route(qube: Qube, packet: Mapping[str, Any], ends: Mapping[str, Any]) -> None:
    """Whatever the packet is for goes out by its device."""
    device = packet["out_name"]
    cable = packet["out_kind"] in ("", "veth")
    for family in ("-4", "-6"):
        qube.run(f"ip {family} route replace default dev {device} metric 1", check=False)
    if cable and packet["ethertype"] in (packets.IPV4, packets.IPV6):
        for address in {packet["destination"], ends["destination"]}:
            if ipaddress.ip_address(address).is_multicast:
                continue
            words = f"ip neighbour replace {address} dev {device} lladdr {CLIENT_MAC}"
            qube.run(f"{words} nud permanent")
    if packet["in_index"] and packet["ethertype"] in (packets.IPV4, packets.IPV6):
        way = f"ip route replace {packet['source']} dev {packet['in_name']} metric 1"
        qube.run(way, check=False)  # for refusals only; a source may be no address of anybody's


def _load(qube: Qube, rules: str | Mapping[str, Any]) -> None:
    """The counterexample's rules and no others; as text, or as nft's JSON."""
    words = ["nft", "-f", "-"]
    if isinstance(rules, str):
        qube.run(words, input=rules)
        return
    qube.run(["nft", "-j", *words[1:]], input=json.dumps({"nftables": [*_loadable(rules)]}))


def _loadable(rules: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A gate's only device as nft 1.0.6 reads it, which has no lists of them."""
    for entry in rules["nftables"]:
        chain = entry.get("chain", {})
        match chain.get("dev"):
            case [device]:
                yield {"chain": {**chain, "dev": device}}
            case _:
                yield entry


def _flow(qube: Qube, packet: Mapping[str, Any]) -> None:
    """What conntrack has to know for the packet to be in its state."""
    state = packet["state"]
    if state == "untracked":
        qube.run(["nft", "-f", "-"], input=_UNTRACKED)
    elif state == "invalid":
        # TCP and errors are, without a flow.
        if packet["protocol"] != packets.TCP and not _is_error(packet):
            raise CannotReplay("only TCP and errors are made so that conntrack calls them invalid")
    elif state != "new" or not packet["first"]:
        _insert(qube, packet)


#: Before conntrack looks at a packet.
_UNTRACKED = "add table inet untracked\n" + "".join(
    f"add chain inet untracked {hook} {{ type filter hook {hook} priority -310; }}\n"
    f"add rule inet untracked {hook} notrack\n"
    for hook in ("prerouting", "output")
)


def _insert(qube: Qube, packet: Mapping[str, Any]) -> None:
    """Puts the packet's flow, or the one that it is related to, into conntrack's table."""
    state, ends = packet["state"], ["source", "destination"]
    flow = packet["protocol"]
    words = ["-t", "120"] + (["-u", "SEEN_REPLY,ASSURED"] if state != "new" else [])
    if state == "related":
        if not _is_error(packet):
            raise CannotReplay("of related packets only errors are made")
        flow, ends = packet["original_protocol"], [f"original_{end}" for end in ends]
    elif packet["reply"]:
        ends.reverse()
    else:
        for end, option in zip(ends, ("--src-nat", "--dst-nat"), strict=True):
            if packet[f"flow_new_{end}"] != packet[end]:
                words += [option, packet[f"flow_new_{end}"]]
    if flow not in _FLOWS:
        raise CannotReplay(f"a flow of protocol {flow} is not made here")
    for end, address, port in zip(ends, ("-s", "-d"), ("--sport", "--dport"), strict=True):
        words += [address, packet[end], port, str(packet[f"{end}_port"])]
    if flow == packets.TCP and state != "new":
        words += ["--state", "ESTABLISHED"]
    qube.run(["conntrack", "-I", "-p", _FLOWS[flow], *words])


def _send_own(qube: Qube, packet: Mapping[str, Any], made: bytes, *, raw: bool) -> None:
    """By a socket of the qube's own; raw: by one that only the egress hook sees."""
    device = packet["out_name"]
    if raw:
        to = CLIENT_MAC.replace(":", "")
        send(qube, Job("link", [made], to, protocol=packet["ethertype"], device=device))
        return
    options: list[tuple[int, int, int | str]] = []
    if packet["mark"]:
        options.append((socket.SOL_SOCKET, _SO_MARK, packet["mark"].to_bytes(4, "little").hex()))
    send(qube, Job("header", [made], packet["destination"], options=options))
