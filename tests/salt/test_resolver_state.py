# SPDX-License-Identifier: GPL-2.0-or-later
"""`qubes_vpn.dnscrypt`, the state, in a resolver qube whose template has what Salt puts there.

Rules, files and questions are real.  There is no systemd here, so `systemctl` is a stand-in, and
what it starts in dnscrypt-proxy's place is a name server of the lab, which starts and answers as
the test says.  With the real ones: tests/booted.
"""

import pytest
from both_modes import both_modes
from in_qube import run_in, skip_where_impossible
from saltfactories.utils.functional import Loaders
from vpn_qube import listing, rules

from qubes_vpn_formula.lab.killswitches import core
from qubes_vpn_formula.lab.qube import Qube

# Nothing here differs by Salt's release, and the core is not installed beside Salt 3006.
qubes_vpn_dns_apply = pytest.importorskip("qubes_vpn_dns_apply", reason="the core is not there")
qubes_vpn_dnscrypt_pillar = pytest.importorskip("qubes_vpn_dnscrypt_pillar")

LIBRARY, FOLDER = "/usr/lib/qubes-vpn", "/rw/config/vpn/dns"
CONFIG = f"{FOLDER}/dnscrypt-proxy.toml"
#: Started only with a configuration, as the unit's condition has it.
SYSTEMCTL = f"""#!/bin/sh
echo "$*" >>/run/systemctl.log
case "$*" in *dnscrypt-proxy.service*) ;; *) exit 0 ;; esac
case $1 in
stop) [ -e /run/proxy.pid ] || exit 0
    kill $(cat /run/proxy.pid)
    while kill -0 $(cat /run/proxy.pid); do sleep 0.02; done 2>/dev/null # as systemd waits
    rm -f /run/proxy.pid ;;
start) [ -e {CONFIG} ] && [ ! -e /run/proxy.pid ] || exit 0
    setsid python3 /run/server.py 0.0.0.0 $(cat /run/answer) </dev/null >/dev/null 2>&1 &
    echo $! >/run/proxy.pid ;;
esac
"""


@pytest.fixture(scope="session")
def loaded(session_loaders):
    loaders = Loaders({**session_loaders.opts, "id": "sys-dns"})
    return {test: states["qubes_vpn.dnscrypt"] for test, states in both_modes(loaders).items()}


@pytest.fixture(scope="module")
def shared(checkout):
    """A resolver qube that has just started, with its rules closed."""
    skip_where_impossible()
    files = checkout / "salt/qubes/network/files"
    with Qube("sys-dns") as qube:
        qube.run("ip link set lo up")
        for name, mode in (("resolver", 0o755), ("dns-closed.nft", 0o600)):
            qube.write(f"{LIBRARY}/{name}", (files / name).read_text(), mode)
        for path in core("qubes_vpn_resolver") | core("qubes_vpn_dns_watch"):
            qube.write(f"{LIBRARY}/{path.name}", path.read_text())
        hook = "51-qubes-vpn-dns"
        qube.write(f"/etc/qubes/qubes-firewall.d/{hook}", (files / hook).read_text(), 0o755)
        units = "/etc/systemd/system"
        qube.write(f"{units}/network-pre.target.requires/qubes-vpn-dns-closed.service", "")
        qube.write(f"{units}/sysinit.target.wants/qubes-vpn-dns-own.service", "")
        for name in ("dnscrypt-proxy", "qubes-vpn-dns"):
            qube.write(f"{units}/multi-user.target.wants/{name}.service", "")
        qube.write("/run/qubes-service/qubes-vpn-dns", "")
        server = checkout / "qubes_vpn_formula/lab/inside/resolver.py"
        qube.write("/run/server.py", server.read_text())
        qube.write("/usr/bin/systemctl", SYSTEMCTL, 0o755)
        qube.run([f"{LIBRARY}/resolver", "own"])
        qube.run(["nft", "-f", f"{LIBRARY}/dns-closed.nft"])
        yield qube
        qube.run(["systemctl", "stop", "dnscrypt-proxy.service"])


