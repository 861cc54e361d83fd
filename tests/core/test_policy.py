# SPDX-License-Identifier: GPL-2.0-or-later
"""Who fetches templates' updates, by dom0's qrexec policy, and the formula's own file of it (R07).

With QUBES_SRC naming a folder with qubes-core-qrexec, its parser has to find the same.
"""

import errno
import os
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import qubes_vpn_callers
import qubes_vpn_told
from qubes_vpn_policy import (
    FILE,
    NOT_READABLE,
    SERVICES_FILE,
    WHONIX,
    Answer,
    NotPolicy,
    Policy,
    answer,
    of_lines,
    services_text,
    text,
)

DEFAULT = """\
qubes.Filecopy * @anyvm @anyvm ask
qubes.UpdatesProxy  *  @tag:whonix-updatevm  @default  allow target=sys-whonix
qubes.UpdatesProxy  *  @tag:whonix-updatevm  @anyvm    deny
qubes.UpdatesProxy  *  @type:TemplateVM      @default  allow target=sys-net
qubes.UpdatesProxy  *  @anyvm                @anyvm    deny
"""


@pytest.fixture
def root(tmp_path):
    """dom0's files: Qubes' defaults, and no others."""
    write(tmp_path, "90-default.policy", DEFAULT)
    return tmp_path


def write(root, name, content, folder="etc/qubes/policy.d"):
    path = root / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def served_by(root, name="t", tags=(), ours=()):
    return answer(Policy(root).rules(ours), name, "TemplateVM", set(tags)).qube


def test_as_qubes_has_it(root):
    assert served_by(root) == "sys-net"
    assert served_by(root, tags=[WHONIX]) == "sys-whonix"
    rule = answer(Policy(root).rules(), "t", "TemplateVM", ())
    assert rule == Answer("sys-net", f"{root}/etc/qubes/policy.d/90-default.policy:4", "allow")
    assert answer(Policy(root).rules(), "work", "AppVM", ()).qube is None


def test_ours_goes_first_and_leaves_whonix_alone(root):
    write(root, "30-user.policy", "qubes.UpdatesProxy * @type:TemplateVM @default allow target=c\n")
    write(root, "50-config-updates.policy", DEFAULT.replace("sys-net", "sys-firewall"))
    assert served_by(root) == "c"
    assert served_by(root, ours=text("sys-vpn", "sys-whonix")) == "sys-vpn"
    assert served_by(root, tags=[WHONIX], ours=text("sys-vpn", "sys-whonix")) == "sys-whonix"
    assert served_by(root, ours=text(None, "sys-whonix")) is None
    assert served_by(root, tags=[WHONIX], ours=text(None, "tor")) == "tor"


def test_a_template_may_ask_nobody_else(root):
    """The call names a target of its own: not ours to serve, and denied."""
    rules = Policy(root).rules(text("sys-vpn", "sys-whonix"))
    ours = [(rule.source, rule.target, rule.action) for rule in rules if FILE in rule.where]
    assert ("@type:TemplateVM", "@anyvm", "deny") in ours
    assert ("@tag:whonix-updatevm", "@anyvm", "deny") in ours


@pytest.mark.parametrize("name", ["20-mine.policy", "30-a.policy"])
def test_what_goes_before_ours_has_the_word(root, name):
    write(root, name, "# mine\nqubes.UpdatesProxy * t @default allow target=cacher\n")
    found = answer(Policy(root).rules(text("sys-vpn", "w")), "t", "TemplateVM", ())
    assert found == Answer("cacher", f"{root}/etc/qubes/policy.d/{name}:2", "allow", True)
    assert served_by(root, name="other", ours=text("sys-vpn", "w")) == "sys-vpn"


def test_a_file_in_run_hides_the_one_in_etc(root):
    write(root, FILE, "", folder="run/qubes/policy.d")
    assert served_by(root, ours=text("sys-vpn", "sys-whonix")) == "sys-net"


def test_only_policy_files_count(root):
    for name in ("20-a.policy.rpmnew", ".20-b.policy", "20-c"):
        write(root, name, "qubes.UpdatesProxy * * * allow target=sys-usb\n")
    assert served_by(root) == "sys-net"


