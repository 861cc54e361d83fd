# SPDX-License-Identifier: GPL-2.0-or-later
"""What a formula does with `qubesadmin`: each case is run with our front and with the real client.

A case takes the package and an app and returns what it saw, as JSON. It must not look at texts of
errors, which are each client's own.
"""

import types
from collections.abc import Callable
from typing import Any


def error_of(call: Callable[[], Any]) -> list[str]:
    """Names of the error's class and of all its parents. A call that works fails the test."""
    try:
        call()
    except Exception as error:
        return [parent.__name__ for parent in type(error).__mro__]
    raise AssertionError("no error")


def text(value: Any) -> Any:
    """A property's value as JSON, with its type where that matters."""
    return value if value is None or isinstance(value, bool | int | str) else f"<{value}>"


def lists(qubesadmin: types.ModuleType, app: Any) -> Any:
    """Names, classes, power states; what a collection can do."""
    seen = [[vm.name, vm.klass, vm.get_power_state(), vm.is_running()] for vm in app.domains]
    vm = app.domains["work"]
    return {
        "qubes": seen,
        "order": list(app.domains.keys()),
        "in": ["work" in app.domains, "nosuch" in app.domains, vm in app.domains],
        "missing": [app.domains.get("nosuch"), error_of(lambda: app.domains["nosuch"])],
        "same": [vm == "work", vm == app.domains[vm], vm == "vault", hash(vm) == hash("work")],
        "no length": error_of(lambda: len(app.domains)),
        "blind": [app.domains.get_blind("work") is vm, app.domains.get_blind("nosuch").name],
        "labels": [list(app.labels), "red" in app.labels, "mauve" in app.labels],
        "label": [vm.label == "blue", vm.label == app.labels["blue"], str(vm.label)],
        "get_label": [app.get_label("red").name, app.get_label(3).name, app.labels["red"].index],
        "no label": error_of(lambda: app.get_label("mauve")),
        "classes": app.list_vmclass(),
    }


def properties(qubesadmin: types.ModuleType, app: Any) -> Any:
    """Reading, writing, resetting, with their types and errors."""
    vm = app.domains["work"]
    seen: dict[str, Any] = {"list": vm.property_list(), "global": app.property_list()}
    names = ("netvm", "memory", "autostart", "label", "default_user", "provides_network", "icon")
    seen["read"] = {name: text(getattr(vm, name)) for name in names}
    seen["default"] = {name: vm.property_is_default(name) for name in names}
    seen["globals"] = [text(app.default_netvm), text(app.clockvm), text(app.stats_interval)]
    vm.memory = 500
    vm.autostart = True
    vm.netvm = app.domains["sys-net"]
    seen["written"] = [text(getattr(vm, name)) for name in names]
    vm.netvm = None
    seen["none"] = [vm.netvm, vm.property_is_default("netvm"), vm.is_networked()]
    seen["get default"] = [text(vm.property_get_default(name)) for name in ("netvm", "memory")]
    del vm.netvm
    vm.memory = qubesadmin.DEFAULT
    seen["reset"] = [text(vm.netvm), vm.property_is_default("netvm"), vm.memory]
    app.default_netvm = "sys-net"
    seen["inherited"] = text(vm.netvm)
    del app.updatevm
    seen["updatevm"] = text(app.updatevm)
    return seen


def property_errors(qubesadmin: types.ModuleType, app: Any) -> Any:
    """Which errors come from properties, and which look like an absent attribute."""
    vm = app.domains["work"]
    gone = app.domains.get_blind("nosuch")
    return {
        "unknown": error_of(lambda: vm.nosuch),
        "unknown, listed": [vm.property_list() and error_of(lambda: vm.nosuch)],
        "set unknown": error_of(lambda: setattr(vm, "nosuch", 1)),
        "empty answer": error_of(lambda: setattr(vm, "qid", 99)),
        "bad value": error_of(lambda: setattr(vm, "memory", -1)),
        "bad netvm": error_of(lambda: setattr(vm, "netvm", "vault")),
        "bad bool": error_of(lambda: setattr(vm, "autostart", "maybe")),
        "no default": error_of(lambda: vm.property_get_default("qid")),
        "unset": [
            error_of(lambda: vm.backup_timestamp),
            vm.property_is_default("backup_timestamp"),
        ],
        "gone": [error_of(lambda: gone.netvm), getattr(gone, "netvm", "hidden")],
        "gone, set": error_of(lambda: setattr(gone, "netvm", "")),
        "gone, is default": error_of(lambda: gone.property_is_default("netvm")),
        "gone, list": error_of(gone.property_list),
        "gone, state": gone.get_power_state(),
        "private": error_of(lambda: vm._nosuch),
    }


