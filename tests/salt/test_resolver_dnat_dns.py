# SPDX-License-Identifier: GPL-2.0-or-later
"""R50, R55, R69. `qubes_vpn.dnat_dns` to the resolver in this qube: real rules, Salt's loader."""

import pytest
from both_modes import both_modes
from in_qube import run_in, skip_where_impossible
from saltfactories.utils.functional import Loaders
from vpn_qube import listing, rules

from qubes_vpn_formula.lab import resolverfiles
from qubes_vpn_formula.lab.qube import Qube

# Nothing here differs by Salt's release, and the core is not installed beside Salt 3006.
qubes_vpn_resolver = pytest.importorskip("qubes_vpn_resolver", reason="the core is not there")

LINK = "/etc/systemd/system/network-pre.target.requires/qubes-vpn-dns-closed.service"
FLAG = f"/run{resolverfiles.FLAG}"


@pytest.fixture(scope="session")
def loaders(session_loaders):
    return Loaders({**session_loaders.opts, "id": "sys-dns"})


@pytest.fixture(scope="session")
def loaded(loaders):
    return {test: states["qubes_vpn.dnat_dns"] for test, states in both_modes(loaders).items()}


@pytest.fixture(scope="module")
def shared():
    skip_where_impossible()
    with Qube("sys-dns") as qube:
        for path, (text, mode) in resolverfiles.files().items():
            qube.write(path, text, mode)
        qube.write(LINK, "")
        yield qube


@pytest.fixture
def qube(shared):
    """A resolver qube that has just started."""
    shared.write(FLAG, "")
    shared.run(f"nft flush ruleset; nft -f {resolverfiles.CLOSED}")
    return shared


@pytest.fixture
def state(loaded, qube):
    def run(test=False, to="resolver"):
        return run_in(qube, lambda: dict(loaded[test](name="sys-dns", to=to)))

    return run


def test_rules_that_hold_are_left_alone_open_or_closed(qube, state):
    for opened in (False, True):
        if opened:
            run_in(qube, qubes_vpn_resolver.open_up)
        before = listing(qube), rules(qube)
        for test in (True, False):
            done = state(test=test)
            assert (done["result"], done["changes"]) == (True, {}), done
            assert ("refused until it has answered" in done["comment"]) is not opened
        assert (listing(qube), rules(qube)) == before


@pytest.mark.parametrize(
    ("change", "old"),
    [
        ("delete table inet qubes_vpn", "nothing is loaded. Run /usr/lib/qubes-vpn/resolver load"),
        ("insert rule inet qubes_vpn forward accept", "chain forward: 'accept' is not ours"),
    ],
)
def test_what_is_not_as_it_should_be_is_put_right_and_closed(qube, state, change, old):
    run_in(qube, qubes_vpn_resolver.open_up)
    qube.run(["nft", *change.split()])
    before = rules(qube)
    dry = state(test=True)
    assert dry["result"] is None
    assert rules(qube) == before
    real = state()
    assert real["result"] is True, real
    assert (
        real["changes"] == dry["changes"] == {"rules": {"old": [old], "new": "as they should be"}}
    )
    assert run_in(qube, qubes_vpn_resolver.status)["state"] == "closed"
    assert state()["changes"] == {}


@pytest.mark.parametrize("test", [True, False])
def test_without_the_templates_files_or_the_service_it_is_refused(qube, state, test):
    """There is no other way to have them: in /rw they would come too late."""
    for command, back, told in (
        (f"mv {resolverfiles.CLOSED} /run/x", f"mv /run/x {resolverfiles.CLOSED}", "has no files"),
        (f"rm {FLAG}", f"touch {FLAG}", "qvm-service QUBE qubes-vpn-dns on"),
        (f"rm {LINK}", f"touch {LINK}", f"{LINK} is not there"),
        (
            "touch /run/qubes-service/qubes-vpn",
            "rm /run/qubes-service/qubes-vpn",
            "this is a VPN qube too",
        ),
    ):
        before = rules(qube)
        qube.run(command)
        done = state(test=test)
        assert (done["result"], done["changes"]) == (False, {}), done
        assert told in done["comment"]
        assert rules(qube) == before
        qube.run(back)


def test_the_modules_status_is_that_of_the_rules_that_guard_this_qube(qube, loaders, monkeypatch):
    status = loaders.modules["qubes_vpn.status"]
    # A qube has none, and by that it is told from dom0; the tests have the embedded one.
    monkeypatch.setitem(status.func.__globals__, "HAS_QUBESADMIN", False)
    assert run_in(qube, status)["state"] == "closed"
    run_in(qube, qubes_vpn_resolver.open_up)
    assert run_in(qube, status) == run_in(qube, qubes_vpn_resolver.status)


def test_an_unknown_target_is_refused(state):
    done = state(to="8.8.8.8")
    assert (done["result"], done["changes"]) == (False, {})
    assert done["comment"].startswith("to: 8.8.8.8 is not known. Write one of: ")