def test_files_that_are_included(root):
    write(root, "include/one", "qubes.UpdatesProxy * a @default allow target=one\n")
    write(root, "include/two", "$type:TemplateVM $default allow,target=two\n")
    write(root, "more/x.policy", "qubes.UpdatesProxy + b @default allow target=three\n")
    write(root, "20.policy", "!include include/one\n!include-dir more\n")
    write(root, "21.policy", "!include-service other * include/none\n")
    write(root, "22.policy", "!include-service qubes.UpdatesProxy * include/two\n")
    assert [served_by(root, name) for name in "abc"] == ["one", "three", "two"]


def test_policy_from_before(root):
    """R4.0's own file still counts where it lies, by 35-compat.policy."""
    write(root, "35-compat.policy", "!compat-4.0\n")
    assert served_by(root) == "sys-net"
    line = "$tag:whonix-updatevm $default allow,target=old\n$anyvm $anyvm allow,target=sys-old\n"
    write(root, "qubes.UpdatesProxy", line, folder="etc/qubes-rpc/policy")
    assert (served_by(root), served_by(root, tags=[WHONIX])) == ("sys-old", "old")


@pytest.mark.parametrize("line", ["!include {}", " !include-dir .", "!compat-4.0"])
def test_lines_of_an_inventory_name_no_files(root, line):
    """R93. They would be the reader's; our own file is kept as it is, and may be anything."""
    write(root, "mine", "qubes.UpdatesProxy * @anyvm @anyvm allow target=sys-net\n")
    with pytest.raises(NotPolicy, match=r"20-theirs\.policy: it names other files"):
        of_lines({"20-theirs.policy": [line.format(root / "etc/qubes/policy.d/mine")]})
    write(root, FILE, f"{text('sys-vpn', 'tor')}!include mine\n")
    assert Policy(root).lines() == NOT_READABLE
    with pytest.raises(NotPolicy, match="it could not be read there"):
        of_lines(Policy(root).lines())


@pytest.mark.parametrize(
    "line", ["!flag", "!include", "qubes.UpdatesProxy * a b", "!include a.policy", "* * a b maybe"]
)
def test_what_cannot_be_read_is_said(root, line):
    write(root, "a.policy", line + "\n")
    with pytest.raises(NotPolicy, match=r"a\.policy"):
        Policy(root).rules()


@pytest.mark.parametrize("source", ["@something", "uuid:not-one", "@tag:", "a,b"])
def test_a_source_that_is_not_known_is_no_other_qube(root, source):
    """R07. Taken for one, a rule that lets a template out would be passed over."""
    write(root, "20-a.policy", f"# mine\nqubes.UpdatesProxy * {source} @default deny\n")
    with pytest.raises(NotPolicy, match=r"20-a\.policy:2: .* is not known here"):
        Policy(root).rules()


def test_a_server_that_is_not_known_is_said(root):
    write(root, "20-a.policy", "qubes.UpdatesProxy * t @default allow target=@dispvm\n")
    with pytest.raises(NotPolicy, match=r"20-a\.policy:1: '@dispvm' is not known"):
        Policy(root).rules()
    write(root, "20-a.policy", "* * @anyvm @dispvm ask default_target=@dispvm\n")
    assert served_by(root) == "sys-net"


def test_qubes_by_uuid(root):
    """R4.3's policy takes them for names."""
    line = "qubes.UpdatesProxy * uuid:00-1 @default allow target=@dispvm:uuid:00-2\n"
    write(root, "20-a.policy", line)
    rules = Policy(root, {"00-1": "t", "00-2": "sys-usb"}.get).rules()
    assert answer(rules, "t", "TemplateVM", ()).qube == "@dispvm:sys-usb"
    assert answer(rules, "other", "TemplateVM", ()).qube == "sys-net"
    write(root, "20-a.policy", "qubes.UpdatesProxy * work uuid:00-2 allow\n")
    assert Policy(root, {"00-2": "sys-usb"}.get).rules()[0].target == "sys-usb"


