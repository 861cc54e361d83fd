# SPDX-License-Identifier: GPL-2.0-or-later
"""`qubes_vpn.killswitch`, the state, in a VPN qube whose template has what Salt puts there."""

import os
from contextlib import nullcontext

import pytest
from both_modes import both_modes
from debian_13 import debian_13
from in_qube import run_in, skip_where_impossible
from pillars import PILLARS
from saltfactories.utils.functional import Loaders
from vpn_qube import KillswitchState, Minion, eth0, listing, rules, written

from qubes_vpn_formula.lab.qube import Qube

# Nothing here differs by Salt's release, and the core is not installed beside Salt 3006.
qubes_vpn_configure = pytest.importorskip(
    "qubes_vpn_configure",
    reason="the core is not installed here; test_killswitch.py runs the state",
)

LIBRARY = "/usr/lib/qubes-vpn"
UNIT = "/etc/systemd/system/network-pre.target.requires/qubes-vpn-closed.service"
ENDPOINTS, SETTINGS = "/rw/config/vpn/endpoints.txt", "/rw/config/vpn/killswitch.conf"
OTHER = {"endpoints": ["192.0.2.9:53/udp", "[2001:db8::9]:443/tcp"], "interface": "tun0"}


@pytest.fixture(scope="session")
def state(session_loaders):
    """The state function, loaded once: that takes a second.

    With dom0's folders: what is loaded a second time gives Salt 3007's first set its options too.
    """
    loaders = Loaders({**session_loaders.opts, "id": "sys-vpn"})
    return KillswitchState(
        {test: states["qubes_vpn.killswitch"] for test, states in both_modes(loaders).items()}
    )


@pytest.fixture(scope="session")
def template_files(tmp_path_factory):
    """What the formula puts into a template, as an archive."""
    skip_where_impossible()
    folder = tmp_path_factory.mktemp("template")
    with Qube("t-vpn") as qube:
        debian_13(qube)
        before = written(qube)
        made = Minion(qube, folder, "t-vpn").apply(PILLARS["dns"])
        assert made.code == 0, made.text
        files = sorted(written(qube) - before)
        qube.run(["tar", "-C", "/", "-cf", f"{folder}/files.tar", "-P", *files])
    return folder / "files.tar"


def made(template_files):
    """A VPN qube with an uplink, in which nothing has run yet."""
    with Qube("sys-vpn") as qube:
        qube.run(["tar", "-C", "/", "-xPf", str(template_files)])
        qube.write("/run/qubes-service/qubes-vpn", "")
        eth0(qube)
        yield qube


@pytest.fixture
def fresh(template_files):
    yield from made(template_files)


@pytest.fixture(scope="module")
def shared(template_files):
    """One for all tests that leave it as it should be."""
    yield from made(template_files)


@pytest.fixture
def healed(shared, state):
    """The shared one, opened for its tunnel, whatever the test before left."""
    done = state(shared)
    assert done["result"] is True, done
    return shared


@pytest.fixture
def opened(fresh, state):
    """The same, opened for its tunnel."""
    done = state(fresh)
    assert done["result"] is True, done
    return fresh


def holds(qube, text="192.0.2.1 . udp . 51820"):
    """Whether the killswitch is open for one endpoint, in its own words and in nft's."""
    said = qube.run([f"{LIBRARY}/killswitch", "status"], check=False)
    return said.returncode == 0 and text in rules(qube)


def is_closed(qube):
    """Closed is: all chains are there, drop, and no set has an element."""
    loaded = rules(qube)
    filters = [line for line in loaded.splitlines() if "type filter hook" in line]
    dropping = all("policy drop" in line for line in filters)
    return len(filters) >= 4 and dropping and "elements" not in loaded


@pytest.mark.parametrize("word", ["status", "load", "close", "gate"])
def test_who_is_not_root_is_told_so_and_no_more(healed, word):
    """R68. And not that what holds was altered, or could not be closed."""
    before = rules(healed)
    words = ["setpriv", "--reuid=65534", "--clear-groups", f"{LIBRARY}/killswitch", word]
    done = healed.run(words, check=False)
    told = "qubes-vpn killswitch: only root sees and does what there is. Run it with sudo\n"
    assert (done.returncode, done.stdout + done.stderr) == (1, told)
    assert rules(healed) == before


def test_both_state_modules_load_side_by_side(state, session_states, session_loaders):
    """Each where it can work, under the one name `qubes_vpn`."""
    assert "qubes_vpn.qube" in session_loaders.states
    with pytest.raises(KeyError):
        session_states.loaded("killswitch")


