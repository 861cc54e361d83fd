# SPDX-License-Identifier: GPL-2.0-or-later
"""R41, R83, R90: the lab's Qubes is Qubes.

With QUBES_SRC, the rules, scripts and unit files of qubes-core-agent-linux run in one qube, our
restatement in another, step by step alike; then both are compared.  What the killswitch relies on
is asked of the real ones by itself.
"""

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from qubes_vpn_formula.lab import boot, chains
from qubes_vpn_formula.lab.agent import Agent, checkout
from qubes_vpn_formula.lab.agent.real import Real
from qubes_vpn_formula.lab.agent.restated import Restated
from qubes_vpn_formula.lab.machine import SERVER, Lab
from qubes_vpn_formula.lab.qube import CommandFailed, Qube

OWN = ("10.137.0.20", "fd09:24ef:4179::a89:14")
UPSTREAM = ("10.137.0.10", "fd09:24ef:4179::a89:a")
CLIENTS = {
    "vif5.0": ["10.137.0.5", "fd09:24ef:4179::a89:5"],
    "vif6.0": ["10.137.0.6", "fd09:24ef:4179::a89:6"],
}
QUBESDB = {
    "/qubes-ip": OWN[0],
    "/qubes-ip6": OWN[1],
    "/qubes-netmask": "255.255.255.255",
    "/qubes-gateway": UPSTREAM[0],
    "/qubes-gateway6": UPSTREAM[1],
    "/qubes-primary-dns": "10.139.1.1",
    "/qubes-secondary-dns": "10.139.1.2",
    "/qubes-netvm-network": OWN[0],
    "/qubes-netvm-gateway": OWN[0],
    "/qubes-netvm-gateway6": OWN[1],
    "/qubes-netvm-primary-dns": "10.139.1.1",
    "/qubes-netvm-secondary-dns": "10.139.1.2",
}
#: One list of every kind of rule that the restatement knows (fact 5).
RULES = [
    "action=accept dst4=192.0.2.7/32 proto=tcp dstports=443-443",
    "action=accept dst4=198.51.100.0/24 proto=udp dstports=1000-2000",
    "action=accept dst4=192.0.2.8/32 dstports=8080-8080",
    "action=accept dst4=192.0.2.9/32 proto=tcp",
    "action=accept specialtarget=dns",
    "action=accept specialtarget=dns dstports=53",
    "action=accept proto=icmp icmptype=8",
    "action=drop proto=icmp",
    "action=drop dst4=203.0.113.0/24",
]
RULES6 = [
    "action=accept dst6=2001:db8::7/128 proto=tcp dstports=443-443",
    "action=accept proto=icmp",
    "action=accept specialtarget=dns",
]
HOOK = "/etc/qubes/qubes-firewall.d/50-note"
RW_HOOK = "/rw/config/qubes-firewall.d/50-note"
USER_SCRIPT = "/rw/config/qubes-firewall-user-script"


@pytest.fixture(scope="module")
def source() -> Path:
    try:
        found = checkout.find()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    if found is None:
        pytest.skip("QUBES_SRC does not name a folder with a checkout of qubes-core-agent-linux")
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")
    return found


@pytest.fixture
def real(source: Path) -> Real:
    return Real(source)


@pytest.fixture
def qube() -> Iterator[Qube]:
    with Qube("sys-vpn") as qube:
        _wire(qube)
        yield qube


def _wire(qube: Qube) -> None:
    """An uplink and two clients' links, whose other ends lie in the qube too: nothing is sent."""
    qube.qubesdb.update(QUBESDB)
    for flag in ("qubes-firewall", "qubes-network"):
        qube.write(f"/run/qubes-service/{flag}", "")
    for device in ("eth0", *CLIENTS):
        qube.run(f"ip link add {device} type veth peer far-{device} && ip link set far-{device} up")


