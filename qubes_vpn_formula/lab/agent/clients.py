# SPDX-License-Identifier: GPL-2.0-or-later
"""qubes-firewall's own table: what dom0 allows each client, as nft text (facts 5, 6).

Pure: from Qubes' `/qubes-firewall/ADDRESS/...` entries to rules.  The grammar is the part that the
lab uses: action, proto, dst4, dst6, dstports, specialtarget, icmptype; no host names.
"""

from collections.abc import Sequence

_TABLE = """
table {family} qubes-firewall {{
	set dns-addr {{
		type {set_type}
	}}
	chain qubes-forward {{
	}}
	chain forward {{
		type filter hook forward priority filter; policy drop;
		ct state established,related accept
		iifname != "vif*" accept
		jump qubes-forward
	}}
	chain prerouting {{
		type filter hook prerouting priority raw; policy accept;
	}}
	chain postrouting {{
		type filter hook postrouting priority raw; policy accept;
	}}
}}
"""


def tables() -> str:
    """Both tables as the service starts with them: whatever comes from a client is dropped."""
    return _TABLE.format(family="ip", set_type="ipv4_addr") + _TABLE.format(
        family="ip6", set_type="ipv6_addr"
    )


def family_of(address: str) -> str:
    """`ip` or `ip6`, which are nft's words."""
    return "ip6" if ":" in address else "ip"


def chain_of(address: str) -> str:
    """The name of a client's chain."""
    return "qbs-" + address.replace(".", "-").replace(":", "-")


def addresses(database: dict[str, str]) -> list[str]:
    """The clients that dom0 has rules for."""
    return sorted({key.split("/")[2] for key in database if key.startswith("/qubes-firewall/")})


def hook(address: str) -> str:
    """A chain for a client, and the jump to it: once for each start of the service."""
    family, chain = family_of(address), chain_of(address)
    return (
        f"add chain {family} qubes-firewall {chain}\n"
        f"add rule {family} qubes-firewall qubes-forward {family} saddr {address} jump {chain}\n"
    )


def rules(address: str, database: dict[str, str], resolvers: Sequence[str]) -> str:
    """The text that replaces a client's rules; its end is dom0's policy.

    resolvers: the netvm's own, which `specialtarget=dns` means.
    """
    family, chain = family_of(address), chain_of(address)
    prefix = f"/qubes-firewall/{address}/"
    entries = {key[len(prefix) :]: text for key, text in database.items() if key.startswith(prefix)}
    policy = entries.pop("policy")
    listed = [dict(word.split("=") for word in entries[key].split()) for key in sorted(entries)]
    lines = [f"flush chain {family} qubes-firewall {chain}"]
    lines.append(f"flush set {family} qubes-firewall dns-addr")
    own = [resolver for resolver in resolvers if family_of(resolver) == family]
    if own:
        lines.append(f"add element {family} qubes-firewall dns-addr {{ {', '.join(own)} }}")
    for rule in [*listed, {"action": policy}]:
        lines += [
            f"add rule {family} qubes-firewall {chain} {text}" for text in _statements(rule, family)
        ]
    return "\n".join(lines) + "\n"


def _statements(rule: dict[str, str], family: str) -> list[str]:
    """A rule of dom0's; one with ports and no protocol is two of nft's."""
    icmp = "icmpv6" if family == "ip6" else "icmp"
    verdict = (
        "accept" if rule["action"] == "accept" else f"reject with {icmp} type admin-prohibited"
    )
    words = []
    protocol = icmp if rule.get("proto") == "icmp" else rule.get("proto")
    if protocol:
        words.append(f"ip6 nexthdr {protocol}" if family == "ip6" else f"ip protocol {protocol}")
    for key in ("dst4", "dst6"):
        if key in rule:
            words.append(f"{family} daddr {rule[key]}")
    ports = rule.get("dstports")
    if ports and len(set(ports.split("-"))) == 1:
        ports = ports.split("-")[0]
    if rule.get("specialtarget") == "dns":
        if ports not in (None, "53"):
            return []
        ports = "53"
        words.append(f"{family} daddr @dns-addr")
    if "icmptype" in rule:
        words.append(f"{icmp} type {rule['icmptype']}")
    if not ports:
        return [" ".join([*words, verdict])]
    both = [protocol] if protocol else ["tcp", "udp"]
    return [" ".join([*words, f"{name} dport {ports}", verdict]) for name in both]


def connected(database: dict[str, str]) -> str:
    """No other link may carry the addresses of the clients that are connected."""
    lines = []
    for family, key in (("ip", "/connected-ips"), ("ip6", "/connected-ips6")):
        table = f"{family} qubes-firewall"
        lines += [f"flush chain {table} prerouting", f"flush chain {table} postrouting"]
        listed = ", ".join(database.get(key, "").split())
        if listed:
            other = f"{family} saddr {{ {listed} }} drop", f"{family} daddr {{ {listed} }} drop"
            lines += [
                f'add rule {table} prerouting iifname != "vif*" {other[0]}',
                f'add rule {table} postrouting oifname != "vif*" {other[1]}',
            ]
    return "\n".join(lines) + "\n"
