# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults that leak nothing and break what should work; for the attacks of the section Service."""

from qubes_vpn_formula.lab.mutants.edits import swap, without, wrap
from qubes_vpn_formula.lab.mutants.mutant import mutant
from qubes_vpn_formula.lab.mutants.paths import CLOSED, EARLY, HOOK, OPEN, core

_FLAG = "ConditionPathExists=/run/qubes-service/qubes-vpn\n"

MUTANTS = [
    mutant(
        "replies-dropped",
        "what comes out of the tunnel is dropped, replies too (as in s1's rule)",
        without("forward", "iifname @tunnel_names .*jump answers"),
        "W01",
    ),
    mutant(
        "no-endpoints",
        "the endpoints are not put into the sets",
        swap(core("ruleset"), "        text += _elements(name, elements)\n", "        pass\n"),
        "W01",
    ),
    mutant(
        "crlf-refused",
        "a line that ends as on Windows is an error",
        swap(core("endpoints"), '.removesuffix("\\r")', ""),
        "I06",
    ),
    mutant(
        "silent-drop",
        "clients are not told",
        swap(CLOSED, "counter reject with icmpx type admin-prohibited", "counter drop"),
        "W02",
    ),
    mutant(
        "closes-while-loading",
        "a load closes first",
        wrap("close-first"),
        "W03",
    ),
    mutant(
        "no-path-mtu",
        "errors about a flow are dropped, path-MTU messages among them",
        without("answers", "ct direction reply ct state related"),
        "W04",
    ),
    mutant("no-mss-clamp", "no MSS clamp", without("forward", ".*maxseg size set rt mtu"), "W05"),
    mutant(
        "flag-ignored",
        "every qube of the template is closed, with or without the service flag",
        [
            swap(EARLY, _FLAG, ""),
            swap(OPEN, _FLAG, ""),
            swap(HOOK, "[ ! -e /run/qubes-service/qubes-vpn ] || ", ""),
        ],
        "W06",
    ),
    mutant(
        "tunnel-by-index",
        "the tunnel is named by its index, so that it must be there when the rules are loaded",
        [
            swap(CLOSED, "tunnel_names { type ifname; }", "tunnel_names { type iface_index; }"),
            swap(
                CLOSED,
                "set tunnel_names {\n\t\ttype ifname\n",
                "set tunnel_names {\n\t\ttype iface_index\n",
            ),
            swap(CLOSED, "oifname @tunnel_names", "oif @tunnel_names"),
            swap(CLOSED, "iifname @tunnel_names", "iif @tunnel_names"),
        ],
        "W07",
    ),
    mutant(
        "log-unlimited",
        "the log has no limit",
        swap(core("ruleset"), "limit rate 10/second burst 20 packets ", ""),
        "W08",
    ),
]
