# SPDX-License-Identifier: GPL-2.0-or-later
"""Attacks by configuration that cannot be used, and by some that can (R45)."""

import shlex
import time
from collections.abc import Iterable

from qubes_vpn_formula.lab import chains, senders, traffic
from qubes_vpn_formula.lab.attacks import Section
from qubes_vpn_formula.lab.cell import Cell
from qubes_vpn_formula.lab.chains import Chain
from qubes_vpn_formula.lab.machine import Lab
from qubes_vpn_formula.lab.oracle import Endpoint
from qubes_vpn_formula.lab.salvo import salvo

section = Section("Configuration that cannot be used")

_ENDPOINTS = "/rw/config/vpn/endpoints.txt"
_SETTINGS = "/rw/config/vpn/killswitch.conf"
#: An endpoint as a file has it.
_GOOD = "198.51.100.1:51821/udp"
#: The same port of a host that has no other part in the lab.
_OTHER = "198.51.100.9"
_LONGEST = 30  # seconds that a load may take
#: What puts something that cannot be read in the place of the file `$f`.
_UNREADABLE = {
    "a directory": "mkdir $f",
    "a fifo": "mkfifo $f",
    "a link to itself": "ln -s $f $f",
    "/dev/zero": "ln -s /dev/zero $f",
    "a socket": "timeout 0.2 socat UNIX-LISTEN:$f,unlink-close=0 -; [ -S $f ]",
    # A plain file, to all appearance: what is not mapped there gives EIO.
    "an I/O error": "ln -s /proc/self/mem $f",
}


@section.attack("I01", "endpoints.txt of no use", "OUT", "STATE", fast=True)
def no_endpoints(cell: Cell) -> None:
    """Random bytes, words, one bad line among good ones, nothing, comments, no file."""
    _refused(
        cell,
        _ENDPOINTS,
        {
            "random bytes": "head -c 4096 /dev/urandom >$f",
            "words": _bytes("any port in a storm\n"),
            "one bad line": _bytes(f"{_GOOD}\n{_OTHER}:53\n{_GOOD}\n"),
            "empty": ": >$f",
            "comments only": _bytes(f"# {_GOOD}\n"),
            "missing": "true",
        },
    )


@section.attack("I02", "the whole internet as endpoint", "OUT", "STATE")
def everything(cell: Cell) -> None:
    """In one line, in halves, in a hundred parts."""
    ports = [f":1-65535/{protocol}" for protocol in ("udp", "tcp")]
    halves = [f"{net}{port}" for net in ("0.0.0.0/1", "128.0.0.0/1") for port in ports]
    parts = [f"{number % 223 + 1}.0.0.0/8:{number + 1}/udp" for number in range(100)]
    _refused(
        cell,
        _ENDPOINTS,
        {
            "IPv4": _lines(f"0.0.0.0/0{port}" for port in ports),
            "IPv6": _lines(f"[::/0]{port}" for port in ports),
            "IPv6, net outside": _lines(f"[::]/0{port}" for port in ports),
            "halves": _lines(halves),
            "a hundred /8": _lines(parts),
        },
    )


@section.attack("I03", "endpoints.txt with nft's and a shell's words", "OUT", "STATE")
def injected(cell: Cell) -> None:
    """Behind a good endpoint, and in place of it."""
    rule = "add rule inet qubes_vpn output accept"
    evil = {
        "brace": f"{_GOOD} }}; {rule} #",
        "semicolon": f"{_GOOD}; {rule}",
        "variable": f"$X {_GOOD}",
        "backslash": f"{_GOOD} \\\n}}; {rule}",
        "quotes": f"\"{_GOOD}\" '}}; {rule}'",
        "comment signs": f"{_GOOD} /* */ // -- #\n}}",
        "include": 'include "/rw/config/evil.nft"',
        "flush ruleset": "flush ruleset",
        "backquotes": f"{_GOOD}`nft flush ruleset`",
        "substitution": f"{_GOOD}$(nft flush ruleset)",
        "background": f"{_GOOD} & nft flush ruleset &",
    }
    _refused(cell, _ENDPOINTS, {name: _bytes(f"{text}\n") for name, text in evil.items()})


