# SPDX-License-Identifier: GPL-2.0-or-later
"""What a qube does for a test of dom0's, and says in JSON.

This file is sent to ``python3 -I -`` in whatever qube, with a call of :func:`main` below it.
So it needs Python 3.9's standard library alone, leaves nothing behind, and ends in time by itself.
dom0 believes none of it unlooked: see :mod:`qubes_vpn_probing`.
"""

import contextlib
import errno
import http.client
import json
import os
import re
import secrets
import select
import socket
import ssl
import struct
import threading
import time
import urllib.parse
from ipaddress import ip_address
from pathlib import Path

#: Bytes of a web page that are read; answers are a line or two.
_PAGE = 4096
#: Where a datagram of a test goes: no service that anybody runs.
_PORT = 4660
#: packet(7)
_ALL, _STATISTICS, _SOL_PACKET, _OUTGOING = 3, 6, 263, 4
#: Different packets that are told.
_MANY = 1000


def main(order):
    """Does what *order* says in ``do``, and prints what came of it.

    Each part has so many seconds; what is not done by then counts as silence.
    """
    if order["do"] == "hear":
        hear(order["marker"].encode(), order["seconds"])
        return
    does = {"fetch": fetch, "ask": ask, "send": send, "links": links}[order["do"]]
    parts = does(order)
    answers = [{"error": "silence"} for _ in parts]

    def run(place, part):
        try:
            answers[place] = part()
        except Exception as error:
            answers[place] = {"error": _word(error)}

    threads = [
        threading.Thread(target=run, args=(place, part), daemon=True)
        for place, part in enumerate(parts)
    ]
    for thread in threads:
        thread.start()
    until = time.monotonic() + order.get("seconds", 8)
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    print(json.dumps(answers), flush=True)
    os._exit(0)  # a thread may hang in the resolver


def _word(error):
    """A word for what went wrong; never a text."""
    if isinstance(error, ssl.SSLError):
        return "tls"
    if isinstance(error, socket.gaierror):
        return "name"
    if isinstance(error, TimeoutError):
        return "silence"
    if isinstance(error, OSError):
        return "route" if error.errno in (errno.ENETUNREACH, errno.EADDRNOTAVAIL) else "refused"
    return "answer"


# The address with which the world sees this qube


def fetch(order):
    """One page, by IPv4 and by IPv6: ``{"address": text, "provider": true, false or null}``."""
    return [
        lambda family=family: _page(order, family) for family in (socket.AF_INET, socket.AF_INET6)
    ]


def _page(order, family):
    url = urllib.parse.urlsplit(order["url"])
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    found = socket.getaddrinfo(url.hostname, port, family, socket.SOCK_STREAM)
    with _connected(found[0], order["seconds"]) as plain, contextlib.ExitStack() as stack:
        wire = plain
        if url.scheme == "https":
            context = ssl.create_default_context()
            wire = stack.enter_context(context.wrap_socket(plain, server_hostname=url.hostname))
        connection = http.client.HTTPConnection(url.hostname, port)
        connection.sock = wire
        connection.request("GET", url.path or "/", headers={"Connection": "close"})
        page = connection.getresponse().read(_PAGE).decode("utf-8")
    said, provider = page, None
    if order["address"]:
        told = json.loads(page)
        said = told[order["address"]]
        if order["provider"]:
            provider = told[order["provider"]] is True
    return {"address": str(ip_address(said.strip())), "provider": provider, "of": found[0][4][0]}


def _connected(found, seconds):
    family, kind, protocol, _, address = found
    wire = socket.socket(family, kind, protocol)
    try:
        wire.settimeout(seconds)
        wire.connect(address)
    except BaseException:
        wire.close()
        raise
    return wire


# Names


def ask(order):
    """Questions for names, each ``{"server", "protocol", "name"}``: ``{"rcode", "addresses"}``.

    server: an address, or ``own1``, ``own2`` for those of this qube's /etc/resolv.conf.
    """
    return [lambda one=one: _question(one, order["seconds"]) for one in order["questions"]]


def _question(one, seconds):
    server = one["server"]
    if server.startswith("own"):
        lines = Path("/etc/resolv.conf").read_text(encoding="utf-8", errors="replace")
        words = [line.split() for line in lines.splitlines()]
        own = [each[1] for each in words if len(each) > 1 and each[0] == "nameserver"]
        number = int(server[3:]) - 1
        if number >= len(own):
            return {"error": "none"}
        server = own[number]
    number = secrets.token_bytes(2)
    labels = b"".join(bytes([len(label)]) + label.encode() for label in one["name"].split("."))
    question = number + b"\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    until = time.monotonic() + seconds
    if one["protocol"] == "tcp":
        with _connected((family, socket.SOCK_STREAM, 0, "", (server, 53)), seconds) as wire:
            wire.sendall(struct.pack("!H", len(question)) + question)
            answer = wire.makefile("rb").read(2 + 12)[2:]
    else:
        answer = _datagram(family, server, question, until)
    if len(answer) < 12 or answer[:2] != number or not answer[2] & 0x80:
        return {"error": "answer"}
    return {"rcode": answer[3] & 15, "addresses": struct.unpack("!H", answer[6:8])[0]}


