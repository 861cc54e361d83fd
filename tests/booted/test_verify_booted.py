# SPDX-License-Identifier: GPL-2.0-or-later
"""The tests that a user runs, on qubes that really boot behind a real tunnel (R60 to R64).

dom0 is real Salt on the embedded Qubes.  For each fault that is planted, what finds it is exactly
what is written here: a test that passes on every machine tests nothing.
"""

import signal
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest
from resolving import PROXY, Machine
from tunnelled import PROGRAM, said, up
from verifying import Verifying

from qubes_vpn_formula.lab.booted.machine import Booted
from qubes_vpn_formula.lab.qube import Inside

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LAST = "what came of it"
VPN = (
    *("wiring", "up: sys-vpn", "exit: sys-vpn", "uplink: sys-vpn", "clear: sys-vpn"),
    *("vaults", "isolation", "killswitch: sys-vpn"),
)
DNS = ("answers: sys-dns", "names: sys-vpn", "capture: sys-vpn", "names-in-clear: sys-vpn")
FAILED, NOT_RUN, PASSED, NOT_ASKED = "FAILED", "NOT RUN", "PASSED", "NOT ASKED FOR"
ASKED = 'pillar={"qubes_vpn_tests": {"destructive": true}}'


@pytest.fixture(scope="module")
def machine(lab: Booted, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(lab, tmp_path_factory.mktemp("resolving"), with_sys_net=True)


@pytest.fixture(scope="module")
def dom0(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Verifying:
    machine.resolves()
    return Verifying(machine, tmp_path_factory.mktemp("dom0"))


def others(verdicts: dict[str, str]) -> dict[str, str]:
    """Without what has passed."""
    return {name: what for name, what in verdicts.items() if what not in (PASSED, NOT_ASKED)}


def test_on_a_machine_that_is_well_every_test_passes(dom0):
    """R60 to R64; and with the tunnel down clients get nothing, and it is up again."""
    calls = len(dom0.dom0.calls())
    found = dom0.salt("qubes.tests.sys-vpn", ASKED)
    assert found.code == 0, found.text
    comments = {name: state["comment"] for name, state in found.states.items()}
    assert tuple(comments) == (*VPN, LAST)
    assert {text.partition("\n")[0] for name, text in comments.items() if name != LAST} == {PASSED}
    assert found.changed() == set()
    assert "ICMP from 203.0.113.80, names from its resolver" in comments["killswitch: sys-vpn"]
    assert not [call for call in dom0.dom0.calls()[calls:] if call.write]
    assert said(dom0.machine.vpn)["state"] == "up"
    assert "qubes-vpn-test" not in dom0.machine.vpn.run("systemctl list-units --all").stdout
    dom0.machine.resolves()
    found = dom0.salt("qubes.tests.sys-dns")
    assert (found.code, found.results()) == (0, {True}), found.text


def test_what_is_not_asked_for_is_not_done_and_is_told(dom0):
    before = said(dom0.machine.vpn)
    verdicts = dom0.verdicts("sys-vpn", tests={**dom0.pillar["tests"], "uplink": False})
    assert verdicts["killswitch: sys-vpn"] == verdicts["uplink: sys-vpn"] == NOT_ASKED
    assert others(verdicts) == {LAST: verdicts[LAST]}
    assert said(dom0.machine.vpn) == before


class Fault(NamedTuple):
    """Something that is planted, taken away again, and found by `finds`: ``{test: verdict}``."""

    plant: Callable[[Verifying], object]
    remove: Callable[[Verifying], object]
    finds: dict[str, str]
    sls: str = "sys-vpn"


def _anew(dom0: Verifying) -> None:
    dom0.machine.vpn.run(["/usr/lib/qubes-vpn/killswitch", "load"])
    up(dom0.machine.vpn, "one.ovpn", 90)
    dom0.machine.resolves()


def _without_rules(dom0: Verifying) -> None:
    dom0.machine.vpn.run("nft delete table inet qubes_vpn; nft delete table netdev qubes_vpn")


def _v4_alone(dom0: Verifying) -> None:
    _without_rules(dom0)
    rules = """table inet guide {
        chain forward {
            type filter hook forward priority 0;
            meta nfproto ipv6 accept
            iifgroup 2 oifname != "tun*" drop
        }
    }"""
    dom0.machine.vpn.run(["nft", "-f", "-"], input=rules)


def _v4_alone_no_more(dom0: Verifying) -> None:
    dom0.machine.vpn.run("nft delete table inet guide")
    _anew(dom0)


def _elsewhere(dom0: Verifying) -> None:
    dom0.call("work", "admin.vm.property.Set", "netvm", "sys-net")
    dom0.running["work"] = dom0.machine.net


def _back(dom0: Verifying) -> None:
    dom0.call("work", "admin.vm.property.Set", "netvm", "sys-dns")
    dom0.running["work"] = dom0.machine.client


def _no_server(dom0: Verifying) -> None:
    dom0.machine.provider.vanish(1)
    time.sleep(2)


def _server(dom0: Verifying) -> None:
    dom0.machine.provider.serve(1)
    _anew(dom0)


_NEIGHBOURS = "iifgroup 2 oifgroup 2 accept"
FAULTS = {
    "no killswitch": Fault(
        _without_rules,
        _anew,
        {"up: sys-vpn": FAILED, "clear: sys-vpn": FAILED, "killswitch: sys-vpn": FAILED},
    ),
    "IPv6 is open": Fault(
        _v4_alone,
        _v4_alone_no_more,
        {"up: sys-vpn": FAILED, "clear: sys-vpn": FAILED, "killswitch: sys-vpn": FAILED},
    ),
    "a client hangs on sys-net": Fault(
        _elsewhere,
        _back,
        {
            "wiring": FAILED,
            "exit: sys-vpn": FAILED,
            "uplink: sys-vpn": FAILED,
            "clear: sys-vpn": FAILED,
            "killswitch: sys-vpn": FAILED,
        },
    ),
    "the server is gone": Fault(
        _no_server,
        _server,
        {
            "up: sys-vpn": FAILED,
            "exit: sys-vpn": NOT_RUN,
            "uplink: sys-vpn": NOT_RUN,
            "killswitch: sys-vpn": NOT_RUN,
        },
    ),
    "the tunnel is down": Fault(
        lambda dom0: dom0.machine.vpn.run([PROGRAM, "down"], timeout=60),
        lambda dom0: (dom0.machine.vpn.run([PROGRAM, "up"], timeout=80), _anew(dom0)),
        {
            "up: sys-vpn": FAILED,
            "exit: sys-vpn": NOT_RUN,
            "uplink: sys-vpn": NOT_RUN,
            "killswitch: sys-vpn": NOT_RUN,
        },
    ),
    "a vault has a netvm": Fault(
        lambda dom0: dom0.call("vault", "admin.vm.property.Set", "netvm", "sys-firewall"),
        lambda dom0: dom0.call("vault", "admin.vm.property.Set", "netvm", ""),
        {"wiring": FAILED, "vaults": FAILED},
    ),
    "neighbours reach each other": Fault(
        lambda dom0: dom0.machine.dns.run(f"nft insert rule ip qubes forward {_NEIGHBOURS}"),
        lambda dom0: dom0.machine.dns.run(
            f"nft -a list chain ip qubes forward | sed -n 's/.*{_NEIGHBOURS} # handle //p'"
            " | xargs nft delete rule ip qubes forward handle"
        ),
        {"isolation": FAILED},
    ),
    "names go out in plain": Fault(
        lambda dom0: dom0.machine.dns.run(
            "systemctl stop qubes-vpn-dns; nft delete table inet qubes_vpn"
        ),
        lambda dom0: (
            dom0.machine.dns.run("systemctl restart qubes-vpn-dns-closed qubes-vpn-dns"),
            dom0.machine.resolves(),
        ),
        {
            "answers: sys-dns": FAILED,
            "names: sys-vpn": FAILED,
            "capture: sys-vpn": NOT_RUN,
            "names-in-clear: sys-vpn": FAILED,
        },
        "sys-dns",
    ),
    "the proxy is dead": Fault(
        lambda dom0: dom0.machine.dns.run(["systemctl", "stop", PROXY]),
        lambda dom0: (
            dom0.machine.dns.run(["systemctl", "start", PROXY]),
            dom0.machine.resolves(),
        ),
        {
            "answers: sys-dns": FAILED,
            "names: sys-vpn": FAILED,
            "capture: sys-vpn": NOT_RUN,
        },
        "sys-dns",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_by_the_tests_that_should(dom0, name):
    fault = FAULTS[name]
    fault.plant(dom0)
    try:
        found = dom0.salt(f"qubes.tests.{fault.sls}", ASKED)
    finally:
        fault.remove(dom0)
    assert found.code
    last = found.states[LAST]
    verdicts = {
        name: state["comment"].partition("\n")[0]
        for name, state in found.states.items()
        if name != LAST
    }
    assert (others(verdicts), last["result"]) == (fault.finds, False), found.text


_TOML = "/rw/config/vpn/dns/dnscrypt-proxy.toml"
#: What happens to sys-dns, what undoes it, and what the doctor finds of it by the qube's service.
RESOLVER = {
    "the proxy is off": (f"systemctl stop {PROXY}", f"systemctl start {PROXY}", {"D421"}),
    "its rules are gone": (
        "systemctl stop qubes-vpn-dns; nft delete table inet qubes_vpn",
        "systemctl restart qubes-vpn-dns-closed qubes-vpn-dns",
        {"D411"},
    ),
    "its rules were altered": (
        "nft insert rule inet qubes_vpn forward accept",
        "/usr/lib/qubes-vpn/resolver load",
        {"D412"},
    ),
    "its configuration is wrong": (
        f"cp -p {_TOML} /run; echo '= what' >>{_TOML}; systemctl restart {PROXY} || :",
        f"cp -p /run/dnscrypt-proxy.toml {_TOML}; systemctl restart {PROXY}",
        {"D422"},
    ),
}


def _found(dom0: Verifying) -> set[str]:
    """By the doctor, but for D102: here sys-firewall does not run."""
    return dom0.found() - {"D102"}


def test_the_doctor_finds_what_is_wrong_with_a_resolver(dom0):
    """R68: real dnscrypt-proxy, by the qube's own service."""
    machine = dom0.machine
    assert _found(dom0) == set()
    for name, (plant, remove, found) in RESOLVER.items():
        machine.dns.run(plant, timeout=90)
        try:
            assert (name, _found(dom0)) == (name, found)
        finally:
            machine.dns.run(remove, timeout=90)
            machine.resolves()
    machine.names.vanish("dnscrypt")
    try:
        assert _found(dom0) == {"D426"}
    finally:
        machine.names.serve("dnscrypt")
        machine.resolves()
    machine.vpn.run([PROGRAM, "down"], timeout=60)
    try:
        assert _found(dom0) == {"D309", "D424"}
    finally:
        machine.vpn.run([PROGRAM, "up"], timeout=80)
        _anew(dom0)
    assert _found(dom0) == set()


class Lying:
    """A qube whose programs answer what somebody wrote."""

    def __init__(self, qube: Inside, answer: str) -> None:
        self.enter = [*qube.enter, "sh", "-c", f"cat >/dev/null; {answer}", "-"]


@pytest.mark.parametrize(
    "answer",
    [
        r"printf '\033[2J[{\"address\": \"\033]0;x\", \"provider\": true, \"of\": 1}]'",
        "printf '[1, 2, 3]'",
        "yes '['",
        "sleep 1000",
        "exit 3",
        r"""printf '[{"address": "fe80::1%%\\u001b[31m", "provider": null, "of": "::1"}, 1]'""",
    ],
)
def test_what_a_qube_says_cannot_pass_nor_reach_the_screen(dom0, answer):
    liar = {"work": Lying(dom0.machine.client, answer)}
    found = dom0.salt("qubes.tests.sys-vpn", qubes=liar)
    assert found.code
    exits = found.states["exit: sys-vpn"]
    assert exits["comment"].startswith(NOT_RUN), exits
    assert "\033" not in found.text
    assert "\\u001b" not in found.text


@pytest.mark.parametrize(
    ("how", "within"), [(signal.SIGINT, 60), (signal.SIGTERM, 200), (signal.SIGKILL, 200)]
)
def test_a_run_that_is_ended_leaves_a_tunnel_that_comes_back(dom0, how, within):
    """By dom0 after Ctrl-C, else by the VPN qube itself; closed meanwhile."""
    vpn = dom0.machine.vpn
    run = dom0.process("qubes.tests.sys-vpn", ASKED)
    until = time.monotonic() + 120
    while said(vpn)["state"] != "down":
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < until
        time.sleep(0.2)
    run.send_signal(how)
    run.communicate(timeout=90)
    assert said(vpn)["killswitch"] == "open"
    up(vpn, "one.ovpn", within)
    until = time.monotonic() + 10
    while "qubes-vpn-test" in vpn.run("systemctl list-units --all").stdout:
        assert time.monotonic() < until
        time.sleep(0.5)
    dom0.machine.resolves()