@section.attack("I04", "endpoints.txt that cannot be read", "OUT", "STATE")
def unreadable(cell: Cell) -> None:
    """Nobody waits for it, either."""
    _refused(cell, _ENDPOINTS, _UNREADABLE)


@section.attack("I05", "endpoints.txt in odd bytes", "OUT", "STATE")
def odd_bytes(cell: Cell) -> None:
    """NUL, other encodings, digits that are none, much too much."""
    digits = str.maketrans("0123456789", "０１２３４５６７８９")  # full width
    good = f"{_GOOD}\n"
    _refused(
        cell,
        _ENDPOINTS,
        {
            "NUL": _bytes(f"{_GOOD}\0\n"),
            "byte order mark": _bytes(good, "utf-8-sig"),
            "UTF-16": _bytes(good, "utf-16"),
            "Latin-1": _bytes(f"{good}# café\n", "latin-1"),
            "look-alike digits": _bytes(good.translate(digits)),
            "an overlong line": "head -c 1000000 /dev/zero | tr '\\0' 1 >$f",
            "100 MB": f"yes {_GOOD} | head -c 100000000 >$f",
        },
    )


@section.attack("I06", "line ends as on Windows, none at the end", "WORK", "OUT", fast=True)
def windows_lines(cell: Cell) -> None:
    """Good input: it opens what it says, and nothing else."""
    _start(cell)
    lines = [cell.tunnel.endpoint, f"{_OTHER}:443/tcp", f"{_OTHER}:443/udp"]
    cell.vpn.write(_ENDPOINTS, "\r\n".join(["# provider", *lines]))
    cell.vpn.write(_SETTINGS, f"interface = {cell.tunnel.device}\r\nlog = no")
    _allow(cell, Endpoint("tcp", _OTHER, 443), Endpoint("udp", _OTHER, 443))
    cell.lab.agent.firewall_restart(cell.vpn)
    ping = ["ping", "-c1", "-W2", "-n", cell.tunnel.inner[0]]
    cell.require(not cell.client.run(ping, check=False).returncode, "the tunnel does not work")
    _reached(cell)
    marker = cell.phase("all salvoes")
    _fire(cell, marker)
    cell.send(cell.vpn, senders.udp(_OTHER, 444, marker))


@section.attack("I07", "50,000 endpoints", "WORK", "OUT")
def many(cell: Cell) -> None:
    """Loaded at once, during floods of a client and of the qube itself."""
    _start(cell)
    many = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:443/udp" for n in range(1, 50_000)]
    lines = [cell.tunnel.endpoint, *many, f"{_OTHER}:443/tcp", f"{_OTHER}:443/udp"]
    cell.vpn.write(_ENDPOINTS, "\n".join(lines))
    _allow(cell, Endpoint("tcp", _OTHER, 443), Endpoint("udp", _OTHER, 443))
    cell.tunnel_down()
    with cell.flood(cell.client, "client's flood", 500), cell.flood(cell.vpn, "own flood", 500):
        begin = time.monotonic()
        done = cell.load()
        took = time.monotonic() - begin
    cell.require(not done.returncode, f"it does not load: {done.stderr[:200]}")
    cell.require(took < _LONGEST, f"it took {took:.0f} seconds")
    _reached(cell)
    _fire(cell, cell.phase("afterwards"))


@section.attack("I08", "killswitch.conf that cannot be used", "OUT", "STATE")
def settings(cell: Cell) -> None:
    """Names that are none, or no tunnel's; keys and values that there are not; no plain file."""
    names = ["eth0", "lo", "vif1.0", "*", "../x", "a" * 16, '"wg0"', "wg0; flush ruleset", ""]
    names += ['wg0"\n}', "wg0 }; add rule inet qubes_vpn output accept #"[:40], "wg0\x00"]
    lines = {f"interface {name!r}": f"interface = {name}" for name in names}
    lines |= {"unknown key": "policy = accept", "log = maybe": "log = maybe", "no key": "wg0"}
    bad = {name: _bytes(f"{line}\n") for name, line in lines.items()}
    chosen = ("a directory", "an I/O error")
    _refused(cell, _SETTINGS, bad | {name: _UNREADABLE[name] for name in chosen})


