# SPDX-License-Identifier: GPL-2.0-or-later
"""nft and the network devices of the qube that this runs in: the killswitch's hands and eyes.

Nothing here writes a file, so a full disk changes nothing.
"""

import json
import subprocess
from pathlib import Path

from qubes_vpn_ruleset import TABLE

_ENVIRON = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_DEVICES = Path("/sys/class/net")
#: Seconds after which a program counts as hung; 50,000 endpoints take nft less than one.
_PATIENCE = 30
#: Qubes' flowtable (qubes-core-agent-linux ``network/vif-route-qubes``).
FLOWTABLE = "qubes-nat-accel"


class Failed(Exception):
    """A program could not do it, in its own words."""


def run(*argv, text=""):
    """The output of a program that is given *text*; raises :class:`Failed`."""
    try:
        done = subprocess.run(
            argv,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            env=_ENVIRON,
            timeout=_PATIENCE,
        )
    except OSError as error:
        raise Failed(f"{argv[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise Failed(f"{argv[0]}: no answer for {_PATIENCE} seconds") from None
    if done.returncode:
        # nft repeats the line that it stumbles over, however long: the first line says it all.
        words = (done.stderr or done.stdout).strip().splitlines() or [f"exit {done.returncode}"]
        raise Failed(f"{argv[0]}: {words[0][:300]}")
    return done.stdout


def load(text):
    """Loads *text* as one transaction, after a dry run of it."""
    run("nft", "-c", "-f", "-", text=text)
    run("nft", "-f", "-", text=text)


def has_table(family, name=TABLE):
    """Whether the table is loaded."""
    return any(
        (item["family"], item["name"]) == (family, name)
        for item in _json("list", "tables", "table")
    )


def is_open():
    """Whether the killswitch is loaded and knows a tunnel."""
    return has_table("inet") and any(
        item.get("elem") for item in _json("list", "set", "set", "inet", TABLE, "tunnels")
    )


def listed(family):
    """The loaded table of ours as :func:`blocks`, without counters; empty when there is none."""
    return blocks(run("nft", "-s", "list", "table", family, TABLE)) if has_table(family) else {}


def listed_elsewhere(text, family):
    """What :func:`listed` would say had *text* been loaded, from an empty network namespace.

    So the kernel and this version of nft say themselves how they show these rules.
    """
    script = f"nft -f - && nft -s list table {family} {TABLE}"
    return blocks(run("unshare", "--net", "sh", "-c", script, text=text))


def blocks(listing):
    """``{"chain output": [line...], "set tunnels": [line..., element...]}`` of a table's listing.

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
            lines.append(text)
    return found


def counters():
    """``{chain: packets}`` of our chains that count what they stop."""
    return {
        item["chain"]: statement["counter"]["packets"]
        for item in _json("list", "table", "rule", "inet", TABLE)
        for statement in item["expr"]
        if "counter" in statement
    }


def gated():
    """Indices of the devices that have a gate."""
    if not has_table("netdev"):
        return set()
    names = [item["name"] for item in _json("list", "table", "chain", "netdev", TABLE)]
    return {int(name.partition("-")[2]) for name in names if name.startswith("egress-")}


def uplinks():
    """``{name: index}`` of every device but ``lo``, the clients' (``vif*``) and tunnels."""
    found = {}
    for device in _DEVICES.iterdir():
        if device.name != "lo" and not device.name.startswith("vif") and not is_tunnel(device):
            found |= _index(device)
    return found


def devices():
    """``{name: index}`` of the devices that need a gate: the uplinks, and what had one.

    One that was gated stays gated, whatever it is called now.
    """
    had = gated()
    named = {}
    for device in _DEVICES.iterdir():
        named |= _index(device)
    return uplinks() | {name: index for name, index in named.items() if index in had}


def _index(device):
    try:
        return {device.name: int((device / "ifindex").read_text())}
    except OSError:
        return {}  # it has just gone


def is_tunnel(device):
    """Whether *device* (its name, or folder under /sys/class/net) is a tun, tap or WireGuard."""
    device = _DEVICES / device
    if (device / "tun_flags").exists():
        return True
    try:
        return "DEVTYPE=wireguard" in (device / "uevent").read_text().splitlines()
    except OSError:
        return False


def exists(interface):
    """Whether there is a device of this name."""
    return (_DEVICES / interface).exists()


def flush_conntrack():
    """Forgets every flow: what went on before the rules must ask them again."""
    run("conntrack", "-F")


def set_down(device):
    """Takes *device* down."""
    run("ip", "link", "set", "dev", device, "down")


def _json(command, what, key, *arguments):
    answer = json.loads(run("nft", "-j", command, what, *arguments))["nftables"]
    return [item[key] for item in answer if key in item]
