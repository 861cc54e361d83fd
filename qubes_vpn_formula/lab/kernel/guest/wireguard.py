# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own WireGuard under the killswitch: it works, and when it goes nothing leaks."""

import contextlib
import errno
import socket
import struct

import chain
import flows
import formula
from chain import ENDPOINT, FAMILY, INSIDE, INSIDE_SERVER, MARKER, WEB, WIDTH, inside

_PORT = 51820
#: wg-quick's way: what WireGuard itself sends has this mark and does not go into the tunnel.
_FWMARK = 0xCA6C
_TABLE = 51820
_PRIORITIES = (100, 200)
_EVERYWHERE = ("0.0.0.0/0", "::/0")
_MTU = 1420
#: Behind the tunnel is a link that carries less.
_NARROW = 1300

_MARKED = f"""
table inet marked {{
    chain postrouting {{
        type filter hook postrouting priority 300; policy accept;
        oifname "eth0" udp dport {_PORT} meta mark & 0x0fffffff == {_FWMARK} counter
    }}
}}
"""


def scenarios():
    """The tunnel by an IPv4 and an IPv6 endpoint; then all that may become of it."""
    for version in (4, 6):
        yield f"wireguard/works over IPv{version}", _works, version
    yield "wireguard/sizes", _sizes
    for name, change in CHANGES.items():
        yield f"wireguard/{name}", _changed, change


def _up(version):
    """The qube boots closed, is opened by its configuration, and the tunnel comes up."""
    chain.reset()
    _down()
    formula.configure()
    formula.boot()
    chain.nft(formula.opened())
    private, server = _keys("vpn", "wg0"), _keys("net", "wg1")
    host = f"[{ENDPOINT[6]}]" if version == 6 else ENDPOINT[4]
    _wg("net", f"wg1 listen-port {_PORT} peer {private} allowed-ips {_hosts(INSIDE)}")
    _wg("vpn", f"wg0 fwmark {_FWMARK} peer {server} allowed-ips {','.join(_EVERYWHERE)}")
    _wg("vpn", f"wg0 peer {server} endpoint {host}:{_PORT}")
    for name, device, own in (("vpn", "wg0", INSIDE), ("net", "wg1", INSIDE_SERVER)):
        ip = [f"addr add {own[v]}/{WIDTH[v]} dev {device}" for v in own]
        chain.ip(name, *ip, f"link set {device} mtu {_MTU} up")
    chain.ip("net", *(f"route add {INSIDE[v]}/{WIDTH[v]} dev wg1" for v in INSIDE))
    chain.ip("vpn", *_routes("wg0"))
    for v in FAMILY:
        # The way back to the clients is in the main table, as for wg-quick.
        _rule(v, f"add lookup main suppress_prefixlength 0 priority {_PRIORITIES[0]}")
        _rule(v, f"add not fwmark {_FWMARK} lookup {_TABLE} priority {_PRIORITIES[1]}")


def _rule(version, words, check=True):
    chain.run("vpn", "ip", f"-{version}", "rule", *words.split(), check=check)


def _down():
    """Nothing is left of a tunnel; a device that was renamed has its name again."""
    for name in ("vpn", "net"):
        with inside(name):
            devices = [device for _, device in socket.if_nameindex() if device.startswith("wg")]
        for device in devices:
            chain.run(name, "ip", "link", "del", device)
    for v in FAMILY:
        for priority in _PRIORITIES:
            _rule(v, f"del priority {priority}", check=False)


def _keys(name, device):
    """Makes the device with a new key; returns its public key."""
    key = chain.run(name, "wg", "genkey").stdout
    chain.ip(name, f"link add {device} type wireguard")
    chain.run(name, "wg", "set", device, "private-key", "/dev/stdin", text=key)
    return chain.run(name, "wg", "pubkey", text=key).stdout.strip()


def _wg(name, words):
    chain.run(name, "wg", "set", *words.split())


def _hosts(addresses):
    return ",".join(f"{addresses[v]}/{WIDTH[v]}" for v in addresses)


def _routes(device):
    return [f"route replace {to} dev {device} table {_TABLE}" for to in _EVERYWHERE]