@pytest.fixture
def qube(shared, monkeypatch):
    """The same, as if nothing had been applied yet, whatever the test before left."""
    monkeypatch.setattr(qubes_vpn_dns_apply, "_STARTED", 6)
    shared.write("/run/answer", "192.0.2.1")
    shared.run(["systemctl", "stop", "dnscrypt-proxy.service"])
    shared.run(f"rm -rf {FOLDER}; {LIBRARY}/resolver close")
    return shared


@pytest.fixture
def state(loaded, qube):
    """The state, as Salt runs it in that qube: `state(test=True, blocked_names=[...])`."""

    def run(test=False, **settings):
        known = {**qubes_vpn_dnscrypt_pillar.settings(None), **settings}
        return run_in(qube, lambda: dict(loaded[test](name="sys-dns", settings=known)))

    return run


def is_open(qube):
    """In nft's own words: whether the one set has an element."""
    return "elements = { 53 }" in rules(qube)


def test_it_is_configured_answers_and_is_open_and_that_is_all(qube, state):
    """R51, R53, R69: a dry run says it and writes nothing; a second run is silent."""
    qube.write(f"{FOLDER}/mine.txt", "example.org\n", 0o600)
    before = listing(qube), rules(qube)
    dry = state(test=True)
    assert (dry["result"], list(dry["changes"])) == (None, [CONFIG, "clients' DNS"])
    assert (listing(qube), rules(qube)) == before

    done = state()
    assert (done["result"], done["changes"]) == (True, dry["changes"]), done
    assert done["changes"]["clients' DNS"] == {
        "old": "closed: nothing listens on port 53",
        "new": "open",
    }
    assert is_open(qube)
    modes = qube.run(["stat", "-c", "%a %U", FOLDER, CONFIG, f"{FOLDER}/mine.txt"]).stdout
    assert modes.splitlines() == ["755 root", "644 root", "600 root"]

    settled = listing(qube), rules(qube), qube.read("/run/systemctl.log")
    for test in (True, False):
        again = state(test=test)
        assert (again["result"], again["changes"]) == (True, {}), again
    assert (listing(qube), rules(qube), qube.read("/run/systemctl.log")) == settled


def test_the_program_names_what_is_wrong_and_nothing_else(qube, state):
    """R68."""
    assert state()["result"] is True
    command = [f"{LIBRARY}/resolver", "check"]
    assert qube.run(command).stdout == "It answers.\n"
    qube.run([f"{LIBRARY}/resolver", "close"])
    done = qube.run(command, check=False)
    assert (done.returncode, done.stdout[:37]) == (1, "it answers, but clients are refused u")
    qube.run("nft insert rule inet qubes_vpn output accept")
    assert (
        "chain output: 'accept' is not ours. Load the rules: sudo"
        in qube.run(command, check=False).stdout
    )
    qube.run(["systemctl", "stop", "dnscrypt-proxy.service"])
    assert "dnscrypt-proxy" in qube.run(command, check=False).stdout


def test_another_pillar_is_taken_over_by_a_restart(qube, state):
    assert state()["result"] is True
    pid = qube.read("/run/proxy.pid")
    done = state(blocked_names=["ads.example"])
    assert done["result"] is True
    assert set(done["changes"]) == {CONFIG, f"{FOLDER}/blocked-names.txt"}
    assert qube.read("/run/proxy.pid") != pid
    assert is_open(qube)


def test_a_spoilt_file_is_written_anew(qube, state):
    assert state()["result"] is True
    right = qube.read(CONFIG)
    for spoil in ("echo x >>{}", "chmod 666 {}", "rm {0}; ln -s /etc/passwd {0}"):
        qube.run(spoil.format(CONFIG))
        dry, done = state(test=True), state()
        assert (dry["result"], done["result"]) == (None, True), spoil
        assert CONFIG in dry["changes"]
        assert qube.run(["stat", "-c", "%F %a", CONFIG]).stdout == "regular file 644\n"
        assert qube.read(CONFIG) == right