@pytest.mark.parametrize("line", ["qubes.UpdatesProxy * t @default deny", "# a note of mine"])
def test_a_line_added_to_our_file_is_found(root, line):
    for proxy in ("sys-vpn", None):
        ours = text(proxy, "tor")
        Policy(root).write(ours)
        assert Policy(root).added() is None
        Policy(root).write(f"{ours}\n{line}\n")
        number = len(ours.splitlines()) + 2
        assert Policy(root).added() == f"{Policy(root).path}:{number}"


def test_written_at_once(root):
    policy = Policy(root)
    assert policy.current() is None
    policy.write(text("sys-vpn", "sys-whonix"))
    assert policy.current() == text("sys-vpn", "sys-whonix")
    assert stat.S_IMODE(policy.path.stat().st_mode) == 0o644
    assert sorted(path.name for path in policy.path.parent.iterdir()) == [FILE, "90-default.policy"]
    assert served_by(root) == "sys-vpn"


def test_a_file_of_somebody_else_is_left_alone(root):
    write(root, FILE, "# my own\n")
    with pytest.raises(NotPolicy, match="is not the formula's"):
        Policy(root).current()


def test_what_dom0s_checker_refuses_is_not_written(root):
    checker = root / "usr/bin/qubes-policy-lint"
    checker.parent.mkdir(parents=True)
    for code in (0, 1):
        checker.write_text(f'#!/bin/sh\necho "$1:3: error: no"\nexit {code}\n')
        checker.chmod(0o755)
        if code:
            with pytest.raises(NotPolicy, match="3: error: no"):
                Policy(root).write(text("sys-dns", "sys-whonix"))
        else:
            Policy(root).write(text("sys-vpn", "sys-whonix"))
    assert Policy(root).current() == text("sys-vpn", "sys-whonix")
    assert len(list(Policy(root).path.parent.iterdir())) == 2


# --- who may call the formula's own services

ALL = ("* * @anyvm @anyvm allow", "* * @anyvm * ask")


def let_in(root, name="sys-vpn", tags=()):
    return qubes_vpn_callers.let_in(Policy(root).lines(), name, "AppVM", tags)


@pytest.mark.parametrize("rule", ALL)
def test_a_rule_counts_that_goes_before_ours(root, rule):
    """R67. And none after it."""
    Policy(root, file=SERVICES_FILE).write(services_text())
    write(root, "30-user.policy", rule + "\n")
    assert let_in(root) == []
    write(root, "30-mine.policy", rule + "\n")
    assert let_in(root) == [f"30-mine.policy: {rule}"]
    Policy(root, file=SERVICES_FILE).write(None)
    assert let_in(root) == [f"30-mine.policy: {rule}", f"30-user.policy: {rule}"]


@pytest.mark.parametrize(
    ("lines", "is_open"),
    [
        ("qubes-vpn.Switch +0011 work sys-vpn allow", True),
        ("qubes-vpn.Status * @tag:dev @type:AppVM allow", True),
        ("qubes-vpn.Status * work @default allow target=sys-vpn", True),
        ("qubes-vpn.Status * work other allow target=sys-vpn", True),
        ("qubes-vpn.Status * @dispvm:dvm @tag:vpn allow", True),
        ("qubes-vpn.Status * work @tag:dev allow", False),
        ("qubes-vpn.Status * work other allow", False),
        ("qubes-vpn.Status * work sys-vpn allow target=other", False),
        ("qubes-vpn.Status * work @anyvm ask default_target=other", True),
        ("qubes-vpn.Status * work sys-vpn deny", False),
        ("qubes-vpn.Else * work sys-vpn allow", False),
        ("qubes.VMExec * work sys-vpn allow", False),
        ("qubes-vpn.Status * dom0 sys-vpn allow", False),
        ("* * @anyvm @anyvm deny\n* * @anyvm @anyvm allow", False),
        ("* +x @anyvm @anyvm deny\n* * @anyvm @anyvm allow", True),
        ("* * other @anyvm deny\n* * @anyvm @anyvm allow", True),
        ("* * @anyvm sys-vpn deny\n* * work @anyvm allow", False),
        ("* * @anyvm sys-vpn deny\n* * work @anyvm allow target=sys-vpn", True),
        ("qubes-vpn.Drops * @anyvm * deny\n* * work sys-vpn allow", True),
        ("!include-service qubes-vpn.Drops * include/two", True),
        ("!include-service qubes.Else * include/two", False),
    ],
)
def test_a_rule_counts_by_which_somebody_comes_to_it(root, lines, is_open):
    write(root, "include/two", "$anyvm $anyvm allow\n")
    write(root, "10-a.policy", lines + "\n")
    Policy(root, file=SERVICES_FILE).write(services_text())
    assert bool(let_in(root, tags=["vpn"])) == is_open


