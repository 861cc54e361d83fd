# SPDX-License-Identifier: GPL-2.0-or-later
"""R95: what `qubes-vpn fleet build` writes, and that a Salt master serves each minion its own."""

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import salt.config
import salt.pillar
import yaml

from qubes_vpn_formula import bundle, install
from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.fleet import tree as fleet_tree

MINE = "qubes_vpn: {tunnels: {sys-vpn: {memory: %s}}}"


def memory(pillar: dict[str, Any]) -> int:
    return pillar["qubes_vpn"]["tunnels"]["sys-vpn"]["memory"]


@pytest.fixture
def served(fleet, tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """What a Salt master gives a minion for its pillar, by Salt's own code."""

    def compiled(minion: str) -> dict[str, Any]:
        options = salt.config.DEFAULT_MASTER_OPTS.copy()
        options |= {"root_dir": str(tmp_path), "cachedir": str(tmp_path / "cache")}
        options |= {"pillar_roots": {"base": [str(fleet.output / "pillar")]}, "pillar_cache": False}
        options |= {"extension_modules": str(tmp_path / "extmods"), "ext_pillar": []}
        return salt.pillar.Pillar(options, {"id": minion}, minion, "base").compile_pillar()

    return compiled


def test_a_salt_master_gives_each_minion_its_own(fleet, served) -> None:
    machines = {"a": 401, "a.b": 402, "a.b.c": 403, "a_b": 404, "ab": 405, "yes": 406, "1e3": 407}
    fleet.write(**{name: MINE % number for name, number in machines.items()})
    assert fleet.build()[0] == 0
    for name, number in machines.items():
        pillar = served(name)
        assert list(pillar) == ["qubes_vpn"], pillar
        assert memory(pillar) == number
        text = (fleet.output / "pillar/machine" / name.replace(".", "/") / "init.sls").read_text()
        assert pillar == yaml.safe_load(text)
    for stranger in ("b", "a.c", "machine", "A", "a*", "dom0"):
        assert served(stranger) == {}


def test_a_broken_machine_is_not_built_and_the_others_are(fleet, served) -> None:
    """Its minion gets nothing, and nothing is changed on it."""
    fleet.write(good=MINE % 400, broken=MINE % "lots")
    code, text = fleet.build()
    assert code == 2
    assert "1 checked, 1 refused, 1 built" in text
    assert served("good")
    assert served("broken") == {}
    assert sorted(path.name for path in (fleet.output / "bundles").iterdir()) == ["good"]


def test_nothing_to_build_leaves_nothing(fleet) -> None:
    fleet.write(broken=MINE % "lots")
    assert fleet.build()[0] == 2
    assert not fleet.output.exists()


def test_bundles_have_that_machines_pillar_and_no_other(fleet) -> None:
    """As dom0's installer reads it."""
    fleet.write(a=MINE % 401, b=MINE % 402)
    code, content = fleet.told("build", "--output", str(fleet.output))
    assert code == 0
    for machine, number in zip(content["machines"], (401, 402), strict=True):
        file = fleet.output / machine["bundle"]["file"]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == machine["bundle"]["sha256"]
        held = install.read(str(file))
        names = [name for name in held if name.startswith("pillar/")]
        assert sorted(names) == ["pillar/qubes_vpn/init.sls", "pillar/qubes_vpn/init.top"]
        assert memory(yaml.safe_load(held["pillar/qubes_vpn/init.sls"])) == number


def test_sums_are_those_of_all_files(fleet) -> None:
    fleet.write(a=MINE % 401)
    assert fleet.build()[0] == 0
    subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=fleet.output, check=True
    )
    named = {line.split("  ")[1] for line in (fleet.output / "SHA256SUMS").read_text().splitlines()}
    there = {str(one.relative_to(fleet.output)) for one in fleet.output.rglob("*") if one.is_file()}
    assert named == there - {"SHA256SUMS"}


def test_only_who_built_it_can_read_it(fleet) -> None:
    fleet.write(a=MINE % 401)
    assert fleet.build()[0] == 0
    modes = {path.stat().st_mode & 0o077 for path in [fleet.output, *fleet.output.rglob("*")]}
    assert modes == {0}


