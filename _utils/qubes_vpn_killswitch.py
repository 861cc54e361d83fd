# SPDX-License-Identifier: GPL-2.0-or-later
"""The killswitch of the VPN qube that this runs in: opens it by configuration, and checks it.

Whatever is wrong (input, a program, the disk) leaves it closed, and says so.  Runs in the qube
from ``/usr/lib/qubes-vpn`` (or below /rw), and as Salt's ``qubes_vpn.killswitch``.
"""

import fcntl
import os
import stat
import time
from pathlib import Path
from typing import NamedTuple

import qubes_vpn_endpoints
import qubes_vpn_nft
import qubes_vpn_ruleset
from qubes_vpn_nft import Failed

#: Where the template has the killswitch, and where a qube has it whose template does not.
IN_TEMPLATE = Path("/usr/lib/qubes-vpn")
IN_RW = Path("/rw/config/vpn/lib")
CONFIG = Path("/rw/config/vpn")
SERVICES = Path("/run/qubes-service")
#: The qube's service flag: the template's units and hook do nothing without it.
FLAG = SERVICES / "qubes-vpn"
#: The template's unit that closes the qube before its network comes up.
UNIT = Path("/etc/systemd/system/network-pre.target.requires/qubes-vpn-closed.service")
#: What qubes-firewall runs at each of its starts; the second, where only /rw may be written.
HOOK = Path("/etc/qubes/qubes-firewall.d/50-qubes-vpn")
HOOK_IN_RW = Path("/rw/config/qubes-firewall.d/50-qubes-vpn")

#: What a qube does not have whose template knows nothing of the killswitch.
LOST_IN_RW = (
    "Until qubes-firewall runs at the qube's start, what the qube itself sends is not stopped.",
    "If qubes-firewall does not start, nothing is loaded and clients are not stopped.",
    "With the feature custom-persist Qubes runs no script below /rw: nothing is loaded.",
    "A network device that comes later has no gate until the next load.",
)


class Result(NamedTuple):
    """*open*: traffic into the tunnel and to its endpoints may pass.  Problems are in words."""

    open: bool
    problems: tuple = ()


class Unusable(Exception):
    """Configuration that does not open anything; the arguments are the reasons."""


def load(library):
    """Loads the rules, open as far as the configuration says, and answers with a :class:`Result`.

    library: folder with ``closed.nft``.  Flows from before are cut, unless it was open already:
    then there are none but those that the rules let pass, and a reload interrupts nobody.
    """

    def work(closed):
        settled = qubes_vpn_nft.is_open() and not qubes_vpn_nft.has_table(
            "inet", qubes_vpn_nft.FLOWTABLE
        )
        configuration = configured()
        _replace(closed, configuration)
        if not settled:
            qubes_vpn_nft.flush_conntrack()
        if _rule_drift(closed, configuration):
            _anew(closed, configuration)  # a chain or a set that somebody added stays otherwise
        elif _gate_drift():
            _replace(closed, configuration)  # a device has come meanwhile
        else:
            return
        if drift := _drift(closed, configuration):
            raise Failed("loaded, but not as it should be: " + "; ".join(drift))

    problems = _alone(library, work, _close)
    return Result(not problems, problems)


def close(library):
    """Loads the rules with nothing open; a :class:`Result` that has problems if that failed."""
    return Result(False, _alone(library, _shut, _down))


def gate(library):
    """Puts the gate on every device that needs one; used when a device appears."""
    return Result(False, _alone(library, lambda _: _with_devices(qubes_vpn_ruleset.gates), _down))


def _alone(library, work, otherwise):
    """Runs ``work(text of closed.nft)``, one process at a time; returns the problems, in words.

    When it fails, ``otherwise(text)`` makes it safe and says what it could not do.  The lock is on
    ``closed.nft`` itself, so that nothing has to be written.
    """
    closed = None
    try:
        with (library / "closed.nft").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            closed = file.read()
            try:
                work(closed)
            except Exception as error:  # whatever it was, nothing stays open
                return (*_words(error), *otherwise(closed))
    except OSError as error:
        return (f"{library / 'closed.nft'}: {error.strerror}", *_down(closed))
    return ()


