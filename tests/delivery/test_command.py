# SPDX-License-Identifier: GPL-2.0-or-later
"""dom0's command `qubes-vpn`: what it hands on, how Salt reads it, and whom it does not replace.

With real Salt: tests/readme/test_delivery.py (R15, R67).
"""

import re
import runpy
import stat

import pytest
import salt.utils.args
from delivery_dom0 import COMMAND, DeliveryDom0
from hypothesis import given
from hypothesis import strategies as st

from qubes_vpn_formula import bundle

RECORD = """#!/bin/sh
printf '%s\\n' "$@" >"{log}"
exit {code}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A dom0 with the bundle."""
    folder = tmp_path_factory.mktemp("delivered")
    bundle.build(folder / "b.tar")
    made = DeliveryDom0(folder / "dom0")
    assert made.install(folder / "b.tar").returncode == 0
    return made


@pytest.fixture
def ready(installed):
    """That, with a qubesctl that notes its words."""
    installed.program("qubesctl", RECORD.format(log=installed.folder / "words", code=0))
    (installed.folder / "words").unlink(missing_ok=True)
    return installed


@pytest.mark.parametrize(
    ("typed", "asked"),
    [
        ("switch sys-vpn wg-de.conf", ["switch", 'name="sys-vpn"', 'profile="wg-de.conf"']),
        (
            "switch sys-vpn a.conf --lasting --dry-run",
            ["switch", "test=true", 'name="sys-vpn"', 'profile="a.conf"', "lasting=true"],
        ),
        ("switch yes 'a b+1.conf'", ["switch", 'name="yes"', 'profile="a b+1.conf"']),
        ("connect", ["connect"]),
        ("disconnect sys-vpn", ["disconnect", 'name="sys-vpn"']),
        ("bypass", ["bypass", 'do="show"']),
        ("bypass open --minutes 10", ["bypass", 'do="open"', "minutes=10"]),
        ("bypass close", ["bypass", 'do="close"']),
        ("bypass open --dry-run", ["bypass", "test=true", 'do="open"']),
        ("connect sys-vpn --dry-run", ["connect", "test=true", 'name="sys-vpn"']),
        *((name, [name]) for name in ("status", "doctor", "restarts", "events")),
    ],
)
def test_its_words_are_a_function_of_the_formula(ready, typed, asked):
    done = ready.run(f"qubes-vpn {typed}")
    assert (done.returncode, done.stderr) == (0, "")
    function, *words = asked
    assert (ready.folder / "words").read_text().splitlines() == [
        "--dom0-only", f"qubes_vpn.{function}", *words, "--out=newline_values_only",
    ]  # fmt: skip


def test_as_data(ready):
    assert ready.run("qubes-vpn status --json").returncode == 0
    words = (ready.folder / "words").read_text().split()
    assert words == ["--dom0-only", "qubes_vpn.status", 'form="data"', "--out=json"]


@pytest.mark.parametrize("code", [0, 1])
def test_it_ends_as_the_function_does(ready, code):
    ready.program("qubesctl", RECORD.format(log=ready.folder / "words", code=code))
    assert ready.run("qubes-vpn doctor").returncode == code


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "state.highstate",
        "stat",
        "switch sys-vpn",
        "switch sys-vpn --config-dir=/tmp",
        "switch 'sys-vpn,dom0' a.conf",
        "switch sys-vpn ../a.conf",
        "switch sys-vpn 'a#b'",
        "switch sys-vpn '{a: 1}'",
        "switch sys-vpn $'a\\nb' 2>&1 | cat; exit 2",
        "connect name=sys-vpn",
        "bypass open minutes=10",
        "bypass --minutes 0",
        "bypass --minutes 1e1",
        "status form=data",
    ],
)
def test_other_words_are_not_handed_on(ready, typed):
    done = ready.run(f"qubes-vpn {typed}")
    assert done.returncode == 2
    assert not (ready.folder / "words").exists()


def test_who_is_not_root_is_told_in_a_sentence(ready):
    line = "qubes-vpn switch sys-vpn 'a b.conf'"
    done = ready.run(f"setpriv --reuid=65534 --regid=65534 --clear-groups {line}")
    assert (done.returncode, done.stdout) == (2, "")
    sudo = "sudo /usr/local/bin/qubes-vpn switch sys-vpn 'a b.conf'"
    assert done.stderr == f"qubes-vpn: only root may: {sudo}\n"
    assert not (ready.folder / "words").exists()


def test_where_there_is_no_qubesctl(ready):
    (ready.programs / "qubesctl").unlink()
    done = ready.run("qubes-vpn status")
    assert done.returncode == 2
    assert done.stderr.endswith("No such file or directory. This command is for dom0.\n")


def test_its_help_names_all_and_the_other_command(ready, checkout):
    """Each is a function of dom0's; and who looks for `check` is told where that is."""
    done = ready.run("qubes-vpn --help")
    assert done.returncode == 0
    named = re.findall(r"^    ([a-z]+)(?: |$)", done.stdout, re.MULTILINE)
    source = (checkout / "_modules/qubes_vpn.py").read_text(encoding="utf-8")
    assert [name for name in named if f"\ndef {name}(" not in source] == []
    assert {"switch", "connect", "disconnect", "status", "doctor", "bypass", "events"} < {*named}
    assert "The `qubes-vpn` of a checkout (check, plan" in done.stdout


@given(st.data())
def test_salt_reads_a_name_as_that_name(checkout, data):
    """Numbers, dates, truths: for YAML, `1e5` and `no` are none of them names."""
    command = runpy.run_path(str(checkout / "dom0/qubes-vpn"))
    pattern = data.draw(st.sampled_from(["_QUBE", "_PROFILE"]))
    odd = st.sampled_from(["no", "Null", "y", "1e5", "2026-11-23", "0x10", "1_0", "a - b", "None"])
    text = data.draw(st.from_regex(command[pattern], fullmatch=True) | odd)
    if command[pattern].fullmatch(text):
        word = f"name={command['json'].dumps(text)}"
        assert salt.utils.args.parse_input([word], condition=False) == ([], {"name": text})


class TestSomebodyElses:
    """A file of that name which no bundle has written: a generator's, the user's own."""

    def text(self, dom0):
        return dom0.run(f"readlink /{COMMAND} || cat /{COMMAND}").stdout

    @pytest.mark.parametrize("there", ["echo mine >{0}", "ln -s /nowhere {0}"])
    def test_it_stays_and_everything_else_is_installed(self, dom0, made, there):
        dom0.run(there.format(f"/{COMMAND}"))
        before = self.text(dom0)
        for _ in range(2):
            done = dom0.install(made)
            assert done.returncode == 1
            (line,) = done.stderr.splitlines()
            assert line.startswith(f"/{COMMAND} was changed here, or is not from a bundle")
            assert self.text(dom0) == before
        assert (dom0.folder / "srv/salt/_modules/qubes_vpn.py").is_file()
        assert dom0.remove().returncode == 0
        assert self.text(dom0) == before
        # Moved away, ours comes, and goes.
        dom0.run(f"rm /{COMMAND}")
        assert dom0.install(made).returncode == 0
        status = (dom0.folder / COMMAND).stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 0, 0o755)
        assert dom0.remove().returncode == 0
        assert list((dom0.folder / COMMAND).parent.iterdir()) == []

    def test_ours_that_was_changed_stays(self, dom0, made):
        dom0.install(made)
        dom0.write(COMMAND, "changed")
        assert dom0.remove().returncode == 1
        assert self.text(dom0) == "changed"
