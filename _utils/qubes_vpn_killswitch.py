# SPDX-License-Identifier: GPL-2.0-or-later
"""The killswitch of the VPN qube that this runs in: opens it by configuration, and checks it.

Whatever is wrong (input, a program, the disk) leaves it closed, and says so.  Runs in the qube
from ``/usr/lib/qubes-vpn`` (or below /rw), and as Salt's ``qubes_vpn.killswitch``.
"""

import ipaddress
import os
import stat
import time
from pathlib import Path

import qubes_vpn_endpoints
import qubes_vpn_loading
import qubes_vpn_nft
import qubes_vpn_ruleset
from qubes_vpn_loading import IN_TEMPLATE, SERVICES, Unusable
from qubes_vpn_nft import Failed

#: Where a qube has the killswitch whose template does not.
IN_RW = Path("/rw/config/vpn/lib")
CONFIG = Path("/rw/config/vpn")
#: The qube's service flag: the template's units and hook do nothing without it.
FLAG = SERVICES / "qubes-vpn"
#: What qubes-firewall runs at each of its starts; the second, where only /rw may be written.
HOOK = Path("/etc/qubes/qubes-firewall.d/50-qubes-vpn")
HOOK_IN_RW = Path("/rw/config/qubes-firewall.d/50-qubes-vpn")
_ENABLED = Path("/etc/systemd/system")
#: The tunnel's resolvers that have answered, as texts, one a line: a load keeps them.  In a folder
#: that only root can open.
RESOLVERS = Path("/run/qubes-vpn/resolvers")
#: What makes the killswitch hold at each start, and what must be possible with it.
_NEEDED_IN_TEMPLATE = (
    (HOOK, os.X_OK),
    (_ENABLED / "network-pre.target.requires/qubes-vpn-closed.service", os.R_OK),
    (_ENABLED / "multi-user.target.wants/qubes-vpn-open.service", os.R_OK),
    (Path("/etc/udev/rules.d/80-qubes-vpn.rules"), os.R_OK),
)
_NEEDED_IN_RW = ((HOOK_IN_RW, os.X_OK),)
_CLOSED = "closed.nft"

#: What a qube does not have whose template knows nothing of the killswitch.
LOST_IN_RW = (
    "Until qubes-firewall runs at the qube's start, what the qube itself sends is not stopped.",
    "If qubes-firewall does not start, nothing is loaded and clients are not stopped.",
    "With the feature custom-persist Qubes runs no script below /rw: nothing is loaded.",
    "A network device that comes later has no gate until the next load.",
)


def load(library):
    """Loads the rules, open as far as the configuration says, and answers with a
    :class:`qubes_vpn_loading.Result`.

    library: folder with ``closed.nft``.  Flows from before are cut, unless these same rules were
    open already: then there are none but those that they let pass, and a reload interrupts nobody.
    """

    def work(closed):
        configuration = configured()
        settled = _is_settled(closed, configuration)
        _replace(closed, configuration)
        if not settled:
            qubes_vpn_nft.flush_conntrack()
        _settle(closed, configuration)
        return True

    return _alone(library, work)


def close(library):
    """Loads the rules with nothing open."""
    return _alone(library, _shut)


def gate(library):
    """Puts the gate on every device that needs one; used when a device appears."""
    return _alone(library, lambda _: _with_devices(qubes_vpn_ruleset.gates))


def resolve(library, addresses):
    """Clients' DNS goes to these resolvers from now on and to no others; nowhere without any.

    addresses: as texts, the first one first.  What clients had under way to others is cut.
    Returns those to which it goes, of :func:`qubes_vpn_ruleset.used`: none when the killswitch is
    not open.
    Raises :class:`Failed` or ``OSError``.
    """
    with qubes_vpn_loading.turn(library / _CLOSED):
        wanted = qubes_vpn_ruleset.used(addresses) if qubes_vpn_nft.is_open() else ()
        gone = set(resolvers()) - set(wanted)
        # Ended half way: a load forgets them, and what is loaded is called altered.
        RESOLVERS.unlink(missing_ok=True)
        if qubes_vpn_nft.has_table("inet"):
            qubes_vpn_nft.load(qubes_vpn_ruleset.resolving(wanted))
        if wanted:
            RESOLVERS.parent.mkdir(mode=0o700, exist_ok=True)
            new = RESOLVERS.with_suffix(".new")
            new.write_text("".join(f"{address}\n" for address in wanted), "ascii")
            new.replace(RESOLVERS)
        for address in gone:
            qubes_vpn_nft.cut(address, 53)
        return wanted