def configured():
    """The :class:`qubes_vpn_ruleset.Configuration` in ``/rw/config/vpn``."""
    try:
        settings = read(CONFIG / "killswitch.conf", missing=b"")
        interfaces, log = qubes_vpn_ruleset.read_settings(settings, CONFIG / "killswitch.conf")
        data = read(CONFIG / "endpoints.txt")
        endpoints = qubes_vpn_endpoints.read(data, CONFIG / "endpoints.txt")
        elements = qubes_vpn_endpoints.elements(endpoints)
    except (qubes_vpn_endpoints.NotEndpoints, qubes_vpn_ruleset.NotAConfiguration) as error:
        raise Unusable(*error.problems) from None
    return qubes_vpn_ruleset.Configuration(interfaces, log, elements)


def status(library=None):
    """What holds in this qube, as plain data; changes nothing.

    ``state`` is ``open``, ``closed``, ``altered`` (what is loaded is not what it should be: see
    ``drift``) or ``absent``; ``problems`` say why it is not open; ``lost`` what this way of
    installing it does not give.
    """
    library = library or installed()
    report = {
        "state": "absent",
        "installed": str(library) if library else None,
        "problems": missing(library),
        "drift": [],
        "lost": list(LOST_IN_RW) if library == IN_RW else [],
        "custom_persist": (SERVICES / "custom-persist").exists(),
        "user_scripts": _user_scripts(),
    }
    if library is None:
        return report
    configuration = None
    try:
        configuration = configured()
        report["log"] = configuration.log
        report["endpoints"] = sum(map(len, configuration.endpoints))
        report["interfaces"] = {name: _nature(name) for name in configuration.interfaces}
    except Unusable as error:
        report["problems"] += error.args
    try:
        if qubes_vpn_nft.has_table("inet"):
            closed = (library / "closed.nft").read_text()
            report["drift"] = _drift(closed, configuration)
            report["state"] = "open" if configuration else "closed"
            report["counters"] = qubes_vpn_nft.counters()
            if report["drift"]:
                # Closed though it could be open (an edit that was not loaded yet) is no alarm.
                opened = configuration and _drift(closed, None)
                report["state"] = "altered" if opened or not configuration else "closed"
    except (Failed, OSError) as error:
        report["problems"].append(str(error))
        report["state"] = "altered"
    return report


def installed():
    """The folder of the killswitch that guards this qube, or None."""
    for folder in (IN_TEMPLATE, IN_RW):
        if (folder / "closed.nft").exists() and FLAG.exists():
            return folder
    return None


def missing(library):
    """What the killswitch in *library* (None: there is none) lacks to hold at each start."""
    if library is None:
        if not FLAG.exists() and (IN_TEMPLATE.exists() or IN_RW.exists()):
            return ["the service qubes-vpn is off. In dom0: qvm-service QUBE qubes-vpn on"]
        return ["the killswitch is not installed here. Apply the formula to the template"]
    needed = (UNIT, HOOK) if library == IN_TEMPLATE else (HOOK_IN_RW,)
    lacking = [f"{path} is not there. Apply the formula" for path in needed if not path.exists()]
    if lacking:
        return lacking
    if library == IN_RW and (SERVICES / "custom-persist").exists():
        return [
            "custom-persist is on, so Qubes runs no hook below /rw, and nothing would load the "
            "killswitch at the next start. Apply the formula to this qube's template and restart "
            "the qube, or, in dom0: qvm-service QUBE custom-persist off"
        ]
    return []


def _user_scripts():
    """Scripts of the user's that Qubes runs beside ours; none of them is ever changed (R46)."""
    folder = CONFIG.parent
    found = [folder / "qubes-firewall-user-script", folder / "rc.local"]
    for beside in ("qubes-firewall.d", "rc.local.d"):
        found += sorted((folder / beside).glob("*"))
    return [
        str(path)
        for path in found
        if path != HOOK_IN_RW and path.is_file() and os.access(path, os.X_OK)
    ]


def _nature(interface):
    if not qubes_vpn_nft.exists(interface):
        return "not there"
    return "tunnel" if qubes_vpn_nft.is_tunnel(interface) else "not a tunnel: closed"