def _list(qube: Qube, address: str, rules: list[str], policy: str = "drop") -> None:
    entries = {f"{number:04}": rule for number, rule in enumerate(rules)}
    for key, value in (entries | {"policy": policy}).items():
        qube.qubesdb[f"/qubes-firewall/{address}/{key}"] = value


def _connect(agent: Agent, qube: Qube, device: str) -> None:
    """A client comes: dom0 names it and its rules, the backend brings its link up."""
    four, six = CLIENTS[device]
    for key, address in (("/connected-ips", four), ("/connected-ips6", six)):
        qube.qubesdb[key] = f"{qube.qubesdb.get(key, '')} {address}".strip()
    _list(qube, four, RULES)
    _list(qube, six, RULES6)
    agent.firewall_changed(qube)
    agent.vif(qube, device, CLIENTS[device], "online")


def _start(agent: Agent, qube: Qube) -> None:
    agent.antispoof(qube)
    agent.base(qube)
    agent.uplink(qube, "eth0")
    agent.firewall_start(qube)
    agent.network(qube)
    for device in CLIENTS:
        _connect(agent, qube, device)


def _rules(qube: Qube) -> dict[str, object]:
    """The rule set by place, without what two equal ones may differ in.

    That is: handles, counts, the order in which tables, chains and sets were made, the order of a
    set's elements, and the order of the clients' jumps (the worker takes them from a Python set;
    each is for another address).
    """
    listed = json.loads(qube.run(["nft", "--json", "list", "ruleset"]).stdout)["nftables"]
    found: dict[str, object] = {}
    for entry in listed:
        ((kind, thing),) = entry.items()
        if kind == "metainfo":
            continue
        thing = _bare(thing)
        place = f"{thing['family']} {thing.get('table', thing.get('name'))}"
        if kind == "rule":
            found.setdefault(f"{place} rules of {thing['chain']}", []).append(thing["expr"])
        else:
            found[f"{place} {kind} {thing['name']}"] = thing
    for place in [place for place in found if place.endswith(" qubes-forward")]:
        found[place] = sorted(found[place], key=json.dumps) if "rules of" in place else found[place]
    return found


