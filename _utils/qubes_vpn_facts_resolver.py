# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts of a resolver qube: its rules, and whether dnscrypt-proxy answers real questions."""

import qubes_vpn_dns_ask
import qubes_vpn_dns_health
import qubes_vpn_dns_own
import qubes_vpn_dns_watch
import qubes_vpn_resolver


def facts():
    """``resolver`` of ``qubes_vpn_told.STATUS``; what is a VPN qube's is not here."""
    report = qubes_vpn_resolver.status()
    why = qubes_vpn_dns_ask.ask(qubes_vpn_dns_watch.PATIENCE)
    found = {
        "state": report["state"],
        "problems": len(report["problems"]),
        "drift": len(report["drift"]),
        "answers": why is None,
        "causes": [cause for cause, _ in qubes_vpn_dns_health.causes(why)],
        "own_names": not qubes_vpn_dns_own.problems(),
        "counters": report.get("counters"),
    }
    return {"killswitch": None, "tunnel": None, "mullvad": None, "dns": None, "resolver": found}
