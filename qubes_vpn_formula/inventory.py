# SPDX-License-Identifier: GPL-2.0-or-later
"""An inventory's file, taken in dom0 and checked here; `qubes_vpn_inventory` has its format."""

import datetime
import json
import re

from qubes_vpn_formula.embedded.dom0 import files
from qubes_vpn_formula.embedded.qubesd import AdminError, EmptyAnswer, copied
from qubes_vpn_formula.embedded.qubesd.firewall_grammar import canonical
from qubes_vpn_formula.embedded.qubesd.names import check_qube_name
from qubes_vpn_formula.embedded.qubesd.releases import RELEASES
from qubes_vpn_formula.errors import UserError, read_text
from qubes_vpn_inventory import (
    FORMAT,
    GLOBALS,
    MORE,
    NO_FIREWALL,
    PROPERTIES,
    QUBE,
    VERSION,
    VOLUMES,
)
from qubes_vpn_policy import NOT_READABLE, is_directive
from qubes_vpn_problem import path_text, show

_TAKE = "Take it again in dom0: sudo qubesctl qubes_vpn.inventory path=$PWD/inventory.json"
_KEYS = ("format", "version", "release", "globals", "policy", "qubes", "written")
_QUBE_KEYS = ("class", "power", "properties", "features", "tags", "firewall")
_POLICY_FILE = re.compile(r"[a-z0-9_-][a-z0-9_.-]*\.policy")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: Inventories are taken between these.
_FIRST, _LAST = "2024", "2200"
_LARGEST = 2**63
#: What a qube cannot be without, by class; others: a label.
_OWN = {"AppVM": ("label", "template"), "DispVM": ("label", "template"), "AdminVM": ()}
#: As `admin.vm.List` has them (qubes/vm/qubesvm.py, get_power_state).
_POWER = (
    *("Halted", "Transient", "Running", "Paused", "Suspended", "Halting", "Dying", "Crashed"),
    "NA",
)


def read(path):
    """The inventory in the file *path*; raises :class:`UserError` when it is none."""
    text = read_text(path)
    try:
        inventory = json.loads(text)
    except json.JSONDecodeError as error:
        what = "not JSON, or only a part of it"
        raise UserError(what, _TAKE, file=path, line=error.lineno) from None
    except ValueError:
        raise UserError(
            "not an inventory: it has a number that is too long", _TAKE, file=path
        ) from None
    except RecursionError:
        raise UserError("not an inventory: it is nested too deep", _TAKE, file=path) from None
    if not isinstance(inventory, dict) or inventory.get("format") != FORMAT:
        raise UserError("this is no inventory of a machine", _TAKE, file=path)
    if inventory.get("version") != VERSION:
        raise UserError(
            f"version {show(inventory.get('version'))} of the format, and this reads {VERSION}",
            "Use the formula of one version in dom0 and here, and take it again.",
            file=path,
        )
    try:
        _check(inventory)
    except _Wrong as wrong:
        # A name in another alphabet would look like one that is there.
        key, what = (ascii(text)[1:-1] for text in (path_text(wrong.path), wrong.what))
        raise UserError(what, _TAKE, file=path, key=key) from None
    return inventory


def last_written(inventory):
    """See :func:`qubes_vpn_words.last_written`."""
    written = inventory["written"].items()
    return {(name, key): value for name, values in written for key, value in values.items()}


def write_state(inventory, path, source):
    """Writes the state file *path* of an embedded Qubes that is the machine of *inventory*.

    source: the inventory's file, for the :class:`UserError` when there can be no such machine.
    """
    try:
        content = {"release": inventory["release"], "state": copied.state(inventory)}
    except AdminError as error:
        what = f"there can be no such machine ({error.message})"
    except EmptyAnswer as error:
        what = f"there can be no such machine ({error})"
    else:
        path.write_text(json.dumps(content), encoding="utf-8")
        _write_policy(inventory["policy"], files(path) / "etc/qubes/policy.d")
        return
    raise UserError(what, _TAKE, file=source)


def _write_policy(policy, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in policy.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="ascii")


class _Wrong(Exception):
    def __init__(self, path, what):
        super().__init__(what)
        self.path, self.what = path, what


def _check(inventory):
    keys = (*_KEYS, "taken", "more")
    _need({*inventory, "taken", "more"} == {*keys}, (), f"the keys are {', '.join(keys)}")
    for place, fact in enumerate(_list(inventory.get("more", []), ("more",))):
        _need(_text(fact, ("more", place)) in MORE, ("more", place), "this is no fact of it")
    if "taken" in inventory or "update times" in inventory.get("more", ()):
        _check_time(_text(inventory.get("taken"), ("taken",)), ("taken",))
    release = RELEASES.get(_text(inventory["release"], ("release",)))
    _need(release, ("release",), f"it is one of {', '.join(RELEASES)}")
    qubes = _mapping(inventory["qubes"], ("qubes",))
    _need("dom0" in qubes, ("qubes",), "dom0 is missing")
    found = _mapping(inventory["globals"], ("globals",))
    _need(set(found) == set(GLOBALS), ("globals",), f"the keys are {', '.join(GLOBALS)}")
    for key, name in found.items():
        _qube_or_none(name, qubes, ("globals", key))
    _check_policy(_mapping(inventory["policy"], ("policy",)))
    for name, qube in qubes.items():
        try:
            check_qube_name(release, name)
        except AdminError as error:
            raise _Wrong(("qubes", name), error.message) from None
        _check_qube(_mapping(qube, ("qubes", name)), name, qubes, release)
    for key in ("netvm", "template"):
        _check_chains(key, qubes)
    for name, values in _mapping(inventory["written"], ("written",)).items():
        for key, value in _mapping(values, ("written", name)).items():
            _need(_is_plain(value), ("written", name, key), "it is no text and no number")


