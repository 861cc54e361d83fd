# SPDX-License-Identifier: GPL-2.0-or-later
"""A bare Debian 13 template becomes one that can carry a tunnel (R22, R23, R24, R25).

By real Salt and real apt, from Debian, through the template's updates proxy, its only way out.
Qubes' own packages are not Debian's: stand-ins with their names and what they bring are in a
folder of the template.  network-manager-gnome, which Qubes' package brings too, is left out.
"""

import pytest
import qubes_packages

from qubes_vpn_formula.lab.booted.machine import Booted, Template
from qubes_vpn_formula.lab.booted.salt import Applied, Salt

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PILLAR = {
    "tunnels": {
        "sys-vpn": {
            "kind": "openvpn",
            "template": "t-vpn",
            "profile": "se.ovpn",
            "endpoints": ["192.0.2.1:1194/udp"],
        }
    }
}
READY, PACKAGES = "t-vpn: template_ready", "t-vpn: packages"


@pytest.fixture(scope="module")
def salt(tmp_path_factory: pytest.TempPathFactory) -> Salt:
    return Salt(tmp_path_factory.mktemp("salt") / "master")


@pytest.fixture(scope="module")
def template(lab: Booted, tmp_path_factory: pytest.TempPathFactory) -> Template:
    template = lab.template("t-vpn")
    template.start()
    template.write("/run/qubes-service/updates-proxy-setup", "")
    qubes_packages.offer(template, tmp_path_factory.mktemp("stand-ins"))
    return template


@pytest.fixture(scope="module")
def runs(template: Template, salt: Salt) -> dict[str, Applied]:
    """The same SLS: looked at, without a proxy, for real, once more."""
    runs = {"dry": salt.apply(template, PILLAR, test=True)}
    template.run("mv /etc/apt/apt.conf.d/01qubes-proxy /srv")
    template.run("echo 'Acquire::http::Proxy \"http://127.0.0.1:9/\";' >/etc/apt/apt.conf.d/01no")
    runs["no way"] = salt.apply(template, PILLAR)
    template.run("rm /etc/apt/apt.conf.d/01no; mv /srv/01qubes-proxy /etc/apt/apt.conf.d")
    runs["real"] = salt.apply(template, PILLAR)
    runs["again"] = salt.apply(template, PILLAR)
    return runs


def test_a_dry_run_says_what_would_be_put_and_fetches_nothing(runs):
    """R69."""
    dry = runs["dry"]
    assert dry.code == 0, dry.text
    assert dry.states[PACKAGES]["result"] is None
    assert "qubes-core-agent-networking" in dry.states[PACKAGES]["changes"]
    assert dry.states[READY]["result"] is None
    comment = dry.states[READY]["comment"]
    for lacking in (
        "the package qubes-core-agent-networking is missing",
        "the package network-manager-openvpn is missing",
        "the service NetworkManager is not there",
        "/usr/lib/qubes-vpn/killswitch is not there",
    ):
        assert lacking in comment


def test_there_is_no_way_out_but_the_proxy(runs, template):
    """R23: a sentence, and nothing installed that is not in the template's own folder."""
    states = runs["no way"].states
    assert states[PACKAGES]["result"] is False
    comment = states[PACKAGES]["comment"]
    assert comment.startswith("Not installed through the updates proxy 127.0.0.1:8082: ")
    assert "the pillar's updates.templates" in comment
    assert len(comment) < 1000
    assert states[READY]["result"] is False
    assert template.run("ip -o route").stdout == ""


def test_the_sls_makes_it_ready(runs, template):
    real = runs["real"]
    assert real.code == 0, real.text
    assert real.results() == {True}
    assert real.states[READY]["comment"] == "t-vpn is ready for: openvpn."
    assert real.states[PACKAGES]["changes"] == runs["dry"].states[PACKAGES]["changes"]
    enabled = template.run("systemctl is-enabled NetworkManager qubes-vpn-closed").stdout
    assert enabled.split() == ["enabled", "enabled"]
    have = template.run(["dpkg-query", "-W", "-f", "${Package}\n"]).stdout.split()
    assert not {"modemmanager", "wpasupplicant"} & set(have)  # only recommended


def test_a_second_run_is_silent(runs):
    again = runs["again"]
    assert (again.code, again.changed()) == (0, set())


def test_what_is_lost_later_is_missed_by_the_function_too(runs, template, salt):
    """R25: `qubes_vpn.template_ready`, and a login that somebody leaves there."""
    words = ("qubes_vpn.template_ready", "[openvpn]", "minimal=True")
    assert '"ready": true' in salt.call(template, *words).stdout
    template.run("systemctl mask NetworkManager")
    template.write("/etc/mullvad-vpn/device.json", '{"logged_in": {"account": "SECRET"}}')
    said = salt.call(template, *words).stdout
    assert '"ready": false' in said
    assert "the service NetworkManager is masked. Apply the formula to this template." in said
    assert "/etc/mullvad-vpn/device.json holds a login" in said
    assert "SECRET" not in said
    assert "write a list, '[wireguard]', of: " in salt.call(template, words[0], "vpn").stdout


def test_what_a_failed_render_leaves_is_gone_after_the_next_run(runs, template, salt):
    """Why `template_ready` does not look for it (docs/decisions/0014)."""
    salt.give({**PILLAR, "topology": "no such"})
    assert salt.call(template, "state.sls", "qubes.network.sys-vpn").returncode != 0
    assert _of_salt(template)
    salt.apply(template, PILLAR, test=True)
    assert _of_salt(template) == []


def _of_salt(template):
    return template.run("ls -d /var/tmp/.*_salt || :").stdout.split()
