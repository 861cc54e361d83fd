# SPDX-License-Identifier: GPL-2.0-or-later
"""`qubes_vpn.switch lasting=True`: the profile in the pillar as well, or nothing (R15, R67).

Which file that is, and what a new text makes of the pillar, real Salt says.
"""

import hashlib
import json
import os
import stat
import threading
from pathlib import Path

import pytest
import salt.config
import salt.loader
import yaml
from salt.exceptions import CommandExecutionError

TEXT = """\
# of the laptop
qubes_vpn:   # all of it
  topology: simple
  tunnels:
    sys-vpn:
      kind: wireguard
      profile: 'wg.conf'   # the one in Sweden
      # to switch to
      profiles:
        - wg-no.conf
        - wg-de.conf # Berlin
      endpoints: [198.51.100.7:51820/udp]
  routes: {default: sys-vpn}
"""
LASTS = TEXT.replace("'wg.conf'", "wg-de.conf").replace("- wg-de.conf", "- wg.conf")
ID = hashlib.sha256(b"wg-de.conf").hexdigest()[:16]
FORMER = hashlib.sha256(b"wg.conf").hexdigest()[:16]
DONE = {"version": "1", "done": True, "state": "up", "profile": ID, "why": None}


#: By the core alone, which is not installed beside Salt 3006.
core = pytest.mark.one_salt


class Pillar:
    """The pillar's files of a minion, and the edit of them, by the core alone."""

    def __init__(self, minion):
        self.lasting = pytest.importorskip("qubes_vpn_lasting")
        self.model = pytest.importorskip("qubes_vpn_model")
        self.folder = minion.folder / "pillar"
        self.path = self.folder / "qubes_vpn.sls"
        self.opts = salt.config.minion_config(str(minion.folder / "minion"))
        self.write(TEXT)

    def write(self, text, name="qubes_vpn.sls"):
        data = text if isinstance(text, bytes) else text.encode()
        (self.folder / name).write_bytes(data)

    def edit(self, text=TEXT, name="sys-vpn", profile="wg-de.conf"):
        """text: what this run had its pillar from."""
        document = yaml.safe_load(text)["qubes_vpn"]
        service = self.model.build(document).services[name]
        return self.lasting.edit(self.opts, {"id": "dom0"}, document, service, profile)

    def refused(self, match, *arguments):
        there = {path: path.read_bytes() for path in self.folder.iterdir() if path.is_file()}
        with pytest.raises(self.lasting.NotLasting, match=match):
            self.edit(*arguments)
        now = {path: path.read_bytes() for path in self.folder.iterdir() if path.is_file()}
        assert now == there


@pytest.fixture
def pillar(minion):
    """dom0's pillar, in one file."""
    top = (minion.folder / "pillar/top.sls").read_bytes()
    yield Pillar(minion)
    for path in (minion.folder / "pillar").iterdir():
        path.unlink()
    (minion.folder / "pillar/top.sls").write_bytes(top)


@core
def test_two_names_change_places_and_all_else_stays(pillar):
    edit = pillar.edit()
    assert (edit.path, edit.former) == (str(pillar.path), "wg.conf")
    assert pillar.path.read_text() == TEXT
    edit.write()
    assert pillar.path.read_text() == LASTS
    pillar.edit(LASTS, "sys-vpn", "wg.conf").write()
    assert pillar.path.read_text() == TEXT.replace("'wg.conf'", "wg.conf")


@core
@pytest.mark.parametrize(
    "odd",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.rstrip("\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("Berlin", "Köln, \U0001f512"),
        lambda text: "#!yaml\n" + text,
        lambda text: "#!jinja|yaml\n" + text,
        lambda text: "---\n" + text + "...\n",
        lambda text: text + "other: {profile: wg.conf}  # qubes_vpn\n",
    ],
    ids=["crlf", "no-end", "bom", "wide", "yaml", "jinja", "document", "beside"],
)
def test_odd_files_that_can_be_edited(pillar, odd):
    pillar.write(odd(TEXT))
    pillar.edit().write()
    assert pillar.path.read_bytes() == odd(LASTS).encode()