def resolvers():
    """Where clients' DNS goes, as :func:`resolve` has written it down; empty: nowhere."""
    try:
        found = read(RESOLVERS, missing=b"").decode("ascii").splitlines()
        return tuple(str(ipaddress.ip_address(line)) for line in found)
    except (Unusable, ValueError):
        return ()


def _alone(library, work):
    rules = qubes_vpn_loading.Rules(_CLOSED, "tunnel_names", _shut)
    return qubes_vpn_loading.alone(rules, library, work)


def configured():
    """The :class:`qubes_vpn_ruleset.Configuration` in ``/rw/config/vpn``."""
    interfaces, log = settings()
    try:
        data = read_ours(CONFIG / "endpoints.txt")
        endpoints = qubes_vpn_endpoints.read(data, CONFIG / "endpoints.txt")
        elements = qubes_vpn_endpoints.elements(endpoints)
    except qubes_vpn_endpoints.NotEndpoints as error:
        raise Unusable(*error.problems) from None
    return qubes_vpn_ruleset.Configuration(interfaces, log, elements, resolvers())


def settings():
    """``(names of the tunnel's interface, whether drops are logged)``, as configured.

    Raises :class:`Unusable`.
    """
    path = CONFIG / "killswitch.conf"
    try:
        return qubes_vpn_ruleset.read_settings(read_ours(path, missing=b""), path)
    except qubes_vpn_ruleset.NotAConfiguration as error:
        raise Unusable(*error.problems) from None


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
    try:
        # Not while a load, or the follower of the tunnel's resolvers, is half way.
        with qubes_vpn_loading.turn(library / _CLOSED) as closed:
            _look(report, library, closed)
    except Exception as error:  # what cannot be looked at is not as it should be
        report["problems"] += qubes_vpn_loading.words(error)
        report["state"] = "altered"
    return report


def _look(report, library, closed):
    """Adds to a *report* what is configured, and what is loaded.  closed: text of closed.nft."""
    configuration = None
    try:
        configuration = configured()
        report["log"] = configuration.log
        report["endpoints"] = sum(map(len, configuration.endpoints))
        report["interfaces"] = {name: _nature(name) for name in configuration.interfaces}
        report["resolvers"] = list(configuration.resolvers)
    except Unusable as error:
        report["problems"] += error.args
    report["uplinks"] = {name: _condition(name) for name in sorted(qubes_vpn_nft.uplinks())}
    if not qubes_vpn_nft.has_table("inet"):
        report["problems"].append(f"nothing is loaded. Run {library}/killswitch load")
    else:
        report["drift"] = _drift(closed, configuration)
        report["state"] = "open" if configuration else "closed"
        report["counters"] = qubes_vpn_nft.counters()
        if report["drift"]:
            # Closed though it could be open (an edit that was not loaded yet) is no alarm.
            opened = configuration and _drift(closed, None)
            report["state"] = "altered" if opened or not configuration else "closed"
    if report["state"] == "closed" and not report["problems"]:
        report["problems"].append(f"closed. Run {library}/killswitch load")


def installed():
    """The folder of the killswitch that guards this qube, or None."""
    for folder in (IN_TEMPLATE, IN_RW):
        if (folder / _CLOSED).exists() and FLAG.exists():
            return folder
    return None


def missing(library):
    """What the killswitch in *library* (None: there is none) lacks to hold at each start."""
    if library is None:
        if not FLAG.exists() and (IN_TEMPLATE.exists() or IN_RW.exists()):
            return ["the service qubes-vpn is off. In dom0: qvm-service QUBE qubes-vpn on"]
        return ["the killswitch is not installed here. Apply the formula to the template"]
    needed = _NEEDED_IN_TEMPLATE if library == IN_TEMPLATE else _NEEDED_IN_RW
    needed = ((library / "killswitch", os.X_OK), *needed)
    if lacking := qubes_vpn_loading.lacking(needed, library / _CLOSED, qubes_vpn_ruleset.CLOSED):
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


def _condition(uplink):
    if not qubes_vpn_nft.is_up(uplink):
        return f"down. When the killswitch is loaded: ip link set dev {uplink} up"
    return "up"


def _nature(interface):
    if not qubes_vpn_nft.exists(interface):
        return "not there"
    return "tunnel" if qubes_vpn_nft.is_tunnel(interface) else "not a tunnel: closed"


