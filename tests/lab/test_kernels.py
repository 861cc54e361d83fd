# SPDX-License-Identifier: GPL-2.0-or-later
"""The killswitch on other kernels, with other versions of nft, in virtual machines (R41, R45, R90).

Debian 12 and 13: kernels 6.1 and 6.12; the machine that runs the lab brings a newer one.  Each
boots once and runs all scenarios of `qubes_vpn_formula/lab/kernel/guest`, which say what was seen;
what that means is said here.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from qubes_vpn_formula.lab import debian
from qubes_vpn_formula.lab.capture import Captured, Frame
from qubes_vpn_formula.lab.kernel import image, vm
from qubes_vpn_formula.lab.killswitches import Ours
from qubes_vpn_formula.lab.oracle import Endpoint, Oracle, Verdict

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SUITES = {"bookworm": ("6.1.", "v1.0.6"), "trixie": ("6.12.", "v1.1.3")}
_ENDPOINTS = [Endpoint("udp", "192.0.2.10", 51820), Endpoint("udp", "2001:db8:2::10", 51820)]
_BOTH = ("4", "6")


class Seen:
    """What one virtual machine found."""

    def __init__(self, run: vm.Run) -> None:
        self.run = run

    def __getitem__(self, scenario: str) -> dict:
        facts = self.run.results[scenario]
        assert "error" not in facts, facts["error"]
        return facts

    def verdict(self, scenario: str, frames: str = "frames") -> Verdict:
        """The lab's judgement on the frames that left the VPN qube."""
        oracle = Oracle(_ENDPOINTS, self["machine"]["marker"].encode())
        seen = (Frame(0.0, bytes.fromhex(data)) for data in self[scenario][frames])
        return oracle.judge(Captured(tuple(seen)))

    def below(self, prefix: str) -> list[str]:
        """The names of a group of scenarios; a group without any is a mistake."""
        names = [name for name in self.run.results if name.startswith(prefix)]
        assert names
        return names


@pytest.fixture(scope="module")
def booted() -> Iterator[dict[str, Future]]:
    """Both at a time."""
    if why := vm.missing():
        pytest.skip(why)
    with ThreadPoolExecutor(2) as pool:
        yield {suite: pool.submit(_boot, suite) for suite in SUITES}


def _boot(suite: str) -> vm.Run:
    return vm.run(image.build(suite), Ours().files())


@pytest.fixture(scope="module", params=SUITES)
def seen(booted, request) -> Seen:
    try:
        return Seen(booted[request.param].result())
    except debian.NotReachable as error:
        pytest.skip(f"Debian {request.param} cannot be had: {error}")


def test_the_kernel_and_nft_are_those_of_the_release(seen, request):
    kernel, nft = SUITES[request.node.callspec.params["seen"]]
    assert seen["machine"]["kernel"].startswith(kernel)
    assert seen["machine"]["nft"].startswith(nft)


def test_closed_rules_load_in_silence_any_number_of_times(seen):
    """R45."""
    facts = seen["loading/closed"]
    assert facts["said"] == ""
    assert set(facts["exits"]) == {0}
    assert facts["same"], "a reload changes the listing"


def test_the_command_opens_and_finds_nothing_amiss(seen):
    """R45.  Every kind of endpoint, logging on, twice."""
    facts = seen["loading/open"]
    assert facts["said"] == [[0, ""]] * 2
    assert facts["same"], "a reload changes the listing"
    assert (facts["state"], facts["drift"]) == ("open", [])


def test_many_endpoints_are_all_loaded(seen):
    facts = seen["loading/many"]
    assert facts["elements"] == facts["wanted"]


def test_bad_input_leaves_the_closed_rules(seen):
    """R45."""
    for name in seen.below("loading/bad/"):
        facts = seen[name]
        assert facts["exit"] == 1, name
        assert "CLOSED" in facts["said"], name
        assert facts["closed"], name


OFFLOADED = [f"{protocol}{version}" for protocol in ("udp", "tcp") for version in _BOTH]