def test_what_was_there_is_not_told(qube, state):
    """R33. What a state says ends up in dom0's log."""
    qube.write(CONFIG, "key = 'x-secret-of-mine'\n")
    for test in (True, False):
        assert "secret" not in str(state(test=test))


@pytest.mark.parametrize("answer", ["refused", "192.0.2.1 999"], ids=["refused", "silent"])
def test_without_an_answer_it_fails_closed(qube, state, answer):
    """R52. Also when it was open before; and the configuration is that of the pillar."""
    assert state()["result"] is True
    qube.write("/run/answer", answer)
    done = state(block_ipv6=True)
    assert done["result"] is False
    assert list(done["changes"]) == [CONFIG, "clients' DNS"]
    assert done["changes"]["clients' DNS"] == {"old": "open", "new": "closed"}
    assert "Clients have no DNS until it answers" in done["comment"]
    assert not is_open(qube)
    assert "block_ipv6 = true" in qube.read(CONFIG)


@pytest.mark.parametrize(
    ("word", "told", "changes"),
    [
        ("stop", "systemctl stop: systemctl: it is stuck. Nothing was written", ["clients' DNS"]),
        ("start", "systemctl start: systemctl: it is stuck", [CONFIG, "clients' DNS"]),
    ],
)
def test_what_systemd_cannot_do_is_told_at_once(qube, state, word, told, changes):
    """R52. An old proxy that could not be stopped answers, but not by the new configuration."""
    assert state()["result"] is True
    before = qube.read(CONFIG)
    stuck = f'[ "$1" != {word} ] || {{ echo "it is stuck" >&2; exit 1; }}\n'
    qube.write("/usr/bin/systemctl", SYSTEMCTL.replace("echo", f"{stuck}echo", 1), 0o755)
    try:
        done = state(block_ipv6=True)
    finally:
        qube.write("/usr/bin/systemctl", SYSTEMCTL, 0o755)
    assert (done["result"], list(done["changes"])) == (False, changes)
    assert told in done["comment"]
    assert not is_open(qube)
    assert (qube.read(CONFIG) == before) is (word == "stop")


def test_a_full_disk_leaves_no_configuration_and_nothing_open(qube, state):
    """R52: half of a configuration would be another one, also at the next start."""
    qube.run(f"mkdir -p {FOLDER}; mount -t tmpfs -o size=16k,mode=755 full {FOLDER}")
    assert state()["result"] is True
    qube.run(f"cat /dev/zero >{FOLDER}/full || :")
    done = state(blocked_names=["ads.example"])
    assert done["result"] is False
    assert "No space left on device" in done["comment"]
    assert "dnscrypt-proxy is stopped" in done["comment"]
    assert not is_open(qube)
    assert not qube.exists(CONFIG)
    assert not qube.exists("/run/proxy.pid")
    qube.run(f"umount {FOLDER}")
    assert state(blocked_names=["ads.example"])["result"] is True
    assert is_open(qube)


REFUSED = {
    "/run/qubes-service/qubes-vpn-dns": "the service qubes-vpn-dns is off",
    f"{LIBRARY}/dns-closed.nft": "template has no files for a resolver",
    "/etc/systemd/system/multi-user.target.wants/qubes-vpn-dns.service": "qubes-vpn-dns.service is "
    "not there. Apply the formula to this qube's template",
    "/etc/resolv.conf": "/etc/resolv.conf was changed",
}


def test_what_would_not_hold_is_refused_and_nothing_is_changed(qube, state):
    for path, told in REFUSED.items():
        qube.run(["mv", path, "/run/away"])
        before = listing(qube), rules(qube)
        for test in (True, False):
            done = state(test=test)
            assert (done["result"], done["changes"]) == (False, {})
            assert told in done["comment"]
        assert (listing(qube), rules(qube)) == before
        qube.run(["mv", "/run/away", path])


def test_the_users_own_list_has_to_be_there(qube, state):
    """Without it dnscrypt-proxy does not start."""
    done = state(blocked_names_file="mine.txt")
    assert done["result"] is False
    assert f"{FOLDER}/mine.txt is not there, which is yours" in done["comment"]
    assert not qube.exists(CONFIG)
