"""The JSON of protobuf messages, checked against the descriptors of the messages.

`json_format.ParseDict` stops at the first fault and gives no path to it.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format, message_factory

from ctbasis.kubeflow.lint.paths import Faults, children, join_path

RECOMPILE = "correct the pipeline and compile it again"


def faults(message: Any, data: Any, where: str = "") -> Faults:
    """Yield the keys of `data` that are not fields of the message, and the values of another type than the field's.

    Args:
        message: The descriptor of the message.
        data: The message as plain data.
        where: The path of `data`.
    """
    if message.full_name.startswith("google.protobuf."):
        yield from _unparsable(message, data, where)
        return
    if not isinstance(data, dict):
        yield where, f"is a {type(data).__name__}, not a {message.name}", RECOMPILE
        return
    fields = {name: field for field in message.fields for name in (field.json_name, field.name)}
    for key, value in data.items():
        if key in fields:
            yield from _field_faults(fields[key], value, join_path(where, key))
        else:
            known = ", ".join(field.json_name for field in message.fields)
            yield join_path(where, key), f"is not a field of {message.name}", f"expected one of {known}"
    for oneof in message.oneofs:
        chosen = [key for key in data if key in fields and fields[key].containing_oneof is oneof]
        if len(chosen) > 1:
            yield where, f"has {' and '.join(chosen)}, which exclude each other", "keep one of them"


def _field_faults(field: Any, value: Any, where: str) -> Faults:
    message = field.message_type
    is_map = message is not None and message.GetOptions().map_entry
    if field.enum_type is not None and not isinstance(value, str):
        # ParseDict accepts any number for an enum.
        yield where, f"has an invalid value: expected one of {', '.join(field.enum_type.values_by_name)}", RECOMPILE
    elif message is None:
        yield from _unparsable(field.containing_type, {field.json_name: value}, where)
    elif not field.is_repeated:
        yield from faults(message, value, where)
    elif not isinstance(value, dict if is_map else list):
        yield where, f"is a {type(value).__name__}, not a {'mapping' if is_map else 'list'}", RECOMPILE
    else:
        for key, item in children(value):
            if is_map:
                yield from _field_faults(message.fields_by_name["value"], item, join_path(where, key))
            else:
                yield from faults(message, item, join_path(where, key))


def _unparsable(message: Any, data: Any, where: str) -> Faults:
    try:
        json_format.ParseDict(data, message_factory.GetMessageClass(message)())
    except (json_format.ParseError, TypeError, ValueError, AttributeError) as error:
        reason = str(error).partition(" at ")[0].rpartition("field: ")[2].rstrip(".")
        yield where, f"has an invalid value: {reason}", RECOMPILE