def _replace(closed, configuration):
    """Loads the rules in place; instead of the table, where something else has its names."""
    try:
        _with_devices(lambda devices: qubes_vpn_ruleset.transaction(closed, configuration, devices))
    except Failed:
        _anew(closed, configuration)


def _anew(closed, configuration):
    """Loads the rules in place of the table, whatever is in it.

    Also that is one transaction, and leaves no moment without rules, but loses packets.
    """
    table = f"inet {qubes_vpn_ruleset.TABLE}"
    anew = f"add table {table}\ndelete table {table}\n" + closed
    _with_devices(lambda devices: qubes_vpn_ruleset.transaction(anew, configuration, devices))


def _with_devices(rules):
    """Loads ``rules(devices)``; again when a device went away meanwhile."""
    for last in (False, False, True):
        try:
            found = qubes_vpn_nft.devices()
            devices = [(index, name) for name, index in sorted(found.items())]
            qubes_vpn_nft.load(rules(devices))
            return
        except Failed:
            if last or qubes_vpn_nft.devices() == found:
                raise
            time.sleep(0.05)


def _shut(closed):
    """Loads the rules with nothing open, and looks whether they are."""
    _replace(closed, None)
    if _rule_drift(closed, None):
        _anew(closed, None)
        if drift := _rule_drift(closed, None):
            raise Failed("not closed: " + "; ".join(drift))


def _close(closed):
    """Closes; returns what went wrong.  If nft cannot, the devices go down."""
    try:
        _shut(closed)
    except Exception as error:
        return [*_words(error), *_down(closed)]
    return []


def _words(error):
    if isinstance(error, Unusable):
        return error.args
    return (str(error) or type(error).__name__,)


def _down(_closed):
    """The last resort: no link, no leak.  Returns what was done."""
    told = []
    for device in qubes_vpn_nft.uplinks():
        try:
            qubes_vpn_nft.set_down(device)
            told.append(f"{device} was taken down, because the rules could not be loaded")
        except Failed as error:
            told.append(f"{device} could not be taken down: {error}")
    return told


def _drift(closed, configuration):
    """How what is loaded differs from what should be, in words."""
    return [*_rule_drift(closed, configuration), *_gate_drift()]


def _rule_drift(closed, configuration):
    should = qubes_vpn_ruleset.transaction(closed, configuration)
    should = qubes_vpn_nft.listed_elsewhere(should, "inet")
    loaded = qubes_vpn_nft.listed("inet")
    told = []
    for block in sorted(loaded.keys() | should.keys()):
        have, want = loaded.get(block), should.get(block)
        if have is None or want is None:
            told.append(f"{block} is {'missing' if have is None else 'not ours'}")
        elif have != want:
            more, less = sorted({*have} - {*want}), sorted({*want} - {*have})
            told += [f"{block}: '{line}' is not ours" for line in more[:5]]
            told += [f"{block}: '{line}' is missing" for line in less[:5]]
            if len(more) > 5 or len(less) > 5:
                told.append(f"{block}: {len(more)} more and {len(less)} missing altogether")
            if not more and not less:
                told.append(f"{block}: the order differs")
    return told


def _gate_drift():
    should = qubes_vpn_nft.listed_elsewhere(qubes_vpn_ruleset.gates([(1, "lo")]), "netdev")
    (want,) = (lines[1:] for lines in should.values())
    loaded = qubes_vpn_nft.listed("netdev")
    told = []
    for name, index in sorted(qubes_vpn_nft.devices().items()):
        hook, *have = loaded.get(f"chain egress-{index}", [""])
        if f'"{name}"' not in hook and f" {name}" not in hook:
            told.append(f"{name} has no gate")
        elif have != want or "policy drop" not in hook:
            told.append(f"the gate of {name} was changed")
    return told


def read(path, missing=None):
    """The bytes of a regular file, of no more than may be used; raises :class:`Unusable`."""
    most = qubes_vpn_endpoints.MOST_BYTES
    try:
        # Not to be kept waiting by a pipe that somebody put there.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Unusable(f"{path}: not a plain file. Replace it by one.")
            return file.read(most + 1)
    except FileNotFoundError:
        if missing is not None:
            return missing
        raise Unusable(f"{path}: not there. Write the tunnel's endpoints into it.") from None
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror}. Make it readable.") from None
