# SPDX-License-Identifier: GPL-2.0-or-later
"""The package for dom0: the same bytes each time, and what install, upgrade and removal do (R86).

In a root that has a shell and Python, and nothing else. With Salt: tests/readme/test_delivery.py.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from delivery_dom0 import COMMAND, DATA, MANIFEST, PILLAR, SALT, DeliveryDom0

from qubes_vpn_formula import __version__, bundle

NAME = "qubes-vpn-formula"
COMMITTED, BEFORE = "1795383460", "1795383459"
#: The root's own: programs of this machine, what asks for Salt, and a /dev/null.
_ROOT = """
for one in /bin /lib /lib64; do ln -sfn "usr$one" "$0$one"; done
mkdir -p "$0/dev" "$0/sbin"
for one in /usr/lib /usr/lib64; do
    mkdir -p "$0$one"; [ ! -d "$one" ] || mount --bind "$one" "$0$one"
done
# Of which the package writes to /usr/bin: programs are links there.
mkdir -p "$0/usr/bin" "$0/programs-of-this-machine"
mount --bind /usr/bin "$0/programs-of-this-machine"
(cd /usr/bin && printf '/programs-of-this-machine/%s\\n' *) | xargs ln -sf -t "$0/usr/bin"
>>"$0/dev/null"; mount --bind /dev/null "$0/dev/null"
cp "$0/programs/qubesctl" "$0/sbin/qubesctl"
rpm() { command rpm --root "$0" --dbpath /var/lib/rpm "$@"; }
"""


class RpmRoot(DeliveryDom0):
    """Installs by rpm, as if `folder` were dom0's /."""

    def rpm(self, words: str, *more: object, first: str = "") -> subprocess.CompletedProcess[str]:
        """`rpm WORDS MORE` in here. first: a shell script to run before."""
        self.salt(works=True)
        shim = (self.programs / "qubesctl").read_text().replace(str(self.folder), "")
        self.program("qubesctl", shim)
        done = self.run(f'{_ROOT} {first}\nrpm {words} "$@"', *more)
        # Debian's rpm says that Debian has packages of another kind.
        said = [line for line in done.stderr.splitlines(True) if not line.startswith("rpm: ")]
        done.stderr = "".join(said)
        return done


@pytest.fixture(scope="module")
def built(checkout, tmp_path_factory):
    """Builds a package in a new folder: from other members, of another version."""
    if shutil.which("rpmbuild") is None:
        pytest.skip("needs rpmbuild")

    def build(members=None, **environ):
        folder = tmp_path_factory.mktemp("rpm")
        shutil.copytree(checkout / "rpm", folder / "a/rpm")
        (folder / "b.tar").write_bytes(bundle.tar(members or bundle.members()))
        words = ["sh", folder / "a/rpm/build.sh", folder / "b.tar", folder / "out"]
        environ = {**os.environ, "SOURCE_DATE_EPOCH": COMMITTED, **environ}
        done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (made,) = (folder / "out").iterdir()
        return made

    return build


@pytest.fixture(scope="module")
def package(built):
    return built()


@pytest.fixture
def root(tmp_path):
    return RpmRoot(tmp_path / "root")


def test_the_same_bytes_in_another_folder_at_another_time(package, built, tmp_path):
    time.sleep(max(0, package.stat().st_mtime + 1.1 - time.time()))
    again = built(TZ="Asia/Tokyo", LANG="C", HOME=str(tmp_path), HOSTNAME="other")
    assert again != package
    assert again.read_bytes() == package.read_bytes()
    assert package.name == f"{NAME}-{__version__}-20261122213740.noarch.rpm"