def _bare(value: object) -> object:
    if isinstance(value, list):
        return [_bare(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: sorted((_bare(one) for one in inner), key=json.dumps)
        if key in ("elem", "set") and isinstance(inner, list)
        else _bare(inner)
        for key, inner in value.items()
        if key not in ("handle", "packets", "bytes")
    }


def _network(qube: Qube) -> dict[str, list[str]]:
    """Addresses, routes, neighbours, groups and switches, in `ip`'s words, sorted."""
    asked = {
        "addresses": "ip -o address show scope global | awk '{print $2, $3, $4}'",
        "routes": "ip -4 route; ip -6 route show | grep -v ^fe80",
        "neighbours": "ip neighbour show nud permanent",
        "links": "ip -o link show up | grep -o ' [a-z0-9.]*@.* group [a-z0-9]*'",
        "switches": "cd /proc/sys/net; for one in ipv4/ip_forward ipv6/conf/all/forwarding"
        " ipv4/conf/vif*/proxy_arp ipv6/conf/vif*/proxy_ndp; do echo $one $(cat $one); done",
        "resolv.conf": "cat /etc/resolv.conf",
    }
    return {name: sorted(qube.run(shell).stdout.splitlines()) for name, shell in asked.items()}


@pytest.fixture(scope="module")
def pair(source: Path) -> Iterator[list[tuple[Agent, Qube]]]:
    """The restated and the real agent, each with a qube that has come up by the same steps."""
    with ExitStack() as stack:
        agents = (Restated(), Real(source))
        both = [(agent, stack.enter_context(Qube("sys-vpn"))) for agent in agents]
        for agent, qube in both:
            _wire(qube)
            _start(agent, qube)
        yield both


def _agree(pair: list[tuple[Agent, Qube]]) -> None:
    (_, restated), (_, real) = pair
    assert _differences(_rules(restated), _rules(real)) == {}
    assert _differences(_network(restated), _network(real)) == {}


def _differences(restated: dict[str, object], real: dict[str, object]) -> dict[str, object]:
    return {
        place: {"restated": restated.get(place), "real": real.get(place)}
        for place in restated.keys() | real.keys()
        if restated.get(place) != real.get(place)
    }


def test_restated_and_real_agree_after_start(pair):
    _agree(pair)
    rules = _rules(pair[1][1])
    # The comparison is of something: clients' rules, DNS, antispoofing are there.
    for part in ("qbs-10-137-0-5", "dnat-dns", "set allowed", "custom-forward", "qubes-accel"):
        assert any(part in place for place in rules), part
    assert not any("output" in place for place in rules)


STEPS = {
    "dnat again": lambda agent, qube: agent.dnat(qube),
    "dnat, another resolver": lambda agent, qube: (
        qube.write("/etc/resolv.conf", "nameserver 10.64.0.1\n"),
        agent.dnat(qube),
    ),
    "dnat, no resolver": lambda agent, qube: (
        qube.write("/etc/resolv.conf", "# none\n"),
        agent.dnat(qube),
    ),
    "reload": lambda agent, qube: agent.firewall_reload(qube),
    "restart": lambda agent, qube: agent.firewall_restart(qube),
    "a client's list changes": lambda agent, qube: (
        _list(qube, "10.137.0.5", [], "accept"),
        agent.firewall_changed(qube),
    ),
    "kill and start": lambda agent, qube: (
        agent.firewall_kill(qube),
        agent.firewall_start(qube),
    ),
    "offline": lambda agent, qube: (
        agent.vif(qube, "vif6.0", CLIENTS["vif6.0"], "offline"),
        qube.run("ip link delete vif6.0"),
    ),
    "online again": lambda agent, qube: (
        qube.run("ip link add vif6.0 type veth peer far-vif6.0 && ip link set far-vif6.0 up"),
        agent.vif(qube, "vif6.0", CLIENTS["vif6.0"], "online"),
    ),
    "uplink again": lambda agent, qube: agent.uplink(qube, "eth0"),
}


@pytest.mark.parametrize("step", STEPS)
def test_restated_and_real_agree_after(pair, step):
    """One after the other on the same two qubes, so that later steps start where earlier ended."""
    for agent, qube in pair:
        STEPS[step](agent, qube)
    _agree(pair)


def test_restated_and_real_units_come_in_the_same_order(real, qube):
    """What must wait for what, also by way of others, is the same for every unit we restate."""
    hardware = boot.Hardware("eth0", lambda: None, lambda: None, lambda: None)
    restated = boot.qubes_units(Restated(), qube, hardware)
    arranged = real.arrange(restated)
    assert arranged != restated
    assert _waits(arranged) == _waits(restated)
    for one, other in zip(arranged, restated, strict=True):
        assert one.default == other.default, one.name
        assert set(one.requires) == set(other.requires), one.name
        assert set(one.required_by) == set(other.required_by), one.name
        conditions = [path.replace("/var/run", "/run") for path in one.conditions]
        assert conditions == list(other.conditions), one.name


def _waits(units: list[boot.Unit]) -> dict[str, set[str]]:
    names = {unit.name for unit in units}
    direct: dict[str, set[str]] = {name: set() for name in names}
    for unit in units:
        direct[unit.name] |= set(unit.after) & names
        if unit.default:
            direct[unit.name].add("sysinit.target")
        for other in set(unit.before) & names:
            direct[other].add(unit.name)
    for middle in names:
        for name in names:
            if middle in direct[name]:
                direct[name] |= direct[middle]
    return direct


@pytest.mark.parametrize("chain", [chains.simple(), chains.dns()], ids=["simple", "dns"])
def test_a_whole_machine_boots_alike_and_its_clients_reach_the_internet(source, chain):
    """R02, R03: every qube, through the real units' order, with Qubes' rules and no killswitch."""
    booted = []
    for agent in (Restated(), Real(source)):
        with Lab(chain, agent=agent) as lab:
            outcomes = {member.name: lab.boot(member.name) for member in chain}
            for name, tunnel in lab.tunnels.items():
                tunnel.ready(lab.qubes[name])
            for address in SERVER.values():
                lab.qubes["client-1"].run(["ping", "-c1", "-W5", address])
            state = {
                name: _rules(qube) | _network(qube) | {"units": outcomes[name]}
                for name, qube in lab.qubes.items()
                if name in outcomes
            }
        booted.append(state)
    for name, restated in booted[0].items():
        assert _differences(restated, booted[1][name]) == {}, name


def _note(qube: Qube, *scripts: str, extra: str = "") -> None:
    for script in scripts:
        qube.write(script, f"#!/bin/sh\necho {script} >>/run/noted\n{extra}\n", 0o755)


def _noted(qube: Qube) -> list[str]:
    return qube.run("cat /run/noted; rm -f /run/noted", check=False).stdout.split()


def test_real_start_and_restart_run_the_hooks_in_order_a_reload_none(real, qube):
    _note(qube, HOOK, RW_HOOK, USER_SCRIPT, extra="exit 1")
    real.antispoof(qube)
    real.base(qube)
    real.firewall_start(qube)
    assert _noted(qube) == [HOOK, RW_HOOK, USER_SCRIPT]
    real.firewall_reload(qube)
    assert _noted(qube) == []
    real.firewall_restart(qube)
    assert _noted(qube) == [HOOK, RW_HOOK, USER_SCRIPT]


def test_real_custom_persist_runs_the_template_hook_alone(real, qube):
    """R46: what is under /rw is skipped then; a killswitch that lives there is absent."""
    _note(qube, HOOK, RW_HOOK, USER_SCRIPT)
    qube.write("/run/qubes-service/custom-persist", "")
    real.firewall_start(qube)
    assert _noted(qube) == [HOOK]


def test_real_hook_that_is_not_executable_is_passed_over(real, qube):
    _note(qube, HOOK)
    qube.run(["chmod", "a-x", HOOK])
    real.firewall_start(qube)
    assert _noted(qube) == []


def test_real_start_whose_hook_does_not_end_fails_with_the_clients_shut_out(source, qube):
    """R83: systemd gives up; the tables stay, and no client's rule has been loaded."""
    _note(qube, HOOK, extra="sleep 100 & wait")
    _list(qube, "10.137.0.5", [], "accept")
    impatient = Real(source, patience=1)
    impatient.base(qube)
    with pytest.raises(CommandFailed, match="not ready"):
        impatient.firewall_start(qube)
    table = qube.run("nft list table ip qubes-firewall").stdout
    assert "policy drop" in table
    assert "10.137.0.5" not in table
    qube.run("while pgrep -x sleep; do :; done", timeout=5)


def test_real_hooks_are_started_with_sigterm_and_sighup_blocked(real, qube):
    """What a hook in bash or Python starts cannot be ended by SIGTERM, so not by `timeout`."""
    # bash keeps the mask that it gets, as Python does; dash clears it.
    qube.write(HOOK, "#!/bin/bash\ngrep SigBlk /proc/self/status >/run/mask\n", 0o755)
    real.firewall_start(qube)
    mask = int(qube.read("/run/mask").split()[1], 16)
    assert mask == 1 << signal.SIGTERM - 1 | 1 << signal.SIGHUP - 1


def test_real_clients_are_shut_out_while_the_hooks_run(real, qube):
    """R82: the worker's forward chain drops before the first hook; only then come the rules."""
    _note(qube, HOOK, extra="nft list table ip qubes-firewall >/run/seen")
    _list(qube, "10.137.0.5", [], "accept")
    real.firewall_start(qube)
    seen = qube.read("/run/seen")
    assert "policy drop" in seen
    assert "10.137.0.5" not in seen
    assert "10.137.0.5" in qube.run("nft list table ip qubes-firewall").stdout


def test_real_restart_leaves_clients_without_any_rule_of_qubes_firewall_for_a_moment(real, qube):
    """R41: the worker takes its tables along as it stops; the killswitch has a table of its own."""
    _start(real, qube)
    follow = qube.popen("nft monitor >/run/monitored")
    qube.run(
        "until [ -s /run/monitored ]; do nft 'add table inet probe; delete table inet probe'; done"
    )
    real.firewall_restart(qube)
    qube.run("until grep -q 'add table ip6 qubes-firewall' /run/monitored; do sleep 0.05; done")
    follow.kill()
    changes = re.findall(r"(?:add|delete) table ip qubes-firewall", qube.read("/run/monitored"))
    assert changes == ["delete table ip qubes-firewall", "add table ip qubes-firewall"]


def test_real_kill_leaves_the_rules_and_follows_nothing(real, qube):
    _start(real, qube)
    before = _rules(qube)
    real.firewall_kill(qube)
    _list(qube, "10.137.0.5", [], "accept")
    real.firewall_changed(qube)
    assert _rules(qube) == before
    with pytest.raises(CommandFailed, match="not active"):
        real.firewall_reload(qube)


def test_real_new_resolver_reloads_the_worker_the_same_one_does_not(real, qube):
    _start(real, qube)
    qube.run("rm -f /run/systemctl.log")
    real.dnat(qube)
    assert not qube.exists("/run/systemctl.log")
    _note(qube, HOOK)
    qube.write("/etc/resolv.conf", "nameserver 10.64.0.1\n")
    real.dnat(qube)
    assert "try-reload-or-restart qubes-firewall.service" in qube.read("/run/systemctl.log")
    real.firewall_reload(qube)
    assert "10.64.0.1" in qube.run("nft list set ip qubes-firewall dns-addr").stdout
    assert _noted(qube) == []


def test_real_dnat_rebuilds_its_chain_and_leaves_other_tables(real, qube):
    """Fact 6: a rule of ours in `dnat-dns` is lost; a table of our own is not touched."""
    _start(real, qube)
    qube.run("nft 'add rule ip qubes dnat-dns counter'")
    qube.run("nft 'add table inet ours'")
    real.dnat(qube)
    assert "counter" not in qube.run("nft list chain ip qubes dnat-dns").stdout
    assert "table inet ours" in qube.run("nft list tables").stdout


def test_real_client_is_not_connected_without_the_base_rules(real, qube):
    """xendriverdomain waits for nothing: a link that comes too early stays down."""
    with pytest.raises(CommandFailed):
        real.vif(qube, "vif5.0", CLIENTS["vif5.0"], "online")
    assert "state DOWN" in qube.run("ip link show vif5.0").stdout


def test_real_flows_are_offloaded_or_the_lab_says_that_they_are_not(real, qube):
    _start(real, qube)
    table = qube.run("nft list table inet qubes-nat-accel").stdout
    assert ("flow add @qubes-accel" in table) != qube.exists("/run/no-flowtable")


def test_real_scripts_stay_in_the_qube(real, qube, source):
    """Neither the machine nor the checkout is written to."""
    places = [Path(place) for place in checkout._FILES.values()]
    before = {path: path.exists() for path in places}
    content = {path: path.read_bytes() for path in sorted((source / "network").iterdir())}
    _start(real, qube)
    assert {path: path.exists() for path in places} == before
    assert {path: path.read_bytes() for path in sorted((source / "network").iterdir())} == content
    assert not (source / "qubesagent" / "__pycache__").exists()
    for name, place in checkout._FILES.items():
        assert qube.read(place) == (source / name).read_text(encoding="utf-8")


def test_a_folder_without_a_checkout_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("QUBES_SRC", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no checkout of qubes-core-agent-linux"):
        checkout.find()


def test_no_name_is_no_checkout(monkeypatch):
    monkeypatch.delenv("QUBES_SRC", raising=False)
    assert checkout.find() is None