@pytest.mark.parametrize("flow", OFFLOADED)
def test_an_offloaded_flow_goes_past_a_drop_rule(seen, flow):
    """The leak itself, or nothing that follows proves anything (R90)."""
    facts = seen[f"offload/{flow}/a drop rule"]
    assert facts["offloaded"] == 1, "conntrack does not call it offloaded"
    assert facts["forwarded"] < facts["sent"] / 2, "the forward chain still sees it"
    assert seen.verdict(f"offload/{flow}/a drop rule").outcome == "LEAK"


@pytest.mark.parametrize("flow", OFFLOADED)
@pytest.mark.parametrize("treatment", ["closed.nft", "the gate alone"])
def test_an_offloaded_flow_ends_at_once(seen, flow, treatment):
    """R41: not one packet more, by the closed rules or by the gate alone."""
    scenario = f"offload/{flow}/{treatment}"
    assert seen[scenario]["offloaded"] == 1
    # A neighbour may ask for this qube meanwhile, and is answered.
    assert seen.verdict(scenario).outcome == "closed"


def test_what_leaves_the_flowtable_leaks(seen):
    """The mutant of closed.nft without the lines that remove it (R90)."""
    for treatment in ("nothing", "rules that leave the flowtable"):
        facts = seen[f"offload/udp4/{treatment}"]
        assert len(facts["frames"]) == facts["sent"]


@pytest.mark.parametrize("treatment", ["killswitch load", "conntrack flushed"])
def test_forgotten_flows_end_at_once(seen, treatment):
    """R41."""
    facts = seen[f"offload/udp4/{treatment}"]
    assert (facts["offloaded"], facts["offloaded_after"], facts["frames"]) == (1, 0, [])


def test_a_new_flowtable_opens_nothing(seen):
    """R41: another client comes, and Qubes makes the flowtable again."""
    facts = seen["offload/udp4/closed.nft, then a client"]
    assert (facts["offloaded"], facts["offloaded_after"], facts["frames"]) == (1, 0, [])


def test_the_gate_stops_what_no_inet_hook_sees(seen):
    """R41: packet sockets, a DHCP client's among them; without the gate all of them get out."""
    for name in seen.below("gate/"):
        assert seen.verdict(name, "frames_without").outcome == "LEAK", name
        assert seen.verdict(name).outcome == "closed", f"{name}: {seen.verdict(name)}"


@pytest.mark.parametrize("version", _BOTH)
def test_the_kernels_wireguard_works(seen, version):
    """R41: clients get through by either endpoint, and only the endpoint is seen on the uplink."""
    facts = seen[f"wireguard/works over IPv{version}"]
    assert facts["works"] == dict.fromkeys(["udp4", "udp6", "tcp4", "tcp6"], True)
    verdict = seen.verdict(f"wireguard/works over IPv{version}")
    assert verdict.outcome == "closed", str(verdict)
    assert facts["marked"] > 10, "WireGuard's own mark is gone"


@pytest.mark.parametrize("version", _BOTH)
def test_segments_fit_the_tunnel_and_who_sends_too_much_is_told(seen, version):
    """R43: the MSS of both sides, and packet-too-big from this qube and from behind the tunnel."""
    ours, mutant = seen["wireguard/sizes"]["ours"], seen["wireguard/sizes"]["mutant"]
    headers = 40 if version == "4" else 60
    assert ours[f"segments{version}"] == [1420 - headers] * 2
    assert ours[f"told{version}"] == [1420, 1300]
    assert mutant[f"segments{version}"] == [1500 - headers] * 2
    assert mutant[f"told{version}"] == [None, None]


def test_nothing_leaks_whatever_becomes_of_the_tunnel(seen):
    """R41: down, deleted, renamed, or its name given to the uplink; unprotected, each leaks."""
    changes = [name for name in seen.below("wireguard/") if "frames_without" in seen[name]]
    assert len(changes) == 4
    for name in changes:
        assert seen.verdict(name, "frames_without").outcome == "LEAK", name
        assert seen.verdict(name).outcome == "closed", f"{name}: {seen.verdict(name)}"