def _works(version):
    _up(version)
    chain.nft(_MARKED)
    wire = chain.Wire()
    working = {f"{p}{v}": flows.works(p, v) for p in ("udp", "tcp") for v in FAMILY}
    frames = [frame.hex() for frame in wire.frames()]
    listed = chain.run("vpn", "nft", "list", "table", "inet", "marked").stdout
    marked = int(listed.partition("counter packets ")[2].split()[0])
    return {"works": working, "frames": frames, "marked": marked}


def _sizes():
    """Segments fit the tunnel from the start, and who sends too much is told.

    First with a mutant that does neither, before anything is known about the path.
    """
    _up(4)
    chain.nft(formula.without("maxseg", "jump errors"))
    mutant = _measured()
    chain.nft(formula.opened())
    return {"mutant": mutant, "ours": _measured()}


def _measured():
    facts = {}
    for v in FAMILY:
        # Fits the client's link, but not the tunnel; then the tunnel, but not the link behind it.
        facts[f"segments{v}"] = _segment_sizes(v)
        facts[f"told{v}"] = [_told(v, 1400)]
    chain.ip("net", f"link set eth1 mtu {_NARROW}")
    for v in FAMILY:
        facts[f"told{v}"].append(_told(v, _NARROW))
    chain.ip("net", "link set eth1 mtu 1500")
    return facts


def _segment_sizes(version):
    """What each side says in its SYN, as the other one gets it: (client's, server's)."""
    with _sniffer("client") as at_client, _sniffer("web") as at_web:
        if not flows.works("tcp", version):
            raise chain.Failed("no TCP through the tunnel")
        return _announced(at_web), _announced(at_client)


def _sniffer(name):
    with inside(name):
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        made.bind(("eth0", 0x0003))
    made.settimeout(0)
    return made


def _announced(sniffer):
    """The MSS in the SYN that arrived."""
    with contextlib.suppress(BlockingIOError):
        while True:
            frame, (_, _, kind, *_) = sniffer.recvfrom(2048)
            at = 34 if frame[12:14] == b"\x08\0" else 54
            is_tcp = frame[23 if at == 34 else 20] == socket.IPPROTO_TCP
            if kind == 0 and is_tcp and frame[at + 13] & 2 and frame[at + 20] == 2:
                return struct.unpack_from("!H", frame, at + 22)[0]
    return None


def _told(version, payload):
    """The path's MTU that the client knows after a packet that is too large, or None."""
    level, discover, do, mtu = {4: (0, 10, 2, 14), 6: (41, 23, 2, 24)}[version]  # IP(V6)_MTU...
    with inside("client"), socket.socket(FAMILY[version], socket.SOCK_DGRAM) as made:
        made.setsockopt(level, discover, do)
        made.connect((WEB[version], 9000))
        for _ in range(4):
            try:
                made.send(MARKER + bytes(payload - len(MARKER)))
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    return made.getsockopt(level, mtu)
    return None


def _changed(change):
    """Frames with the killswitch, and, so that it is an attack at all, without it."""
    _up(4)
    if not flows.works("udp", 4):
        raise chain.Failed("the tunnel did not work before")
    try:
        change()
        frames = chain.captured(_everybody)
        chain.nft("flush ruleset")
        return {"frames": frames, "frames_without": chain.captured(_everybody)}
    finally:
        _uplink_back()
        _down()


def _everybody():
    flows.everything("client")
    flows.everything("vpn")


def _renamed():
    chain.ip("vpn", "link set wg0 down", "link set wg0 name wg7", "link set wg7 up")
    chain.ip("vpn", *chain.uplink_routes())


def _impostor():
    """The uplink takes the tunnel's name, and traffic follows the routes to it."""
    chain.ip("vpn", "link del wg0", "link set eth0 down", "link set eth0 name wg0")
    chain.ip("vpn", "link set wg0 up", *(r.replace("eth0", "wg0") for r in chain.uplink_routes()))


def _uplink_back():
    with inside("vpn"):
        name = socket.if_indextoname(chain.UPLINK)
    if name != "eth0":
        chain.ip("vpn", f"link set {name} down", f"link set {name} name eth0", "link set eth0 up")
        chain.ip("vpn", *chain.uplink_routes())


CHANGES = {
    "goes down": lambda: chain.ip("vpn", "link set wg0 down"),
    "is deleted": lambda: chain.ip("vpn", "link del wg0"),
    "gets another name": _renamed,
    "gives its name to the uplink": _impostor,
}