def _datagram(family, server, question, until):
    """The answer to a question that is asked every second."""
    with socket.socket(family, socket.SOCK_DGRAM) as wire:
        wire.connect((server, 53))
        while time.monotonic() < until:
            wire.send(question)
            if select.select([wire], [], [], min(1, max(0, until - time.monotonic())))[0]:
                return wire.recv(4096)
    raise TimeoutError


# Packets with a word in them


def send(order):
    """Packets to addresses, ``{"to", "how": "udp" | "icmp" | "tcp"}``: ``{"answered": bool}``.

    A datagram and an echo request have the order's ``marker`` in them; of TCP there is a port.
    """
    marker = order["marker"].encode()
    return [lambda one=one: _sent(one, marker, order["seconds"]) for one in order["packets"]]


def _sent(one, marker, seconds):
    to, how = one["to"], one["how"]
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    if how == "tcp":
        with _connected((family, socket.SOCK_STREAM, 0, "", (to, one["port"])), seconds):
            return {"answered": True}
    if how == "udp":
        wire = socket.socket(family, socket.SOCK_DGRAM)
        packet, echo, port = marker, None, _PORT
    else:
        six = family == socket.AF_INET6
        protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
        wire = socket.socket(family, socket.SOCK_RAW, protocol)
        # Type, code, checksum (of ICMPv6 the kernel's), identifier, sequence number.
        packet = struct.pack("!BBHHH", 128 if six else 8, 0, 0, os.getpid() & 0xFFFF, 1) + marker
        if not six:
            packet = packet[:2] + _checksum(packet) + packet[4:]
        echo, port = 129 if six else 0, 0
    until = time.monotonic() + seconds
    with wire:
        wire.connect((to, port))
        sent = 0
        while time.monotonic() < until:
            if sent < 3:
                wire.send(packet)
                sent += 1
            if select.select([wire], [], [], min(0.5, max(0, until - time.monotonic())))[0]:
                told = wire.recv(4096)
                if echo is None or (marker in told and _icmp_type(told, family) == echo):
                    return {"answered": True}
    return {"answered": False}


def _icmp_type(told, family):
    """Of what a raw socket has received: with IPv4 the header of that comes first."""
    return told[0] if family == socket.AF_INET6 else told[(told[0] & 15) * 4]


def _checksum(packet):
    packet += b"\0" * (len(packet) % 2)
    total = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def links(_order):
    """How many network interfaces this qube has, beside its loopback."""
    return [lambda: {"links": sum(name != "lo" for _, name in socket.if_nameindex())}]


# Listening


def hear(marker, seconds):
    """Says each different packet of this qube that has *marker* in it, until nobody listens.

    Lines: ``ready`` first, then packets as JSON, and ``tick MILLISECONDS LOST`` when all that has
    come was looked at, ten times a second at most: how long ago it was ready, and how many packets
    there was no room for.
    """
    told, lost, ticked = set(), 0, 0.0
    marker = marker.lower()
    numbered = re.compile(re.escape(marker) + rb"-(\d{1,4})")
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL))
    # SO_RCVBUFFORCE: more than a user may have.
    wire.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)
    wire.setblocking(False)
    _say("ready")
    begun = time.monotonic()
    while (now := time.monotonic()) < begun + seconds:
        select.select([wire], [], [], 0.1)
        with contextlib.suppress(BlockingIOError):
            while True:
                data, (device, _, kind, *_) = wire.recvfrom(65536)
                if marker not in data.lower():
                    continue
                number = numbered.search(data.lower())
                said = {"device": device, "out": kind == _OUTGOING, **_read(data)}
                line = json.dumps({**said, "of": int(number[1]) if number else None})
                if len(told) == _MANY:
                    lost += line not in told
                elif line not in told:
                    told.add(line)
                    _say(line)
        # The kernel counts anew each time that it is asked.
        counts = struct.unpack("II", wire.getsockopt(_SOL_PACKET, _STATISTICS, 8))
        lost += counts[1]
        if now >= ticked + 0.1:
            ticked = now
            _say(f"tick {int((now - begun) * 1000)} {lost}")


def _say(line):
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os._exit(0)


def _read(data):
    """Destination, protocol and port of a packet: ``{"to", "protocol", "port"}``."""
    if data[0] >> 4 == 6:
        to, protocol, head = data[24:40], data[6], 40
    else:
        to, protocol, head = data[16:20], data[9], (data[0] & 15) * 4
    port = struct.unpack("!H", data[head + 2 : head + 4])[0] if protocol in (6, 17) else 0
    return {"to": str(ip_address(to)), "protocol": protocol, "port": port}