def _replace(closed, configuration):
    """Loads the rules in place; instead of the table, where something else has its names."""
    try:
        _with_devices(
            lambda devices, stale: qubes_vpn_ruleset.transaction(
                closed, configuration, devices, stale
            )
        )
    except Failed:
        _anew(closed, configuration)


def _anew(closed, configuration):
    """Loads the rules in place of our tables, whatever is in them.

    Also that is one transaction, and leaves no moment without rules, but loses packets.
    """
    tables = (f"{family} {qubes_vpn_ruleset.TABLE}" for family in ("inet", "netdev"))
    anew = "".join(f"add table {table}\ndelete table {table}\n" for table in tables) + closed
    _with_devices(lambda devices, _: qubes_vpn_ruleset.transaction(anew, configuration, devices))


def _with_devices(rules):
    """Loads ``rules(devices, stale)``; again when a device came or went meanwhile.

    nft cannot write a name with a quote in it: such a device is taken down.
    """
    for last in (False, False, True):
        try:
            needed, stale = qubes_vpn_nft.devices()
            for name in [name for name in needed if '"' in name]:
                qubes_vpn_nft.set_down(name)
                del needed[name]
            text = rules(sorted((index, name) for name, index in needed.items()), stale)
            if text:
                qubes_vpn_nft.load(text)
            return
        except Failed:
            if last:
                raise
            time.sleep(0.05)


def _is_settled(closed, configuration):
    """Whether these rules are open already, so that no flow has come past them."""
    if not qubes_vpn_nft.is_open() or qubes_vpn_nft.has_table("inet", qubes_vpn_nft.FLOWTABLE):
        return False
    rules = qubes_vpn_ruleset.transaction(closed, configuration)
    should = qubes_vpn_nft.listed_elsewhere(rules, "inet", terse=True)
    return qubes_vpn_nft.listed("inet", terse=True) == should


def _settle(closed, configuration):
    """Makes what is loaded what it should be, and nothing else; raises :class:`Failed`."""
    repairs = (
        lambda: _with_devices(qubes_vpn_ruleset.gates),  # a device has come meanwhile
        lambda: _anew(closed, configuration),  # somebody's own chain or set stays otherwise
        lambda: _with_devices(qubes_vpn_ruleset.gates),
    )
    for repair in repairs:
        if not _drift(closed, configuration):
            return
        repair()
    if drift := _drift(closed, configuration):
        raise Failed("loaded, but not as it should be: " + "; ".join(drift))


def _shut(closed):
    """Loads the rules with nothing open, and looks whether they are."""
    _replace(closed, None)
    _settle(closed, None)


def _drift(closed, configuration):
    """How what is loaded differs from what should be, in words."""
    rules = qubes_vpn_ruleset.transaction(closed, configuration)
    return [*qubes_vpn_loading.drift(rules), *_gate_drift()]


def _gate_drift():
    should = qubes_vpn_nft.listed_elsewhere(qubes_vpn_ruleset.gates([(1, "lo")]), "netdev")
    (want,) = (lines[1:] for lines in should.values())
    loaded = qubes_vpn_nft.listed("netdev")
    needed, stale = qubes_vpn_nft.devices()
    told = [f"the gate {index} is of a device that is no more so called" for index in stale]
    ours = {f"chain egress-{index}" for index in stale}
    for name, index in sorted(needed.items()):
        if '"' in name:
            continue
        ours.add(f"chain egress-{index}")
        hook, *have = loaded.get(f"chain egress-{index}", [""])
        if not hook:
            told.append(f"{name} has no gate")
        elif have != want or "policy drop" not in hook:
            told.append(f"the gate of {name} was changed")
    return told + [f"netdev {block} is not ours" for block in sorted(loaded.keys() - ours)]


def read_ours(path, missing=None):
    """As :func:`read`, of a file that nobody but root may be able to change, nor its folder.

    Or a program of the qube's user would decide what the killswitch lets out.
    """
    for part in (path.parent, path):
        if is_others(part):
            raise Unusable(
                f"{part}: others than root can change it. Look at what is there, then type: sudo "
                f"chown root:root {part}; sudo chmod go-w {part}"
            )
    return read(path, missing)


def is_others(path):
    """Whether others than root (and this process) could change the file or folder *path*."""
    try:
        found = path.stat()
    except OSError:
        return False  # reading it says more
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        return False  # so it does here
    by_group = found.st_mode & stat.S_IWGRP and found.st_gid != 0
    return bool(found.st_uid not in (0, os.geteuid()) or found.st_mode & stat.S_IWOTH or by_group)


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
