# SPDX-License-Identifier: GPL-2.0-or-later
"""Salt for the tests, by pytest-salt-factories, with the one configuration of `masterless`.

`modules` and `states` are Salt's real loaders in this process. `salt_call` is a whole run with its
answer as data, `salt_text` the same as the user sees it. All work on the embedded Qubes of the
fixture `embedded`, whose state the functions in `snapshots` read.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import salt.config
import yaml
from both_modes import both_modes
from pytestshellutils.utils.processes import ProcessResult
from salt._logging.impl import shutdown_temp_handler
from saltfactories.manager import FactoriesManager
from saltfactories.utils.functional import Loaders

from qubes_vpn_formula.embedded import front
from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.embedded.qubesd.method import writes
from qubes_vpn_formula.masterless import Masterless, Run

# Salt keeps log records until a salt command sets up logging, which no test does, and would print
# them at the very end, below pytest's summary.
shutdown_temp_handler()


@pytest.fixture(scope="session")
def salt_factories_default_root_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pytest-salt-factories keeps its own files."""
    return tmp_path_factory.mktemp("factories")


@pytest.fixture(scope="session")
def session_loaders(tmp_path_factory: pytest.TempPathFactory) -> Loaders:
    """Salt's loaders, made once: that takes a second."""
    sys.path.insert(0, str(front.FOLDER))
    minion = Masterless(tmp_path_factory.mktemp("loaders")).prepare()
    return Loaders(salt.config.minion_config(str(minion.folder / "minion")))


@pytest.fixture
def loaders(
    session_loaders: Loaders, embedded: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Loaders]:
    """The loaders, with an empty `__context__` and a fresh embedded Qubes."""
    monkeypatch.setenv("QUBES_VPN_EMBEDDED", str(embedded.path))
    shutil.rmtree(session_loaders.opts["qubes_vpn_folder"], ignore_errors=True)
    yield session_loaders
    session_loaders.reset_state()


@pytest.fixture
def policy(loaders: Loaders) -> Iterator[Path]:
    """The folder of dom0's qrexec policy, for `states`; as on a fresh machine."""
    folder = Path(loaders.opts["root_dir"]) / "etc/qubes/policy.d"
    fresh = {path: path.read_text() for path in folder.iterdir()}
    yield folder
    for path in folder.iterdir():
        path.unlink()
    for path, text in fresh.items():
        path.write_text(text)


@pytest.fixture
def modules(loaders: Loaders) -> Any:
    """Execution modules: `modules.qubes_vpn.check(...)`."""
    return loaders.modules


class State(NamedTuple):
    """What a state answered."""

    result: bool | None
    changes: dict[str, Any]
    comment: str


class States:
    """The formula's states by Salt's real loader: `states.qube("work", settings={...}, test=True)`.

    Each call is as in a Salt run of its own. `state.single` would do the same, but renders the
    pillar each time, which takes a hundred times as long as the state.
    """

    def __init__(self, loaders: Loaders) -> None:
        self._context = loaders.context
        self._modules = loaders.modules
        self._loaded = both_modes(loaders)
        self.record = Path(loaders.opts["qubes_vpn_folder"]) / "record.jsonl"

    def __getattr__(self, function: str) -> Callable[..., State]:
        def state(name: str, test: bool = False, **arguments: Any) -> State:
            self._context.clear()
            return self._state(function, test, name=name, **arguments)

        return state

    def loaded(self, function: str) -> Callable[..., dict[str, Any]]:
        """The state function itself."""
        return self._loaded[False][f"qubes_vpn.{function}"]

    def run(
        self, pillar: dict[str, Any], part: str = "network", test: bool = False
    ) -> dict[str, State]:
        """All steps of the pillar's plan, until one fails, as one Salt run: id -> State."""
        return self._run(self._modules["qubes_vpn.plan"](pillar, part), test)

    def undo(self, test: bool = False, **options: Any) -> dict[str, State]:
        """The same for an undo: `undo(to="last", remove=True)`."""
        return self._run(self._modules["qubes_vpn.undo_plan"](options), test)

    def _run(self, plan: dict[str, Any], test: bool) -> dict[str, State]:
        self._context.clear()
        assert plan["problems"] == []
        done = {}
        for step in plan["steps"]:
            done[step["id"]] = self._state(step["state"], test, **step["args"])
            if done[step["id"]].result is False:
                break
        return done

    def run_in_child(self, pillar: dict[str, Any], part: str = "network") -> int:
        """The same as `run` in a process of its own, for faults that kill it; its exit status."""
        return self._in_child(lambda: self.run(pillar, part))

    def state_in_child(self, function: str, **arguments: Any) -> int:
        """One state in a process of its own; its exit status as of `run_in_child`."""
        return self._in_child(lambda: {"": getattr(self, function)(**arguments)})

    def undo_in_child(self, **options: Any) -> int:
        """The same as `undo` in a process of its own."""
        return self._in_child(lambda: self.undo(**options))

    def _in_child(self, run: Callable[[], dict[str, State]]) -> int:
        child = os.fork()
        if child == 0:
            code = 70
            try:
                code = int(any(state.result is False for state in run().values()))
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _state(self, function: str, test: bool, **arguments: Any) -> State:
        answer = self._loaded[test][f"qubes_vpn.{function}"](**arguments)
        assert answer["name"] == arguments["name"]
        return State(answer["result"], answer["changes"], answer["comment"])