def cached_properties(qubesadmin: types.ModuleType, app: Any) -> Any:
    """With the cache on: one GetAll for a qube, and writes that it does not notice."""
    app.cache_enabled = True
    vm = app.domains["work"]
    seen: dict[str, Any] = {"read": [text(vm.netvm), vm.memory, vm.property_is_default("netvm")]}
    seen["all"] = {name: text(getattr(vm, name, "unset")) for name in vm.property_list()}
    del seen["all"]["uuid"]
    vm.netvm = "sys-net"
    seen["stale"] = [text(vm.netvm), vm.property_is_default("netvm")]
    vm.clear_cache()
    seen["fresh"] = [text(vm.netvm), vm.property_is_default("netvm")]
    seen["unknown"] = error_of(lambda: vm.nosuch)
    seen["unset"] = error_of(lambda: vm.backup_timestamp)
    app.default_netvm = None
    seen["global, stale after first use"] = text(app.default_netvm)
    app.default_netvm = "sys-net"
    seen["global, stale"] = text(app.default_netvm)
    vm.start()
    seen["power, stale"] = vm.get_power_state()
    vm.clear_cache()
    seen["power, still stale"] = vm.get_power_state()
    app.domains.clear_cache()
    seen["power, listed anew"] = app.domains["work"].get_power_state()
    seen["blind"] = [app.domains.get_blind("vault").get_power_state() for _ in range(2)]
    seen["gone"] = error_of(lambda: app.domains.get_blind("nosuch").netvm)
    return seen


def features(qubesadmin: types.ModuleType, app: Any) -> Any:
    """Features and services."""
    vm = app.domains["work"]
    seen: dict[str, Any] = {"none": [vm.features.get("x-a"), vm.features.get("x-a", "d")]}
    vm.features["x-a"] = "text"
    vm.features["service.qubes-vpn"] = True
    vm.features["x-off"] = False
    vm.features["x-number"] = 0
    seen["items"] = dict(vm.features.items())
    seen["in"] = ["x-a" in vm.features, "nosuch" in vm.features, vm.features["x-a"]]
    del vm.features["x-a"]
    seen["keys"] = list(vm.features.keys())
    seen["missing"] = error_of(lambda: vm.features["x-a"])
    seen["missing, deleted"] = error_of(lambda: vm.features.__delitem__("x-a"))
    seen["missing, no default"] = error_of(lambda: vm.features.get("x-a", vm.features.NO_DEFAULT))
    seen["template"] = vm.features.check_with_template("supported-service.qubes-firewall")
    seen["no template"] = vm.features.check_with_template("nosuch", "d")
    seen["bad"] = error_of(lambda: vm.features.__setitem__("with space", "x"))
    return seen


def tags(qubesadmin: types.ModuleType, app: Any) -> Any:
    """Tags."""
    vm = app.domains["work"]
    vm.tags.add("vpn")
    vm.tags.add("vpn")
    vm.tags.update(["a", "b"], ["c"])
    vm.tags.remove("a")
    vm.tags.discard("a")
    return {
        "all": list(vm.tags),
        "in": ["vpn" in vm.tags, "a" in vm.tags],
        "missing": error_of(lambda: vm.tags.remove("a")),
        "bad": error_of(lambda: vm.tags.add("a b")),
    }


RULES = (
    "action=accept",
    "action=drop",
    "action=accept proto=udp dst4=185.65.135.68 dstports=51820",
    "action=accept proto=tcp dsthost=1.2.3.4/24 dstports=1-65535",
    "action=accept dsthost=2001:db8::1 proto=tcp dstports=0443",
    "action=accept dst4=2001:db8::/48",
    "action=accept dst4=0.0.0.0/0",
    "action=accept dst6=::/0",
    "action=accept dst4=1.2.3.4 dst6=2001:db8::1",
    "action=accept dsthost=vpn_1.example.org",
    "action=accept specialtarget=dns",
    "action=accept proto=icmp icmptype=8",
    "action=accept expire=2000000000 comment=a=b comment=c  action=drop",
    "action=drop action=accept",
    "action=accept proto=tcp dstports=65536",
    " action=accept  proto=tcp ",
)
NO_RULES = (
    "",
    "proto=tcp",
    "action=reject",
    "action=accept foo=bar",
    "action=accept word",
    "action=accept dstports=53",
    "action=accept proto=icmp dstports=53",
    "action=accept icmptype=8",
    "action=accept proto=icmp icmptype=256",
    "action=accept proto=sctp",
    "action=accept proto=tcp dstports=65537",
    "action=accept proto=tcp dstports=9-1",
    "action=accept proto=tcp dstports=1-2-3",
    "action=accept proto=tcp dstports=x",
    "action=accept dsthost=VPN.example.org",
    "action=accept dsthost=*.example.org",
    "action=accept dst4=1.2.3.4/33",
    "action=accept dst4=1.2.3.4/-1",
    "action=accept dst4=1.2.3.4/1/2",
    "action=accept dst4=example.org/24",
    "action=accept dst6=fe80::1%eth0",
    "action=accept specialtarget=ntp",
    "action=accept expire=+",
)


