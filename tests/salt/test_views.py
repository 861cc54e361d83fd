# SPDX-License-Identifier: GPL-2.0-or-later
"""What dom0 shows of the whole machine: the table, all rules, what was dropped (R65, R66)."""

import json
import stat

import pytest
from salt.exceptions import CommandExecutionError

from qubes_vpn_formula.embedded import dom0

pytestmark = pytest.mark.one_salt
qubes_vpn_model = pytest.importorskip("qubes_vpn_model", reason="needs the core installed")
qubes_vpn_network = pytest.importorskip("qubes_vpn_network")
qubes_vpn_table = pytest.importorskip("qubes_vpn_table")
qubes_vpn_told = pytest.importorskip("qubes_vpn_told")

NFT = {"nftables": [{"metainfo": {"version": "1.1.3"}}, {"table": {"family": "inet", "name": "t"}}]}
DROP = {
    "time": 1764000000,
    "in": "vif5.0",
    "out": "eth0",
    "from": "10.137.0.10",
    "to": "192.0.2.80",
    "protocol": "TCP",
    "from_port": 43766,
    "to_port": 443,
}
DROPS = {
    "version": qubes_vpn_told.VERSION,
    "log": True,
    "rows": [DROP, {**DROP, "time": 1764000009}],
}


@pytest.fixture
def vpn(embedded):
    """sys-vpn on sys-net, running; work behind it."""
    create = b"name=sys-vpn label=orange"
    embedded.call("dom0", "admin.vm.Create.AppVM", "debian-13-xfce", create)
    embedded.call("sys-vpn", "admin.vm.property.Set", "provides_network", b"True")
    embedded.call("sys-vpn", "admin.vm.property.Set", "netvm", b"sys-net")
    embedded.call("sys-vpn", "admin.vm.feature.Set", "service.qubes-vpn", b"1")
    embedded.call("work", "admin.vm.property.Set", "netvm", b"sys-vpn")
    embedded.call("sys-vpn", "admin.vm.Start")
    return "sys-vpn"


@pytest.fixture
def answers(vpn, tmp_path, monkeypatch):
    """Makes sys-vpn answer so to each service."""

    def answer(**told):
        program = tmp_path / "qrexec"
        cases = []
        for service, data in told.items():
            (tmp_path / service).write_bytes(data)
            cases.append(f"sys-vpn:qubes-vpn.{service}) cat {tmp_path / service};;\n")
        program.write_text(f'#!/bin/sh\ncase "$1:$2" in\n{"".join(cases)}*) exit 127;;\nesac\n')
        program.chmod(0o755)
        monkeypatch.setenv("QUBES_VPN_QREXEC", str(program))

    return answer


def plain(data):
    return json.dumps(data).encode()


def test_the_table(modules, embedded, vpn):
    embedded.forget_calls()
    shown = modules.qubes_vpn.table().splitlines()
    assert shown[0].split() == ["QUBE", "ADDRESS", "NETVM", "EXIT", "EXIT", "ADDRESS"]
    rows = {row["qube"]: row for row in modules.qubes_vpn.table(form="data")}
    address = embedded.call("work", "admin.vm.property.Get", "ip").decode().split()[-1]
    assert rows["work"] == {
        "qube": "work",
        "address": address,
        "netvm": "sys-vpn",
        "exit": "sys-vpn",
        "exit address": "not asked",
    }
    assert rows["personal"]["exit"] == "IN CLEAR by sys-net"
    assert (rows["vault"]["exit"], rows["vault"]["address"]) == ("offline", "-")
    assert embedded.writes() == []


def test_who_sees_what(modules, vpn):
    """R70, R88: by the machine's wiring, without a pillar."""
    shown = modules.qubes_vpn.observers()
    assert "work -> sys-vpn -> sys-net\n" in shown
    assert "Both who you are and where you go: the VPN provider of sys-vpn." in shown
    ways = {tuple(way["clients"]): way for way in modules.qubes_vpn.observers(form="data")}
    line, provider, _ = ways["work",]["observers"]
    assert line["sees"] == ["address", "vpn"]
    assert provider["sees"] == ["address", "account", "vpn", "destinations", "names"]


def test_the_rules_of_dom0_and_of_the_qubes(modules, answers, tmp_path):
    answers(Rules=plain(NFT))
    path = tmp_path / "rules.json"
    assert modules.qubes_vpn.rules(str(path)).endswith("firewall lists, the rules of 1 qubes")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = json.loads(path.read_text())
    assert (found["format"], found["version"]) == ("qubes-vpn rules", 1)
    assert found["lists"]["work"] == ["action=accept"]
    assert found["loaded"] == {"sys-vpn": NFT["nftables"]}
    assert found["silent"] == {}


def test_a_qube_that_does_not_run_is_not_asked_and_not_started(modules, embedded, answers):
    answers(Rules=plain(NFT), Drops=plain(DROPS))
    embedded.call("sys-vpn", "admin.vm.Kill")
    embedded.forget_calls()
    assert "does not run" in modules.qubes_vpn.rules()["silent"]["sys-vpn"]
    assert "sys-vpn: does not run" in modules.qubes_vpn.drops()
    assert embedded.writes() == []