@pytest.fixture(scope="session")
def session_states(session_loaders: Loaders) -> States:
    """The states, loaded once."""
    return States(session_loaders)


@pytest.fixture
def states(session_states: States, loaders: Loaders) -> States:
    """The formula's states, on a fresh embedded Qubes."""
    return session_states


@pytest.fixture(scope="session")
def session_minion(tmp_path_factory: pytest.TempPathFactory) -> Masterless:
    """One masterless minion; its grains are read once, which saves a quarter of each run."""
    return Masterless(tmp_path_factory.mktemp("minion")).prepare(grains_cache=True)


@pytest.fixture
def minion(session_minion: Masterless) -> Masterless:
    """The masterless minion, with an empty pillar."""
    session_minion.set_pillar("{}\n")
    shutil.rmtree(session_minion.options()["qubes_vpn_folder"], ignore_errors=True)
    return session_minion


@pytest.fixture
def salt_call(
    salt_factories: FactoriesManager, minion: Masterless, embedded: Any
) -> Callable[..., ProcessResult]:
    """`salt_call("state.sls", SLS, pillar=..., test=True)`: `.returncode`, the answer as `.data`.

    pillar: a document, or text as a user writes it; without it the last one stays.
    """
    cli = salt_factories.salt_minion_daemon("dom0", overrides=minion.options()).salt_call_cli()
    # The factory's default would compile every module anew in every run.
    environ = {**minion.environ(embedded.path), "PYTHONDONTWRITEBYTECODE": ""}

    def run(*args: str, pillar: dict | str | None = None, **kwargs: Any) -> ProcessResult:
        _set_pillar(minion, pillar)
        options = [f"--config-dir={minion.folder}", "--local", "--retcode-passthrough"]
        return cli.run(*options, *args, env=environ, **kwargs)

    return run


@pytest.fixture
def salt_text(minion: Masterless, embedded: Any) -> Callable[..., Run]:
    """`salt_text("state.sls", SLS, "test=True", pillar=...)`: `.code`, the text as `.stdout`."""

    def run(*args: str, pillar: dict | str | None = None) -> Run:
        _set_pillar(minion, pillar)
        return minion.salt_call(*args, machine=embedded.path)

    return run


@pytest.fixture
def whonix_gateway(embedded: Any) -> None:
    """sys-whonix, which the fresh machine has not."""
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=sys-whonix label=black")
    embedded.call("sys-whonix", "admin.vm.property.Set", "provides_network", b"True")
    embedded.forget_calls()


@pytest.fixture
def after_each_write(embedded: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The machine's state after every single write: where a run may stop for ever."""
    call, snapshots = EmbeddedQubes.call, []

    def recorded(self, dest, method, *rest):
        answer = call(self, dest, method, *rest)
        if writes(method):
            snapshots.append(self.snapshot())
        return answer

    monkeypatch.setattr(EmbeddedQubes, "call", recorded)
    return snapshots


def _set_pillar(minion: Masterless, pillar: dict | str | None) -> None:
    if pillar is not None:
        text = pillar if isinstance(pillar, str) else yaml.safe_dump({"qubes_vpn": pillar})
        minion.set_pillar(text)
