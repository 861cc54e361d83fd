# SPDX-License-Identifier: GPL-2.0-or-later
"""The ``qubes_vpn`` states of a VPN qube and of its template.

Beside ``qubes_vpn.py``, whose states are dom0's: both go by the one name ``qubes_vpn``, and each
loads where it can work.
"""

import re

from salt.exceptions import CommandExecutionError

import qubes_vpn_configure
import qubes_vpn_connections
import qubes_vpn_dns_apply
import qubes_vpn_establish
import qubes_vpn_follow
import qubes_vpn_killswitch
import qubes_vpn_mullvad
import qubes_vpn_mullvad_account
import qubes_vpn_packages
import qubes_vpn_proxy
import qubes_vpn_repository
import qubes_vpn_resolver
import qubes_vpn_template
from qubes_vpn_problem import os_words

__virtualname__ = "qubes_vpn"

#: Lines in which apt, dnf and dnf5 say why.  dnf 4 says ``Error:`` alone before a list of problems,
#: and dnf5 has no such word (``dnf5/main.cpp``, ``libdnf5/base/{log_event,transaction}.cpp``).
_REASON = re.compile(
    r"\s*(?:E|Error|ERROR|Problem(?: \d+)?): (?P<after>.{1,200})|  - (?P<listed>.{1,200})"
    r"|(?P<whole>(?:No match for argument|Transaction failed): .{1,200}"
    r"|(?:Failed to download|OpenPGP check for package) .{1,200})"
)


def __virtual__():
    if __opts__["id"] == "dom0":
        return False, "these work in a VPN qube, not in dom0"
    return __virtualname__


def killswitch(name, endpoints, interface, log_drops=False):
    """The killswitch of this qube is loaded, and open for its tunnel and nothing else (R41, R45).

    endpoints: what the qube itself may reach, as the pillar has them.  interface: name of the
    tunnel's interface, the only way out for clients.  log_drops: whether what is dropped is logged.

    The killswitch's own files must be there: ``qubes.network.sys-vpn`` puts them, and a dry run
    takes them as put.  When something goes wrong the qube is closed, and the comment says so.
    """
    ret = {"name": name, "changes": {}, "result": False, "comment": ""}
    library = qubes_vpn_killswitch.installed()
    try:
        return _killswitch(ret, library, endpoints, interface, log_drops)
    except Exception as error:  # whatever it was, nothing stays open
        return _failed(ret, library, {"state": "altered"}, [str(error) or type(error).__name__])


def tunnel(name, kind, interface, profile, endpoints, profiles=(), disposable=None):
    """NetworkManager has the tunnel's connections, and the active one is up (R31, R32, R34).

    kind: ``wireguard`` or ``openvpn``.  interface: name of the tunnel's interface.  profile: file
    name of the active profile in /rw/config/vpn/credentials; profiles: of others that are ready
    for ``nmcli connection up``.  endpoints: as the pillar has them; a profile with another one
    cannot be used.  disposable: of the qube that is made from this one, which has no netvm: then
    nothing is brought up here; what is written and looked at is what that one starts with (R85).

    Nothing is done unless the killswitch is open.  A profile that is missing or cannot be used has
    no connection, and the state fails; what was up with it is taken down.
    """
    ret = {"name": name, "changes": {}, "result": False, "comment": ""}
    settings = qubes_vpn_connections.Settings(kind, interface, profile, tuple(profiles))
    try:
        done = qubes_vpn_establish.establish(
            settings, endpoints, __opts__["test"], here=disposable is None
        )
    except Exception as error:  # a sentence, and no traceback, which could show more than it should
        return {**ret, "comment": f"The tunnel could not be made: {type(error).__name__}."}
    if done.problems:
        return {**ret, "changes": done.changes, "comment": _sentences(done.problems)}
    dry = __opts__["test"] and done.changes
    if disposable:
        told = [f"{disposable} {'would start' if dry else 'starts'} with {profile} on {interface}"]
        told += [*_copied(name, disposable), *done.told]
    elif dry:
        told = [f"{profile} would be brought up on {interface}", *done.told]
    else:
        told = [f"The tunnel {interface} is up with {profile}", *done.told]
    if dry:
        return {**ret, "result": None, "changes": done.changes, "comment": _sentences(told)}
    if profiles:
        told.insert(1, f"Ready as well: {', '.join(profiles)}")
    return {**ret, "result": True, "changes": done.changes, "comment": _sentences(told)}


def _copied(name, disposable):
    """What is true whatever changed: also a new profile of the same name has to get there."""
    return [
        f"No tunnel is made in {name}, which has no netvm",
        f"Each start of {disposable} copies this qube's /rw as of its last shutdown. After a "
        f"change shut {name} down, then restart {disposable}",
    ]


