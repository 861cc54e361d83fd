# SPDX-License-Identifier: GPL-2.0-or-later
"""A follower of an embedded Qubes: each write waits for it, by whichever process."""

import multiprocessing
import time

import pytest

from qubes_vpn_formula.embedded.followers import Follower
from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.embedded.qubesd import AdminError


@pytest.fixture
def qubes(tmp_path):
    return EmbeddedQubes(tmp_path / "qubes.json", "4.3")


def _start(path):
    EmbeddedQubes(path).call("work", "admin.vm.Start")


def test_a_write_is_answered_after_it_was_followed(qubes):
    seen = []

    def do(state):
        time.sleep(0.05)
        seen.append(state["qubes"]["work"]["power"])

    with Follower(qubes.path, do) as follower:
        other = multiprocessing.get_context("spawn").Process(target=_start, args=(qubes.path,))
        other.start()
        other.join()
        assert seen == ["Halted", "Running"]
        qubes.call("work", "admin.vm.CurrentState")
        assert len(seen) == 2
        qubes.call("work", "admin.vm.Kill")
        assert seen[2:] == ["Halted"]
    qubes.call("work", "admin.vm.Start")
    assert (len(seen), follower.trouble) == (3, [])


def test_trouble_of_it_is_not_the_callers(qubes):
    def do(state):
        if state["qubes"]["work"]["power"] == "Running":
            raise ValueError("cannot")

    with Follower(qubes.path, do) as follower:
        qubes.call("work", "admin.vm.Start")
        with pytest.raises(AdminError):
            qubes.call("nobody", "admin.vm.Start")
    assert [str(error) for error in follower.trouble] == ["cannot", "cannot"]
