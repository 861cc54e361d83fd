# SPDX-License-Identifier: GPL-2.0-or-later
"""The booted lab itself: templates and AppVMs keep and forget what Qubes keeps and forgets."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qubes_vpn_formula.lab.booted import updates
from qubes_vpn_formula.lab.booted.machine import AppVM, Booted, Template
from qubes_vpn_formula.lab.booted.room import Room

_SERVER = "198.51.100.3"
_SHORT_LIVED = """
import time
from qubes_vpn_formula.lab.booted.machine import Booted
lab = Booted()
qube = lab.appvm("short-lived", lab.template("t"))
qube.start(wait=False)
print(qube.pid, lab.room.group, flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def template(lab: Booted) -> Template:
    template = lab.template("t-net")
    template.write("/etc/of-the-template", "1")
    template.run(
        "mkdir -p /etc/qubes-bind-dirs.d && echo 'binds+=(/var/lib/kept)' "
        ">/etc/qubes-bind-dirs.d/50_test.conf && mkdir /var/lib/kept"
    )
    template.stop()
    return template


@pytest.fixture(scope="module")
def qube(lab: Booted, template: Template) -> AppVM:
    qube = lab.appvm("sys-one", template)
    qube.start()
    return qube


def test_a_template_says_what_was_written_in_it(template):
    assert {"/etc/of-the-template", "/etc/qubes-bind-dirs.d/50_test.conf"} <= template.changed()
    assert not {path for path in template.changed() if path.startswith("/usr")}


def test_qubes_agent_has_started_without_a_failure(qube):
    assert qube.failed() == []
    assert qube.run("hostname").stdout == "sys-one\n"
    tables = qube.run("nft list tables").stdout.splitlines()
    assert {"table ip qubes", "table ip6 qubes", "table ip qubes-firewall"} <= set(tables)
    link = qube.run("ip -oneline link show group 1").stdout
    assert "eth0" in link


def test_a_restart_keeps_what_qubes_keeps(qube):
    kept = ("/rw/config/a", "/home/a", "/usr/local/a", "/var/lib/kept/a")
    lost = ("/etc/a", "/var/lib/a", "/opt/a")
    for path in (*kept, *lost):
        qube.write(path, "1")
    qube.run("ip link add left-over type dummy || ip link add left-over type veth")
    qube.stop()
    qube.start()
    assert [path for path in kept if not qube.exists(path)] == []
    assert [path for path in lost if qube.exists(path)] == []
    assert "left-over" not in qube.run("ip link").stdout
    assert qube.exists("/etc/of-the-template")


def test_a_client_reaches_the_internet_through_a_booted_qube(lab, qube):
    client = lab.client("work", netvm=qube)
    ping = ["ping", "-c1", "-W3", "-n"]
    assert client.run([*ping, _SERVER], check=False).returncode == 0
    qube.kill()
    assert client.run([*ping, _SERVER], check=False).returncode
    qube.start()
    assert client.run([*ping, _SERVER], check=False).returncode == 0
    qube.allow(client, ["action=drop proto=icmp"])
    time.sleep(1)
    assert client.run([*ping, _SERVER], check=False).returncode


def test_a_qube_behind_a_booted_qube_gets_its_uplink_again(lab, template, qube):
    """A netvm that is killed and started again; a file that Qubes is told not to write."""
    behind = lab.appvm("sys-two", template, netvm=qube)
    client = lab.client("far", netvm=behind)
    if not qube.running:
        qube.start()
    behind.start()
    ping = ["ping", "-c1", "-W3", "-n", _SERVER]
    assert client.run(ping, check=False).returncode == 0
    assert behind.qubesdb["/qubes-ip"] in qube.qubesdb["/connected-ips"].split()
    behind.run("mkdir -p /rw/config/protected-files.d; echo 127.0.0.1 >/etc/resolv.conf")
    behind.write("/rw/config/protected-files.d/mine", "/etc/resolv.conf\n")
    qube.kill()
    assert client.run(ping, check=False).returncode
    qube.start()
    until = time.monotonic() + 10
    while client.run(ping, check=False).returncode and time.monotonic() < until:
        time.sleep(0.2)
    assert client.run(ping, check=False).returncode == 0
    assert behind.read("/etc/resolv.conf") == "127.0.0.1\n"
    behind.run("rm /rw/config/protected-files.d/mine")
    behind.run(["systemctl", "restart", "qubes-network-uplink@eth0"])
    assert behind.read("/etc/resolv.conf").startswith("nameserver 10.139.1.1\n")
    behind.stop()
    connected = qube.qubesdb.get("/connected-ips", "")
    assert behind.qubesdb["/qubes-ip"] not in connected.split()


def test_a_template_reaches_debian_only_by_the_updates_proxy(template):
    template.install(["hostname", "ncal"])
    assert template.run("apt-get --yes install no-such-package-here", check=False).returncode
    template.stop()
    assert "/usr/bin/ncal" in template.changed()


def test_what_was_installed_once_is_there_for_the_next_template(lab, monkeypatch):
    """Without asking Debian, and with dpkg knowing it."""
    lab.template("t-first").install(["hostname", "ncal"])
    second = lab.template("t-second")
    monkeypatch.setattr(updates, "_fetched", None)
    second.install(["ncal", "hostname"])
    assert not second.running
    assert second.run("ncal -h", check=False).returncode != 127
    assert second.run("dpkg-query -W -f '${Status}' ncal").stdout == "install ok installed"
    assert "/usr/bin/ncal" in second.changed()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_lab(lab, sent):
    """However its process ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SHORT_LIVED], stdout=subprocess.PIPE, text=True
    )
    pid, group = process.stdout.readline().split()
    assert Path(f"/proc/{pid}").exists()
    process.send_signal(sent)
    process.wait()
    until = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
    assert group not in Path("/proc/mounts").read_text()
    procs = Path(f"/sys/fs/cgroup/unified/{group}/cgroup.procs")
    assert not procs.exists() or procs.read_text() == ""


@pytest.mark.usefixtures("lab")
def test_a_lab_that_ends_lets_those_that_run_alone():
    """Two may run at once; a control group is empty until its first qube is started."""
    bases = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
    base = next(base for base in bases if (base / "cgroup.procs").exists())
    over = subprocess.Popen(["true"])
    over.wait()
    running, killed = (base / f"qubes-vpn-lab-{pid}-0" for pid in (os.getppid(), over.pid))
    running.mkdir()
    try:
        killed.mkdir()
        Room().close()
        assert (running.exists(), killed.exists()) == (True, False)
    finally:
        running.rmdir()
