# SPDX-License-Identifier: GPL-2.0-or-later
"""A commented pillar from a profile."""

import io
import textwrap
from typing import NamedTuple

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from qubes_vpn_layout import CANONICAL
from qubes_vpn_ruleset import INTERFACES
from qubes_vpn_schema import TOPOLOGIES

DEFAULT_TEMPLATE = "t-vpn"
_LAYOUT = """\
Your own qubes, made where they are missing: qubesctl state.sls qubes.layout
What each of them is, and how to have it otherwise: docs/layout.md.  Without an allowlist banking is
offline: qubes-vpn set FILE layout.banking.allowlist '[www.bank.example:443/tcp, dns]'"""


class Wishes(NamedTuple):
    """What the user chose on the command line.  routes: client -> netvm."""

    tunnel: str = "sys-vpn"
    topology: str = "dns"
    template: str | None = None
    routes: dict = {}  # noqa: RUF012 - never changed
    vaults: tuple = ()
    layout: tuple | None = None  # the canonical qubes that are to be made; (): all of them


def pillar_text(profile, wishes, source, selection=None, location=None):
    """The pillar as text.

    source: what it was made from, for the first line.  selection: by what the endpoints were chosen
    from a relay list, or None.  location: where these all are, for the Mullvad app, or None.
    """
    top = CommentedMap(qubes_vpn=_body(profile, wishes, selection, location))
    top.yaml_set_start_comment(
        f"A machine's network for qubes-vpn-formula, made from {source}.\n"
        "Every key there is: pillar.example.  Check after each edit: qubes-vpn check FILE\n"
        "In dom0 that, and each page named here, is in /srv/salt/qubes/network/docs\n"
        "No secret belongs here: keys and passwords stay in the VPN qube.\n\n"
    )
    round_trip = YAML()
    round_trip.indent(mapping=2, sequence=4, offset=2)
    round_trip.width = 2**31
    stream = io.StringIO()
    round_trip.dump(top, stream)
    return stream.getvalue()


def _body(profile, wishes, selection, location):
    body = CommentedMap()
    body["topology"] = wishes.topology
    chain = [*(role for role, _ in TOPOLOGIES[wishes.topology].chain), "uplink"]
    _explain(body, "topology", 2, f"{' -> '.join(chain)}; others: pillar.example", gap=False)
    body["uplink"] = "sys-net"
    _explain(body, "uplink", 2, "The qube with the network hardware; it is never changed.")
    body["tunnels"] = CommentedMap({wishes.tunnel: _tunnel(profile, wishes, selection, location)})
    _explain(body, "tunnels", 2, "The VPN qubes, any number of them.")
    body["routes"] = _routes(wishes)
    _explain(
        body,
        "routes",
        2,
        "Who goes where.  dom0's default_netvm follows the topology; 'default: keep' leaves it.",
    )
    body["vaults"] = _list(wishes.vaults)
    _explain(body, "vaults", 2, "Qubes that never have a netvm.")
    if wishes.layout is not None:
        body["layout"] = _layout(wishes.layout)
        _explain(body, "layout", 2, _LAYOUT)
    return body


def _tunnel(profile, wishes, selection, location):
    tunnel = CommentedMap(kind=profile.kind)
    who = f" (it looks like {profile.provider}'s)" if profile.provider and profile.name else ""
    if profile.name:
        tunnel["profile"] = profile.name
        _explain(
            tunnel,
            "profile",
            6,
            f"The provider's file{who}.  It never comes to dom0: it belongs in\n"
            f"{wishes.tunnel}:/rw/config/vpn/credentials/",
            gap=False,
        )
    tunnel["endpoints"] = _endpoints(profile)
    _explain(
        tunnel,
        "endpoints",
        6,
        "All that the VPN qube may reach: ADDRESS:PORT/PROTOCOL, numbers only.",
        gap=False,
    )
    if selection:
        tunnel["relays"] = _selection(selection)
        _explain(
            tunnel,
            "relays",
            6,
            "How they were chosen.  Anew: qubes-vpn relays --from relays.json --refresh FILE",
            gap=False,
        )
    if location:
        tunnel["mullvad"] = CommentedMap(location=_quoted(location))
        _explain(tunnel, "mullvad", 6, "The app connects there, and only there.", gap=False)
    tunnel["template"] = wishes.template or DEFAULT_TEMPLATE
    _explain(
        tunnel,
        "template",
        6,
        "The template with the VPN software."
        if wishes.template
        else "The template with the VPN software; cloned from debian-13-minimal when missing.",
        gap=False,
    )
    tunnel["label"] = "orange"
    _explain(tunnel, "label", 6, _optional(profile, wishes), gap=False)
    return tunnel


def _optional(profile, wishes):
    """Options that are worth knowing, switched off."""
    chain = TOPOLOGIES[wishes.topology].chain
    after = [name for role, name in chain[[role for role, _ in chain].index("tunnel") + 1 :]]
    upstream = after[0] if after else "sys-net"
    return textwrap.dedent(f"""\
        More keys, with their defaults:
        interface: {INTERFACES[profile.kind]}
        log_drops: false
        upstream: {upstream}
        memory: 400
        maxmem: 600
        autostart: true""")


def _endpoints(profile):
    endpoints = CommentedSeq(found.text for found in profile.endpoints)
    quotes = 2  # around an IPv6 address; ten columns of indentation and dash
    column = 10 + max(len(found.text) for found in profile.endpoints) + quotes + 2
    for place, found in enumerate(profile.endpoints):
        endpoints.yaml_add_eol_comment(found.origin, place, column=column)
    return endpoints


def _selection(selection):
    return CommentedMap(
        {
            key: _list(map(_quoted, said)) if isinstance(said, list) else _quoted(said)
            for key, said in selection.items()
        }
    )


def _quoted(value):
    """In quotes where YAML 1.1, as Salt reads it, has another meaning: ``no`` is not Norway."""
    if not isinstance(value, str) or yaml.safe_load(value) == value:
        return value
    return DoubleQuotedScalarString(value)


def _routes(wishes):
    routes = CommentedMap(qubes=CommentedMap(wishes.routes))
    if not wishes.routes:
        routes["qubes"].fa.set_flow_style()
        _explain(
            routes,
            "qubes",
            4,
            "One line a qube, such as 'work: sys-firewall', or 'none'.",
            gap=False,
        )
    return routes


def _layout(names):
    if not names:
        return CANONICAL
    layout = CommentedMap({name: CommentedMap() for name in names})
    for each in layout.values():
        each.fa.set_flow_style()
    return layout


def _list(items):
    listed = CommentedSeq(items)
    listed.fa.set_flow_style()
    return listed


def _explain(mapping, key, indent, text, gap=True):
    """Puts *text* as a comment above *key*, after an empty line when there is a *gap*."""
    mapping.yaml_set_comment_before_after_key(
        key, before=("\n" if gap else "") + text, indent=indent
    )