FLOW = TEXT.replace(
    "\n        - wg-no.conf\n        - wg-de.conf # Berlin", " [wg-no.conf, wg-de.conf]"
)


@core
def test_a_list_on_one_line(pillar):
    pillar.write(FLOW)
    pillar.edit(FLOW).write()
    assert "profiles: [wg-no.conf, wg.conf]\n" in pillar.path.read_text()
    assert "profile: wg-de.conf   # the one" in pillar.path.read_text()


@core
@pytest.mark.parametrize(
    ("text", "why"),
    [
        (TEXT.replace("simple", "{{ 'simple' }}"), "has Jinja"),
        ("{% set x = 1 %}\n" + TEXT, "has Jinja"),
        (TEXT + "  # {# no comment #}\n", "has Jinja"),
        (TEXT.replace("'wg.conf'", "&one wg.conf"), r"sls:7 has an anchor"),
        (
            TEXT.replace("sys-vpn:\n", "sys-vpn:\n      <<: &all {label: red}\n"),
            r"sls:6 has an anchor",
        ),
        (TEXT.replace("'wg.conf'", ">-\n        wg.conf"), "not written on one line"),
        (TEXT.replace("'wg.conf'", '"wg.\\\n        conf"'), "not written on one line"),
        ("#!yamlex\n" + TEXT, "another renderer"),
        ("#!py\n" + TEXT, "another renderer"),
    ],
    ids=["jinja", "set", "comment", "anchor", "merge", "block", "folded", "yamlex", "py"],
)
def test_files_that_are_left_alone(pillar, text, why, monkeypatch):
    """By a look at the file, whatever Salt makes of it."""
    pillar.write(text)
    monkeypatch.setattr(pillar.lasting, "_expect", lambda *_: [str(pillar.path)])
    plain = TEXT.replace("sys-vpn:\n", "sys-vpn:\n      label: red\n") if "<<" in text else TEXT
    pillar.refused(why, plain)


@core
def test_a_key_that_is_there_twice(pillar):
    """Salt takes no such pillar."""
    pillar.write(TEXT.replace("      kind", "      profile: wg.conf\n      kind"))
    pillar.refused("Salt could not render the pillar of dom0")