def test_policy_from_before_counts_for_them_too(root):
    write(root, "05-compat.policy", "!compat-4.0\n")
    write(root, "qubes-vpn.Switch+0011", "work sys-vpn allow\n", folder="etc/qubes-rpc/policy")
    Policy(root, file=SERVICES_FILE).write(services_text())
    assert let_in(root) == ["05-compat.policy: qubes-vpn.Switch +0011 work sys-vpn allow"]


def test_our_file_for_the_services_is_kept_as_it_is(root):
    """R69. A plan by an inventory finds it there, as on the machine."""
    Policy(root, file=SERVICES_FILE).write(services_text())
    assert Policy(root).lines()[SERVICES_FILE] == services_text().splitlines()


# --- the real parser

SOURCES = (
    "t",
    "other",
    "@anyvm",
    "*",
    "@type:TemplateVM",
    "@type:AppVM",
    f"@tag:{WHONIX}",
    "@tag:x",
)
LINES = st.builds(
    "{} {} {} {}".format,
    st.sampled_from(
        ["qubes.UpdatesProxy *", "qubes.UpdatesProxy +", "qubes.UpdatesProxy +arg", "* *"]
    ),
    st.sampled_from(SOURCES),
    st.sampled_from(["@default", "@anyvm", "*", "sys-net", "@adminvm"]),
    st.sampled_from(["deny", "allow target=sys-net", "allow target=sys-vpn autostart=no"]),
)


@pytest.fixture(scope="module")
def parser():
    """qrexec's own."""
    for name in ("qubes-core-qrexec", "core-qrexec"):
        folder = Path(os.environ.get("QUBES_SRC", "")) / name
        if os.environ.get("QUBES_SRC") and (folder / "qrexec/policy/parser.py").is_file():
            sys.path.insert(0, str(folder))
            return pytest.importorskip("qrexec.policy.parser")
    pytest.skip("QUBES_SRC names no folder with qubes-core-qrexec")
    return None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    files=st.dictionaries(
        st.sampled_from(["10-a.policy", "30-user.policy", "90-default.policy"]),
        st.lists(LINES, max_size=4),
    ),
    tags=st.sets(st.sampled_from([WHONIX, "x"])),
    proxy=st.sampled_from([None, "sys-vpn"]),
    ours=st.booleans(),
)
def test_the_real_parser_agrees(parser, tmp_path_factory, files, tags, proxy, ours):
    root = tmp_path_factory.mktemp("root")
    for name, lines in files.items():
        write(root, name, "\n".join(lines))
    if ours:
        Policy(root).write(text(proxy, "sys-whonix"))
    (root / "etc/qubes/policy.d").mkdir(parents=True, exist_ok=True)
    names = ("t", "sys-net", "sys-vpn", "sys-whonix")
    system = {"domains": {name: _domain(name, tags if name == "t" else ()) for name in names}}
    request = parser.Request("qubes.UpdatesProxy", "+", "t", "", system_info=system)
    try:
        real = parser.FilePolicy(policy_path=root / "etc/qubes/policy.d").evaluate(request).target
    except parser.AccessDenied:
        real = None
    assert served_by(root, tags=tags) == real


