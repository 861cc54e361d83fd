# SPDX-License-Identifier: GPL-2.0-or-later
"""Attacks by rules and scripts of others, written to /rw as a user would (R41, R46)."""

from qubes_vpn_formula.lab import senders
from qubes_vpn_formula.lab.attacks import Section
from qubes_vpn_formula.lab.cell import Cell
from qubes_vpn_formula.lab.machine import SERVER, Lab

section = Section("Other people's rules")

_USER_SCRIPT = "/rw/config/qubes-firewall-user-script"
_HOOKS = "/etc/qubes/qubes-firewall.d/* /rw/config/qubes-firewall.d/* " + _USER_SCRIPT
_RUN_ONE = f'for hook in {_HOOKS}; do [ ! -x "$hook" ] || "$hook"; done'
_TABLES = ("inet qubes_vpn", "netdev qubes_vpn")
_PORT = 7777

_ACCEPT_IN_QUBES_CHAINS = """#!/bin/sh
for family in ip ip6; do
    for chain in custom-forward custom-input; do
        nft flush chain $family qubes $chain
        nft add rule $family qubes $chain accept
    done
done
"""
#: What a VPN's program has of its own while it is connected, as it were made to let all pass.
_VPN_PROGRAM = """
table inet mullvad
delete table inet mullvad
table inet mullvad {
	chain output {
		type filter hook output priority filter; policy accept;
		meta mark set 0x6d6f6c65 accept
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		accept
	}
	chain nat {
		type nat hook postrouting priority srcnat; policy accept;
		oifname "eth0" masquerade
	}
}
"""
#: Scripts of a user's that do not do what a script should: what puts each there.
_BROKEN_SCRIPTS = {
    "exits 1": f"printf '#!/bin/sh\\nexit 1\\n' >{_USER_SCRIPT}",
    "never ends": f"printf '#!/bin/sh\\nexec sleep 1000\\n' >{_USER_SCRIPT}",
    "is a syntax error": f"printf '#!/bin/sh\\nif then fi (\\n' >{_USER_SCRIPT}",
    "is a directory": f"mkdir {_USER_SCRIPT}",
}


@section.attack("K01", "the user's script accepts all in Qubes' chains", "OUT", "IN", fast=True)
def qubes_chains(cell: Cell) -> None:
    """After flushing them; then upstream sends to a client."""
    cell.start(before=lambda lab: _write(lab, _ACCEPT_IN_QUBES_CHAINS))
    _listening_clients(cell)
    cell.tunnel_down()
    cell.salvo("all", "user script")
    _upstream_to_client(cell)


@section.attack("K02", "tables of others accept everything", "OUT")
def other_tables(cell: Cell) -> None:
    """Before and behind ours, in each hook; by iptables; by a program that comes and goes."""
    cell.start()
    cell.tunnel_down()
    chains = [
        f"chain {hook}{number} {{ type filter hook {hook} priority {priority};"
        " policy accept; accept; }"
        for hook in ("prerouting", "input", "forward", "output", "postrouting")
        for number, priority in enumerate(("-300", "filter - 20", "filter", "300"))
    ]
    cell.vpn.run(["nft", "-f", "-"], input="table inet open {\n" + "\n".join(chains) + "\n}\n")
    cell.salvo("all", "chains that accept")
    # As iptables-nft makes them: its own tables, with the old names.
    for family in ("ip", "ip6"):
        chains = [
            f"chain {name} {{ type filter hook {name.lower()} priority filter; policy accept;"
            " accept; }"
            for name in ("INPUT", "FORWARD", "OUTPUT")
        ]
        text = f"table {family} filter {{\n" + "\n".join(chains) + "\n}\n"
        cell.vpn.run(["nft", "-f", "-"], input=text)
    cell.salvo("all", "tables as iptables makes them")
    with cell.flood(cell.client, "a program's rules come and go, flood"):
        for _ in range(5):
            cell.vpn.run(["nft", "-f", "-"], input=_VPN_PROGRAM)
            cell.salvo("own", "a program's rules are there")
            cell.vpn.run(["nft", "delete", "table", "inet", "mullvad"])
    cell.salvo("all", "a program's rules are gone")


