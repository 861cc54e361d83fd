# SPDX-License-Identifier: GPL-2.0-or-later
"""A qube that stands for Whonix' gateway: a real tor, and rules of ours in place of Whonix'.

As in whonix-firewall 64ef2fc (usr/bin/whonix-gateway-firewall, usr/libexec/whonix-firewall/
firewall-common): from clients, DNS over UDP goes to tor's DNSPort 5300 and each TCP connection to
its TransPort 9040, nothing is forwarded, and only tor's own packets leave.  Not as there: tor is
known by its group (there by its user), IPv6 of clients is refused, no SOCKS ports, no time
synchronisation, and the rules are one table more beside Qubes'.
"""

import time
from pathlib import Path

from qubes_vpn_formula.lab.qube import SLOWNESS, CommandFailed, Process, Qube
from qubes_vpn_formula.lab.tornet import TorNetwork

_GROUP = 64_000  # nobody else's
_FOLDER = Path("/run/tor")
_PATIENCE = 60.0 * SLOWNESS
#: One priority before Qubes' own translation of DNS, whatever order they were loaded in.
RULES = f"""
add table inet tor_gateway
delete table inet tor_gateway
table inet tor_gateway {{
	chain prerouting {{
		type nat hook prerouting priority dstnat - 1; policy accept;
		iifname != "vif*" return
		meta nfproto ipv4 udp dport 53 redirect to :5300
		meta nfproto ipv4 tcp flags & (fin | syn | rst | ack) == syn redirect to :9040
	}}
	chain input {{
		type filter hook input priority filter - 1; policy drop;
		iif lo accept
		ct state established,related accept
		iifname "vif*" udp dport 5300 accept
		iifname "vif*" tcp dport 9040 accept
		icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
	}}
	chain forward {{
		type filter hook forward priority filter - 1; policy drop;
	}}
	chain output {{
		type filter hook output priority filter - 1; policy drop;
		oif lo accept
		ct state established,related accept
		meta skgid {_GROUP} accept
		icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
	}}
}}
"""
#: Qubes' own table refuses what comes in from clients; so does its custom chain not.
_LET_IN = 'nft add rule ip qubes custom-input iifname "vif*" {} dport {} accept'


class Gateway:
    """The qube, which has not booted.  network: whose client its tor is."""

    def __init__(self, qube: Qube, network: TorNetwork) -> None:
        self.qube, self._network = qube, network
        self._tor: Process | None = None

    def close_up(self, rules: str = RULES) -> None:
        """The rules, before anything else is up."""
        self.qube.run(["nft", "-f", "-"], input=rules)

    def up(self) -> None:
        """Starts tor in the qube, which has booted; does not wait."""
        for protocol, port in (("udp", 5300), ("tcp", 9040)):
            self.qube.run(_LET_IN.format(protocol, port))
        ports = "DNSPort 0.0.0.0:5300\nTransPort 0.0.0.0:9040\n"
        words = ("setpriv", f"--regid={_GROUP}", "--clear-groups")
        lines = self._network.client() + ports
        self._tor = self._network.run(self.qube, _FOLDER, lines, *words)

    def ready(self) -> None:
        """Waits until tor has a way through the network.  Raises :class:`CommandFailed`."""
        end = time.monotonic() + _PATIENCE
        while "Bootstrapped 100%" not in (log := self._log()):
            if time.monotonic() > end:
                raise CommandFailed(f"{self.qube.name}: no way through Tor: {log[-1000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL for tor."""
        if self._tor:
            self._tor.kill()
            self._tor.wait()
            self._tor = None

    def _log(self) -> str:
        return self.qube.run(["cat", f"{_FOLDER}/log"], check=False).stdout