@core
class TestWhichFile:
    def top(self, pillar, text):
        pillar.write(text, "top.sls")

    def test_it_is_included(self, pillar):
        pillar.path.rename(pillar.folder / "laptop.sls")
        pillar.write("include: [laptop]\n")
        edit = pillar.edit()
        assert edit.path == str(pillar.folder / "laptop.sls")
        edit.write()
        assert (pillar.folder / "laptop.sls").read_text() == LASTS

    def test_a_part_is_in_another_file(self, pillar):
        layout = "qubes_vpn:\n  vaults: [vault]\n"
        pillar.write(f"include: [layout]\n{TEXT}")
        pillar.write(layout, "layout.sls")
        whole = TEXT + "  vaults: [vault]\n"
        pillar.edit(whole).write()
        assert pillar.path.read_text() == f"include: [layout]\n{LASTS}"
        assert (pillar.folder / "layout.sls").read_text() == layout

    def test_the_tunnel_is_in_two(self, pillar):
        pillar.write(f"include: [more]\n{TEXT}")
        pillar.write("qubes_vpn: {tunnels: {sys-vpn: {memory: 400}}}\n", "more.sls")
        whole = TEXT.replace("kind:", "memory: 400\n      kind:")
        pillar.refused(r"several files of the pillar have it: .*more.sls", whole)

    def test_nobody_knows_of_one(self, pillar):
        pillar.write(f"include: [more]\n{TEXT}")
        pillar.write("{% if False %}\nqubes_vpn: {}\n{% endif %}\n", "more.sls")
        pillar.refused(r"several files of the pillar have it: .*more.sls")

    def test_it_is_made_of_jinja(self, pillar):
        pillar.write("{% import_yaml 'x.yaml' as x %}\nq{{ 'ubes_vpn' }}: {{ x | json }}\n")
        pillar.write(json.dumps(yaml.safe_load(TEXT)["qubes_vpn"]), "x.yaml")
        pillar.refused("no file of the pillar has the tunnel sys-vpn in plain YAML")

    def test_a_later_one_has_the_last_word(self, pillar):
        """What Salt makes of the new text decides, and no rule of ours about merging."""
        pillar.write("{% set q = 'qubes_' ~ 'vpn' %}\n{{ q }}: {tunnels: {sys-vpn: "
                     "{profile: wg.conf}}}\n", "zz.sls")  # fmt: skip
        self.top(pillar, "base: {'*': [qubes_vpn, zz]}\n")
        pillar.refused("with .*qubes_vpn.sls changed, dom0 would not get the pillar that is wanted")

    def test_the_qube_has_its_from_another(self, pillar):
        pillar.write(TEXT, "other.sls")
        self.top(pillar, "base: {dom0: [qubes_vpn], sys-vpn: [other]}\n")
        pillar.refused("with .*, sys-vpn would not get the pillar that is wanted")

    def test_the_qube_has_none(self, pillar):
        self.top(pillar, "base: {dom0: [qubes_vpn]}\n")
        pillar.refused("Salt renders another pillar for sys-vpn than this run has")

    def test_a_disposables_home_counts(self, pillar):
        text, lasts = (
            each.replace("kind:", "disposable: true\n      kind:") for each in (TEXT, LASTS)
        )
        pillar.write(text)
        self.top(pillar, "base: {dom0: [qubes_vpn], sys-vpn: [qubes_vpn]}\n")
        pillar.refused("another pillar for sys-vpn-dvm", text)
        self.top(pillar, "base: {dom0: [qubes_vpn], sys-vpn-dvm: [qubes_vpn]}\n")
        pillar.edit(text).write()
        assert pillar.path.read_text() == lasts

    def test_it_is_not_what_this_run_has(self, pillar):
        pillar.write(TEXT.replace("simple", "dns"))
        pillar.refused("Salt renders another pillar for dom0 than this run has")

    def test_a_master_has_it(self, pillar):
        pillar.opts["file_client"] = "remote"
        pillar.refused("comes from a Salt master")


