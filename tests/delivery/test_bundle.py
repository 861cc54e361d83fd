# SPDX-License-Identifier: GPL-2.0-or-later
"""A bundle: what is in it, that it is the same wherever it is made, and its signature (R86)."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile

import pytest
import yaml

from qubes_vpn_formula import bundle, install
from qubes_vpn_formula.cli import main
from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.pillarfile import PillarFile


def names(path):
    with tarfile.open(path) as tar:
        return {member.name: member for member in tar}


def test_it_has_all_of_the_formula_and_nothing_else(tmp_path, checkout):
    trees = ["salt", "_modules", "_states", "_utils"]
    listed = subprocess.run(
        ["git", "ls-files", *trees], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout.split()
    expected = {name if name.startswith("salt/") else f"salt/{name}" for name in listed}
    expected |= {f"salt/qubes/network/docs/{name}" for name in (*bundle.DOCS, "pillar.example")}
    bundle.build(tmp_path / "b.tar")
    found = names(tmp_path / "b.tar")
    more = {"LICENSE", "install.py", "bin/qubes-vpn"}
    assert set(found) == expected | more
    assert {(m.uid, m.gid, m.uname, m.gname, m.mode, m.mtime) for m in found.values()} == {
        (0, 0, "", "", 0o644, 0)
    }


def test_the_same_bytes_in_another_folder_at_another_time(tmp_path, checkout, pillar):
    """R86. Also with another owner, other modes, and bytecode beside the files."""
    here = bundle.build(tmp_path / "here.tar", pillar)
    copy = tmp_path / "deeper/copy"
    for name in ("salt", "_modules", "_states", "_utils", "docs", "dom0", "qubes_vpn_formula"):
        shutil.copytree(checkout / name, copy / name)
    for name in ("LICENSE", "pillar.example"):
        shutil.copy(checkout / name, copy)
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
        if path.is_file():
            path.chmod(0o640)
    code = (
        "import sys; from qubes_vpn_formula import bundle; "
        "from qubes_vpn_formula.pillarfile import PillarFile; "
        "print(bundle.__file__, bundle.build(sys.argv[1], PillarFile('x', sys.stdin.read())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "there.tar")],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": f"{copy}:{copy}/_utils", "TZ": "Asia/Tokyo", "LANG": "C"},
        input=pillar.text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [str(copy / "qubes_vpn_formula/bundle.py"), here], done.stderr
    there = (tmp_path / "there.tar").read_bytes()
    assert there == (tmp_path / "here.tar").read_bytes()
    assert hashlib.sha256(there).hexdigest() == here
    # A folder lists its files in any order.
    content = bundle.members(pillar)
    assert bundle.tar(dict(reversed(content.items()))) == there


def test_the_pillar_goes_along_with_those_that_get_it(made, pillar):
    content = install.read(made)
    # Salt reads it as data: tests/salt/test_harness.py.
    assert content["pillar/qubes_vpn/init.sls"].decode() == f"#!yaml\n{pillar.text}"
    top = yaml.safe_load(content["pillar/qubes_vpn/init.top"])
    assert top == {"base": {name: ["qubes_vpn"] for name in ("dom0", "t-vpn", "sys-vpn")}}
    assert made.stat().st_mode & 0o777 == 0o600


def test_names_that_yaml_takes_for_other_things(pillar):
    text = pillar.text.replace("sys-vpn", "yes")
    model = PillarFile("p.sls", text.replace("{work: yes}", "{work: 'yes'}")
                       .replace("    yes:", "    'yes':")).model  # fmt: skip
    assert list(yaml.safe_load(bundle.top(model))["base"]) == ["dom0", "t-vpn", "yes"]


def test_a_file_that_is_not_the_formulas_stops_it(tmp_path, checkout, monkeypatch):
    root = tmp_path / "root"
    for name in ("salt", "_modules", "_states", "_utils", "docs", "dom0"):
        shutil.copytree(checkout / name, root / name)
    for name in ("LICENSE", "pillar.example"):
        shutil.copy(checkout / name, root)
    monkeypatch.setattr(bundle, "formula_root", lambda: root)
    sums = {bundle.build(tmp_path / "b.tar")}
    stray = root / "salt/qubes/network/sys-vpn.sls~"
    stray.write_text("")
    with pytest.raises(UserError, match=r"sys-vpn\.sls~: no file of the formula's has such a name"):
        bundle.build(tmp_path / "c.tar")
    assert not (tmp_path / "c.tar").exists()
    stray.unlink()
    (root / "_utils/qubes_vpn_plan.py").write_text("")
    sums.add(bundle.build(tmp_path / "b.tar"))
    assert len(sums) == 2


class TestCommand:
    def test_it_says_what_to_type(self, tmp_path, pillar, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "pillar.sls").write_text(pillar.text)
        assert main(["bundle", "pillar.sls"]) == 0
        out, err = capsys.readouterr()
        checksum = hashlib.sha256((tmp_path / "qubes-vpn.tar").read_bytes()).hexdigest()
        assert out == f"{checksum}  qubes-vpn.tar\n"
        assert f"'cat {tmp_path}/qubes-vpn.tar' > qubes-vpn.tar\n" in err
        assert err.index("sha256sum") < err.index("install.py")
        assert main(["bundle", "pillar.sls", "--json", "--force"]) == 0
        data = json.loads(capsys.readouterr().out)
        assert (data["sha256"], data["signature"]) == (checksum, None)

    def test_a_bundle_that_is_there_stays(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        for name in ("qubes-vpn.tar", "b.tar.asc"):
            (tmp_path / name).write_text("mine")
        assert main(["bundle"]) == 2
        assert main(["bundle", "--output", "b.tar", "--sign", "me"]) == 2
        assert "add --force" in capsys.readouterr().err.lower()
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
            "qubes-vpn.tar": "mine", "b.tar.asc": "mine",
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            ("topology", "topolgy", "Did you mean 'topology'?"),
            ("    sys-vpn: {", "    sys-vpn: {private_key: aaa, ", "private_key"),
        ],
    )
    def test_a_bad_pillar_or_a_secret_makes_none(
        self, tmp_path, pillar, monkeypatch, capsys, old, new, said
    ):
        """R33."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "pillar.sls").write_text(pillar.text.replace(old, new))
        assert main(["bundle", "pillar.sls"]) == 2
        assert said in capsys.readouterr().out
        assert not (tmp_path / "qubes-vpn.tar").exists()
        with pytest.raises(UserError, match="the pillar has problems"):
            bundle.build(tmp_path / "b.tar", PillarFile("p", pillar.text.replace(old, new)))

    @pytest.mark.parametrize(
        ("more", "line"),
        [
            ("users: {root: {password: aaa}}\n", 7),
            ("include: [other]\n", 7),
            ("# PrivateKey = aaa\n", 7),
            (f"# {'A' * 43}=\n", 7),
            ("  # 1234 5678 9012 3456\n", 7),
        ],
    )
    def test_what_no_check_looks_at_is_not_taken_along(
        self, tmp_path, pillar, monkeypatch, capsys, more, line
    ):
        """R33."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "pillar.sls").write_text(pillar.text + more)
        assert main(["bundle", "pillar.sls"]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"pillar.sls:{line}: ")
        assert "aaa" not in err
        assert not (tmp_path / "qubes-vpn.tar").exists()

    def test_the_examples_comments_are_no_secrets(self, pillar, checkout):
        example = (checkout / "pillar.example").read_text()
        comments = "".join(f"{line}\n" for line in example.splitlines() if line.strip()[:1] == "#")
        assert bundle.members(PillarFile("p", pillar.text + comments))


class TestSigned:
    @pytest.fixture
    def key(self, tmp_path, monkeypatch):
        """A key of a user, in a keyring of the test's own."""
        if shutil.which("gpg") is None:
            pytest.skip("needs gpg")
        home = tmp_path / "gpg"
        home.mkdir(mode=0o700)
        monkeypatch.setenv("GNUPGHOME", str(home))
        words = ["--quick-generate-key", "me@example.org", "ed25519", "sign"]
        subprocess.run(["gpg", "--batch", "--passphrase=", *words], check=True, capture_output=True)
        yield "me@example.org"
        subprocess.run(["gpgconf", "--kill", "all"], check=False)

    def verify(self, folder):
        """As README.md says."""
        script = "gpg --export me@example.org >key.gpg; gpgv --keyring ./key.gpg b.tar.asc b.tar"
        return subprocess.run(
            ["sh", "-c", script], cwd=folder, capture_output=True, text=True, check=False
        )

    def test_it_is_verified_as_it_was_made(self, tmp_path, key, capsys):
        output = tmp_path / "b.tar"
        assert main(["bundle", "--output", str(output), "--sign", key]) == 0
        assert self.verify(tmp_path).returncode == 0
        output.write_bytes(output.read_bytes().replace(b"drop", b"DROP", 1))
        done = self.verify(tmp_path)
        assert done.returncode != 0
        assert "BAD signature" in done.stderr

    def test_without_the_key_nothing_is_made(self, tmp_path, key, capsys):
        words = ["bundle", "--output", str(tmp_path / "b.tar")]
        assert main([*words, "--sign", "nobody@example.org"]) == 2
        assert main([*words, "--sign", key, "--gpg", "no-such-program"]) == 2
        said = capsys.readouterr().err.splitlines()
        assert "it did not sign" in said[0]
        assert said[1].startswith("no-such-program: cannot be started")
        assert not (tmp_path / "b.tar").exists()
