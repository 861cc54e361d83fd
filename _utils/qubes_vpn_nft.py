# SPDX-License-Identifier: GPL-2.0-or-later
"""nft and the network devices of the qube that this runs in: the killswitch's hands and eyes.

Nothing here writes a file, so a full disk changes nothing.
"""

import itertools
import re
import subprocess
from pathlib import Path

from qubes_vpn_ruleset import TABLE

#: Of every program that is run.
ENVIRON = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_DEVICES = Path("/sys/class/net")
_COUNTED = re.compile(r"counter packets (\d+)")
_HOOKED = re.compile(r"(?: device (.*?)| devices = \{ (.*) \}) priority")
#: Seconds after which a program counts as hung; 50,000 endpoints take nft less than one.
_PATIENCE = 30
#: Qubes' flowtable (qubes-core-agent-linux ``network/vif-route-qubes``).
FLOWTABLE = "qubes-nat-accel"


class Failed(Exception):
    """A program could not do it, in its own words."""


def run(*argv, text="", patience=_PATIENCE):
    """The output of a program that is given *text*; raises :class:`Failed`.

    patience: seconds after which it counts as hung.
    """
    try:
        done = subprocess.run(
            argv,
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",  # a device may have any bytes as its name
            check=False,
            env=ENVIRON,
            timeout=patience,
        )
    except OSError as error:
        raise Failed(f"{argv[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise Failed(f"{argv[0]}: no answer for {patience} seconds") from None
    if done.returncode:
        # nft repeats the line that it stumbles over, however long: the first line says it all.
        words = (done.stderr or done.stdout).strip().splitlines() or [f"exit {done.returncode}"]
        raise Failed(f"{argv[0]}: {words[0][:300]}")
    return done.stdout


def load(text):
    """Loads *text* as one transaction, after a dry run of it."""
    run("nft", "-c", "-f", "-", text=text)
    run("nft", "-f", "-", text=text)


# nft's text is read, not its JSON: that of 1.0.6 is broken for a table with flags.


def has_table(family, name=TABLE):
    """Whether the table is loaded."""
    return f"table {family} {name}" in run("nft", "list", "tables").splitlines()


def is_open(opener="tunnel_names"):
    """Whether the rules are loaded and their set *opener* has an element."""
    if f"set {opener}" not in listed("inet", terse=True):
        return False
    lines = blocks(run("nft", "list", "set", "inet", TABLE, opener))[f"set {opener}"]
    return any(not line.startswith(("type ", "flags ")) for line in lines)


def listed(family, name=TABLE, *, terse=False):
    """The loaded table as :func:`blocks`, without counters; empty when there is none.

    terse: without the sets' elements.
    """
    return there(family, name, terse=terse) if has_table(family, name) else {}


def there(family, name=TABLE, *, terse=False):
    """As :func:`listed`, of a table that is loaded; raises :class:`Failed` when it is not."""
    return blocks(run("nft", *_options(terse), "list", "table", family, name))


def listed_elsewhere(text, family, *, terse=False):
    """What :func:`listed` would say had *text* been loaded, from an empty network namespace.

    So the kernel and this version of nft say themselves how they show these rules.
    """
    script = f"nft -f - && nft {' '.join(_options(terse))} list table {family} {TABLE}"
    return blocks(run("unshare", "--net", "sh", "-c", script, text=text))


def _options(terse):
    return ["-s", "-t"] if terse else ["-s"]


def blocks(listing):
    """``{"chain output": [line...], "set tunnel_names": [line..., element...]}``, of a listing.

    A set's elements are sorted, because a hash has no order.
    """
    found, lines, elements = {}, None, None
    for line in listing.splitlines()[1:-1]:
        text = line.strip()
        if elements is not None or text.startswith("elements = {"):
            text = text.removeprefix("elements = {").strip()
            elements = [] if elements is None else elements
            elements.append(text.removesuffix("}"))  # joined at once: there may be 100,000
            if text.endswith("}"):
                lines += sorted(element.strip() for element in " ".join(elements).split(","))
                elements = None
        elif text.endswith("{") and lines is None:
            lines = found.setdefault(text.removesuffix("{").strip(), [])
        elif text == "}":
            lines = None
        elif text:
            # What stands outside a chain or set is about the table: `flags dormant` undoes it all.
            (found.setdefault("table", []) if lines is None else lines).append(text)
    return found


def counters():
    """``{chain: packets}`` of our chains that count what they stop."""
    found = {}
    for chain in ("dropped", "refused"):
        counted = _COUNTED.search(run("nft", "list", "chain", "inet", TABLE, chain))
        found[chain] = int(counted[1]) if counted else 0
    return found


def gated():
    """``{index: names}`` of the gates that are loaded; names: what its device is called there."""
    found = {}
    for block, lines in listed("netdev").items():
        prefix, _, index = block.removeprefix("chain ").partition("-")
        if prefix == "egress" and index.isdecimal():
            hook = _HOOKED.search(lines[0] if lines else "")
            names = (hook[1] or hook[2]).split(", ") if hook else []
            found[int(index)] = {name.strip('"') for name in names}
    return found


def uplinks():
    """``{name: index}`` of every device but ``lo``, the clients' and tunnels.

    A client's is named ``vif*``, and in group 2 from the moment that it is up.
    """
    return {
        device.name: index
        for device, index in _devices()
        if device.name != "lo" and not _is_client(device) and not is_tunnel(device)
    }


def devices():
    """``(needed, stale)``: devices that need a gate, ``{name: index}``, and gates that are no use.

    Needed: the uplinks, and what had a gate, whatever it is called now.  Stale, by index: of a
    device that has gone, or under a name that its device had: newer kernels (6.18) bind by name.
    """
    had = gated()
    present = {device.name: index for device, index in _devices()}
    needed = uplinks() | {name: index for name, index in present.items() if index in had}
    named = {index: name for name, index in needed.items()}
    return needed, sorted(index for index in had if had[index] != {named.get(index)})


def _devices():
    for device in _DEVICES.iterdir():
        try:
            yield device, int(_said(device, "ifindex"))
        except ValueError:
            continue  # it has just gone


def _is_client(device):
    if not device.name.startswith("vif"):
        return False
    return not is_up(device) or _said(device, "netdev_group").strip() == b"2"


def _said(device, file):
    try:
        return (device / file).read_bytes()
    except OSError:
        return b""


def is_tunnel(device):
    """Whether *device* (its name, or folder under /sys/class/net) is a tun, tap or WireGuard."""
    device = _DEVICES / device
    return (device / "tun_flags").exists() or b"DEVTYPE=wireguard" in _said(
        device, "uevent"
    ).split()


def exists(interface):
    """Whether there is a device of this name."""
    return (_DEVICES / interface).exists()


def is_up(device):
    """Whether the device of this name is up, as far as this qube is concerned."""
    return bool(int(_said(_DEVICES / device, "flags") or b"0", 16) & 1)


def ways(interface):
    """The interface's addresses and the routes into it, ``{text}``; what ends at the link is none.

    Texts, because nothing is done with them but to see whether one has gone.
    """
    found = set()
    for family in ("-4", "-6"):
        shown = run("ip", family, "-o", "address", "show", "dev", interface, "scope", "global")
        found |= {line.split()[3] for line in shown.splitlines()}
        into = ("table", "all", "dev", interface, "type", "unicast")
        for line in run("ip", family, "-o", "route", "show", *into).splitlines():
            words = line.split()
            if not words[0].startswith("fe80:"):
                table = words[words.index("table") + 1] if "table" in words else "main"
                found.add(f"{words[0]} of table {table}")
    return found


def leads(interface):
    """Whether any route goes into the interface."""
    return any("table" in way for way in ways(interface))


def packets(interface):
    """``(sent, received)``, as the interface has counted them; zeros when it is not there."""
    counts = (_said(_DEVICES / interface / "statistics", f"{way}_packets") for way in ("tx", "rx"))
    return tuple(int(count or b"0") for count in counts)


def cut_flows(ports):
    """Forgets the flows to these ports by TCP and UDP, which any rule may have translated."""
    ways = ("--orig-port-dst", "--reply-port-src")
    for family, protocol, way, port in itertools.product(
        ("ipv4", "ipv6"), ("tcp", "udp"), ways, ports
    ):
        if not _cut("-f", family, "-p", protocol, way, str(port)):
            flush_conntrack()
            return


def _cut(*which):
    """Whether these flows are gone.

    conntrack gives up half way when one of them ends meanwhile.
    """
    for _ in range(3):
        try:
            run("conntrack", "-D", *which)
            return True
        except Failed as error:
            if " 0 flow entries" in str(error):
                return True
            if "doesn't exist" not in str(error):
                raise
    return False


def flush_conntrack():
    """Forgets every flow: what went on before the rules must ask them again."""
    run("conntrack", "-F")


def cut(address, port):
    """Forgets every flow with that *port* of *address*, whatever address its beginning was for."""
    family = "ipv6" if ":" in address else "ipv4"
    for kind in ("tcp", "udp"):
        which = ("-f", family, "-p", kind, "--reply-src", address, "--reply-port-src", str(port))
        if not _cut(*which):
            flush_conntrack()
            return


def set_down(device):
    """Takes *device* down."""
    run("ip", "link", "set", "dev", device, "down")
