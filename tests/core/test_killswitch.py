# SPDX-License-Identifier: GPL-2.0-or-later
"""The killswitch in a qube: what it is given decides between open and closed, and never leaks half.

Rules of a real kernel in namespaces of their own; no Salt.
"""

import os
from pathlib import Path

import pytest
from in_qube import run_in, skip_where_impossible

import qubes_vpn_killswitch
import qubes_vpn_nft
from qubes_vpn_formula.lab.qube import Qube

ENDPOINTS, SETTINGS = "/rw/config/vpn/endpoints.txt", "/rw/config/vpn/killswitch.conf"
OLD, NEW = "192.0.2.1 . udp . 51820", "192.0.2.9 . tcp . 443"


@pytest.fixture(scope="module")
def library(checkout):
    """The folder with the formula's own closed.nft."""
    return checkout / "salt/qubes/network/files"


@pytest.fixture(scope="module")
def shared():
    skip_where_impossible()
    with Qube("sys-vpn") as qube:
        qube.run("ip netns add other; ip link add eth0 type veth peer name eth0 netns other")
        qube.run("ip -n other link set eth0 up; ip link set eth0 up group 1")
        yield qube


@pytest.fixture
def qube(shared, library):
    """A qube that is open for one endpoint."""
    shared.run(f"rm -rf {ENDPOINTS} {SETTINGS}; nft flush ruleset; ip link set eth0 up")
    shared.write(ENDPOINTS, "192.0.2.1:51820/udp\n")
    assert load(shared, library) == (True, (), True)
    return shared


def load(qube, library):
    return tuple(run_in(qube, qubes_vpn_killswitch.load, library))


def rules(qube):
    return qube.run("nft --stateless list ruleset").stdout


def is_closed(qube):
    """All chains are there and drop, the gate too, and no set has an element."""
    loaded = rules(qube)
    hooks = [line for line in loaded.splitlines() if "type filter hook " in line]
    gate = [line for line in hooks if 'device "eth0"' in line]
    return (
        (len(hooks), len(gate)) == (5, 1)
        and all("policy drop" in line for line in hooks)
        and "elements" not in loaded
    )


def is_open(qube, *endpoints):
    """All of that, and open for these endpoints alone."""
    loaded = rules(qube)
    (found,) = loaded.split("set endpoints4")[1].split("elements = {")[1].split("}")[:1]
    return sorted(part.strip() for part in found.split(",")) == sorted(endpoints)


# --- what is no configuration

BAD_ENDPOINTS = {
    "missing": ("rm {}", "not there"),
    "empty": (": > {}", "no endpoint in it"),
    "garbage": ("head -c 4000 /dev/urandom > {}", "endpoints.txt"),
    "blank lines": ("printf '\\n\\n\\r\\n' > {}", "no endpoint in it"),
    "everything": ("echo 0.0.0.0/0:1-65535/udp > {}", "too wide for an endpoint"),
    "everything, in parts": (
        "for i in $(seq 1 223); do echo $i.0.0.0/16:1-65535/udp; done > {}",
        "endpoints.txt:127: ",
    ),
    "nft's words": ("echo '192.0.2.1:1/udp }}; add rule x' > {}", "endpoints.txt:1: "),
    "an include": ("echo 'include \"/etc/passwd\"' > {}", "endpoints.txt:1: "),
    "one bad line of many": ("echo x >> {}", "endpoints.txt:2: 'x' is not"),
    "NUL": ("printf '192.0.2.1:1/udp\\0\\n' > {}", "endpoints.txt:1: "),
    "BOM": ("printf '\\357\\273\\277192.0.2.1:1/udp\\n' > {}", "not plain text"),
    "UTF-16": ("echo 192.0.2.1:1/udp | iconv -t UTF-16 > {}", "not plain text"),
    "folder": ("rm {0}; mkdir {0}", "Is a directory"),
    "pipe": ("rm {0}; mkfifo {0}", "not a plain file"),
    "device": ("ln -sf /dev/zero {}", "not a plain file"),
    "link to itself": ("ln -sf endpoints.txt {}", "Too many levels of symbolic links"),
    "200,000 lines": (
        "seq 200000 | sed 's,.*,192.0.2.1:51820/udp,' > {}",
        "more than 100000 endpoints",
    ),
    "hundreds of megabytes": ("truncate -s 300M {}", "larger than 8 MiB"),
    "/rw/config/vpn missing": ("rm -r /rw/config/vpn", "not there"),
}


