# SPDX-License-Identifier: GPL-2.0-or-later
"""The record of what was replaced: each line on the disk, none lost, none of anybody else (R92)."""

import json
import os
import stat

import pytest

import qubes_vpn_undo
from qubes_vpn_record import NAME, Record, Unusable, events, read

GUARD = {"uplink": "sys-net", "shelters": ["sys-vpn"], "services": [], "outside_vpn": []}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "qubes-vpn"


def change(record, new="sys-vpn"):
    record.change("property", "work", "netvm", "sys-firewall", new=new, inherited=True, uuid="1-2")


def netvms(folder):
    return [line["new"] for line in read(folder) if "change" in line]


def test_lines_come_back_as_they_were_written(folder):
    record = Record(folder)
    change(record)
    record.making("sys-vpn")
    record.made("sys-vpn", "3-4")
    run, *rest = read(folder)
    assert set(run) == {"run"}
    assert rest == [
        {
            "change": "property",
            "of": "work",
            "key": "netvm",
            "old": "sys-firewall",
            "new": "sys-vpn",
            "inherited": True,
            "uuid": "1-2",
        },
        {"making": "sys-vpn"},
        {"made": "sys-vpn", "uuid": "3-4"},
    ]


def test_an_event_belongs_to_no_run(folder):
    """R67. It may come first, and neither begins a run nor ends one."""
    record = Record(folder)
    record.event("bypass opened", "disp-portal", "joanna", minutes=15)
    change(record)
    Record(folder).event("bypass closed", "disp-portal", "timer")
    change(record)
    lines = read(folder)
    assert [next(iter(line)) for line in lines] == ["event", "run", "change", "event", "change"]
    first, last = events(lines, "disp-portal")
    assert (first["by"], first["minutes"], last["by"]) == ("joanna", 15, "timer")
    assert events(lines, "work") == []
    assert [len(run.lines) for run in qubes_vpn_undo.runs(lines)] == [2]


def test_nothing_is_written_for_a_run_that_changes_nothing(folder):
    Record(folder)
    assert read(folder) == []
    assert not folder.exists()


def test_each_run_begins_with_its_own_line_and_the_first_wiring_counts(folder):
    for _ in range(2):
        record = Record(folder)
        for netvm in ("sys-firewall", "sys-vpn"):
            record.wiring({"work": netvm})
            record.promise(GUARD)
        change(record)
    Record(folder).undone([1, 2])
    assert [next(iter(line)) for line in read(folder)] == [
        *("run", "wiring", "guard", "change") * 2,
        "undone",
    ]
    assert read(folder)[1]["wiring"] == {"work": "sys-firewall"}


def test_only_root_can_read_it(folder):
    old = os.umask(0)
    try:
        change(Record(folder))
    finally:
        os.umask(old)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / NAME).stat().st_mode) == 0o600


def test_a_line_that_a_kill_cut_off_is_ignored_and_replaced(folder):
    """At every length that the kill may have left."""
    change(Record(folder), "first")
    whole = (folder / NAME).read_bytes()
    change(Record(folder), "second")
    both = (folder / NAME).read_bytes()
    for length in range(len(whole), len(both)):
        (folder / NAME).write_bytes(both[:length])
        assert netvms(folder) == ["first"]
        change(Record(folder), "third")
        assert netvms(folder) == ["first", "third"]
        for line in (folder / NAME).read_bytes().splitlines():
            json.loads(line)


def test_a_damaged_line_among_whole_ones_is_named(folder):
    """A kill does not do this: undoing without that line would be half an undo."""
    for new in ("first", "second"):
        change(Record(folder), new)
    lines = (folder / NAME).read_bytes().splitlines(keepends=True)
    for bad in (b"{\n", b"7\n", b"\xff\n", b"\n"):
        (folder / NAME).write_bytes(lines[0] + bad + lines[2])
        with pytest.raises(Unusable, match=rf"{NAME}, line 2 is damaged, ") as refused:
            read(folder)
        assert "take the line out" not in str(refused.value)


def test_a_line_that_is_lost_or_moved_is_noticed(folder):
    """Without its header a run would be taken for a part of the one before, and not be undone."""
    for _ in range(2):
        record = Record(folder)
        record.wiring({"work": None})
        record.promise(GUARD)
        change(record)
        Record(folder).undone([1])
    lines = (folder / NAME).read_bytes().splitlines(keepends=True)
    for place in range(len(lines) - 1):
        rest = lines[:place] + lines[place + 1 :]
        for bad in (rest, [*rest, lines[place]], [*lines[:place], lines[place], *lines[place:]]):
            (folder / NAME).write_bytes(b"".join(bad))
            with pytest.raises(Unusable, match=rf", line {place + 1 + (len(bad) > len(lines))} is"):
                read(folder)
            change(Record(folder))
            with pytest.raises(Unusable):
                read(folder)
    (folder / NAME).write_bytes(b"".join(lines))
    assert len(read(folder)) == len(lines)


CHANGE = {"change": "property", "of": "work", "key": "netvm", "old": None, "new": "sys-vpn"}
RULES = {"change": "firewall", "of": "work", "key": "rules", "old": ["action=drop"], "new": []}


