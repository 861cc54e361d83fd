# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules of the resolver qube that this runs in: its clients' DNS goes to its own resolver.

Whatever address a client asks, and from the moment the qube starts; open or closed says whether
the resolver may answer.  Whatever is wrong leaves them closed, and says so.
"""

import os
from pathlib import Path

import qubes_vpn_loading
import qubes_vpn_nft
from qubes_vpn_loading import IN_TEMPLATE, SERVICES, Result
from qubes_vpn_nft import Failed
from qubes_vpn_ruleset import TABLE

#: The qube's service flag; that of a VPN qube, whose rules have the same table.
FLAG, OTHER_FLAG = SERVICES / "qubes-vpn-dns", SERVICES / "qubes-vpn"
#: What qubes-firewall runs at each of its starts.
HOOK = Path("/etc/qubes/qubes-firewall.d/51-qubes-vpn-dns")
#: SHA-256 of the ``dns-closed.nft`` that belongs to this version.
CLOSED = "f2908e58386a6c786887680db9edab6b948231001ea5f9951125713ffea77247"
_FILE, _OPENER, _PORT = "dns-closed.nft", "open_ports", 53
_NEEDED = (
    (IN_TEMPLATE / "resolver", os.X_OK),
    (HOOK, os.X_OK),
    (
        Path("/etc/systemd/system/network-pre.target.requires/qubes-vpn-dns-closed.service"),
        os.R_OK,
    ),
)
#: Qubes' own input chain refuses clients, except for what its users accept in the chain that it
#: keeps for them (core-agent-linux ``network/qubes-ipv4.nft``).  Our own input chain looks first.
_COMMENT = "qubes-vpn: to the resolver"
_ADMITTED = (
    f'iifgroup 2 iifname "vif*" meta l4proto {{ tcp, udp }} th dport {_PORT} accept '
    f'comment "{_COMMENT}"'
)
#: Ports whose old flows are cut when the rules change.
_CUT = (_PORT, 853)
_BOTH = (
    "this is a VPN qube too, whose killswitch has this table. In dom0 take one of the services "
    "away: qvm-service QUBE qubes-vpn off, or qubes-vpn-dns off"
)


def load(library=IN_TEMPLATE):
    """Loads the rules, and answers with a :class:`qubes_vpn_loading.Result`.

    library: folder with ``dns-closed.nft``.  They are open only if they were before, as they should
    be: then nothing changes.  What somebody has altered is closed until the next answer.
    """

    def work(closed):
        return _put(closed, not qubes_vpn_loading.drift(transaction(closed, True)))

    return _alone(library, work)


def prepared(library=IN_TEMPLATE):
    """How nft lists the closed rules, for :func:`open_up`; None when that cannot be known."""
    try:
        return qubes_vpn_nft.listed_elsewhere((library / _FILE).read_text(), "inet")
    except (Failed, OSError):
        return None


def open_up(library=IN_TEMPLATE, known=None):
    """Loads the rules, open; for who has just had an answer to a real question.

    known: what :func:`prepared` returned, for who cannot wait: rules that are these are open at
    once, and are looked at afterwards.
    """

    def work(closed):
        was_open = not _opened_at_once(known) and is_open()
        _put(closed, True)
        if not was_open:
            qubes_vpn_loading.read_lists_again()
        return True

    return _alone(library, work)


def _opened_at_once(known):
    """Whether the rules were *known*, closed and altered by nobody, and are open now.

    Then no flow has come past them, and none is to be cut: a client that asks in this moment would
    lose its answer.
    """
    try:
        if known is None or qubes_vpn_nft.there("inet") != known:
            return False
    except Failed:
        return False  # no table, and the long way says so
    qubes_vpn_nft.run("nft", "add", "element", "inet", TABLE, _OPENER, f"{{ {_PORT} }}")
    return True


def close(library=IN_TEMPLATE):
    """Loads the rules with nothing open."""
    return _alone(library, _shut)


def is_open():
    """Whether clients reach the resolver, as far as sets and Qubes' own chains go."""
    return qubes_vpn_nft.is_open(_OPENER) and not _not_admitted()


