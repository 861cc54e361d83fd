# SPDX-License-Identifier: GPL-2.0-or-later
"""What root does beside others who are not: any umask, links, names and words of theirs (R33, R45).

docs/threat-model.md says who they are.
"""

import os
import re
import stat
import subprocess
import time
from pathlib import Path

import pytest

import qubes_vpn_configure
import qubes_vpn_connections
import qubes_vpn_dns_apply
import qubes_vpn_dns_health
import qubes_vpn_dns_proxy
import qubes_vpn_facts
import qubes_vpn_keyfile
import qubes_vpn_killswitch
import qubes_vpn_mullvad_keep
import qubes_vpn_notice
import qubes_vpn_tunnel
from qubes_vpn_killswitch import Unusable
from qubes_vpn_policy import FILE, Policy

HARMLESS = 1000  # the user of a qube


@pytest.fixture(params=[0o000, 0o077], ids=["umask-000", "umask-077"])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder):
    """``{path below folder: mode}``."""
    return {
        str(path.relative_to(folder)): stat.S_IMODE(path.lstat().st_mode)
        for path in sorted(folder.rglob("*"))
    }


def test_modes_are_nobodys_umask(tmp_path, monkeypatch, umask):
    """Below these folders lies what root runs at the next start, and what others must read."""
    config = tmp_path / "rw/config/vpn"
    files = tmp_path / "run/qubes-vpn"
    files.parent.mkdir(0o755)
    for module, name, value in (
        (qubes_vpn_killswitch, "CONFIG", config),
        (qubes_vpn_configure, "ENDPOINTS", config / "endpoints.txt"),
        (qubes_vpn_connections, "FILES", files),
        (qubes_vpn_tunnel, "WISH", files / "wish"),
        (qubes_vpn_connections, "KEYFILES", tmp_path / "run/NetworkManager/system-connections"),
        (qubes_vpn_dns_apply, "FOLDER", config / "dns"),
        (qubes_vpn_dns_apply, "CONFIG", config / "dns/dnscrypt-proxy.toml"),
    ):
        monkeypatch.setattr(module, name, value)
    (tmp_path / "run").chmod(0o755)

    qubes_vpn_dns_apply.write({config / "dns/dnscrypt-proxy.toml": "x"})
    qubes_vpn_configure.write({config / "killswitch.conf": "", config / "endpoints.txt": "x"})
    qubes_vpn_tunnel.wish("one.conf")
    secret = {str(files / "some-uuid/ca.pem"): b"x"}
    connection = qubes_vpn_keyfile.Connection("some-uuid", "one", "uuid=some-uuid\n", secret, ())
    qubes_vpn_connections.write({"one.conf": connection})
    qubes_vpn_mullvad_keep._write(tmp_path / "rw/config/qubes-bind-dirs.d/50.conf", "x")

    found = modes(tmp_path)
    writable = {path: oct(mode) for path, mode in found.items() if mode & 0o022}
    assert writable == {}
    open_to_all = {path: oct(mode) for path, mode in found.items() if mode & 0o004}
    assert {"rw/config", "rw/config/vpn", "rw/config/vpn/dns"} <= {*open_to_all}
    assert "rw/config/qubes-bind-dirs.d/50.conf" in open_to_all
    secrets = {path: oct(mode) for path, mode in found.items() if "uuid" in path or "one" in path}
    assert {*secrets.values()} == {"0o700", "0o600"}
    assert found["run/qubes-vpn"] == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make another user's files")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda config: os.chown(config, HARMLESS, 0),
        lambda config: config.chmod(0o777),
        lambda config: (os.chown(config, 0, HARMLESS), config.chmod(0o775)),
        lambda config: os.chown(config / "endpoints.txt", HARMLESS, 0),
        lambda config: (config / "endpoints.txt").chmod(0o646),
        lambda config: os.chown(config / "killswitch.conf", HARMLESS, 0),
    ],
    ids=["folder", "open", "group", "file", "file-open", "settings"],
)
def test_what_others_can_change_opens_nothing(tmp_path, monkeypatch, spoil):
    """R41: a program of the qube's user must not choose where to the killswitch is open."""
    config = tmp_path / "vpn"
    config.mkdir(0o755)
    monkeypatch.setattr(qubes_vpn_killswitch, "CONFIG", config)
    for name, text in (("endpoints.txt", "192.0.2.1:1/udp\n"), ("killswitch.conf", "log = no\n")):
        (config / name).write_text(text)
        (config / name).chmod(0o664)  # by a group of root's alone, and root's umask: as it may be
    assert qubes_vpn_killswitch.configured()
    spoil(config)
    with pytest.raises(Unusable, match="others than root can change it"):
        qubes_vpn_killswitch.configured()