@section.attack("I09", "the uplink is named as the tunnel's interface", "OUT")
def uplink_named(cell: Cell) -> None:
    """A good name; the device is no tunnel."""
    _start(cell, chains.simple(uplink="ens7"))
    cell.vpn.write(_SETTINGS, "interface = ens7\n")
    cell.lab.agent.firewall_restart(cell.vpn)
    cell.tunnel_down()
    cell.salvo("all", "the uplink is called a tunnel")


def _start(cell: Cell, chain: str | Chain = "simple") -> None:
    cell.start(chain)
    _ = cell.command  # ends the attack where there is no configuration that could be loaded


def _refused(cell: Cell, path: str, bad: dict[str, str]) -> None:
    """Each time: what is good is loaded, then what is bad, after which nothing is open.

    bad: by name, shell text that makes the file `$f`, which is not there.  At last the qube boots
    with the last of them.
    """
    _start(cell)
    good = _bytes(cell.vpn.read(path))
    cell.route_to_uplink()
    for name, command in bad.items():
        _allow(cell)
        cell.vpn.run(_put(path, good))
        loaded = cell.load()
        cell.require(not loaded.returncode, f"what is good does not load: {loaded.stderr[:200]}")
        cell.vpn.run(_put(path, command))
        begin = time.monotonic()
        cell.lab.agent.firewall_restart(cell.vpn)
        took = time.monotonic() - begin
        cell.require(took < _LONGEST, f"{name}: the load took {took:.0f} seconds")
        cell.allow()
        _fire(cell, cell.phase(name), endpoint=True)

    def prepare(lab: Lab) -> None:
        lab.qubes["sys-vpn"].run(_put(path, command))

    cell.start(boot=False, before=prepare)
    cell.allow()
    cell.boot()
    cell.route_to_uplink()
    _fire(cell, cell.phase(f"{name}, at boot"), endpoint=True)


def _fire(cell: Cell, marker: bytes, endpoint: bool = False) -> None:
    """The salvo of each; endpoint: from the qube itself also to the endpoint."""
    jobs = [job for family in (4, 6) for job in salvo(cell.targets(family), marker)]
    cell.send(cell.client, *jobs)
    own = [senders.udp(cell.tunnel.server, cell.tunnel.port, marker)] if endpoint else []
    cell.send(cell.vpn, *jobs, *own)


def _allow(cell: Cell, *more: Endpoint) -> None:
    """The tunnel's endpoint, and more."""
    tunnel = cell.tunnel
    cell.allow(Endpoint(tunnel.protocol, tunnel.server, tunnel.port), *more)


def _reached(cell: Cell) -> None:
    """The other endpoint is open for the qube's own, over UDP and TCP."""
    cell.route_to_uplink()
    with traffic.Echo(cell.lab.internet, _OTHER, 443):
        done = traffic.works(cell.vpn, _OTHER, 443, traffic.new_marker(), messages=5)
    for protocol, exchange in done.items():
        cell.require(not exchange.loss, f"a good endpoint is closed: {protocol} to {_OTHER}")


def _put(path: str, command: str) -> str:
    return f"f={path}; rm -rf $f; {command}"


def _lines(lines: Iterable[str]) -> str:
    return _bytes("".join(f"{line}\n" for line in lines))


def _bytes(text: str, encoding: str = "utf-8") -> str:
    """Shell text that writes these bytes, whatever they are."""
    octal = "".join(f"\\0{byte:03o}" for byte in text.encode(encoding))
    return f"printf %b {shlex.quote(octal)} >$f"