def _alone(library, work):
    if OTHER_FLAG.exists():
        return Result(False, (_BOTH,))
    return qubes_vpn_loading.alone(qubes_vpn_loading.Rules(_FILE, _OPENER, _shut), library, work)


def transaction(closed, opened):
    """Everything that nft loads at once.

    closed: the text of ``dns-closed.nft``.
    """
    return closed + f"add element inet {TABLE} {_OPENER} {{ {_PORT} }}\n" * opened


def _put(closed, opened):
    """Makes what is loaded what it should be; answers *opened*."""
    rules = transaction(closed, opened)
    if qubes_vpn_loading.drift(rules):
        try:
            qubes_vpn_nft.load(rules)
            left = qubes_vpn_loading.drift(rules)
        except Failed:
            left = ["something else has its names"]
        if left:  # somebody's own chain, or one of another kind, stays otherwise
            qubes_vpn_nft.load(f"add table inet {TABLE}\ndelete table inet {TABLE}\n{rules}")
        qubes_vpn_nft.cut_flows(_CUT)
        if left := qubes_vpn_loading.drift(rules):
            raise Failed("loaded, but not as it should be: " + "; ".join(left))
    if families := _not_admitted():
        lines = (f"add rule {family} qubes custom-input {_ADMITTED}\n" for family in families)
        qubes_vpn_nft.load("".join(lines))
    return opened


def _shut(closed):
    _put(closed, False)


def _not_admitted():
    """Families whose chain for users' rules is there, and without ours."""
    chains = {
        family: qubes_vpn_nft.listed(family, "qubes", terse=True).get("chain custom-input")
        for family in ("ip", "ip6")
    }
    return [
        family
        for family, lines in chains.items()
        if lines is not None and not any(_COMMENT in line for line in lines)
    ]


def status(library=None):
    """What holds in this qube, as plain data; changes nothing.

    ``state`` is ``open`` (the resolver may be asked), ``closed`` (clients' DNS is refused),
    ``altered`` (what is loaded is not what it should be: see ``drift``) or ``absent``;
    ``problems`` say what is wrong.
    """
    library = library or installed()
    report = {
        "state": "absent",
        "installed": str(library) if library else None,
        "problems": missing(library),
        "drift": [],
    }
    if library is None:
        return report
    try:
        # Not while the watch opens or closes.
        with qubes_vpn_loading.turn(library / _FILE) as closed:
            _look(report, library, closed)
    except Exception as error:  # what cannot be looked at is not as it should be
        report["problems"] += qubes_vpn_loading.words(error)
        report["state"] = "altered"
    return report


def _look(report, library, closed):
    """Adds to a *report* what is loaded.  closed: text of dns-closed.nft."""
    if not qubes_vpn_nft.has_table("inet"):
        report["problems"].append(f"nothing is loaded. Run {library}/resolver load")
        return
    opened = qubes_vpn_nft.is_open(_OPENER)
    report["drift"] = qubes_vpn_loading.drift(transaction(closed, opened))
    if report["drift"]:
        report["state"] = "altered"
        return
    report["state"] = "open" if opened else "closed"
    report["counters"] = qubes_vpn_nft.counters()
    for family in _not_admitted() if opened else ():
        report["problems"].append(
            f"Qubes' chain {family} qubes input refuses clients' DNS. Run {library}/resolver load"
        )


def installed():
    """The folder of the rules that guard this qube, or None."""
    return IN_TEMPLATE if (IN_TEMPLATE / _FILE).exists() and FLAG.exists() else None


def missing(library):
    """What the rules in *library* (None: there are none) lack to hold at each start."""
    if library is None:
        if (IN_TEMPLATE / _FILE).exists():
            return ["the service qubes-vpn-dns is off. In dom0: qvm-service QUBE qubes-vpn-dns on"]
        return ["this qube's template has no files for a resolver. Apply the formula to it"]
    if OTHER_FLAG.exists():
        return [_BOTH]
    return qubes_vpn_loading.lacking(_NEEDED, library / _FILE, CLOSED)