class Checkout:
    """A folder with the program that builds, of which git may know."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.folder = folder
        (folder / "rpm").mkdir(parents=True)
        for file in (source / "rpm").iterdir():
            shutil.copy(file, folder / "rpm")
        (folder / "b.tar").write_bytes(bundle.tar(bundle.members()))

    def git(self, words: str) -> None:
        own = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
        environ = {**os.environ, "GIT_COMMITTER_DATE": f"@{COMMITTED} +0000"}
        subprocess.run(["git", *own, *words.split()], cwd=self.folder, env=environ, check=True)

    def build(self) -> subprocess.CompletedProcess[str]:
        environ = {key: value for key, value in os.environ.items() if key != "SOURCE_DATE_EPOCH"}
        words = ["sh", self.folder / "rpm/build.sh", self.folder / "b.tar", self.folder / "out"]
        return subprocess.run(words, env=environ, capture_output=True, text=True, check=False)


@pytest.fixture
def source(checkout, tmp_path):
    return Checkout(checkout, tmp_path / "checkout")


def test_without_a_commit_there_is_no_time_to_take(source):
    done = source.build()
    assert done.returncode == 2
    assert done.stderr.endswith("to take the time from: set SOURCE_DATE_EPOCH.\n")


def test_a_release_is_that_of_its_commit_and_of_nothing_else(source):
    """R86. What was changed since would have the release of what it is not."""
    if shutil.which("rpmbuild") is None:
        pytest.skip("needs rpmbuild")
    source.git("init --quiet")
    source.git("add rpm")
    source.git("commit --quiet --message=one")
    done = source.build()  # its pillar and its bundle are no part of it
    assert done.returncode == 0, done.stderr
    (made,) = (source.folder / "out").iterdir()
    assert made.name == f"{NAME}-{__version__}-20261122213740.noarch.rpm"
    new = source.folder / "_utils/new.py"
    new.parent.mkdir()
    for path in (new, source.folder / "rpm/qubes-vpn-formula.spec"):
        before = path.read_text() if path.exists() else None
        path.write_text("changed")
        done = source.build()
        assert done.returncode == 2
        assert done.stderr.endswith("last commit: commit them, or set SOURCE_DATE_EPOCH.\n")
        path.unlink() if before is None else path.write_text(before)


def test_an_empty_root_gets_the_bundles_files(root, package):
    done = root.rpm("-U --nodeps", package)
    assert (done.returncode, done.stderr) == (0, "")
    content = bundle.members()
    salt = {name: data for name, data in content.items() if name.startswith("salt/")}
    for name, data in salt.items():
        path = root.folder / "srv" / name
        status = path.stat()
        assert path.read_bytes() == data
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (0, 0, 0o644)
    assert {name.removeprefix("srv/") for name in root.files()} == set(salt)
    command = root.folder / "usr/bin/qubes-vpn"
    status = command.stat()
    assert command.read_bytes() == content["bin/qubes-vpn"]
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (0, 0, 0o755)
    utils = sum(name.startswith("salt/_utils/") for name in salt)
    assert root.asked() == [f"--dom0-only saltutil.sync_all {utils}"]
    listed = root.rpm(f"-ql {NAME}").stdout.splitlines()
    # Where licences go differs between distributions.
    (place,) = [line for line in listed if Path(line).name == "LICENSE"]
    assert (root.folder / place.lstrip("/")).read_bytes() == content["LICENSE"]


def test_what_it_needs_is_in_dom0(root, package):
    done = root.rpm("-U", package)
    assert done.returncode != 0
    needed = {line.split()[0] for line in done.stderr.splitlines() if " is needed by " in line}
    assert needed == {"/bin/sh", "/usr/bin/python3", "/usr/bin/qubesctl"}
    assert root.files() == {}


def test_an_upgrade_keeps_the_pillar_and_removes_what_is_gone(root, package, built):
    gone = ["salt/_utils/qubes_vpn_gone.py", "salt/qubes/network/files/gone"]
    # Of one version, as two commits are.
    content = {**bundle.members(), **dict.fromkeys(gone, b"gone")}
    older = built(content, SOURCE_DATE_EPOCH=BEFORE)
    root.write(PILLAR, "qubes_vpn: {}\n")
    mine = root.write(f"{SALT}/_utils/mine.py", "mine")
    root.rpm("-U --nodeps", older)
    root.asked()
    assert [(root.folder / "srv" / name).read_text() for name in gone] == ["gone", "gone"]
    done = root.rpm("-U --nodeps", package)
    assert (done.returncode, done.stderr) == (0, "")
    assert [name for name in gone if (root.folder / "srv" / name).exists()] == []
    assert (root.folder / PILLAR).read_text() == "qubes_vpn: {}\n"
    assert mine.read_text() == "mine"
    # One sync, after the old files were removed: `mine.py` and ours.
    utils = sum(name.startswith("salt/_utils/") for name in bundle.members())
    assert root.asked() == [f"--dom0-only saltutil.sync_all {utils + 1}"]


def test_removed_it_leaves_what_is_not_its_own(root, package):
    root.write(PILLAR, "qubes_vpn: {}\n")
    root.write(f"{SALT}/qubes/network/mine.sls", "mine")
    root.write("var/lib/qubes-vpn/record", "what was there before")
    root.rpm("-U --nodeps", package)
    root.asked()
    done = root.rpm(f"-e --nodeps {NAME}")
    assert (done.returncode, done.stderr) == (0, "")
    assert set(root.files()) == {PILLAR, f"{SALT}/qubes/network/mine.sls"}
    assert not (root.folder / "usr/bin/qubes-vpn").exists()
    assert not (root.folder / SALT / "qubes/tests").exists()
    assert (root.folder / "var/lib/qubes-vpn/record").is_file()
    assert root.asked() == ["--dom0-only saltutil.sync_all 0"]


def test_it_takes_the_place_of_a_bundle(root, package, made, pillar):
    content = {**bundle.members(pillar), "salt/_utils/qubes_vpn_gone.py": b"gone"}
    made.write_bytes(bundle.tar(content))
    assert root.install(made).returncode == 0
    changed = root.write(f"{SALT}/_utils/qubes_vpn_plan.py", "changed")
    done = root.rpm("-U --nodeps", package)
    assert done.returncode == 0, done.stderr
    assert "It is kept as /var/lib/qubes-vpn-formula/kept/" in done.stderr
    assert changed.read_bytes() == content["salt/_utils/qubes_vpn_plan.py"]
    assert not (root.folder / SALT / "_utils/qubes_vpn_gone.py").exists()
    assert not (root.folder / COMMAND).exists()  # the package's is in /usr/bin
    assert (root.folder / "usr/bin/qubes-vpn").is_file()
    assert (root.folder / PILLAR).read_text() == DATA + pillar.text
    assert not (root.folder / "var/lib/qubes-vpn-formula/installed").exists()


@pytest.mark.parametrize("left", [1, 2, 60])
def test_it_takes_the_place_of_a_bundle_whose_run_was_killed(root, package, made, pillar, left):
    """Also of one that was killed while it installed, or removed, the first time."""
    content = {**bundle.members(pillar), "salt/_utils/qubes_vpn_a.py": b"gone"}
    made.write_bytes(bundle.tar(content))
    assert root.killed(left, made).returncode == 9
    done = root.rpm("-U --nodeps", package)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (root.folder / SALT / "_utils/qubes_vpn_a.py").exists()
    assert not (root.folder / MANIFEST).exists()


def test_it_is_installed_though_a_removal_was_killed_at_its_end(root, package, made):
    root.install(made)
    (root.folder / MANIFEST).unlink()
    assert root.rpm("-U --nodeps", package).returncode == 0


def test_without_salt_it_says_so(root, package):
    done = root.rpm("-U --nodeps", package, first='rm "$0/sbin/qubesctl"')
    assert done.returncode == 0
    assert done.stderr == (
        "Salt did not look at the modules again. Run: sudo qubesctl saltutil.sync_all\n"
    )