def test_a_list_of_any_name_writes_nothing_on_a_terminal(tmp_path, monkeypatch):
    """The user of dnscrypt-proxy, who talks with the internet, may write to that folder."""
    monkeypatch.setattr(qubes_vpn_dns_proxy, "LISTS", tmp_path)
    for name in ("\x1b]0;owned\x07.md", "a\nb.md", "\u202egnp.md"):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (0, time.time() - 90 * 86400))
    (tmp_path / "to-a-pipe.md").symlink_to("/dev/zero")
    told = qubes_vpn_dns_health.causes(None)
    assert [cause for cause, _ in told] == ["old-list"] * 3
    assert all(text.isprintable() for _, text in told)


def test_who_answers_for_a_program_of_the_users_is_not_heard(tmp_path, monkeypatch):
    """A notice is shown as the user, who may trace it: what it says goes nowhere, R84."""
    said = tmp_path / "said"
    for name, text in (
        ("qubesdb-read", "echo root"),
        ("runuser", f"readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 > {said}\n"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setitem(qubes_vpn_notice.ENVIRON, "PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "bus").touch()
    monkeypatch.setattr(qubes_vpn_notice, "Path", lambda _: tmp_path / "bus")
    qubes_vpn_notice.show(True)
    first, second, third = said.read_text().splitlines()
    assert (first, third) == ("/dev/null", "/dev/null")
    assert second in ("/dev/null", str(said))  # of readlink itself


def test_a_notice_that_hangs_is_left(tmp_path, monkeypatch):
    (tmp_path / "runuser").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "runuser").chmod(0o755)
    monkeypatch.setitem(qubes_vpn_notice.ENVIRON, "PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(qubes_vpn_notice, "_user", lambda: "root")
    monkeypatch.setattr(qubes_vpn_notice, "_PATIENCE", 0.2)
    (tmp_path / "bus").touch()
    monkeypatch.setattr(qubes_vpn_notice, "Path", lambda _: tmp_path / "bus")
    begin = time.monotonic()
    qubes_vpn_notice.show(True)
    assert 0.2 <= time.monotonic() - begin < 5


def test_a_link_in_the_policys_folder_is_not_followed(tmp_path):
    """dom0's user may write to /etc/qubes/policy.d, whose group is qubes."""
    policy = Policy(tmp_path)
    policy.path.parent.mkdir(parents=True)
    (victim := tmp_path / "victim").write_text("mine\n")
    policy.path.with_name(f".{FILE}.new").symlink_to(victim)
    policy.write("# Written by the qubes_vpn formula.\n")
    assert victim.read_text() == "mine\n"
    assert not policy.path.is_symlink()
    assert policy.path.read_text().startswith("# Written")


def test_of_a_users_script_only_the_beginning_is_read(tmp_path, monkeypatch):
    """It may be as large as the disk."""
    monkeypatch.setattr(qubes_vpn_facts, "_SCRIPTS", tmp_path)
    with (tmp_path / "rc.local").open("wb") as file:
        file.write(b"#!/bin/sh\necho\n")
        file.truncate(1 << 42)
    monkeypatch.setattr(qubes_vpn_facts, "_parses", lambda *_: True)
    assert qubes_vpn_facts._scripts() == {"idle": 1, "dos": 0, "broken": 0}


def test_nothing_goes_through_a_shell(checkout):
    """R33: a name with a blank, a quote or a semicolon is a word like any other."""
    files = [
        *(checkout / "_utils").glob("*.py"),
        *(checkout / "_modules").glob("*.py"),
        *(checkout / "_states").glob("*.py"),
    ]
    done = subprocess.run(
        ["grep", "-nE", r"shell=True|os\.system|os\.popen|[^.\w](eval|exec)\(|pickle|yaml\.load"]
        + [str(path) for path in files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert len(files) > 90


def test_the_services_ask_for_nothing_that_a_watch_does_not_need(checkout):
    """What runs all the time as root cannot gain rights, or write below /usr and /etc."""
    folder = Path(checkout, "salt/qubes/network/files")
    for name in ("watch", "follow", "dns"):
        lines = (folder / f"qubes-vpn-{name}.service").read_text().splitlines()
        assert {"NoNewPrivileges=yes", "ProtectSystem=full", "RestrictNamespaces=net"} <= {*lines}


def test_the_threat_model_names_tests_that_there_are(checkout):
    text = (checkout / "docs/threat-model.md").read_text(encoding="utf-8")
    named = {*re.findall(r"`(tests/[^`]+)`", text)}
    assert len(named) > 20
    assert [name for name in sorted(named) if not (checkout / name).is_file()] == []