@section.attack("K03", "the user's script does not do what it should", "OUT")
def broken_scripts(cell: Cell) -> None:
    """The qube boots on; forwarding is on from the start, and each window is looked into."""
    cell.agent.patience = 2  # seconds; systemd's 90 would prove no more
    for name, command in _BROKEN_SCRIPTS.items():

        def prepare(lab: Lab, command: str = command) -> None:
            vpn = lab.qubes["sys-vpn"]
            vpn.run(f"{command}; chmod 755 {_USER_SCRIPT}")
            vpn.run("echo 1 >/proc/sys/net/ipv4/ip_forward")

        def look(unit: str, name: str = name) -> None:
            if unit in ("qubes-firewall.service", "qubes-network.service", "network.target"):
                marker = cell.phase(f"script {name}, after {unit}")
                jobs = [senders.udp(to, 443, marker) for to in SERVER.values()]
                cell.send(cell.vpn, *jobs, routed=False)

        cell.start(before=prepare, between=look)
        cell.tunnel_down()
        cell.salvo("all", f"script {name}")


@section.attack("K04", "hook and scripts again and again", "OUT", "STATE")
def again(cell: Cell) -> None:
    """In a row, then many at once, during floods: rules do not grow."""
    cell.start(before=lambda lab: _write(lab, _ACCEPT_IN_QUBES_CHAINS))
    cell.tunnel_down()
    before = _rules(cell)
    with cell.flood(cell.client, "client's flood", 500), cell.flood(cell.vpn, "own flood", 500):
        cell.repeat(_RUN_ONE, 50)
        cell.vpn.run(f"for n in $(seq 20); do ({_RUN_ONE}) & done; wait", timeout=90)
    cell.require(_rules(cell) == before, "the rules are not those of the first load")
    cell.salvo("all", "after many loads")


@section.attack("K05", "our table deleted, our chains and sets changed", "OUT", "STATE", fast=True)
def changed(cell: Cell) -> None:
    """After the next start of qubes-firewall nothing of it is left."""
    cell.start()
    before = _rules(cell)
    cell.tunnel_down()
    with cell.unguarded():
        cell.vpn.run("".join(f"nft delete table {table}; " for table in _TABLES), check=False)
        cell.lab.agent.firewall_restart(cell.vpn)
    cell.salvo("all", "after the table was deleted")
    cell.require(_rules(cell) == before, "the deleted table did not come back as it was")
    chains = ("input", "forward", "output", "postrouting", "from_client", "client_out")
    ours = "inet qubes_vpn"
    gates = "nft list table netdev qubes_vpn | sed -n 's/.*chain \\(.*\\) {/\\1/p'"
    with cell.unguarded():
        cell.vpn.run(
            "".join(f"nft insert rule {ours} {chain} accept; " for chain in chains)
            + f"nft add element {ours} endpoints4 {{ {SERVER[4]} . udp . 443 }};"
            f" nft add element {ours} endpoints6 {{ {SERVER[6]} . tcp . 443 }};"
            f' nft add element {ours} tunnel_names {{ "eth0" }};'
            f" nft add chain {ours} theirs; nft add rule {ours} theirs accept;"
            f" for gate in $({gates}); do nft insert rule netdev qubes_vpn $gate accept; done",
            check=False,
        )
        cell.lab.agent.firewall_restart(cell.vpn)
    cell.salvo("all", "after rules and elements were added")
    cell.require(_rules(cell) == before, "rules or elements that were added are still there")


def _write(lab: Lab, script: str) -> None:
    """The user's script, in the first VPN qube."""
    lab.qubes[next(iter(lab.tunnels))].write(_USER_SCRIPT, script, 0o755)


def _rules(cell: Cell) -> str:
    """Our tables as they are loaded, without counters."""
    words = "; ".join(f"nft -s list table {table}" for table in _TABLES)
    return cell.vpn.run(words, check=False).stdout


def _listening_clients(cell: Cell) -> None:
    """Programs on a client, behind nothing but the VPN qube's rules."""
    for family in ("ip", "ip6"):
        cell.client.run(["nft", "insert", "rule", family, "qubes", "custom-input", "accept"])
    for address in cell.lab.addresses("client-1"):
        cell.listen(cell.client, address, _PORT)


def _upstream_to_client(cell: Cell) -> None:
    """Unasked, to its addresses."""
    marker = cell.phase("upstream to a client")
    upstream, device = cell.lab.qubes["sys-firewall"], cell.lab.vif("sys-vpn")
    pairs = zip(cell.lab.addresses("client-1"), cell.lab.addresses("sys-vpn"), strict=True)
    for client, vpn in pairs:
        upstream.run(["ip", "route", "replace", client, "via", vpn, "dev", device, "onlink"])
        cell.send(
            upstream,
            senders.udp(client, _PORT, marker, count=2),
            senders.tcp(client, _PORT, marker),
            senders.echo(client, marker),
        )