def test_the_same_files_give_the_same_bytes(fleet, tree) -> None:
    """With one process or more, in another folder, whatever order the files were made in."""
    fleet.write(**{f"m{number}": MINE % (400 + number) for number in range(5)})
    assert fleet.build("--jobs", "1")[0] == 0
    first = tree(fleet.output)
    other = fleet.folder.with_name("elsewhere")
    other.mkdir()
    for path in sorted(fleet.folder.iterdir(), reverse=True):
        (other / path.name).write_bytes(path.read_bytes())
    fleet.folder, fleet.output = other, fleet.output.with_name("again")
    assert fleet.build("--jobs", "3")[0] == 0
    assert tree(fleet.output) == first
    fleet.write(m3=MINE % 499)
    fleet.output = fleet.output.with_name("third")
    assert fleet.build()[0] == 0
    changed = {name for name, what in tree(fleet.output).items() if first[name] != what}
    assert changed == {"SHA256SUMS", "bundles/m3/qubes-vpn.tar", "pillar/machine/m3/init.sls"}


def test_what_is_there_stays(fleet) -> None:
    fleet.write(a=MINE % 401)
    fleet.output.mkdir()
    (fleet.output / "mine").write_text("mine")
    code, text = fleet.build()
    assert code == 2
    assert "it exists already" in text
    assert [path.name for path in fleet.output.iterdir()] == ["mine"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_cannot_be_finished_leaves_nothing(
    fleet, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.write(a=MINE % 401, b=MINE % 402)
    build, done = bundle.build, []

    def half(output: str, *args: Any, **more: Any) -> str:
        if done:
            Path(output).write_bytes(b"half")
            raise error
        done.append(output)
        return build(output, *args, **more)

    monkeypatch.setattr(bundle, "build", half)
    code, text = fleet.build("--jobs", "1")
    assert code == (2 if isinstance(error, OSError) else 130)
    assert "Traceback" not in text
    assert done
    assert [path.name for path in fleet.output.parent.iterdir()] == ["machines"]


@contextlib.contextmanager
def _under_way(fleet) -> Iterator[subprocess.Popen[bytes]]:
    """A build of many machines, of which some are built, by two processes more."""
    fleet.write(**{f"m{number}": MINE % 400 for number in range(400)})
    command = [sys.executable, "-m", "qubes_vpn_formula", "fleet", "build", str(fleet.folder)]
    command += ["--output", str(fleet.output), "--no-proof", "--jobs", "2"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        while not list(fleet.output.parent.glob(".qubes-vpn-fleet.*/bundles/*/*")):
            assert process.poll() is None
            time.sleep(0.01)
        yield process


@pytest.mark.parametrize("whole_group", [True, False])
def test_ctrl_c_leaves_no_half_bundle(fleet, whole_group: bool) -> None:
    """As a terminal sends it, to all processes; and to the first alone."""
    with _under_way(fleet) as process:
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
        text, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert text == b""
    assert [path.name for path in fleet.output.parent.iterdir()] == ["machines"]


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_killed_run_has_left_the_next_one_removes(fleet, sent: signal.Signals) -> None:
    """And its processes end with it: they would hold the lock.  One that runs is let alone."""
    folder = fleet.output.parent
    with _under_way(fleet) as process:
        (left,) = folder.glob(".*")
        with fleet_tree.new(str(folder / "other")) as new:
            assert left.is_dir()
            process.send_signal(sent)
            process.communicate(timeout=20)  # until no process has its output open
            assert process.returncode == -sent
            with fleet_tree.new(str(folder / "one more")):
                assert not left.exists()
            assert new.is_dir()
    assert [path.name for path in folder.iterdir()] == ["machines"]


def test_signed_by_the_users_key(fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "g"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    made = [
        "gpg",
        "--batch",
        "--passphrase",
        "",
        "--quick-generate-key",
        "me@example.org",
        "rsa2048",
    ]
    subprocess.run(made, check=True, capture_output=True)
    fleet.write(a=MINE % 401, b=MINE % 402)
    try:
        assert fleet.build("--sign", "me@example.org")[0] == 0
        for name in "ab":
            file = fleet.output / "bundles" / name / "qubes-vpn.tar"
            subprocess.run(
                ["gpg", "--verify", f"{file}.asc", file], check=True, capture_output=True
            )
        fleet.output = fleet.output.with_name("unsigned")
        code, text = fleet.build("--sign", "nobody@example.org")
        assert code == 2
        assert "gpg" in text
        assert not fleet.output.exists()
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], check=False)


def test_a_folder_that_cannot_be_made(fleet) -> None:
    fleet.write(a=MINE % 401)
    fleet.output = fleet.output / "in/none"
    code, text = fleet.build()
    assert code == 2
    assert re.search(r"none: cannot be written: no such file", text)


def test_a_worker_says_what_is_wrong_as_the_first_process_would(
    fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise UserError("it did not sign", "Look.", file="gpg")

    monkeypatch.setattr(bundle, "build", refuse)
    fleet.write(a=MINE % 401)
    code, text = fleet.build("--jobs", "2")
    assert (code, text.strip()) == (2, "gpg: it did not sign. Look.")
