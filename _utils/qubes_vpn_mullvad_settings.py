# SPDX-License-Identifier: GPL-2.0-or-later
"""The Mullvad app's settings: how each is read and written, in the words of every version.

Commands and what they print are those of mullvadvpn-app's `mullvad-cli/src/cmds`, tags 2024.1 to
2026.4.  Names changed: `obfuscation` became `anti-censorship` (2026.1), `relay set tunnel
wireguard` and `tunnel set wireguard` became flat (2025.14), the port moved from the relay's
settings to anti-censorship (2026.1).  Each command is tried in the newest words first; one that
a version does not know has done nothing.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import qubes_vpn_mullvad_cli as cli
from qubes_vpn_mullvad_pillar import BLOCKERS
from qubes_vpn_profile_data import port_number

_ASKS = {
    "lockdown": [("lockdown-mode", "get")],
    "lan": [("lan", "get")],
    "dns": [("dns", "get")],
    "relay": [("relay", "get")],
    "censorship": [("anti-censorship", "get"), ("obfuscation", "get")],
    "tunnel": [("tunnel", "get")],
    "split": [("split-tunnel", "list")],
    "auto": [("auto-connect", "get")],
}
_WORDS = dict.fromkeys(("on", "allow", "true", "enabled", "always"), True) | dict.fromkeys(
    ("off", "block", "false", "disabled", "never"), False
)


class Setting(NamedTuple):
    """One setting of the app.

    asks: the keys of what is asked for it.  value: of what was said, ``{ask: {...}}``: its value
    in the pillar's words, some other text, or None when nothing was said of it.  commands: of a
    value, the ways to set it, newest first.
    """

    asks: tuple
    value: Callable[[dict], Any]
    commands: Callable[[Any], list]


def _switch(ask, label, section=""):
    def value(said):
        word = said[ask].get((section, label))
        return _WORDS.get(word, word)

    return value


def _word(value, on="on", off="off"):
    return on if value else off


def _blockers(said):
    if said["dns"].get(("", "custom dns")) != "no":
        return "custom servers"
    answers = {name: said["dns"].get(("", f"block {name.replace('_', ' ')}")) for name in BLOCKERS}
    return tuple(name for name in BLOCKERS if answers[name] == "true")


def _location(label, section):
    def value(said):
        text = said["relay"].get((section, label))
        if text is None:
            return None
        if found := re.fullmatch(r"country (\w+)|city (\w+), (\w+)(?:, hostname (\S+))?", text):
            country, city, of, host = found.groups()
            return " ".join(filter(None, (country or of, city, host)))
        return text  # any, or the name of a list of the user's

    return value


def _place(value):
    return tuple(value.split())


def _ownership(said):
    text = said["relay"].get(("generic constraints", "ownership"))
    return {"mullvad-owned servers": "owned", "rented servers": "rented"}.get(text, text)


def _companies(said):
    """In small letters and sorted: the app keeps them in no order, and told is in small letters."""
    text = said["relay"].get(("generic constraints", "provider(s)"))
    if text in (None, "any"):
        return text and ()
    return _sorted(text.removeprefix("provider(s) ").split(", "))


def _sorted(names):
    return tuple(sorted(map(str.lower, names)))


def _port(said):
    """The pinned port; versions before 2026.1 have it among the relay's settings."""
    text = said["censorship"].get(("", "wireguard-port settings"))
    text = text or said["relay"].get(("wireguard constraints", "port"))
    return _number(text)


def _number(text):
    if text is None:
        return None
    number = text.removeprefix("port ").removesuffix(" port")
    return port_number(number) or number


def _obfuscation(said):
    """``off`` is: nothing but plain WireGuard, to the pinned port.

    From 2025.14 on that has a name of its own, and `off` itself means any port; those versions
    have no OpenVPN any more.
    """
    mode = said["censorship"].get(("", "mode")) or said["censorship"].get(("", "obfuscation mode"))
    if mode in ("wireguard port", "port"):
        return "off"
    if mode == "off" and ("openvpn constraints", "") not in said["relay"]:
        return "off, to any port"
    return mode


def _obfuscate(value):
    if value == "off":
        new, middle = ("anti-censorship", "wireguard-port"), ("obfuscation", "port")
        return [(name, "set", "mode", mode) for name, mode in (new, middle, ("obfuscation", "off"))]
    return [(name, "set", "mode", value) for name in ("anti-censorship", "obfuscation")]


def _obfuscation_port(method):
    return Setting(
        ("censorship",),
        lambda said: _number(said["censorship"].get(("", f"{method} settings"))),
        lambda value: [
            (name, "set", method, "--port", str(value))
            for name in ("anti-censorship", "obfuscation")
        ],
    )


def _excluded(said):
    """Processes that go past the tunnel; the killswitch would stop them."""
    return tuple(number for number, _ in said["split"] if number.isdigit())


