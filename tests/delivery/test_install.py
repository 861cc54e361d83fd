# SPDX-License-Identifier: GPL-2.0-or-later
"""Installing a bundle in dom0: what is written, removed and kept (R86)."""

import os
import stat
import tarfile

import pytest
from delivery_dom0 import DATA, MANIFEST, PILLAR, SALT

from qubes_vpn_formula import bundle

SLS = f"{SALT}/qubes/network/sys-vpn.sls"
UTIL = f"{SALT}/_utils/qubes_vpn_plan.py"


def altered(tmp_path, change):
    """A bundle whose members the function `change` has altered."""
    content = bundle.members()
    change(content)
    path = tmp_path / f"{change.__name__}.tar"
    path.write_bytes(bundle.tar(content))
    return path


def ours(tmp_path):
    bundle.build(tmp_path / "ours.tar")
    return tmp_path / "ours.tar"


def test_all_of_it_is_there_for_root_alone_to_write(dom0, made):
    done = dom0.install(made)
    assert done.returncode == 0, done.stderr
    content = bundle.members()
    expected = {f"srv/{name}" for name in content if name.startswith("salt/")}
    salt = {name for name in dom0.files() if name.startswith("srv/salt/")}
    assert salt == expected
    for name in expected:
        path = dom0.folder / name
        status = path.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 0, 0o644)
        assert path.read_bytes() == content[name.removeprefix("srv/")]
    assert stat.S_IMODE((dom0.folder / PILLAR).stat().st_mode) == 0o600


def test_salt_looks_again_and_nothing_else_is_run(dom0, made):
    """Facts 11: the list of files is kept for 20 s, and only a sync brings modules."""
    utils = sum(name.startswith("salt/_utils/") for name in bundle.members())
    assert dom0.install(made).returncode == 0
    assert dom0.asked() == [f"--dom0-only saltutil.sync_all {utils}"]
    assert not (dom0.folder / "var/cache/salt/minion/file_lists").exists()
    dom0.salt(works=False)
    done = dom0.install(made)
    assert done.returncode == 1
    assert done.stderr == (
        "Salt did not look at the modules again. Run: sudo qubesctl saltutil.sync_all\n"
    )


def test_a_second_time_changes_nothing(dom0, made):
    dom0.install(made)
    before = dom0.files()
    done = dom0.install(made)
    assert done.returncode == 0
    assert ", 0 of them new, 0 old ones removed." in done.stdout
    assert dom0.files() == before