def mullvad(name, settings, api):
    """The Mullvad app of this qube is as the pillar says, logged in, and kept (R24, R30, R40, R81).

    settings: the tunnel's ``mullvad``, with its defaults.  api: whether Mullvad's API is among the
    endpoints.

    It logs in from ``/rw/config/vpn/credentials/mullvad-account``, unless it is logged in already;
    it never logs out.  Nothing of the account is told.
    """
    ret = {"name": name, "changes": {}, "result": False, "comment": ""}
    try:
        changes, problems, more = qubes_vpn_mullvad.apply(settings, api, __opts__["test"])
    except Exception as error:  # a traceback could hold what somebody typed
        return {**ret, "comment": f"the Mullvad app: {type(error).__name__}"}
    if problems:
        return {**ret, "changes": changes, "comment": _sentences(problems)}
    told = ["The Mullvad app is as the pillar says", *more]
    if not api:
        no_api = qubes_vpn_mullvad_account.NO_API
        told.append(f"Mullvad's API is not among the endpoints: {no_api}")
    if __opts__["test"] and changes:
        told[0] = "The Mullvad app would be set so"
        return {**ret, "result": None, "changes": changes, "comment": _sentences(told)}
    return {**ret, "result": True, "changes": changes, "comment": _sentences(told)}


def dnat_dns(name, to, disposable=None):
    """Clients' DNS goes to one resolver, whichever address they ask, and nowhere else (R50, R55).

    to: ``tunnel``, to the resolver that the tunnel names, followed as it changes, once it has
    answered a real question; ``resolver``, to the one in this qube, once that has answered one,
    which is the state ``dnscrypt``'s; until then clients are refused.  Qubes' own chain stays as
    Qubes has it.
    disposable: of the qube that is made from this one, which has no tunnel: only that it would
    follow is looked at here (R85).
    """
    ret = {"name": name, "changes": {}, "result": False, "comment": ""}
    if to not in _DNAT_DNS:
        return {**ret, "comment": f"to: {to} is not known. Write one of: {', '.join(_DNAT_DNS)}."}
    try:
        return _DNAT_DNS[to](ret, disposable)
    except Exception as error:
        return {**ret, "comment": f"Clients' DNS: {type(error).__name__}."}


def _dns_to_tunnel(ret, disposable):
    dry = __opts__["test"]
    if problems := qubes_vpn_follow.lacking():
        return {**ret, "comment": _sentences(problems)}
    if disposable:
        told = f"There is no tunnel here. In {disposable} clients' DNS follows its tunnel"
        return {**ret, "result": True, "comment": _sentences([told])}
    before = qubes_vpn_follow.status()
    if not before["follows"]:
        ret["changes"]["follower"] = {"old": "not running", "new": "running"}
    if dry:
        if before["state"] == "closed" and qubes_vpn_follow.has_tunnel():
            new = before["named"] or "what the tunnel names, once it answers"
            ret["changes"]["resolvers"] = {"old": [], "new": new}
        if ret["changes"]:
            told = "Clients' DNS would follow the tunnel."
            return {**ret, "result": None, "comment": told}
    after = before if dry else qubes_vpn_follow.opened()
    if before["resolvers"] != after["resolvers"]:
        ret["changes"]["resolvers"] = {"old": before["resolvers"], "new": after["resolvers"]}
    told = [*after["problems"], *after["why"]]
    if after["problems"] or (told and qubes_vpn_follow.has_tunnel()):
        return {**ret, "comment": _sentences(told)}
    told = told or [f"Clients' DNS goes to {', '.join(after['resolvers'])} in the tunnel"]
    return {**ret, "result": True, "comment": _sentences(told)}


def _dns_to_resolver(ret, _):
    before = qubes_vpn_resolver.status()
    lacking = qubes_vpn_resolver.missing(qubes_vpn_resolver.installed())
    if before["state"] == "altered" and not before["drift"]:
        lacking = before["problems"]  # it cannot be looked at
    if lacking:
        return {**ret, "comment": _sentences(lacking)}
    state = before["state"]
    if state not in ("open", "closed") or before["problems"]:
        old = before["drift"] or before["problems"]
        ret["changes"]["rules"] = {"old": old, "new": "as they should be"}
        if __opts__["test"]:
            told = "The rules would be loaded, and be closed until the resolver answers"
            return {**ret, "result": None, "comment": _sentences([told])}
        if problems := qubes_vpn_resolver.load().problems:
            return {**ret, "comment": _sentences(problems)}
        state = qubes_vpn_resolver.status()["state"]
    told = ["Clients' DNS goes to the resolver in this qube, whichever address they ask"]
    if state != "open":
        told.append("They are refused until it has answered")
    return {**ret, "result": True, "comment": _sentences(told)}