def test_a_line_of_a_right_shape_is_read(folder):
    folder.mkdir(mode=0o700)
    lines = [{"run": "now"}, CHANGE, RULES, {"guard": GUARD}, {"made": "a", "uuid": "1"}]
    for number, line in enumerate(lines, 1):
        with (folder / NAME).open("a") as file:
            file.write(json.dumps({"line": number, **line}) + "\n")
    assert read(folder) == lines


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"change": "property"},
        *({key: CHANGE[key] for key in CHANGE if key != left} for left in ("of", "key", "old")),
        {**CHANGE, "change": "colour"},
        {**CHANGE, "change": ["property"]},
        {**CHANGE, "of": ["work"]},
        {**CHANGE, "old": ["sys-net"]},
        {**CHANGE, "uuid": 1},
        {**RULES, "old": "action=drop"},
        {**RULES, "new": [None]},
        {**CHANGE, "undone": [1]},
        {"run": 1},
        {"wiring": ["work"]},
        {"wiring": {"work": ["sys-net"]}},
        {"guard": {"uplink": "sys-net"}},
        {"guard": {**GUARD, "services": [["work"]]}},
        {"making": None},
        {"made": "sys-vpn"},
        {"undone": 1},
        {"undone": ["1"]},
        {"undone": [2]},
    ],
    ids=str,
)
def test_a_line_of_another_shape_is_damaged(folder, bad):
    change(Record(folder))
    with (folder / NAME).open("a") as file:
        file.write(json.dumps({"line": 3, **bad}) + "\n")
    with pytest.raises(Unusable, match=rf"{NAME}, line 3 is damaged, "):
        read(folder)


def test_a_record_begins_with_a_run(folder):
    folder.mkdir(mode=0o700)
    for line in ({"making": "sys-vpn"}, CHANGE, {"undone": [1]}):
        (folder / NAME).write_text(json.dumps({"line": 1, **line}) + "\n")
        with pytest.raises(Unusable, match=r"line 1 is damaged, "):
            read(folder)


def _link(folder):
    target = folder.with_name("elsewhere")
    target.mkdir()
    folder.symlink_to(target)


def _link_as_file(folder):
    folder.mkdir(mode=0o700)
    target = folder.with_name("elsewhere")
    target.touch()
    (folder / NAME).symlink_to(target)


def _everybodys(folder):
    folder.mkdir()
    folder.chmod(0o777)


def _everybodys_file(folder):
    folder.mkdir(mode=0o700)
    (folder / NAME).touch()
    (folder / NAME).chmod(0o666)


def _no_folder(folder):
    folder.touch()


def _no_file(folder):
    (folder / NAME).mkdir(parents=True)


def _no_parent(folder):
    folder.parent.rmdir()


@pytest.mark.parametrize(
    "spoil", [_link, _link_as_file, _everybodys, _everybodys_file, _no_folder, _no_file, _no_parent]
)
def test_a_folder_that_will_not_do_is_an_error_in_words(folder, spoil):
    spoil(folder)
    with pytest.raises(Unusable) as refused:
        change(Record(folder))
    assert str(refused.value).startswith("what is there cannot be recorded in ")
    assert "and so nothing is replaced" in str(refused.value)
    assert "a folder of mode 0700 and record.jsonl in it a file of mode 0600" in str(refused.value)
    assert f"of user {os.geteuid() or 'root'} (chown, chmod)" in str(refused.value)
    with pytest.raises(Unusable) as foretold:
        Record(folder).check()
    assert str(foretold.value) == str(refused.value)
    elsewhere = folder.with_name("elsewhere")
    if elsewhere.is_file():
        assert elsewhere.read_bytes() == b""
    elif elsewhere.is_dir():
        assert list(elsewhere.iterdir()) == []


def test_looking_whether_it_can_be_written_writes_nothing(folder):
    Record(folder).check()
    assert not folder.exists()
    change(Record(folder))
    before = (folder / NAME).read_bytes()
    Record(folder).check()
    assert (folder / NAME).read_bytes() == before


def test_a_record_of_somebody_else_will_not_do(folder, monkeypatch):
    change(Record(folder))
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    for use in (change, Record.check, Record.lines):
        with pytest.raises(Unusable, match=rf"both of user {owner + 1} \(chown, chmod\), then"):
            use(Record(folder))


def test_a_line_is_on_the_disk_before_the_change_may_be_made(folder, monkeypatch):
    synced = []
    fsync = os.fsync

    def noted(file):
        synced.append(os.fstat(file).st_size)
        fsync(file)

    monkeypatch.setattr(os, "fsync", noted)
    change(Record(folder))
    assert synced[-1] == (folder / NAME).stat().st_size


def test_a_full_disk_is_an_error_in_words(folder, monkeypatch):
    change(Record(folder), "first")
    write = os.write

    def full(file, data):
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return write(file, data[: len(data) - 10])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Unusable, match="No space left on device"):
        change(Record(folder), "second")
    monkeypatch.undo()
    assert netvms(folder) == ["first"]
    change(Record(folder), "third")
    assert netvms(folder) == ["first", "third"]