_WIREGUARD = "wireguard constraints"
#: In the order in which they are written: nothing connects before all else is as it should be.
SETTINGS = {
    "lockdown": Setting(
        ("lockdown",),
        _switch("lockdown", "block traffic when the vpn is disconnected"),
        lambda value: [("lockdown-mode", "set", _word(value))],
    ),
    "lan": Setting(
        ("lan",),
        _switch("lan", "local network sharing setting"),
        lambda value: [("lan", "set", _word(value, "allow", "block"))],
    ),
    "blockers": Setting(
        ("dns",),
        _blockers,
        lambda value: [
            ("dns", "set", "default", *(f"--block-{name.replace('_', '-')}" for name in value))
        ],
    ),
    "location": Setting(
        ("relay",),
        _location("location", "generic constraints"),
        lambda value: [("relay", "set", "location", *_place(value))],
    ),
    "owner": Setting(("relay",), _ownership, lambda value: [("relay", "set", "ownership", value)]),
    "hosted_by": Setting(
        ("relay",), _companies, lambda value: [("relay", "set", "provider", *(value or ("any",)))]
    ),
    "entry": Setting(
        ("relay",),
        _location("multihop entry", _WIREGUARD),
        lambda value: [
            ("relay", "set", "entry", "location", *_place(value)),
            ("relay", "set", "tunnel", "wireguard", "entry", "location", *_place(value)),
        ],
    ),
    "multihop": Setting(
        ("relay",),
        _switch("relay", "multihop state", _WIREGUARD),
        lambda value: [
            ("relay", "set", "multihop", _word(value)),
            ("relay", "set", "multihop", _word(value, "always", "never")),
            ("relay", "set", "tunnel", "wireguard", "--use-multihop", _word(value)),
        ],
    ),
    "wireguard_port": Setting(
        ("censorship", "relay"),
        _port,
        lambda value: [
            ("anti-censorship", "set", "wireguard-port", "--port", str(value)),
            ("relay", "set", "port", str(value)),
            ("relay", "set", "tunnel", "wireguard", "--port", str(value)),
        ],
    ),
    "udp2tcp port": _obfuscation_port("udp2tcp"),
    "shadowsocks port": _obfuscation_port("shadowsocks"),
    "lwo port": _obfuscation_port("lwo"),
    "obfuscation": Setting(("censorship", "relay"), _obfuscation, _obfuscate),
    "quantum_resistant": Setting(
        ("tunnel",),
        _switch("tunnel", "quantum resistance", "wireguard options"),
        lambda value: [
            ("tunnel", "set", "quantum-resistant", _word(value)),
            ("tunnel", "set", "wireguard", "--quantum-resistant", _word(value)),
        ],
    ),
    "daita": Setting(
        ("tunnel",),
        _switch("tunnel", "daita", "wireguard options"),
        lambda value: [
            ("tunnel", "set", "daita", _word(value)),
            ("tunnel", "set", "wireguard", "--daita", _word(value)),
        ],
    ),
    "excluded processes": Setting(("split",), _excluded, lambda _: [("split-tunnel", "clear")]),
    "auto_connect": Setting(
        ("auto",),
        _switch("auto", "autoconnect"),
        lambda value: [("auto-connect", "set", _word(value))],
    ),
}


def wanted(pillar):
    """``{setting: value}`` for the *pillar*'s settings, in the order in which they are written."""
    method, port = pillar["obfuscation"], pillar["obfuscation_port"]
    values = {
        **{key: pillar[key] for key in SETTINGS if key in pillar},
        "blockers": tuple(name for name in BLOCKERS if name in pillar["blockers"]),
        "multihop": pillar["entry"] is not None,
        "excluded processes": (),
    }
    if port:
        values[f"{method} port"] = port
    if values["hosted_by"] is not None:
        values["hosted_by"] = tuple(values["hosted_by"])  # a list, as states get it
    return {name: values[name] for name in SETTINGS if values.get(name) is not None}


def said(asks=_ASKS):
    """``{ask: what was said}``, for :class:`Setting`; raises `qubes_vpn_mullvad_cli.Failed`."""
    return {name: _first(_ASKS[name], cli.ask) for name in asks}


def differs(name, value, told):
    """Whether the setting *name* is not *value* by what was *told*; None: nothing was."""
    found = SETTINGS[name].value(told)
    if found is None:
        # What a version does not have is off.
        return None if value not in (False, ()) else False
    if name in ("location", "entry"):
        return found != value and found.split()[-1:] != [value]
    return found != (_sorted(value) if name == "hosted_by" else value)


def change(name, value):
    """Sets *name* to *value* and reads it back; raises :class:`qubes_vpn_mullvad_cli.Failed`."""
    setting = SETTINGS[name]
    try:
        _first(setting.commands(value), cli.run)
    except cli.Unknown:
        what = f"the Mullvad app {cli.version()} has no way to set {name} to {shown(value)}"
        raise cli.Failed(f"{what}. Update the template, or leave it out in the pillar") from None
    told = said(setting.asks)
    if differs(name, value, told) is not False:
        now = shown(setting.value(told))
        what = f"{name} was set to {shown(value)}, and is {now}: the app took it for done"
        raise cli.Failed(f"{what}. {cli.DAEMON}")


def shown(value):
    """*value* as a user reads it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return "unknown" if value is None else cli.without_secret(str(value))


def _first(commands, do):
    """What the first of *commands* says that this version knows."""
    for words in commands[:-1]:
        try:
            return do(*words)
        except cli.Unknown:
            continue
    return do(*commands[-1])