#: What :func:`dnat_dns` can do, by where to.
_DNAT_DNS = {"tunnel": _dns_to_tunnel, "resolver": _dns_to_resolver}


def dnscrypt(name, settings):
    """The resolver of this qube is as the pillar says, and has answered a real question (R51-R53).

    settings: the resolver's ``dnscrypt``, with its defaults.

    Clients' DNS is opened by that answer alone.  It is closed while the configuration is changed,
    and when it is not answered after that; then it opens by itself as soon as it is.
    """
    ret = {"name": name, "changes": {}, "result": False, "comment": ""}
    try:
        done = qubes_vpn_dns_apply.apply(settings, __opts__["test"])
    except Exception as error:  # a sentence, and no traceback
        return {**ret, "comment": f"The resolver: {type(error).__name__}: {error}"}
    ret["changes"] = done.changes
    if done.problems:
        return {**ret, "comment": _sentences(done.problems)}
    if __opts__["test"] and done.changes:
        told = "The resolver would be set so, and clients' DNS opened once it answers"
        return {**ret, "result": None, "comment": _sentences([told])}
    return {**ret, "result": True, "comment": _sentences(["It answers, and clients are answered"])}


def packages(name, packages, options=None):
    """These *packages* of the distribution or a vendor are installed (R22, R23).

    options: arguments of Salt's ``pkg.install``.  They are fetched through the updates proxy, a
    template's only way out; when that fails the comment is a sentence, not the package manager's
    sixty lines.  Salt's own ``pkg.installed`` would say those, and fetches lists in a dry run.
    """
    ret = {"name": name, "changes": {}, "result": False, "comment": ""}
    try:
        lacking = qubes_vpn_template.lacking(packages)
        if not lacking:
            return {**ret, "result": True, "comment": "All of them are installed."}
        if __opts__["test"]:
            ret["changes"] = {package: {"old": "", "new": "installed"} for package in lacking}
            comment = f"Would be fetched through {qubes_vpn_proxy.in_words()}."
            return {**ret, "result": None, "comment": comment}
        qubes_vpn_proxy.check()
        reasons = _install(lacking, options or {})
        still = qubes_vpn_template.lacking(packages)
    except (qubes_vpn_packages.Unsupported, qubes_vpn_template.Unknown) as error:
        return {**ret, "comment": _sentences([str(error)])}
    except qubes_vpn_proxy.Unreachable as error:
        return {**ret, "comment": _sentences([f"Nothing can be fetched: {error}"])}
    came = [package for package in lacking if package not in still]
    ret["changes"] = {package: {"old": "", "new": "installed"} for package in came}
    if still:
        what = f"Not installed through {qubes_vpn_proxy.in_words()}: {', '.join(still)}"
        return {**ret, "comment": _sentences([what, *reasons, qubes_vpn_proxy.FIX])}
    comment = "Installed, with what they need and nothing that they only recommend."
    return {**ret, "result": True, "comment": comment}


def _install(lacking, options):
    """Installs packages; returns the package manager's own reasons for not doing it."""
    said = ""
    try:
        __salt__["pkg.refresh_db"]()
        __salt__["pkg.install"](pkgs=lacking, refresh=False, **options)
    except CommandExecutionError as error:
        said = "\n".join([str(error), *map(str, (error.info or {}).get("errors", ()))])
    reasons = (_REASON.match(line) for line in said.splitlines())
    return list(dict.fromkeys(reason[reason.lastgroup] for reason in reasons if reason))[:2]


def repository(name, uri, key, fingerprint, only):
    """The vendor's package repository is there, signed by the key that is known (R23).

    name: the vendor.  uri: base of the repository.  key: the https address of its key.
    fingerprint: the key's whole one; a file with another key, or more than this one, is not written
    anywhere.  only: the packages that may come from there.
    """
    ret = {"name": name, "changes": {}, "result": False, "comment": ""}
    wanted = qubes_vpn_repository.Repository(name, uri, key, fingerprint, tuple(only))
    written = {}
    try:
        system = qubes_vpn_packages.family()
        if qubes_vpn_repository.present(wanted, system):
            return {**ret, "result": True, "comment": f"{uri}, signed by {fingerprint}."}
        path = str(qubes_vpn_repository.source(wanted, system))
        ret["changes"] = {path: {"old": "not as it should be", "new": f"signed by {fingerprint}"}}
        if __opts__["test"]:
            fetched = f"The key would be fetched from {key}, and written if it is this one."
            return {**ret, "result": None, "comment": fetched}
        for file in qubes_vpn_repository.write(wanted, qubes_vpn_repository.fetch(wanted), system):
            written[str(file)] = {"old": "", "new": "written"}
    except (qubes_vpn_packages.Unsupported, qubes_vpn_repository.Untrusted) as error:
        return {**ret, "changes": {}, "comment": _sentences([str(error)])}
    except OSError as error:
        return {**ret, "changes": written, "comment": _sentences([os_words(error)])}
    return {**ret, "result": True, "comment": f"{uri}, signed by {fingerprint}."}