@pytest.mark.parametrize("name", BAD_ENDPOINTS)
def test_endpoints_that_cannot_be_used_close_it(qube, library, name):
    """R45. Also when it was open before."""
    command, told = BAD_ENDPOINTS[name]
    qube.run(command.format(ENDPOINTS))
    opened, problems, _ = load(qube, library)
    assert opened is False
    assert any(told in problem for problem in problems), problems
    assert is_closed(qube)


@pytest.mark.parametrize(
    "settings",
    [
        "interface = eth0\n",
        "interface = *\n",
        'interface = wg0"; }\n',
        "log = perhaps\n",
        "\x00",
        "accept\n",
    ],
)
def test_settings_that_cannot_be_used_close_it(qube, library, settings):
    """R45."""
    qube.write(SETTINGS, settings)
    opened, problems, _ = load(qube, library)
    assert opened is False
    assert all(problem.startswith(f"{SETTINGS}:") for problem in problems)
    assert is_closed(qube)


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "  # mine\n\n"])
def test_lines_may_end_in_any_way(qube, library, end):
    qube.write(ENDPOINTS, f"192.0.2.9:443/tcp{end}")
    assert load(qube, library) == (True, (), True)
    assert is_open(qube, NEW)


def test_many_endpoints_load(qube, library):
    lines = "for a in $(seq 0 195); do seq -f 198.18.$a.%g:1/udp 0 255; done | head -n 50000"
    qube.run(f"({lines}) > {ENDPOINTS}")
    assert load(qube, library) == (True, (), True)
    assert len(rules(qube).split(" . udp . 1")) == 50_001


def test_somebody_elses_set_of_one_of_our_names_is_replaced(qube, library):
    qube.run("nft delete table inet qubes_vpn; nft add table inet qubes_vpn")
    qube.run("nft 'add set inet qubes_vpn tunnel_names { type ipv4_addr; }'")
    qube.run("nft 'add chain inet qubes_vpn input { type nat hook input priority 0; }'")
    assert load(qube, library) == (True, (), True)
    assert is_open(qube, OLD)


# --- what ends it half way


@pytest.mark.parametrize("old", ["fresh", "open"])
def test_killed_at_any_point_it_is_as_before_or_as_wanted(qube, library, monkeypatch, old):
    """R45. Killed before every program that it starts: there is nothing between."""
    run = qubes_vpn_nft.run
    for at in range(1, 30):
        if old == "fresh":
            qube.run("nft flush ruleset")
        elif at > 1:
            qube.write(ENDPOINTS, "192.0.2.1:51820/udp\n")
            load(qube, library)
        before = rules(qube)
        qube.write(ENDPOINTS, "192.0.2.9:443/tcp\n")
        calls = []

        def killed(*argv, at=at, calls=calls, **more):
            calls.append(argv)
            return os._exit(9) if len(calls) == at else run(*argv, **more)

        with monkeypatch.context() as patch:
            patch.setattr(qubes_vpn_nft, "run", killed)
            try:
                finished = load(qube, library)
            except AssertionError:  # it said nothing any more
                assert rules(qube) == before or is_open(qube, NEW), at
                continue
        assert finished == (True, (), True)
        assert is_open(qube, NEW)
        assert at > 5
        return
    pytest.fail("it never finished")


def test_without_nft_the_link_goes_down(qube, library):
    qube.run("cp /usr/sbin/nft /run/nft; rm /usr/sbin/nft")
    try:
        opened, problems, _ = load(qube, library)
        assert opened is False
        assert "nft: No such file or directory" in problems
        assert "eth0 was taken down; once this is mended: ip link set dev eth0 up" in problems
        assert "state DOWN" in qube.run("ip link show eth0").stdout
    finally:
        qube.run("cp /run/nft /usr/sbin/nft")


def test_two_at_once_wait_for_each_other(qube, library):
    """A hook and a unit may start it in the same moment."""
    modules = str(Path(qubes_vpn_killswitch.__file__).parent)
    code = (
        f"import sys, pathlib; sys.path.insert(0, {modules!r}); import qubes_vpn_killswitch as k;"
        f"sys.exit(k.load(pathlib.Path({str(library)!r})).problems and 1 or 0)"
    )
    running = [qube.popen(["python3", "-c", code]) for _ in range(8)]
    assert [one.wait(60) for one in running] == [0] * 8
    assert is_open(qube, OLD)


def test_status_tells_open_closed_altered_and_absent(qube, library):
    def state():
        return run_in(qube, qubes_vpn_killswitch.status, library)["state"]

    assert state() == "open"
    run_in(qube, qubes_vpn_killswitch.close, library)
    assert state() == "closed"
    qube.run("nft insert rule inet qubes_vpn output accept")
    assert state() == "altered"
    qube.run("nft flush ruleset")
    assert state() == "absent"