@core
class TestPlaces:
    def test_mode_owner_and_attributes_stay(self, pillar):
        pillar.path.chmod(0o640)
        os.chown(pillar.path, 1000, 1001)
        os.setxattr(pillar.path, "user.note", b"mine")
        pillar.edit().write()
        found = pillar.path.stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1000, 1001, 0o640)
        assert os.getxattr(pillar.path, "user.note") == b"mine"

    def test_a_link(self, pillar):
        there = pillar.folder / "there"
        pillar.path.rename(there)
        pillar.path.symlink_to(there)
        pillar.refused("is a link, or behind one")

    def test_a_folder_behind_a_link(self, pillar, tmp_path):
        pillar.path.rename(tmp_path / "init.sls")
        (pillar.folder / "qubes_vpn").symlink_to(tmp_path)
        pillar.refused("is a link, or behind one")

    def test_another_name_of_the_same_file(self, pillar, tmp_path):
        os.link(pillar.path, tmp_path / "kept")
        pillar.refused("has another name")

    def test_a_folder_that_cannot_be_written_to(self, pillar, monkeypatch):
        """root may write everywhere but where nothing can be."""
        monkeypatch.setattr(os, "access", lambda path, _: Path(path) != pillar.folder)
        pillar.refused("nothing can be written beside")

    @pytest.mark.parametrize("change", ["text", "link", "gone"])
    def test_it_was_changed_in_between(self, pillar, change):
        edit = pillar.edit()
        if change == "text":
            pillar.write(TEXT + "# one more\n")
        else:
            pillar.path.rename(pillar.folder / "moved")
        if change == "link":
            pillar.path.symlink_to("moved")
        before = {path.name: path.lstat().st_ino for path in pillar.folder.iterdir()}
        with pytest.raises(pillar.lasting.NotLasting):
            edit.write()
        assert {path.name: path.lstat().st_ino for path in pillar.folder.iterdir()} == before

    def test_two_at_once(self, pillar, monkeypatch):
        """None puts in place what the other has half written."""
        edit, other = pillar.edit(), pillar.edit(profile="wg-no.conf")
        like, is_first_done, refused = pillar.lasting._like, threading.Event(), []

        def write():
            with pytest.raises(pillar.lasting.NotLasting) as why:
                other.write()
            refused.append(str(why.value))

        second = threading.Thread(target=write)

        def late(*arguments):
            if second.ident is None:
                second.start()
                second.join(0.3)
            else:
                is_first_done.wait(30)
            like(*arguments)

        monkeypatch.setattr(pillar.lasting, "_like", late)
        edit.write()
        is_first_done.set()
        second.join(30)
        assert pillar.path.read_text() == LASTS
        assert refused == [f"{pillar.path} was changed in between"]

    @pytest.mark.parametrize("call", ["fchmod", "replace"])
    def test_killed_or_failing_in_the_middle(self, pillar, monkeypatch, call):
        """The file is the old one, whole; what a kill leaves is no pillar, and goes."""
        edit = pillar.edit()
        child = os.fork()
        if child == 0:
            setattr(os, call, lambda *_, **__: os._exit(9))
            edit.write()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        assert pillar.path.read_text() == TEXT
        assert {path.name for path in pillar.folder.iterdir()} == {
            *("top.sls", "qubes_vpn.sls", ".qubes_vpn.sls.part")
        }
        assert pillar.edit().old == TEXT.encode()  # for Salt as well

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, call, full)
            with pytest.raises(pillar.lasting.NotLasting, match="No space left on device"):
                edit.write()
        assert {path.name for path in pillar.folder.iterdir()} == {"top.sls", "qubes_vpn.sls"}
        assert pillar.path.read_text() == TEXT
        edit.write()
        assert pillar.path.read_text() == LASTS


class Dom0:
    """A dom0 with that pillar, and its function `switch`; what the VPN qube answers is set."""

    def __init__(self, loaders, embedded, folder):
        self._folder, self._loaders = folder, loaders
        self.path = Path(loaders.opts["pillar_roots"]["base"][0]) / "qubes_vpn.sls"
        self.path.write_text(TEXT)
        self.has(TEXT)
        self.program = folder / "qrexec"
        self.answers("exit 127")
        self.program.chmod(0o755)
        self.embedded = embedded

    def has(self, text):
        """Its next run has this pillar, whatever its file says."""
        self.document, self._modules = yaml.safe_load(text)["qubes_vpn"], None

    def answers(self, answer, **more):
        if isinstance(answer, bool):
            told = {"version": "1", "done": answer, "state": "up", "profile": ID, "why": None}
            answer = f"echo '{json.dumps(told | more)}'"
        self.program.write_text(f'#!/bin/sh\necho "$2" >>{self._folder}/asked\n{answer}\n')

    def asked(self):
        log = self._folder / "asked"
        return log.read_text().split() if log.exists() else []

    def do(self, function="switch", *words, **more):
        """What it says, and whether it ends with 0."""
        self._loaders.context.clear()
        words = words or (("sys-vpn", "wg-de.conf") if function == "switch" else ())
        if self._modules is None:
            opts = {**self._loaders.opts, "pillar": {"qubes_vpn": self.document}}
            self._modules = salt.loader.minion_mods(
                opts, utils=self._loaders.utils, context=self._loaders.context
            )
        told = self._modules[f"qubes_vpn.{function}"](*words, **more)
        return told, not self._loaders.context.get("retcode")

    def refused(self, match, **more):
        with pytest.raises(CommandExecutionError, match=match):
            self.do(**more)

    def opts(self):
        return self._loaders.opts

    def events(self):
        read = pytest.importorskip("qubes_vpn_record").read
        lines = read(self.opts()["qubes_vpn_folder"])
        events = [line for line in lines if "event" in line]
        return [{k: v for k, v in each.items() if k not in ("at", "by")} for each in events]


