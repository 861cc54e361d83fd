# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands for qubesctl and its ssh, against Qubes' own code and in its odd cases (R86).

Qubes' code is a checkout of qubes-mgmt-salt in the folder that the environment's QUBES_SRC names.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qubes_vpn_formula.lab.booted import salt as booted_salt
from qubes_vpn_formula.lab.booted.dom0 import with_srv
from qubes_vpn_formula.lab.booted.salt import Salt

CONNECTOR = Path(booted_salt.__file__).with_name("connector")
SCRIPT = "/bin/sh  << 'EOF'\nset -e\necho \"$PATH\"\nEOF"
#: As salt-ssh calls them.
OPTIONS = ["-o", "KbdInteractiveAuthentication=no", "-o", "Port=22"]
_REAL_COPY = """
import sys, types
import qubesadmin
qubesadmin.vm = sys.modules["qubesadmin.vm"] = types.ModuleType("qubesadmin.vm")
sys.path.insert(0, sys.argv[1])
import qubessalt
one = object.__new__(qubessalt.ManageVM)
one.vm = types.SimpleNamespace(name="sys-vpn")
print(one.prepare_salt_config_for_vm())
"""


@pytest.fixture(scope="module")
def qubes_code() -> Path:
    source = os.environ.get("QUBES_SRC")
    if not source:
        pytest.skip("QUBES_SRC is not set")
    for name in ("qubes-mgmt-salt", "mgmt-salt", ""):
        if (Path(source) / name / "qubessalt/__init__.py").is_file():
            return Path(source) / name
    pytest.skip(f"QUBES_SRC={source}: no checkout of qubes-mgmt-salt there")


@pytest.fixture
def salt(tmp_path: Path) -> Salt:
    salt = Salt(tmp_path / "machine")
    salt.give({"tunnels": {}, "note": "ours"}, ["dom0", "sys-vpn"])
    salt.dom0.pillar("other", {"other": "another's"}, ["work"])
    (salt.dom0.srv / "user_salt/notes").write_text("of a user's")
    (salt.dom0.srv / "salt/linked.sls").symlink_to(salt.dom0.srv / "user_salt/notes")
    assert salt.dom0.qubesctl("saltutil.sync_all").returncode == 0
    return salt


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_copy_is_what_qubes_code_makes(salt, qubes_code, tmp_path):
    """File by file."""
    ours = salt.dom0.copy("sys-vpn", tmp_path / "ours")
    folder = tmp_path / "machine/dom0"
    qubesctl = tmp_path / "bin/qubesctl"
    qubesctl.parent.mkdir()
    salt_call = " ".join(booted_salt.salt_words("salt-call"))
    qubesctl.write_text(f'#!/bin/sh\nshift\nexec {salt_call} --config-dir={folder} --local "$@"\n')
    qubesctl.chmod(0o755)
    environ = dict(salt.dom0.environ)
    environ |= {"PATH": f"{qubesctl.parent}:{environ['PATH']}", "TMPDIR": str(tmp_path)}
    words = [sys.executable, "-S", "-c", _REAL_COPY, str(qubes_code)]
    done = with_srv(salt.dom0.srv, words, environ)
    assert done.returncode == 0, done.stderr
    theirs = Path(done.stdout.splitlines()[-1])
    assert (theirs / "_extmods/modules/qubes_vpn.py").exists()
    assert not (theirs / "salt/linked.sls").is_symlink()
    assert _tree(ours) == _tree(theirs)


@pytest.fixture
def asked(tmp_path: Path):
    """Runs a program as ssh or scp; answers its exit code and what root's shell would be given."""
    recorder = tmp_path / "bin/qrexec-client-vm"
    recorder.parent.mkdir()
    recorder.write_text(f'#!/bin/sh\n{{ echo "$@"; cat; }} >"{tmp_path}/given"; exit 7\n')
    recorder.chmod(0o755)

    def run(program: Path, name: str, *words: str) -> tuple[int, bytes]:
        (tmp_path / "given").unlink(missing_ok=True)
        link = tmp_path / "bin" / name
        link.unlink(missing_ok=True)
        link.symlink_to(program)
        environ = {**os.environ, "PATH": f"{recorder.parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            [str(link), *words], env=environ, stdin=subprocess.DEVNULL, capture_output=True
        )
        given = tmp_path / "given"
        return done.returncode, given.read_bytes() if given.exists() else b""

    return run


REFUSED = {
    "not one script": "ls /",
    "more than one script": "/bin/sh  << 'EOF'\ntrue\nEOF\nrm -rf /\nEOF",
    "not ASCII": "/bin/sh  << 'EOF'\necho \N{LATIN SMALL LETTER E WITH ACUTE}\nEOF",
}


def test_ssh_hands_on_what_qubes_wrapper_hands_on(asked, qubes_code, tmp_path):
    wrapper = qubes_code / "ssh-wrapper"
    wrapper = wrapper if wrapper.is_file() else wrapper / "ssh"
    text = wrapper.read_text().replace("#!/usr/bin/python3", f"#!{sys.executable}", 1)
    real = tmp_path / "wrapper"
    real.write_text(text)
    real.chmod(0o755)
    file = tmp_path / "thin.tgz"
    file.write_bytes(bytes(range(256)))
    calls = [
        ("ssh", "sys-vpn", *OPTIONS, SCRIPT),
        ("scp", *OPTIONS, str(file), "sys-vpn:/var/tmp/.root_salt/thin.tgz"),
        *(("ssh", "sys-vpn", *OPTIONS, script) for script in REFUSED.values()),
    ]
    for call in calls:
        (ours, given), (theirs, meant) = asked(CONNECTOR, *call), asked(real, *call)
        assert (ours != 0, given) == (theirs != 0, meant), call


def test_ssh_takes_one_ascii_script_and_no_other_command(asked):
    assert asked(CONNECTOR, "ssh", "sys-vpn", *OPTIONS, SCRIPT)[0] == 7
    for script in REFUSED.values():
        assert asked(CONNECTOR, "ssh", "sys-vpn", *OPTIONS, script) == (1, b""), script


def test_a_pillar_that_cannot_be_rendered_reaches_no_qube(salt, tmp_path):
    (salt.dom0.srv / "pillar/other/init.sls").write_text("{% if %}")
    assert salt.dom0.copy("sys-vpn", tmp_path / "one")  # not its own
    with pytest.raises(RuntimeError, match="the pillar of work"):
        salt.dom0.copy("work", tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_what_a_qube_prints_is_cut_to_what_dom0_may_show():
    shown = booted_salt._printable("a\x1b[2Jb\u202e\nc\x07\n")
    assert shown == "a[2Jb\nc\n"


def test_silence_is_a_failure_and_dom0s_own_comes_first(salt):
    done = subprocess.CompletedProcess([], 0, "", "")
    told = booted_salt._told("sys-vpn", ("state.sls", "x"), done)
    assert (told.line, told.code) == ("sys-vpn: ERROR (exit code 0, but no changes summary)", 1)
    told = salt.qubesctl("state.sls", "no.such", targets=[])
    assert (list(told), told["dom0"].code != 0) == (["dom0"], True)