def rules(qubesadmin: types.ModuleType, app: Any) -> Any:
    """Rules as text: what is one, how it is sent, what equals what."""
    rule = qubesadmin.firewall.Rule
    parts = ("action", "proto", "dsthost", "dstports", "icmptype", "specialtarget", "comment")
    made = [rule(line) for line in RULES]
    by_keyword = rule(None, action="accept", proto="tcp", dsthost="1.2.3.4", dstports=443)
    return {
        "sent": [one.rule for one in made],
        "parts": [[text(getattr(one, part)) for part in parts] for one in made],
        "equal to text": [one == line for one, line in zip(made, RULES, strict=True)],
        "equal to rule": [made[0] == rule("action=accept"), made[0] == made[1], made[0] == 1],
        "part to text": [made[2].proto == "udp", made[2].dsthost == "185.65.135.68/32"],
        "by keyword": by_keyword.rule,
        "expired": [rule("action=drop expire=1").expire.expired, made[12].expire.expired],
        "no rules": [error_of(lambda line=line: rule(line))[0] for line in NO_RULES],
        "no hash": error_of(lambda: {made[0]}),
        "no hash of a part": error_of(lambda: {made[0].action}),
    }


def firewall(qubesadmin: types.ModuleType, app: Any) -> Any:
    """The list of a qube: read once, written whole."""
    vm, rule = app.domains["work"], qubesadmin.firewall.Rule
    seen: dict[str, Any] = {"first": [one.rule for one in vm.firewall.rules]}
    endpoint = rule("action=accept proto=udp dst4=185.65.135.68 dstports=51820 comment=one")
    vm.firewall.save_rules([endpoint, rule("action=drop")])
    seen["kept"] = [one.rule for one in vm.firewall.rules]
    vm.firewall.load_rules()
    seen["loaded"] = [one.rule for one in vm.firewall.rules]
    vm.firewall.rules.insert(0, rule("action=accept specialtarget=dns"))
    vm.firewall.save_rules()
    vm.firewall.rules = [*vm.firewall.rules, rule("action=drop")]
    seen["another object"] = [
        one.rule for one in qubesadmin.firewall.Firewall(app.domains["work"]).rules
    ]
    vm.firewall.save_rules([])
    vm.firewall.load_rules()
    seen["empty"] = [one.rule for one in vm.firewall.rules]
    vm.firewall.reload()
    ports = (rule(f"action=accept proto=tcp dst4=10.0.0.1 dstports={n}") for n in range(1, 1400))
    many = list(ports)
    seen["too many"] = error_of(lambda: vm.firewall.save_rules(many))
    seen["not ASCII"] = error_of(
        lambda: vm.firewall.save_rules([rule("action=drop comment=\u00e9")])
    )
    seen["dom0"] = error_of(lambda: app.domains["dom0"].firewall.load_rules())
    return seen


def power(qubesadmin: types.ModuleType, app: Any) -> Any:
    """Starting and stopping, with its errors."""
    vm, provider = app.domains["work"], app.domains["sys-firewall"]
    seen: dict[str, Any] = {"halted": [vm.is_halted(), error_of(vm.pause), error_of(vm.shutdown)]}
    vm.start()
    seen["started"] = [vm.get_power_state(), provider.get_power_state(), vm.start()]
    seen["clients"] = sorted(str(client) for client in provider.connected_vms)
    vm.pause()
    seen["paused"] = [vm.get_power_state(), vm.is_paused(), vm.is_running()]
    vm.unpause()
    seen["in use"] = error_of(provider.shutdown)[:1]
    seen["not halted"] = error_of(lambda: app.domains.__delitem__("work"))
    vm.shutdown()
    seen["shut down"] = [vm.is_halted(), provider.is_halted()]
    vm.start()
    vm.kill()
    seen["killed"] = [vm.is_halted(), error_of(vm.kill)]
    provider.shutdown(force=True)
    seen["forced"] = provider.is_halted()
    return seen