def _check_time(text, at):
    """Of a day that there is, in a time zone: it is compared with others."""
    try:
        zone = datetime.datetime.fromisoformat(text).tzinfo
    except ValueError:
        zone = None
    _need(zone and _FIRST <= text < _LAST, at, "it is no time")


def _check_policy(files):
    """Its lines are rules: one that names a file would have it read here."""
    for name, lines in files.items():
        _need(_POLICY_FILE.fullmatch(name), ("policy", name), "this is no policy file's name")
        for place, line in enumerate(_list(lines, ("policy", name))):
            rule = not is_directive(_text(line, ("policy", name, place)))
            _need(rule or files == NOT_READABLE, ("policy", name, place), "this is no rule")


def _check_qube(qube, name, qubes, release):
    at = ("qubes", name)
    keys = [key for key in _QUBE_KEYS if key != "firewall" or qube.get("class") not in NO_FIREWALL]
    if qube.get("class") == "TemplateVM" and "half_made" in qube:
        keys.append("half_made")
        _check_half_made(qube["half_made"], (*at, "half_made"))
    if qube.get("class") == "DispVM" and "bypass" in qube:
        keys.append("bypass")
        _check_uuid(qube["bypass"], (*at, "bypass"))
    _need(set(qube) == set(keys), at, f"the keys are {', '.join(keys)}")
    _need(qube["class"] in release.classes, (*at, "class"), "there is no such class")
    is_dom0 = (qube["class"] == "AdminVM") == (name == "dom0")
    _need(is_dom0, (*at, "class"), "dom0, and nothing else, is the AdminVM")
    _need(qube["power"] in _POWER, (*at, "power"), f"it is one of {', '.join(_POWER)}")
    properties = _mapping(qube["properties"], (*at, "properties"))
    for key, found in properties.items():
        _check_property(key, found, qubes, (*at, "properties", key))
    for key in _OWN.get(qube["class"], ("label",)):
        own = key in properties and properties[key]["value"] and not properties[key]["inherited"]
        _need(own, (*at, "properties", key), "every such qube has a value of its own here")
    for key, text in _mapping(qube["features"], (*at, "features")).items():
        _text(text, (*at, "features", key))
    for place, tag in enumerate(_list(qube["tags"], (*at, "tags"))):
        _text(tag, (*at, "tags", place))
    for place, rule in enumerate(_list(qube.get("firewall", []), (*at, "firewall"))):
        try:
            canonical(_text(rule, (*at, "firewall", place)), release)
        except ValueError:
            raise _Wrong((*at, "firewall", place), "this is no firewall rule") from None


def _check_chains(key, qubes):
    """Qubes refuses loops, and who follows a chain relies on it."""
    ending = set()
    for name in qubes:
        seen, link = set(), name
        while link is not None and link not in ending:
            _need(link not in seen, ("qubes", name, "properties", key), "it goes round in a loop")
            seen.add(link)
            link = qubes[link]["properties"].get(key, {}).get("value")
        ending |= seen


def _check_uuid(found, at):
    _need(_UUID.fullmatch(_text(found, at)), at, "this is no uuid")


def _check_half_made(found, at):
    _need(set(_mapping(found, at)) == {"uuid", "written"}, at, "the keys are uuid, written")
    _check_uuid(found["uuid"], (*at, "uuid"))
    for volume in _list(found["written"], (*at, "written")):
        _need(volume in VOLUMES, (*at, "written"), f"they are some of {', '.join(VOLUMES)}")


def _check_property(key, found, qubes, at):
    kind = PROPERTIES.get(key)
    _need(kind, at, "there is no such property here")
    _need(set(_mapping(found, at)) == {"value", "inherited"}, at, "the keys are value, inherited")
    _need(isinstance(found["inherited"], bool), (*at, "inherited"), "it is true or false")
    value, at = found["value"], (*at, "value")
    if kind == QUBE:
        _qube_or_none(value, qubes, at)
    elif value is not None:
        right = type(value) is kind and (kind is str or _is_plain(value))
        _need(right, at, f"{show(value)} is not possible here")
        if kind is str:
            _text(value, at)


def _is_plain(value):
    """Whether it is a number as a machine has them, or a text that can be shown; of many lines."""
    if isinstance(value, int):
        return abs(value) < _LARGEST
    return isinstance(value, str) and value.isascii() and value.replace("\n", "").isprintable()


def _need(right, path, what):
    if not right:
        raise _Wrong(path, what)


def _mapping(value, path):
    _need(isinstance(value, dict), path, "it is not a mapping")
    return value


def _list(value, path):
    _need(isinstance(value, list), path, "it is not a list")
    return value


def _text(value, path):
    _need(isinstance(value, str) and value.isascii() and value.isprintable(), path, "it is no text")
    return value


def _qube_or_none(value, qubes, path):
    named = value is None or (isinstance(value, str) and value in qubes)
    _need(named, path, f"there is no qube {show(value)} in it")
