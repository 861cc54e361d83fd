# SPDX-License-Identifier: GPL-2.0-or-later
"""The ground that the other Salt tests stand on: the formula's parts are found as in dom0."""

import shutil

import yaml

from qubes_vpn_formula.masterless import Masterless

SLS = "qubes.network.sys-vpn"


def test_loaders_take_the_modules_from_the_checkout(loaders, checkout):
    assert "qubes_vpn.check" in loaders.modules
    assert "qubes_vpn.qube" in loaders.states
    loaded = loaders.modules["qubes_vpn.check"].__globals__["__file__"]
    assert loaded == str(checkout / "_modules/qubes_vpn.py")


def test_minion_is_dom0_and_reads_the_pillar(salt_call):
    assert salt_call("grains.get", "id").data == "dom0"
    found = salt_call("pillar.get", "qubes_vpn:topology", pillar={"topology": "simple"})
    assert found.data == "simple"


def test_a_pillar_of_a_bundle_is_data(salt_call):
    """Its first line (qubes_vpn_formula/bundle.py) keeps Salt from running Jinja in dom0."""
    topology = """qubes_vpn: {topology: '{{ "sim" ~ "ple" }}'}"""
    run = salt_call("pillar.get", "qubes_vpn:topology", pillar=topology)
    assert run.data == "simple"
    read = salt_call("pillar.get", "qubes_vpn:topology", pillar=f"#!yaml\n{topology}")
    assert read.data == '{{ "sim" ~ "ple" }}'


def test_exit_code_and_text_are_those_of_salt(salt_text):
    missing = salt_text("state.sls", "qubes.network.no-such-file")
    assert missing.code != 0
    assert "No matching sls found for 'qubes.network.no-such-file'" in missing.stdout


def test_formula_works_from_salts_file_roots_after_a_sync(
    checkout, pillar_example, tmp_path, embedded
):
    """As installed in dom0: all of it in the file roots, the modules fetched by `sync_all`."""
    srv = tmp_path / "srv"
    shutil.copytree(checkout / "salt", srv)
    for folder in ("_modules", "_states", "_utils"):
        shutil.copytree(
            checkout / folder, srv / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    minion = Masterless(tmp_path / "minion").prepare(
        file_roots={"base": [str(srv)]}, module_dirs=[], states_dirs=[], utils_dirs=[]
    )
    minion.set_pillar(pillar_example)

    sync = minion.salt_call("saltutil.sync_all", "--out=json", machine=embedded.path)
    shown = minion.salt_call("state.show_sls", SLS, "--out=json", machine=embedded.path)
    dry = minion.salt_call("state.sls", SLS, "test=True", "--out=json", machine=embedded.path)

    assert "modules.qubes_vpn" in sync.data["modules"]
    assert shown.code == 0, shown.stdout
    assert any("qubes_vpn" in state for state in shown.data.values()), yaml.safe_dump(shown.data)
    assert "was not found in SLS" not in dry.stdout