def template_ready(name, kinds, minimal=False):
    """This template is ready for these *kinds*, or the comment lists what it lacks (R25).

    name: the template.  minimal: whether it was asked for without a desktop.  It changes nothing:
    ``qubes.network.sys-vpn`` puts what can be put, and a dry run tells that from the rest.
    """
    ret = {"name": name, "changes": {}, "result": False, "comment": ""}
    lacks = qubes_vpn_template.lacks(kinds, minimal)
    if not lacks:
        told = f"{name} is ready for: {', '.join(kinds)}."
        return {**ret, "result": True, "comment": told}
    lines = [f"{name} is not ready:", *(f"- {lack.text}." for lack in lacks)]
    if __opts__["test"] and all(lack.ours for lack in lacks):
        ret["result"] = None
        lines[0] = f"{name} is not ready; this run would put what is missing:"
    return {**ret, "comment": "\n".join(lines)}


def _killswitch(ret, library, endpoints, interface, log_drops):
    before = qubes_vpn_killswitch.status()
    try:
        files = qubes_vpn_configure.wanted(endpoints, interface, log_drops)
    except ValueError as error:
        return _failed(ret, library, before, [str(error)])
    if problems := _hindrances(library, before):
        return _failed(ret, library, before, problems)
    changes = _changes(files, before)
    if __opts__["test"] and changes:
        told = _sentences(["would be opened so", *_weaker(library)])
        return {**ret, "result": None, "changes": changes, "comment": told}
    if not changes:
        return {**ret, "result": True, "comment": _holds(before)}
    try:
        qubes_vpn_configure.write(files)
    except OSError as error:
        return _failed(ret, library, before, [os_words(error)])
    loaded = qubes_vpn_killswitch.load(library)
    after = qubes_vpn_killswitch.status()
    if not loaded.open or after["state"] != "open" or after["problems"]:
        problems = [*loaded.problems, *after["problems"], *after["drift"]]
        return _failed(ret, library, before, problems)
    return {**ret, "result": True, "changes": changes, "comment": _holds(after)}


def _hindrances(library, report):
    """Why nothing can be loaded, or would not stay."""
    if library is None and __opts__["test"] and qubes_vpn_killswitch.FLAG.exists():
        return []
    cannot_look = report["state"] == "altered" and not report["drift"]
    return report["problems"] if cannot_look else qubes_vpn_killswitch.missing(library)


def _changes(files, report):
    changes = qubes_vpn_configure.differences(files)
    if report["state"] == "altered":
        changes["rules"] = {"old": report["drift"], "new": "as they should be"}
    elif report["state"] != "open":
        changes["rules"] = {"old": report["state"], "new": "open"}
    return changes


def _failed(ret, library, before, problems):
    """The state's answer to *problems*, after closing the qube."""
    if library and not __opts__["test"]:
        not_closed = qubes_vpn_killswitch.close(library).problems
        problems = [*problems, *(not_closed or ["The qube is closed"])]
        if not not_closed and before["state"] != "closed":
            ret["changes"]["rules"] = {"old": before["state"], "new": "closed"}
    return {**ret, "comment": _sentences(problems)}


def _holds(report):
    """What the killswitch lets through, and what goes with that."""
    names = ", ".join(report["interfaces"])
    told = [f"Open for the tunnel {names} and its endpoints ({report['endpoints']}), nothing else"]
    for name, nature in report["interfaces"].items():
        if nature.startswith("not a tunnel"):
            told.append(f"The interface {name} is no tunnel, so nothing goes through it")
    if report["user_scripts"]:
        told.append(f"Your own scripts run as before: {', '.join(report['user_scripts'])}")
    return _sentences([*told, *_weaker(qubes_vpn_killswitch.installed())])


def _weaker(library):
    """What is lost where the template has no killswitch."""
    if library == qubes_vpn_killswitch.IN_TEMPLATE:
        return []
    return [
        "This qube's template has no killswitch, so this one is weaker",
        *qubes_vpn_killswitch.LOST_IN_RW,
        "Apply the formula to the template, restart this qube, and run this again",
    ]


def _sentences(texts):
    return " ".join(f"{text.rstrip('.')}." for text in dict.fromkeys(texts))