def test_an_upgrade_removes_what_is_gone_and_nothing_of_the_users(dom0, tmp_path):
    gone = ["salt/_utils/qubes_vpn_gone.py", "salt/qubes/tests/files/gone.sh"]
    old = altered(tmp_path, lambda content: content.update(dict.fromkeys(gone, b"gone")))
    dom0.install(old)
    for name in gone:
        assert (dom0.folder / "srv" / name).exists()
    mine = ["_utils/mine.py", "_utils/qubes_vpn_mine.py", "qubes/network/mine.sls", "top.sls"]
    for name in mine:
        dom0.write(f"{SALT}/{name}", "mine")
    done = dom0.install(ours(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert ", 2 old ones removed." in done.stdout
    for name in gone:
        assert not (dom0.folder / "srv" / name).exists()
    assert not (dom0.folder / SALT / "qubes/tests/files").exists()
    assert {(dom0.folder / SALT / name).read_text() for name in mine} == {"mine"}


def test_what_somebody_changed_is_kept(dom0, tmp_path):
    """A file that stays, one that goes, and one that was there before the first bundle."""
    gone = "salt/_utils/qubes_vpn_gone.py"
    dom0.write(SLS, "before")
    old = altered(tmp_path, lambda content: content.update({gone: b"gone"}))
    dom0.install(old)
    for name in (f"srv/{gone}", UTIL):
        dom0.write(name, "changed")
    done = dom0.install(ours(tmp_path))
    assert done.returncode == 1
    kept = dom0.folder / "var/lib/qubes-vpn-formula/kept/salt"
    texts = {str(p.relative_to(kept)): p.read_text() for p in kept.rglob("*") if p.is_file()}
    assert texts == {
        "qubes/network/sys-vpn.sls": "before",
        "_utils/qubes_vpn_gone.py": "changed",
        "_utils/qubes_vpn_plan.py": "changed",
    }
    assert "It is kept as /var/lib/qubes-vpn-formula/kept/salt/_utils/qubes_vpn_plan.py" in (
        done.stderr
    )
    assert (dom0.folder / UTIL).read_bytes() == bundle.members()["salt/_utils/qubes_vpn_plan.py"]
    # Changed once more, the first one is not lost.
    dom0.write(UTIL, "again")
    dom0.install(ours(tmp_path))
    kept = [path.read_text() for path in (kept / "_utils").glob("qubes_vpn_plan.py*")]
    assert sorted(kept) == ["again", "changed"]


class TestPillar:
    def later(self, tmp_path, pillar):
        text = pillar.text.replace("work: sys-vpn", "work: sys-vpn, personal: sys-vpn")
        bundle.build(tmp_path / "later.tar", type(pillar)("p", text))
        return tmp_path / "later.tar", DATA + text

    def test_a_newer_one_takes_the_place_of_ours(self, dom0, made, tmp_path, pillar):
        said = [dom0.install(made).stdout for _ in range(2)]
        later, text = self.later(tmp_path, pillar)
        done = dom0.install(later)
        assert done.returncode == 0
        assert (dom0.folder / PILLAR).read_text() == text
        told = [out.splitlines()[1] for out in (*said, done.stdout)]
        assert told == [f"/srv/pillar: 2 files, {number} of them new." for number in (2, 0, 1)]

    def test_one_that_was_changed_in_dom0_stays(self, dom0, made, tmp_path, pillar):
        dom0.install(made)
        dom0.write(PILLAR, DATA + pillar.text + "# mine\n")
        later, text = self.later(tmp_path, pillar)
        for _ in range(2):
            done = dom0.install(later)
            assert done.returncode == 1
            assert (
                "/srv/pillar/qubes_vpn/init.sls was changed here, or not by a bundle, and stays"
                in done.stderr
            )
            assert "/srv/pillar: 2 files, 0 of them new." in done.stdout
            assert (dom0.folder / PILLAR).read_text() == DATA + pillar.text + "# mine\n"
            assert (dom0.folder / f"{PILLAR}.new").read_text() == text
        # Once taken over, it is ours again.
        dom0.run(f"mv /{PILLAR}.new /{PILLAR}")
        assert dom0.install(made).returncode == 0
        assert (dom0.folder / PILLAR).read_text() == DATA + pillar.text

    def test_one_of_the_users_own_stays(self, dom0, made, tmp_path):
        dom0.write(PILLAR, "qubes_vpn: {}")
        assert dom0.install(made).returncode == 1
        assert (dom0.folder / PILLAR).read_text() == "qubes_vpn: {}"

    def test_a_bundle_without_one_leaves_it(self, dom0, made, tmp_path, pillar):
        dom0.install(made)
        done = dom0.install(ours(tmp_path))
        assert (done.returncode, "/srv/pillar" in done.stdout) == (0, False)
        assert (dom0.folder / PILLAR).read_text() == DATA + pillar.text
        later, text = self.later(tmp_path, pillar)
        assert dom0.install(later).returncode == 0
        assert (dom0.folder / PILLAR).read_text() == text


class TestRemove:
    def test_all_but_the_pillar_and_the_users_files(self, dom0, made, pillar):
        dom0.write(f"{SALT}/_utils/mine.py", "mine")
        dom0.install(made)
        dom0.asked()
        done = dom0.remove()
        assert (done.returncode, done.stderr) == (0, "")
        assert set(dom0.files()) == {
            f"{SALT}/_utils/mine.py", PILLAR, PILLAR.replace(".sls", ".top"),
        }  # fmt: skip
        assert (dom0.folder / PILLAR).read_text() == DATA + pillar.text
        assert dom0.asked() == ["--dom0-only saltutil.sync_all 1"]
        assert not (dom0.folder / "var/lib/qubes-vpn-formula").exists()

    def test_without_a_bundle(self, dom0, made):
        done = dom0.run('tar -xOf "$1" install.py | python3 -I - --remove', made)
        assert (done.returncode, done.stderr) == (2, "No bundle is installed here.\n")
        assert dom0.files() == {}

    def test_what_was_changed_is_kept(self, dom0, made):
        dom0.install(made)
        dom0.write(UTIL, "changed")
        assert dom0.remove().returncode == 1
        kept = dom0.folder / "var/lib/qubes-vpn-formula/kept/salt/_utils/qubes_vpn_plan.py"
        assert kept.read_text() == "changed"


class TestRefused:
    """Nothing is written, and one sentence says why."""

    def refused(self, dom0, path):
        before = dom0.files()
        done = dom0.run('python3 -I "$2" "$1"', path, bundle.install.__file__)
        assert (done.returncode, done.stdout) == (2, "")
        assert dom0.files() == before
        assert dom0.asked() == []
        (line,) = done.stderr.splitlines()
        return line

    @pytest.mark.parametrize(
        "name",
        [
            "salt/top.sls",
            "salt/qubes/network/../../top.sls",
            "/etc/passwd",
            "salt//etc/passwd",
            "salt/qubes/mgmt/init.sls",
            "salt/qubes/network/files/../x",
            "salt/qubes/network/docs/x.md.sls",
            "salt/qubes/network/sys-vpn.sls\n",
            "salt/_modules/cmdmod.py",
            "salt/_modules/qubes_vpn.py\n",
            "salt/_grains/qubes_vpn.py",
            "salt/_utils/qubes_vpn_plan.py/x",
            "pillar/top.sls",
            "pillar/qubes_vpn/init.sls/x",
            "./salt/_modules/qubes_vpn.py",
            "salt/_utils/qubes_vpn_\x1b[31m.py",
            "salt/_utils/qubes_vpn_\u202e.py",
        ],
    )
    def test_another_name(self, dom0, made, name):
        with tarfile.open(made, "a", format=tarfile.PAX_FORMAT) as tar:
            tar.addfile(tarfile.TarInfo(name))
        said = self.refused(dom0, made)
        assert "is in no bundle" in said
        assert said.isascii()
        assert said.isprintable()

    @pytest.mark.parametrize(
        "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, b"S", b"9"]
    )
    def test_another_kind(self, dom0, made, kind):
        member = tarfile.TarInfo("salt/_utils/qubes_vpn_more.py")
        member.type, member.linkname = kind, "/etc/passwd"
        with tarfile.open(made, "a") as tar:
            tar.addfile(member)
        assert "bundle" in self.refused(dom0, made)

    def test_a_name_that_is_there_twice(self, dom0, made):
        with tarfile.open(made, "a") as tar:
            tar.addfile(tarfile.TarInfo("salt/_modules/qubes_vpn.py"))
        assert "is there twice" in self.refused(dom0, made)

    @pytest.mark.parametrize("left", [0, 100, 512, 40_000, 1_000_000])
    def test_one_that_is_cut_off(self, dom0, made, left):
        made.write_bytes(made.read_bytes()[:left])
        assert "Get it again." in self.refused(dom0, made)

    def test_one_that_is_too_large_or_compressed_or_not_there(self, dom0, made, tmp_path):
        assert "No such file" in self.refused(dom0, tmp_path / "none.tar")
        with tarfile.open(tmp_path / "gz.tar", "w:gz") as tar:
            tar.addfile(tarfile.TarInfo("install.py"))
        assert "no bundle" in self.refused(dom0, tmp_path / "gz.tar")
        os.truncate(made, (32 << 20) + 1)
        assert "too large" in self.refused(dom0, made)

    @pytest.mark.parametrize(
        "headers",
        [{"path": "salt/_utils/qubes_vpn_other.py"}, {"size": "x"}, {"GNU.sparse.map": "a,b"}],
    )
    def test_headers_that_tar_and_python_may_read_differently(self, dom0, made, headers):
        """Also those on which Python's tarfile stumbles: with 2, and no traceback."""
        with tarfile.open(made, "a", format=tarfile.PAX_FORMAT) as tar:
            member = tarfile.TarInfo("salt/_utils/qubes_vpn_more.py")
            member.pax_headers = headers
            tar.addfile(member)
        assert len(self.refused(dom0, made).splitlines()) == 1

    def test_one_that_says_it_is_larger_than_it_is(self, dom0, made):
        """Sparse files: 200 of 31 MiB each were in 200 KB, and in dom0's memory."""
        with tarfile.open(made, "a", format=tarfile.PAX_FORMAT) as tar:
            for number in range(3):
                member = tarfile.TarInfo(f"salt/_utils/qubes_vpn_more{number}.py")
                member.pax_headers = {
                    "GNU.sparse.size": str(31 << 20),
                    "GNU.sparse.map": f"{31 << 20},0",
                }
                tar.addfile(member)
        assert "headers that are in no bundle" in self.refused(dom0, made)

    def test_links_and_folders_in_the_way(self, dom0, made, tmp_path):
        """What root would write through them."""
        aside = tmp_path / "aside"
        aside.mkdir()
        utils = dom0.folder / SALT / "_utils"
        utils.symlink_to(aside)
        assert self.refused(dom0, made).startswith("/srv/salt/_utils: not a folder")
        utils.unlink()
        utils.mkdir()
        (utils / "qubes_vpn_plan.py").symlink_to(aside / "plan")
        assert "qubes_vpn_plan.py: not a plain file" in self.refused(dom0, made)
        (utils / "qubes_vpn_plan.py").unlink()
        (dom0.folder / PILLAR).mkdir(parents=True)
        assert "init.sls: not a plain file" in self.refused(dom0, made)
        assert list(aside.iterdir()) == []

    def test_the_package_is_there(self, dom0, made):
        dom0.program("rpm", '#!/bin/sh\n[ "$*" = "-q qubes-vpn-formula" ]\n')
        assert "The package qubes-vpn-formula is installed" in self.refused(dom0, made)

    def test_a_manifest_that_is_not_ours(self, dom0, made):
        dom0.install(made)
        dom0.asked()
        manifest = dom0.folder / MANIFEST
        manifest.write_text(f"{'0' * 64}  /srv/../etc/passwd\n")
        assert "installed: not as it was written" in self.refused(dom0, made)


def test_killed_at_any_write_the_next_run_puts_it_right(dom0, made, tmp_path):
    """A power cut, a full disk: what was half done is known as ours, and nothing is lost."""
    gone = "salt/_utils/qubes_vpn_gone.py"
    old = altered(tmp_path, lambda content: content.update({gone: b"gone"}))

    def newer(content):
        content["salt/_utils/qubes_vpn_added.py"] = b""
        for name in content:
            if name.startswith("salt/_utils/"):
                content[name] += b"# newer\n"

    dom0.install(old)
    new = altered(tmp_path, newer)
    count = 0
    for left in (0, 1, 2, 60):
        count += dom0.killed(left, new).returncode == 9
        # Also one that has never heard of what was being written.
        for bundled, there in ((old, True), (new, False)):
            done = dom0.install(bundled)
            assert (done.returncode, done.stderr) == (0, ""), left
            assert [name for name in dom0.files() if name.endswith(".part")] == []
            assert (dom0.folder / "srv" / gone).exists() == there
            assert (dom0.folder / SALT / "_utils/qubes_vpn_added.py").exists() != there
        assert dom0.install(old).returncode == 0
    assert count == 4


@pytest.mark.parametrize("after", ["another bundle", "removal"])
def test_killed_beside_a_changed_pillar_leaves_nothing_half(dom0, made, tmp_path, after):
    """A half-written pillar is no part of what stays, whoever comes next."""
    dom0.install(made)
    dom0.write(PILLAR, "qubes_vpn: {}")
    assert dom0.killed(2, made).returncode == 9
    assert PILLAR.replace("init.sls", ".init.sls.new.part") in dom0.files()
    done = dom0.remove() if after == "removal" else dom0.install(ours(tmp_path))
    assert done.returncode == 0, done.stderr
    assert [name for name in dom0.files() if name.endswith(".part")] == []
    assert (dom0.folder / PILLAR).read_text() == "qubes_vpn: {}"


def test_the_manifest_names_every_file(dom0, made):
    dom0.install(made)
    lines = (dom0.folder / MANIFEST).read_text().splitlines()
    sums = dict(reversed(line.split("  /")) for line in lines)
    there = {name: one for name, one in dom0.files().items() if name.startswith(("srv/", "usr/"))}
    assert sums == there