@pytest.mark.parametrize(
    "hostile",
    [
        b"",
        b"\x1b[2J",
        b"[]",
        b'{"nftables": ["\\u001b[2J"]}',
        b'{"nftables": [{"rule": {"comment": "\\u001b]0;x\\u0007"}}]}',
        b'{"nftables": ' + b"[" * 100000,
        b'{"nftables": [{"a": ' + b"[" * 100 + b"]" * 100 + b"}]}",
        b'{"nftables": [{"a": NaN}]}',
        b'{"nftables": [{"a": 1e999}]}',
        b'{"nftables": [{"a": -' + b"9" * 4000 + b"}]}",
        plain({**DROPS, "rows": [{**DROP, "protocol": "\x1b[2J"}]}),
        plain({**DROPS, "rows": [DROP] * 2000}),
        b"x" * 20_000_000,
    ],
    ids=range(13),
)
def test_a_hostile_qube_shows_nothing_of_its_own(modules, answers, hostile):
    answers(Rules=hostile, Drops=hostile)
    rules = modules.qubes_vpn.rules()
    assert rules["loaded"] == {}
    shown = rules["silent"]["sys-vpn"] + modules.qubes_vpn.drops()
    assert shown.replace("\n", "").isprintable()
    assert "sys-vpn: " in modules.qubes_vpn.drops()


def test_what_was_dropped(modules, answers, embedded):
    address = embedded.call("work", "admin.vm.property.Get", "ip").decode().split()[-1]
    packets = [{**one, "from": address} for one in DROPS["rows"]]
    answers(Drops=plain({**DROPS, "rows": packets}))
    (row,) = modules.qubes_vpn.drops(form="data")["rows"]
    assert (row["from"], row["to"], row["port"]) == ("work", "192.0.2.80", 443)
    assert (row["times"], row["last"]) == (2, 1764000009)
    answers(Drops=plain({**DROPS, "log": False, "rows": []}))
    assert modules.qubes_vpn.drops() == (
        "sys-vpn: its rules note nothing (pillar: log_drops, of a tunnel)."
    )


@pytest.mark.parametrize("function", ["table", "drops"])
def test_a_form_that_there_is_not(modules, function):
    with pytest.raises(CommandExecutionError, match="write text or data"):
        getattr(modules.qubes_vpn, function)(form="xml")


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (
            b'[{"address": "198.51.100.7", "provider": null, "of": "203.0.113.80"},'
            b' {"error": "none"}]',
            None,
        ),
        (b'[{"error": "silence"}, {"error": "none"}]', "no answer"),
        (
            b'[{"address": "\\u001b[2J", "provider": null, "of": "203.0.113.80"},'
            b' {"error": "none"}]',
            "no answer",
        ),
        (b"\x1b[2J", "no answer"),
    ],
    ids=["seen", "silent", "escape", "garbage"],
)
def test_as_whom_the_world_sees_a_tunnel(
    modules, embedded, vpn, tmp_path, monkeypatch, answer, shown
):
    """By a stand-in for the qube that answers so, whatever it is asked."""
    (tmp_path / "answer").write_bytes(answer)
    program = tmp_path / "qrexec"
    program.write_text(f"#!/bin/sh\ncat >/dev/null; cat {tmp_path / 'answer'}\n")
    program.chmod(0o755)
    monkeypatch.setenv("QUBES_VPN_QREXEC", str(program))
    import qubes_vpn_exits
    from qubes_vpn_qubesd import connect

    tunnel = {"kind": "wireguard", "profile": "a.conf", "endpoints": ["192.0.2.1:51820/udp"]}
    model = qubes_vpn_model.build({"tunnels": {"sys-vpn": tunnel}})
    seen = qubes_vpn_exits.exits(connect(), model, lambda _: True)
    assert seen == {"sys-vpn": shown or "198.51.100.7"}
    assert qubes_vpn_exits.exits(connect(), model, lambda _: False) == {}
    machine = dom0.machine(embedded.path, dry=True)
    rows = {row["qube"]: row for row in qubes_vpn_table.rows(qubes_vpn_network.look(machine), seen)}
    assert rows["work"]["exit address"] == seen["sys-vpn"]
    assert rows["personal"]["exit address"] == "not asked"


@pytest.fixture
def asked(vpn, tmp_path, monkeypatch):
    """What sys-vpn, which the world sees as 198.51.100.7, was asked; for each `salt_call` after."""
    page = {"address": "198.51.100.7", "provider": None, "of": "203.0.113.80"}
    program = tmp_path / "qrexec"
    program.write_text(
        f"#!/bin/sh\ncat >{tmp_path}/asked; echo '{json.dumps([page, {'error': 'none'}])}'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("QUBES_VPN_QREXEC", str(program))
    return tmp_path / "asked"


def test_a_whole_run_asks_as_whom_the_world_sees_a_tunnel(asked, salt_call):
    """As `qubesctl qubes_vpn.table ask=True` does it, by the pillar of the minion."""
    tunnel = {"kind": "wireguard", "profile": "a.conf", "endpoints": ["192.0.2.1:51820/udp"]}
    check = {"url": "https://check.example/ip", "exits": ["198.51.100.0/24"]}
    pillar = {"tunnels": {"sys-vpn": tunnel}, "tests": {"checks": {"sys-vpn": check}}}
    for words, shown in ((["ask=True"], "198.51.100.7"), ([], "not asked")):
        done = salt_call("qubes_vpn.table", "form=data", *words, pillar=pillar)
        assert done.returncode == 0, done.stderr
        rows = {row["qube"]: row["exit address"] for row in done.data}
        assert (rows["work"], rows["personal"]) == (shown, "not asked")
    assert "https://check.example/ip" in asked.read_text()
    assert "198.51.100.7" in salt_call("qubes_vpn.table", "ask=True", pillar=pillar).data
