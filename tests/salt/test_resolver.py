# SPDX-License-Identifier: GPL-2.0-or-later
"""qubes.network.sys-vpn in a resolver's template, by real salt-calls (R25, R51, R52, R54)."""

import re

import pytest
from debian_13 import debian_13
from in_qube import skip_where_impossible
from pillars import PILLARS
from vpn_qube import Minion, listing, written

from qubes_vpn_formula.lab import services
from qubes_vpn_formula.lab.qube import Qube

LIBRARY, UNITS = "/usr/lib/qubes-vpn", "/etc/systemd/system"
READY = "t-dns: template_ready"
#: Ours, with where each is linked.
WANTED = {
    "qubes-vpn-dns-closed.service": "sysinit.target.wants",
    "qubes-vpn-dns-own.service": "sysinit.target.wants",
    "qubes-vpn-dns.service": "multi-user.target.wants",
    "dnscrypt-proxy.service": "multi-user.target.wants",
}
MASKED = ("dnscrypt-proxy.socket", "dnscrypt-proxy-resolvconf.service")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("t-dns")


@pytest.fixture
def qube():
    skip_where_impossible()
    with Qube("t-dns") as made:
        debian_13(made, ("dnscrypt",))
        made.run("useradd --system --no-create-home _dnscrypt-proxy")  # as the package does
        yield made


def imported(checkout, program):
    """The core modules that a program needs, found by import lines."""
    found, todo = set(), [program]
    while todo:
        for name in re.findall(r"^\s*(?:import|from) (qubes_vpn_\w+)", todo.pop(), re.MULTILINE):
            if name not in found:
                found.add(name)
                todo.append((checkout / f"_utils/{name}.py").read_text())
    return found


def service_modules():
    """The core modules of dom0's services, in the template."""
    return {path for path in services.files(services.RESOLVER) if path.endswith(".py")}


def test_a_resolvers_template_gets_all_of_it_and_nothing_of_a_tunnels(qube, folder, checkout):
    """R25, R69."""
    template, before = Minion(qube, folder, "t-dns"), written(qube)
    # Somebody's own file in the place of a mask.
    qube.write(f"{UNITS}/dnscrypt-proxy.socket", "[Socket]\nListenStream=127.0.2.1:53\n")
    listed = listing(qube)
    dry = template.apply(PILLARS["dns"], test=True)
    assert dry.code == 0, dry.text
    assert dry.states[READY]["result"] is None
    assert listing(qube) == listed

    real = template.apply(PILLARS["dns"])
    assert (real.code, real.results()) == (0, {True}), real.text
    assert real.states[READY]["comment"] == "t-dns is ready for: dnscrypt."
    # Whose unit is a file of ours, of that Salt cannot tell if it is masked, and logs an error.
    assert "t-dns: dnscrypt-proxy starts with the qube" in real.states
    assert "t-dns: dnscrypt-proxy may start" not in real.states
    # Salt's own state for a link in place of a file names no changes beforehand.
    assert dry.states[f"{UNITS}/dnscrypt-proxy.socket"]["result"] is None
    assert real.changed() == dry.changed() | {f"{UNITS}/dnscrypt-proxy.socket"}
    modules = imported(checkout, (checkout / "salt/qubes/network/files/resolver").read_text())
    modules |= {path.removeprefix(f"{LIBRARY}/").removesuffix(".py") for path in service_modules()}
    assert {"qubes_vpn_dns_watch", "qubes_vpn_dnscrypt", "qubes_vpn_resolver"} < modules
    new = written(qube) - before
    assert {path for path in new if path.startswith(LIBRARY)} == {
        f"{LIBRARY}/dns-closed.nft",
        f"{LIBRARY}/resolver",
        f"{LIBRARY}/service",
        *(f"{LIBRARY}/{name}.py" for name in modules),
    }
    assert {path for path in new if path.startswith("/etc/qubes-rpc/")} == {
        f"/etc/qubes-rpc/qubes-vpn.{name}" for name in ("Status", "Rules", "Drops")
    }
    for path, (text, _) in services.files(services.RESOLVER).items():
        assert qube.read(path) == text
    for name, wanting in WANTED.items():
        assert qube.run(["readlink", f"{UNITS}/{wanting}/{name}"]).stdout == f"{UNITS}/{name}\n"
    for name in MASKED:
        assert qube.run(["readlink", f"{UNITS}/{name}"]).stdout == "/dev/null\n"
    assert qube.run(["stat", "-c", "%a %U", f"{LIBRARY}/dns-closed.nft"]).stdout == "600 root\n"
    assert "qubes-vpn-closed.service" not in "".join(new)
    assert "/var/" not in "".join(new)

    again = template.apply(PILLARS["dns"])
    assert (again.code, again.changed()) == (0, set())

    # Before dnscrypt-proxy, and as its user.
    words = ["runuser", "-u", "_dnscrypt-proxy", "--", f"{LIBRARY}/resolver", "lists"]
    told = qube.run(words, check=False)
    assert "dnscrypt-proxy.toml: No such file" in told.stderr, told.stderr
    # It needs nothing but what was put there, also without the flag.
    told = qube.run([f"{LIBRARY}/resolver", "check"], check=False)
    assert (told.returncode, told.stderr) == (1, "")
    assert "dnscrypt-proxy.toml is not there. Apply the formula to this qube.\n" in told.stdout
    qube.run(
        f"rm {UNITS}/dnscrypt-proxy.socket {UNITS}/multi-user.target.wants/qubes-vpn-dns.service"
    )
    code, said = template.call("qubes_vpn.template_ready", "[dnscrypt]")
    assert code == 0
    assert "the unit dnscrypt-proxy.socket is not masked" in said
    assert "the unit qubes-vpn-dns.service does not start with the qube" in said


def test_one_template_for_a_tunnel_and_its_resolver(qube, tmp_path):
    """No file of the two roles is the other's, and no state is there twice."""
    pillar = {**PILLARS["dns"], "resolvers": {"sys-dns": {"template": "t-vpn"}}}
    dry = Minion(qube, tmp_path, "t-vpn").apply(pillar, test=True)
    assert f"{LIBRARY}/closed.nft" in dry.states, dry.text
    assert f"{LIBRARY}/dns-closed.nft" in dry.states
    assert "t-vpn: template_ready" in dry.states