@pytest.fixture
def fresh(loaders, embedded, tmp_path, monkeypatch):
    """One that has no VPN qube."""
    made = Dom0(loaders, embedded, tmp_path)
    monkeypatch.setenv("QUBES_VPN_QREXEC", str(made.program))
    yield made
    made.path.write_text("{}\n")


@pytest.fixture
def dom0(fresh, embedded):
    """One whose VPN qube runs, and that is all."""
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=sys-vpn label=orange")
    embedded.call("sys-vpn", "admin.vm.Start")
    return fresh


@pytest.fixture
def applied(fresh, states, embedded):
    """One that is as the pillar says."""
    assert False not in {step.result for step in states.run(fresh.document).values()}
    embedded.call("sys-vpn", "admin.vm.Start")
    return fresh


SWITCHED = {"event": "switched", "of": "sys-vpn", "profile": "wg-de.conf"}


@core
class TestSwitch:
    def test_it_lasts(self, applied, states):
        applied.answers(True, former=FORMER)
        told, good = applied.do(lasting=True)
        assert good
        assert told.splitlines() == [
            f"The tunnel of sys-vpn is up with wg-de.conf. {applied.path} is changed: 'profile' is "
            "wg-de.conf there, and wg.conf one of 'profiles'. Who makes the pillar elsewhere "
            "changes it there, too: qubes-vpn set PILLAR tunnels.sys-vpn.profile wg-de.conf",
            "sys-vpn has it at its next start once this has run: sudo qubesctl --skip-dom0 "
            "--targets=sys-vpn state.sls qubes.network.sys-vpn",
        ]
        assert (applied.path.read_text(), applied.asked()) == (LASTS, [f"qubes-vpn.Switch+{ID}"])
        assert applied.events() == [{**SWITCHED, "lasting": str(applied.path), "former": "wg.conf"}]
        # dom0 has nothing to do by it, and the qube gets what is up.
        applied.has(LASTS)
        assert {each.result for each in states.run(applied.document).values()} == {True}
        assert not any(each.changes for each in states.run(applied.document).values())
        part, _ = applied.do("part", applied.document, "sys-vpn")
        tunnel = part["args"]["tunnel"]
        assert (tunnel["profile"], tunnel["profiles"]) == ("wg-de.conf", ["wg-no.conf", "wg.conf"])
        told, _ = applied.do(lasting=True)
        assert told.endswith("is up with wg-de.conf. wg-de.conf is the pillar's already.")
        assert applied.path.read_text() == LASTS

    def test_a_dry_run_asks_nobody_and_writes_nothing(self, applied):
        told, _ = applied.do(lasting=True, test=True)
        assert told == (
            "Would ask sys-vpn to switch: its tunnel is up with wg-de.conf then. "
            f"{applied.path} would be changed: 'profile' is wg-de.conf there, and wg.conf one of "
            "'profiles'."
        )
        for function in ("connect", "disconnect"):
            assert applied.do(function, "sys-vpn", test=True)[0].startswith("Would ask sys-vpn to")
        applied.embedded.call("sys-vpn", "admin.vm.Kill")
        applied.refused("sys-vpn: does not run", lasting=True, test=True)
        assert (applied.path.read_text(), applied.asked(), applied.events()) == (TEXT, [], [])

    @pytest.mark.parametrize("dry", [True, False])
    def test_what_could_not_last_is_not_begun(self, applied, dry):
        applied.answers(True)
        applied.path.write_text(f"{TEXT}# {{# x #}}\n")
        applied.refused(
            "sys-vpn: not switched. It could not last: .*qubes_vpn.sls has Jinja.*By hand, under "
            "tunnels: sys-vpn: let 'profile' be wg-de.conf, and write wg.conf for it in "
            "'profiles'. In the qube where the pillar is made: qubes-vpn set PILLAR "
            "tunnels.sys-vpn.profile wg-de.conf$",
            lasting=True,
            test=dry,
        )
        assert (applied.asked(), applied.events()) == ([], [])

    @pytest.mark.parametrize("name", ["sys-vpm", {"sys-vpn": None}, None])
    def test_what_is_no_tunnel(self, applied, name):
        """Nobody is told to give it profiles."""
        with pytest.raises(CommandExecutionError, match=r"(no|a) tunnel.*: sys-vpn$"):
            applied.do("switch", name, "wg-de.conf")
        assert applied.asked() == []

    def test_endpoints_that_are_not_applied(self, applied):
        """The qube compares with what was applied; the next run would with the pillar."""
        applied.answers(True)
        text = TEXT.replace("198.51.100.7:", "198.51.100.8:")
        applied.path.write_text(text)
        applied.has(text)
        applied.refused("the firewall list of sys-vpn is not the pillar's", lasting=True)
        assert (applied.path.read_text(), applied.asked(), applied.events()) == (text, [], [])

    def test_a_server_that_is_no_endpoint(self, applied):
        applied.answers(False, why="endpoint")
        applied.refused(
            "not done: a server of its profile is not among its endpoints", lasting=True
        )
        assert (applied.path.read_text(), applied.events()) == (TEXT, [])

    def test_what_is_not_up_is_not_written(self, applied):
        applied.answers(False, why="no-answer", state="connecting")
        applied.refused("not done: the server did not answer", lasting=True)
        assert applied.path.read_text() == TEXT
        (event,) = applied.events()
        assert (event["event"], event["answer"]) == ("asked to switch", "not that it is done")

    @pytest.mark.parametrize(
        ("answer", "now"),
        [
            ({"state": "down"}, "down"),
            ({"state": "unknown", "profile": None}, "unknown"),
            ({"profile": FORMER}, "with another profile"),
        ],
    )
    def test_what_is_done_and_not_so_is_not_written(self, applied, answer, now):
        """It fell again at once, somebody else was quicker, or the qube lies."""
        applied.answers(True, **answer)
        applied.refused(f"done, it says, but the tunnel is {now} by now", lasting=True)
        assert applied.path.read_text() == TEXT
        (event,) = applied.events()
        assert (event["event"], event["answer"]) == ("asked to switch", "not that it is done")

    def test_a_pillar_that_cannot_be_written_then(self, applied):
        applied.answers(f"echo >>{applied.path}; echo '{json.dumps(DONE)}'")
        told, good = applied.do(lasting=True)
        assert not good
        but = "But the pillar is as it was, and so that holds until the next run or start: "
        assert f"{but}{applied.path} was changed in between. By hand, under tunnels" in told
        assert applied.path.read_text() == f"{TEXT}\n"
        assert [each["event"] for each in applied.events()] == ["switched", "not made lasting"]