@pytest.mark.parametrize("target", ["sys-vpn", "", "@dispvm", "@dispvm:t", "dom0", "@adminvm"])
@pytest.mark.parametrize("argument", ["+", "+x"])
def test_the_real_parser_lets_no_qube_call_our_services(parser, tmp_path, target, argument):
    """R67. Whatever a rule of the user's lets through."""
    Policy(tmp_path, file=SERVICES_FILE).write(services_text())
    write(tmp_path, "31-user.policy", "* * @anyvm * allow\n* * @anyvm @default ask\n")
    system = {"domains": {name: _domain(name, ()) for name in ("t", "sys-vpn")}}
    system["domains"]["t"]["template_for_dispvms"] = True
    system["domains"]["dom0"] = {**_domain("dom0", ()), "type": "AdminVM"}
    policy = parser.FilePolicy(policy_path=tmp_path / "etc/qubes/policy.d")
    for name in qubes_vpn_told.SERVICES:
        service = qubes_vpn_told.PREFIX + name
        request = parser.Request(service, argument, "t", target, system_info=system)
        with pytest.raises(parser.AccessDenied, match=SERVICES_FILE):
            policy.evaluate(request)


OURS = st.builds(
    "{} {} {} {}".format,
    st.sampled_from(
        ["qubes-vpn.Status *", "qubes-vpn.Status +", "qubes-vpn.Switch +x", "* *", "qubes.Else *"]
    ),
    st.sampled_from([*SOURCES, "@dispvm:t"]),
    st.sampled_from(["@default", "@anyvm", "*", "sys-vpn", "other", "@tag:x", "@type:AppVM"]),
    st.sampled_from(
        [
            "deny",
            "allow",
            "allow target=sys-vpn",
            "ask default_target=sys-vpn",
            "ask default_target=other",
        ]
    ),
).filter(lambda line: not line.endswith("@default allow"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    files=st.dictionaries(
        st.sampled_from(["10-a.policy", "30-mine.policy", "31-user.policy"]),
        st.lists(OURS, max_size=3),
        min_size=1,
    ),
    ours=st.booleans(),
)
def test_whom_the_real_parser_lets_in_is_told(parser, tmp_path_factory, files, ours):
    root = tmp_path_factory.mktemp("root")
    for name, lines in files.items():
        write(root, name, "\n".join(lines))
    if ours:
        Policy(root, file=SERVICES_FILE).write(services_text())
    names = ("t", "other", "sys-vpn")
    system = {"domains": {name: {**_domain(name, ["x"]), "uuid": name} for name in names}}
    policy = parser.FilePolicy(policy_path=root / "etc/qubes/policy.d")
    calls = [
        parser.Request(f"qubes-vpn.{service}", argument, caller, target, system_info=system)
        for service in ("Status", "Switch")
        for argument in ("+", "+x")
        for caller in ("t", "other")
        for target in ("sys-vpn", "other", "")
    ]
    if any("sys-vpn" in _reached(parser, policy, call) for call in calls):
        assert let_in(root, tags=["x"])


def _reached(parser, policy, call):
    """Names of the qubes that a call may get to, asked or not."""
    try:
        done = policy.evaluate(call)
    except parser.AccessDenied:
        return []
    return getattr(done, "targets_for_ask", None) or [done.target]


def _domain(name, tags):
    return {
        "name": name,
        "uuid": None,
        "tags": list(tags),
        "type": "TemplateVM" if name == "t" else "AppVM",
        "template_for_dispvms": False,
        "default_dispvm": None,
        "guivm": None,
        "icon": "",
        "power_state": "Running",
        "internal": False,
        "relayvm": None,
        "transport_rpc": None,
    }


def test_what_cannot_be_written_is_said_in_words(tmp_path, monkeypatch):
    """R69. On a read-only root Linux refuses to remove even what is not there."""

    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for method in ("open", "unlink"):
        monkeypatch.setattr(Path, method, read_only)
    (tmp_path / "etc/qubes/policy.d").mkdir(parents=True)
    with pytest.raises(NotPolicy, match=f"{FILE} cannot be written: .*Read-only file system"):
        Policy(tmp_path, lambda _: None).write("text")