# --- what an edit by hand does

BY_HAND = {
    "chain emptied": ("nft flush chain inet qubes_vpn forward", "chain forward"),
    "rule added": ("nft insert rule inet qubes_vpn output accept", "'accept' is not ours"),
    "rule of a user's chain": (
        "nft add rule inet qubes_vpn from_client tcp dport 22 accept",
        "chain from_client: 'tcp dport 22 accept' is not ours",
    ),
    "policy": (
        "nft 'add chain inet qubes_vpn output { policy accept; }'",
        "policy drop;' is missing",
    ),
    "endpoint added": (
        "nft 'add element inet qubes_vpn endpoints4 { 9.9.9.9 . udp . 53 }'",
        "set endpoints4: '9.9.9.9 . udp . 53' is not ours",
    ),
    "tunnel added": (
        "nft 'add element inet qubes_vpn tunnel_names { eth0 }'",
        "set tunnel_names: '\"eth0\"' is not ours",
    ),
    "resolver added": (
        "nft 'add element inet qubes_vpn resolvers4 { 9.9.9.9 }'",
        "set resolvers4: '9.9.9.9' is not ours",
    ),
    "DNS elsewhere": (
        "nft 'add element inet qubes_vpn first4 { udp : 9.9.9.9 }'",
        "map first4: 'udp : 9.9.9.9' is not ours",
    ),
    "DNS not translated": (
        "nft flush chain inet qubes_vpn client_dns",
        "chain client_dns: 'dnat ip6 to meta l4proto map @first6' is missing",
    ),
    "DNS translated by a rule": (
        "nft add rule inet qubes_vpn prerouting udp dport 53 dnat ip to 9.9.9.9",
        "is not ours",
    ),
    "chain deleted": (
        "nft 'delete chain inet qubes_vpn postrouting'",
        "chain postrouting is missing",
    ),
    "chain of one's own": ("nft add chain inet qubes_vpn mine", "chain mine is not ours"),
    "gate opened": (
        "nft insert rule netdev qubes_vpn egress-$(cat /sys/class/net/eth0/ifindex) accept",
        "the gate of eth0 was changed",
    ),
    "gates deleted": ("nft delete table netdev qubes_vpn", "eth0 has no gate"),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_an_edit_by_hand_is_found_named_and_put_right(healed, state, name):
    """R45."""
    command, told = BY_HAND[name]
    healed.run(command)
    drifted = rules(healed)

    dry = state(healed, test=True)
    assert dry["result"] is None
    assert any(told in line for line in dry["changes"]["rules"]["old"]), dry
    assert rules(healed) == drifted

    done = state(healed)
    assert (done["result"], done["changes"]) == (True, dry["changes"]), done
    assert holds(healed)
    assert state(healed)["changes"] == {}


@pytest.mark.parametrize(
    ("command", "was"), [("nft flush ruleset", "absent"), (f"{LIBRARY}/killswitch close", "closed")]
)
def test_what_is_not_loaded_is_loaded(healed, state, command, was):
    healed.run(command)
    done = state(healed)
    assert done["result"] is True
    assert done["changes"] == {"rules": {"old": was, "new": "open"}}
    assert holds(healed)


# --- the files

SPOILT = {
    "gone": f"rm {ENDPOINTS}",
    "another endpoint": f"echo 198.51.100.7:1194/udp >> {ENDPOINTS}",
    "garbage": f"head -c 1000 /dev/urandom > {ENDPOINTS}",
    "link to elsewhere": f"ln -sf /dev/zero {ENDPOINTS}",
    "pipe": f"rm {ENDPOINTS}; mkfifo {ENDPOINTS}",
    "writable by others": f"chmod 666 {ENDPOINTS}",
    "another interface": f"echo interface = tun0 >> {SETTINGS}",
    "settings gone": f"rm {SETTINGS}",
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_file_is_written_anew(healed, state, name):
    """R45. And nothing else is."""
    right = listing_of_files(healed)
    healed.run(SPOILT[name])
    spoilt = healed.run("ls -l /rw/config/vpn").stdout
    dry = state(healed, test=True)
    assert dry["result"] is None
    assert healed.run("ls -l /rw/config/vpn").stdout == spoilt
    done = state(healed)
    assert (done["result"], done["changes"]) == (True, dry["changes"]), done
    path = SETTINGS if SPOILT[name].endswith(SETTINGS) else ENDPOINTS
    assert path in done["changes"]
    assert listing_of_files(healed) == right
    assert holds(healed)
    assert state(healed)["changes"] == {}


FOLDER = "/rw/config/vpn"


@pytest.mark.parametrize(
    "spoil", [f"chown 1000 {FOLDER}", f"chmod 777 {FOLDER}", f"chown 1000 {ENDPOINTS}"]
)
def test_what_others_can_change_closes_it_until_it_is_roots(healed, state, spoil):
    """R41. As by `sudo mv`, which keeps the owner; a program of the user's writes what it likes."""
    right = healed.run(f"stat -c '%a %U' {FOLDER}").stdout + listing_of_files(healed)
    healed.run(spoil)
    theirs = f"rm -f {ENDPOINTS}; echo 203.0.113.66:53/udp > {ENDPOINTS}"
    healed.run(["setpriv", "--reuid=1000", "--clear-groups", "sh", "-c", theirs], check=False)
    loaded = healed.run([f"{LIBRARY}/killswitch", "load"], check=False)
    assert (loaded.returncode, is_closed(healed)) == (1, True)
    assert "others than root can change it" in loaded.stderr
    assert "others than root" in healed.run([f"{LIBRARY}/killswitch", "status"], check=False).stdout

    dry = state(healed, test=True)
    assert (dry["result"], is_closed(healed)) == (None, True)
    done = state(healed)
    assert (done["result"], done["changes"]) == (True, dry["changes"]), done
    assert healed.run(f"stat -c '%a %U' {FOLDER}").stdout + listing_of_files(healed) == right
    assert holds(healed)
    assert "203.0.113.66" not in rules(healed)
    assert state(healed)["changes"] == {}


def listing_of_files(qube):
    """Names, kinds, modes and owners, and what is in them."""
    return qube.run("cd /rw/config/vpn && stat -c '%n %F %a %U %s' * && cat *").stdout


def test_another_pillar_replaces_both_files(healed, state):
    done = state(healed, log_drops=True, **OTHER)
    assert done["result"] is True
    assert done["changes"] == {
        SETTINGS: {
            "old": ["interface = wg0", "log = no"],
            "new": ["interface = tun0", "log = yes"],
        },
        ENDPOINTS: {
            "old": ["192.0.2.1:51820/udp"],
            "new": ["192.0.2.9:53/udp", "[2001:db8::9]:443/tcp"],
        },
    }
    assert holds(healed, "192.0.2.9 . udp . 53")
    assert "192.0.2.1" not in rules(healed)
    assert 'log prefix "qubes-vpn drop: "' in rules(healed)


def test_a_secret_that_somebody_put_there_is_not_told(healed, state):
    """R33. What a state says ends up in dom0's log."""
    secret = "x" * 43 + "="
    healed.run(f"echo PrivateKey = {secret} >> {ENDPOINTS}")
    for test in (True, False):
        assert secret not in str(state(healed, test=test))


@pytest.mark.parametrize("at", [0, 1, 2])
def test_killed_while_writing_it_is_closed_or_as_wanted(healed, state, monkeypatch, at):
    """Never the old endpoints with the new interface, nor the other way round."""
    replace, calls = qubes_vpn_configure.replace, []

    def killed(*args):
        if len(calls) == at:
            os._exit(9)
        calls.append(args)
        return replace(*args)

    files = qubes_vpn_configure.wanted(OTHER["endpoints"], OTHER["interface"], False)
    with monkeypatch.context() as patch:
        patch.setattr(qubes_vpn_configure, "replace", killed)
        with pytest.raises(AssertionError, match="ended with 9") if at < 2 else nullcontext():
            run_in(healed, qubes_vpn_configure.write, files)
    code = healed.run([f"{LIBRARY}/killswitch", "load"], check=False).returncode
    assert (code == 1 and is_closed(healed)) if at < 2 else holds(healed, "192.0.2.9 . udp . 53")
    assert state(healed, **OTHER)["result"] is True
    assert holds(healed, "192.0.2.9 . udp . 53")


# --- the user's own scripts


def test_scripts_of_the_users_stay_and_are_named(fresh, state):
    """R46."""
    mine = {
        "/rw/config/qubes-firewall-user-script": 0o755,
        "/rw/config/rc.local": 0o755,
        "/rw/config/qubes-firewall.d/10-mine": 0o755,
        "/rw/config/qubes-firewall.d/notes": 0o644,
    }
    for path, mode in mine.items():
        fresh.write(path, "#!/bin/sh\nnft add rule ip qubes custom-forward drop\n", mode)
    before = fresh.run("stat -c '%n %a %Y %i' /rw/config/* /rw/config/*.d/*").stdout
    done = state(fresh)
    assert done["comment"].endswith(
        "Your own scripts run as before: /rw/config/qubes-firewall-user-script, "
        "/rw/config/rc.local, /rw/config/qubes-firewall.d/10-mine."
    )
    after = fresh.run("stat -c '%n %a %Y %i' /rw/config/* /rw/config/*.d/*").stdout
    assert [line for line in before.splitlines() if line not in after.splitlines()] == []


# --- what cannot be


@pytest.mark.parametrize("endpoints", [[], ["0.0.0.0/0:1/udp"], ["se.example:1/udp"], ["x\ny"]])
def test_endpoints_that_are_none_close_it(healed, state, endpoints):
    """R45. The pillar's check would have stopped before."""
    done = state(healed, endpoints=endpoints)
    assert done["result"] is False
    assert done["comment"].endswith("The qube is closed.")
    assert done["changes"] == {"rules": {"old": "open", "new": "closed"}}
    assert is_closed(healed)


def test_full_disk_closes_it_for_good(opened, state):
    """R45. Also the next load finds no endpoints, because they are not what the pillar says."""
    opened.run("cp -a /rw/config/vpn /run/vpn; mount -t tmpfs -o size=12k full /rw/config/vpn")
    opened.run("cp -a /run/vpn/. /rw/config/vpn/; cat /dev/zero > /rw/config/vpn/full || :")
    done = state(opened, endpoints=OTHER["endpoints"])
    assert done["result"] is False
    assert "No space left on device" in done["comment"]
    assert is_closed(opened)
    assert opened.run([f"{LIBRARY}/killswitch", "load"], check=False).returncode == 1
    assert is_closed(opened)


def test_without_nft_the_link_goes_down(opened, state):
    opened.run("nft flush ruleset; rm /usr/sbin/nft")
    dry = state(opened, test=True)
    assert (dry["result"], dry["comment"]) == (False, "nft: No such file or directory.")
    assert "state UP" in opened.run("ip link show eth0").stdout  # nothing is changed
    done = state(opened)
    assert done["result"] is False
    assert "nft: No such file or directory." in done["comment"]
    assert "eth0 was taken down; once this is mended: ip link set dev eth0 up." in done["comment"]
    assert "state DOWN" in opened.run("ip link show eth0").stdout


def test_without_conntrack_it_stays_closed(fresh, state):
    """Flows from before the rules could not be cut."""
    fresh.run("rm /usr/sbin/conntrack")
    done = state(fresh)
    assert done["result"] is False
    assert "conntrack: No such file or directory." in done["comment"]
    assert is_closed(fresh)


def test_somebody_who_is_not_root_gets_words(healed, state):
    before = rules(healed)
    done = state(healed, uid=65534)
    assert done["result"] is False
    assert "Operation not permitted" in done["comment"]
    assert rules(healed) == before


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (f"rm {UNIT}", f"{UNIT} is not there, or cannot be run. Apply the formula"),
        (
            "rm /etc/qubes/qubes-firewall.d/50-qubes-vpn",
            "qubes-firewall.d/50-qubes-vpn is not there, or cannot be run. Apply the formula",
        ),
        (f"echo nonsense >> {LIBRARY}/closed.nft", "is of another version"),
    ],
)
def test_a_template_that_lacks_something_fails(opened, state, spoil, told):
    opened.run(spoil)
    for test in (True, False):
        done = state(opened, test=test)
        assert done["result"] is False, done
        assert told in done["comment"]
    if "nonsense" in spoil:
        assert "eth0 was taken down" in done["comment"]
    else:
        assert is_closed(opened)


def test_service_that_is_off_is_named(opened, state):
    opened.run("rm /run/qubes-service/qubes-vpn")
    for test in (True, False):
        done = state(opened, test=test)
        assert done["result"] is False
        assert done["comment"].startswith("the service qubes-vpn is off. In dom0: qvm-service")


def test_custom_persist_is_no_matter_with_a_template_of_ours(fresh, state):
    """R41."""
    fresh.write("/run/qubes-service/custom-persist", "")
    assert state(fresh)["result"] is True
    assert holds(fresh)


def test_second_run_touches_nothing(healed, state):
    before = listing(healed), rules(healed)
    for test in (True, False):
        done = state(healed, test=test)
        assert (done["result"], done["changes"]) == (True, {})
        assert (listing(healed), rules(healed)) == before


def test_words_that_are_no_endpoints_are_not_shown(opened, state):
    """R33. The changes go into dom0's log; somebody may have put a login there."""
    opened.write("/rw/config/vpn/endpoints.txt", "jane\nhunter2\n")
    done = state(opened)
    assert done["result"] is True
    assert "hunter2" not in str(done)
