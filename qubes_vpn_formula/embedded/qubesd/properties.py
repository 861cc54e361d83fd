# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading and writing properties; which there are is in `property_table`."""

from . import property_table, property_values
from .errors import AdminError, EmptyAnswer, Missing, property_value_error
from .events import fire

_NOTHING = object()


def table(holder) -> dict:
    """Properties of *holder*'s class by name, in the order in which qubesd lists them."""
    return property_table.of(holder.machine.release, holder.klass)


def find(holder, name: str):
    """The property *name*; `QubesNoSuchPropertyError` when the class has none."""
    try:
        return table(holder)[name]
    except KeyError:
        message = f"no property {name!r} on {holder.name}"
        raise AdminError("QubesNoSuchPropertyError", message) from None


def get(holder, name: str):
    """Explicit or default value; `Missing` when there is neither."""
    if name in holder.stored:
        return holder.stored[name]
    prop = table(holder).get(name)
    if prop is None:
        raise Missing(name)
    return default(holder, prop)


def default(holder, prop):
    if prop.name in holder.seen:
        return holder.seen[prop.name]
    if prop.default is property_table.NO_DEFAULT:
        raise Missing(prop.name)
    return prop.default(holder) if callable(prop.default) else prop.default


def set_from_payload(holder, name: str, payload: bytes) -> None:
    """admin.*property.Set: parse, check, store, and let the machine react."""
    prop = find(holder, name)
    assign(holder, prop, property_values.parse(holder.machine.release, prop, payload))


def assign(holder, prop, value) -> None:
    """Give *prop* the parsed *value*, with all checks and reactions."""
    if prop.kind == "vm":
        value = _checked_qube(holder, prop, value)
    _refuse_second_write(holder, prop)
    old = holder.get_or(prop.name)
    if prop.read_only:
        raise property_value_error(f"property {prop.name!r} of {holder.name} cannot be set")
    if prop.check is not None:
        value = prop.check(holder, value)
    fire("pre-set:" + prop.name, holder, value, old)
    holder.stored[prop.name] = value
    fire("set:" + prop.name, holder, value, old)


def reset(holder, name: str) -> None:
    """Back to the default, with the checks and reactions of a reset."""
    prop = find(holder, name)
    _refuse_second_write(holder, prop)
    old = holder.get_or(name)
    fire("pre-reset:" + name, holder, old)
    holder.stored.pop(name, None)
    fire("reset:" + name, holder, old)


def _refuse_second_write(holder, prop) -> None:
    if prop.write_once and not holder.is_default(prop.name):
        raise EmptyAnswer


def _checked_qube(holder, prop, name: str):
    if name == "":
        if not prop.none_allowed:
            raise property_value_error(f"{prop.name} of {holder.name} cannot be empty")
        return None
    qube = holder.machine.find(name)
    if qube is None:
        raise property_value_error(f"cannot set {prop.name} to non-existing qube {name}")
    if qube.klass not in prop.classes:
        raise property_value_error(f"{prop.name} cannot be {name}, which is of class {qube.klass}")
    return name