@core
class TestRecord:
    """Who reads it sees what was, what is, and what may be (R67)."""

    @pytest.mark.parametrize(
        ("former", "told"),
        [
            ({"former": FORMER}, {"former": "wg.conf"}),
            ({"former": "0" * 16}, {"former": "0" * 16}),
            ({"former": None}, {}),
            ({}, {}),
        ],
        ids=["known", "unknown", "none", "an older template's"],
    )
    def test_which_profile_was_up_before(self, dom0, former, told):
        dom0.answers(True, **former)
        dom0.do()
        assert dom0.events() == [{**SWITCHED, **told}]

    @pytest.mark.parametrize("function", ["switch", "connect", "disconnect"])
    def test_no_answer_in_time(self, dom0, monkeypatch, function):
        monkeypatch.setattr(pytest.importorskip("qubes_vpn_checkup"), "_SWITCH", 0.2)
        dom0.answers("sleep 9")
        dom0.refused("within 0.2 seconds. Whether it was done is not known", function=function)
        (event,) = dom0.events()
        assert (event["event"], event["answer"]) == (f"asked to {function}", "none in time")
        assert dom0.do("events")[0].endswith("answer none in time)")

    @pytest.mark.parametrize(
        ("answer", "noted"),
        [
            ("echo nonsense", ["not that it is done"]),
            ("exit 1", ["not that it is done"]),
            ("exit 125", ["not that it is done"]),
            ("exit 126", []),
            ("exit 127", []),
            *((f"echo '{json.dumps({**DONE, 'done': False, 'why': why})}'", []) for why in
              ("busy", "profile", "endpoint", "no-tunnel")),
            (f"echo '{json.dumps({**DONE, 'done': False, 'why': 'killswitch'})}'",
             ["not that it is done"]),
        ],
    )  # fmt: skip
    def test_only_what_cannot_have_been_is_not_noted(self, dom0, answer, noted):
        dom0.answers(answer)
        dom0.refused("sys-vpn: ")
        assert [each["answer"] for each in dom0.events()] == noted

    def test_a_full_disk(self, dom0, monkeypatch):
        """The switch is told, and that it is not on record; not that nothing was done."""
        record = pytest.importorskip("qubes_vpn_record")

        def full(*_):
            raise OSError(28, os.strerror(28))

        monkeypatch.setattr(record, "_write", full)
        dom0.answers(True)
        told, _ = dom0.do()
        folder = dom0.opts()["qubes_vpn_folder"]
        assert told.startswith(
            "The tunnel of sys-vpn is up with wg-de.conf. Who did it is not recorded: "
            f"{folder}/record.jsonl cannot be written (No space left on device). "
        )
        assert "run this again" not in told

    def test_nobody_waited(self, dom0, monkeypatch):
        def interrupt(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(pytest.importorskip("qubes_vpn_checkup"), "switch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            dom0.do()
        (event,) = dom0.events()
        assert (event["event"], event["answer"]) == ("asked to switch", "not waited for")


def test_by_a_run_of_salts_own(answers, salt_call, salt_text, minion, embedded):
    """What a user types, with each Salt."""
    answers.chmod(0o755)
    assert salt_call("state.sls", "qubes.network.sys-vpn", pillar=TEXT).returncode == 0
    embedded.call("sys-vpn", "admin.vm.Start")
    answers.write_text(f"#!/bin/sh\necho '{json.dumps(DONE | {'former': FORMER})}'\n")
    words = ("qubes_vpn.switch", "sys-vpn", "wg-de.conf", "lasting=True")
    path = minion.folder / "pillar/qubes_vpn.sls"
    dry = salt_text(*words, "test=True")
    assert (dry.code, dry.stderr, path.read_text()) == (0, "", TEXT)
    assert "Would ask sys-vpn to switch" in dry.stdout
    done = salt_call(*words)
    assert (done.returncode, path.read_text()) == (0, LASTS)
    assert done.data.startswith("The tunnel of sys-vpn is up with wg-de.conf. ")
    told = salt_call("qubes_vpn.events").data
    assert told.endswith(f"(profile wg-de.conf, lasting {path}, former wg.conf)")


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """What answers for a qube; before `salt_call`, which takes the environment as it is."""
    program = tmp_path / "qrexec"
    program.write_text("#!/bin/sh\nexit 127\n")
    monkeypatch.setenv("QUBES_VPN_QREXEC", str(program))
    return program