def create(qubesadmin: types.ModuleType, app: Any) -> Any:
    """Making and removing qubes."""
    vm = app.add_new_vm("AppVM", "sys-vpn", "orange", "debian-13-minimal")
    seen: dict[str, Any] = {"made": [vm.klass, str(vm.label), str(vm.template), vm.is_halted()]}
    by_default = app.add_new_vm("AppVM", "other", app.labels["red"], template=qubesadmin.DEFAULT)
    by_object = app.add_new_vm("AppVM", "third", "red", template=app.domains["debian-13-minimal"])
    seen["templates"] = [str(by_default.template), str(by_object.template)]
    seen["twice"] = error_of(lambda: app.add_new_vm("AppVM", "sys-vpn", "red"))
    seen["bad template"] = error_of(lambda: app.add_new_vm("AppVM", "qx", "red", "work"))
    seen["no template"] = error_of(lambda: app.add_new_vm("AppVM", "qx", "red", "nosuch"))
    seen["bad label"] = error_of(lambda: app.add_new_vm("AppVM", "qx", "mauve"))
    seen["bad class"] = error_of(lambda: app.add_new_vm("NoSuchVM", "qx", "red"))
    seen["bad name"] = error_of(lambda: app.add_new_vm("AppVM", "q x", "red"))
    by_object.provides_network = True
    by_default.netvm = by_object
    seen["in use"] = error_of(lambda: app.domains.__delitem__("third"))
    by_default.netvm = ""
    del app.domains["third"]
    seen["removed"] = ["third" in app.domains, app.domains.get("third")]
    seen["gone"] = error_of(lambda: app.domains.__delitem__("third"))
    return seen


def _prepare_clone(app: Any) -> Any:
    vm = app.domains["personal"]
    vm.memory = 600
    vm.autostart = True
    vm.netvm = "sys-net"
    vm.provides_network = True
    vm.features["x-mark"] = "1"
    vm.features["x-off"] = ""
    vm.tags.add("mine")
    return vm


def clone_uncached(qubesadmin: types.ModuleType, app: Any) -> Any:
    """Cloning property by property: properties, tags, features, firewall, volumes."""
    source = _prepare_clone(app)
    source.firewall.save_rules([qubesadmin.firewall.Rule("action=accept dst4=1.2.3.4")])
    copy = app.clone_vm(source, "copy")
    other = app.clone_vm("debian-13-minimal", "t-vpn")
    names = ("memory", "autostart", "netvm", "provides_network", "label", "template")
    return {
        "copy": [text(getattr(copy, name)) for name in names],
        "features": dict(copy.features.items()),
        "tags": sorted(copy.tags),
        "rules": [rule.rule for rule in copy.firewall.rules],
        "volumes": sorted(copy.volumes),
        "template": [other.klass, str(other.label), text(other.netvm)],
        "taken": error_of(lambda: app.clone_vm("work", "copy")),
        "gone": error_of(lambda: app.clone_vm("nosuch", "x")),
    }


def clone_cached(qubesadmin: types.ModuleType, app: Any) -> Any:
    """Cloning with the cache on, which dies and leaves a half clone."""
    app.cache_enabled = True
    source = _prepare_clone(app)
    died = error_of(lambda: app.clone_vm(source, "copy"))
    app.cache_enabled = False
    app.domains.clear_cache()
    return {"died": died, "left": "copy" in app.domains}


def clone_with_notes(qubesadmin: types.ModuleType, app: Any) -> Any:
    """Notes, which release 4.2 does not have, are copied too."""
    source = app.domains["vault"]
    source.set_notes("first\nsecond")
    copy = app.clone_vm(source, "copy", ignore_volumes=["private"], ignore_devices=True)
    return {"notes": [source.get_notes(), copy.get_notes(), app.domains["work"].get_notes()]}


def clone_refused(qubesadmin: types.ModuleType, app: Any) -> Any:
    """An error while settings are copied removes the clone again."""
    app.domains["work"].firewall.save_rules([])
    source = app.domains["work"]
    source.firewall.load_rules()
    source.firewall.rules.append(qubesadmin.firewall.Rule("action=drop comment=(no)"))
    died = error_of(lambda: app.clone_vm(source, "copy"))
    kept = app.clone_vm(source, "kept", ignore_errors=True)
    return {"died": died, "left": "copy" in app.domains, "kept": kept.name}


def volumes(qubesadmin: types.ModuleType, app: Any) -> Any:
    """Volumes of a qube."""
    vm = app.domains["work"]
    attributes = ("name", "pool", "size", "rw", "snap_on_start", "save_on_stop")
    seen: dict[str, Any] = {
        volume.name: [getattr(volume, attribute) for attribute in attributes]
        for volume in sorted(vm.volumes.values())
    }
    vm.volumes["private"].clone(app.domains["personal"].volumes["private"])
    return seen


#: every case by name; a name that ends in `_notes` is for release 4.3 only
CASES = {
    case.__name__: case
    for case in (
        lists,
        properties,
        property_errors,
        cached_properties,
        features,
        tags,
        rules,
        firewall,
        power,
        create,
        clone_uncached,
        clone_cached,
        clone_with_notes,
        clone_refused,
        volumes,
    )
}
