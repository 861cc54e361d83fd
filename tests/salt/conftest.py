# SPDX-License-Identifier: GPL-2.0-or-later
"""Salt for the tests, by pytest-salt-factories, with the one configuration of `masterless`.

`modules` and `states` are Salt's real loaders in this process. `salt_call` is a whole run with its
answer as data, `salt_text` the same as the user sees it. All work on the embedded Qubes of the
fixture `embedded`.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import salt.config
import yaml
from pytestshellutils.utils.processes import ProcessResult
from salt._logging.impl import shutdown_temp_handler
from saltfactories.manager import FactoriesManager
from saltfactories.utils.functional import Loaders

from qubes_vpn_formula.embedded import front
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
    yield session_loaders
    session_loaders.reset_state()


@pytest.fixture
def modules(loaders: Loaders) -> Any:
    """Execution modules: `modules.qubes_vpn.check(...)`."""
    return loaders.modules


@pytest.fixture
def states(loaders: Loaders) -> Any:
    """States: `states.qubes_vpn.qube(name=..., test=True)`, answered as a StateResult."""
    return loaders.states


@pytest.fixture(scope="session")
def session_minion(tmp_path_factory: pytest.TempPathFactory) -> Masterless:
    """One masterless minion; its grains are read once, which saves a quarter of each run."""
    return Masterless(tmp_path_factory.mktemp("minion")).prepare(grains_cache=True)


@pytest.fixture
def minion(session_minion: Masterless) -> Masterless:
    """The masterless minion, with an empty pillar."""
    session_minion.set_pillar("{}\n")
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


def _set_pillar(minion: Masterless, pillar: dict | str | None) -> None:
    if pillar is not None:
        text = pillar if isinstance(pillar, str) else yaml.safe_dump({"qubes_vpn": pillar})
        minion.set_pillar(text)
