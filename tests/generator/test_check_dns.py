# SPDX-License-Identifier: GPL-2.0-or-later
"""`qubes-vpn check` of what a pillar means for clients' names (R11, R51)."""

import json

from core.pillars import pillar, tunnel

from qubes_vpn_formula.cli import main

WEB = "192.0.2.7:443/tcp"
ANSWERED = (
    "it lets no DNS through, and sys-dns answers it all the same: no list is asked for what a "
    "netvm itself answers. Add 'dns' if that is meant; else give it a firewall qube as its netvm."
)


def remarks(folder, capsys, **keys):
    """``{key: what and fix}`` of the remarks; there is no problem."""
    path = folder / "p.sls"
    path.write_text(json.dumps({"qubes_vpn": pillar(**keys)}), encoding="utf-8")
    assert main(["check", "--json", str(path)]) == 0
    lines = json.loads(capsys.readouterr().out)
    assert all(line["remark"] for line in lines)
    return {line["key"]: f"{line['what']}. {line['fix']}" for line in lines}


def test_an_allowlist_without_dns_is_a_remark(tmp_path, capsys):
    """It may be meant; behind a resolver, which answers by itself, it has names all the same."""
    routes = {"qubes": {"work": "sys-firewall", "home": "sys-vpn", "mail": "sys-dns"}}
    lists = {name: [WEB] for name in routes["qubes"]}
    assert remarks(tmp_path, capsys, routes=routes, allowlists=lists) == {
        f"qubes_vpn.allowlists.{name}": (
            f"it lets no DNS through, so it has no names behind {netvm}. If it is to have them, "
            "add 'dns'."
        )
        for name, netvm in (("work", "sys-firewall"), ("home", "sys-vpn"))
    } | {"qubes_vpn.allowlists.mail": ANSWERED}
    lists = {name: [WEB, "dns"] for name in routes["qubes"]}
    assert remarks(tmp_path, capsys, routes=routes, allowlists=lists) == {}


def test_names_need_dns_but_not_behind_a_resolver(tmp_path, capsys):
    """A name in a list is looked up by the netvm; the client's own DNS is what the list filters."""
    lists = {"work": ["bank.example:443/tcp"]}
    behind = {"qubes": {"work": "sys-dns"}}
    assert remarks(tmp_path, capsys, routes=behind, allowlists=lists) == {
        "qubes_vpn.allowlists.work": ANSWERED
    }
    path = tmp_path / "q.sls"
    document = pillar(routes={"qubes": {"work": "sys-firewall"}}, allowlists=lists)
    path.write_text(json.dumps({"qubes_vpn": document}), encoding="utf-8")
    assert main(["check", str(path)]) == 2
    assert "cannot be looked up: dns is not in the list" in capsys.readouterr().out


def test_a_resolver_past_every_tunnel_is_a_remark(tmp_path, capsys):
    """R05. Only qubes of outside_vpn can be its clients."""
    keys = {
        "topology": "custom",
        "tunnels": {"sys-vpn": tunnel(upstream="sys-net")},
        "resolvers": {"sys-dns": {"upstream": "sys-net"}, "sys-dns-2": {"upstream": "sys-vpn"}},
    }
    assert remarks(tmp_path, capsys, **keys) == {
        "qubes_vpn.resolvers.sys-dns": (
            "sys-dns -> sys-net passes no tunnel: what it asks, encrypted, too. Name an upstream "
            "behind a tunnel, unless that is meant."
        )
    }


def test_a_bank_without_its_list_is_a_remark(tmp_path, capsys):
    """R11. Offline until there is one; online without, it is as any other qube."""
    key = "qubes_vpn.layout.banking"
    assert remarks(tmp_path, capsys, layout={"banking": {}}) == {
        key: "nothing says what it may reach, so it is offline. Write its allowlist, or the netvm "
        "that it is to have without one."
    }
    assert remarks(tmp_path, capsys, layout={"banking": {"netvm": "default"}}) == {
        f"{key}.netvm": "without an allowlist it may reach everything. Write one, if it is for one "
        "bank only."
    }
    assert remarks(tmp_path, capsys, layout={"banking": {"netvm": "none"}}) == {
        key: "nothing says what it may reach, so it is offline. Write its allowlist, or the netvm "
        "that it is to have without one."
    }
    listed = {"banking": {"allowlist": [WEB, "dns"]}}
    assert remarks(tmp_path, capsys, layout=listed) == {}
