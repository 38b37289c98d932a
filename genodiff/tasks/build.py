"""From config nodes to built parts: the only place that knows which part learns what from another.

A node with `_target_` names a public class or function of genodiff; its other keys are the
arguments. What one part learns from another (vocab_size, mask_id, complement, ...) is not in the
YAML: `build` passes it to whichever target declares such a parameter.
"""

import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import torch

from genodiff.errors import UserError

T = TypeVar("T")

Node = Mapping[str, Any]
"""A part of a config: with `_target_`, something to build."""

MISSING = "???"
"""How a config says that a value must be given."""


def build(node: Node, *, where: str, **context: Any) -> Any:
    """Builds the object a config node describes, its nested nodes first.

    Args:
        node: has `_target_`, a dotted name inside genodiff, and the target's arguments.
        where: the node's place in the config, for messages.
        context: passed to any target that declares the parameter and whose node leaves it out.

    Raises:
        UserError: unknown argument, wrong type, missing argument, or a target outside genodiff.
    """
    target = resolve(node, where)
    arguments = {
        key: _built(value, f"{where}.{key}", context)
        for key, value in node.items()
        if key != "_target_"
    }
    parameters = inspect.signature(target).parameters
    for key, value in context.items():
        if key in parameters and arguments.get(key) is None:
            arguments[key] = value
    check_arguments(target, arguments, where)
    return target(**arguments)


def _built(value: Any, where: str, context: Mapping[str, Any]) -> Any:
    """An argument: what a node describes, or a mapping of nodes, or the value itself."""
    if not isinstance(value, Mapping):
        return value
    if "_target_" in value:
        return build(value, where=where, **context)
    return {key: _built(each, f"{where}.{key}", context) for key, each in value.items()}


def told_by(tokenizer: Any) -> dict[str, Any]:
    """What parts learn from a tokenizer."""
    mask_id, pad_id = tokenizer.mask_id, tokenizer.pad_id
    return {
        "vocab_size": tokenizer.vocab_size,
        "mask_id": mask_id,
        # One that is the mask's pads nothing, and masks are to be seen.
        "pad_id": None if pad_id == mask_id else pad_id,
        "data_ids": tokenizer.data_ids,
        "complement": getattr(tokenizer, "complement", None),
    }


def check_arguments(target: Callable[..., Any], arguments: Mapping[str, Any], where: str) -> None:
    """Holds `arguments` to the names and annotated types of `target`'s parameters.

    Raises UserError for an unknown or missing name and for a value of the wrong type.
    """
    parameters = inspect.signature(target).parameters
    name = getattr(target, "__name__", str(target))
    for key, value in arguments.items():
        place = f"{where}.{key}" if where else key
        if key not in parameters:
            raise UserError(
                f"unknown key {place}=; {name} takes {', '.join(parameters) or 'nothing'}."
            )
        if value == MISSING:
            raise UserError(f"{place}= is required; see --help.")
        annotation = parameters[key].annotation
        if not fits(value, annotation):
            whole = (
                isinstance(value, float) and value.is_integer() and fits(int(value), annotation)
            )
            hint = f"; write {int(value)}" if whole else ""
            raise UserError(f"{place}={_written(value)} is not {_spell(annotation)}{hint}.")
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in arguments:
            raise UserError(f"{where + '.' if where else ''}{key}= is required by {name}.")


def fits(value: Any, annotation: Any) -> bool:
    """True if a YAML value may stand where `annotation` is asked; unknown annotations accept
    anything."""
    if annotation in (inspect.Parameter.empty, Any):
        return True
    if annotation is None or annotation is types.NoneType:
        return value is None
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(fits(value, member) for member in arguments)
    if origin is Literal:
        return any(value == member and type(value) is type(member) for member in arguments)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        members = [member for member in arguments if member is not Ellipsis]
        return isinstance(value, list | tuple) and all(
            fits(item, members[0] if members else Any) for item in value
        )
    if annotation is float:
        # No key means anything at nan, and comparisons with a bound let it through.
        return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation in (str, bool):
        return isinstance(value, annotation)
    if annotation is Path:
        return isinstance(value, str | Path)
    return True


def build_data(node: Node, kind: type[T], **context: Any) -> T:
    """What `data=` describes. Raises UserError if it is not of that kind."""
    data = build(node, where="data", **context)
    if not isinstance(data, kind):
        raise UserError(
            f"data= gives a {type(data).__name__}, and this task needs a {kind.__name__}; "
            "finetune and crossvalidate take data=labelled, genomic_benchmarks or glue, other "
            "tasks data=fasta, hg38, species, synthetic, text or a corpus such as lm1b."
        )
    return data


def with_absolute_paths(node: Node) -> dict[str, Any]:
    """`node` with its target's paths, and those of the nodes in it, made absolute, so that it can
    be built from anywhere."""
    parameters = inspect.signature(resolve(node, "")).parameters if _is_node(node) else {}

    def absolute(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return with_absolute_paths(value)
        if isinstance(value, list):
            return [absolute(key, each) for each in value]
        is_path = key in parameters and Path in get_args(parameters[key].annotation)
        is_path = is_path or (key == "tokenizer" and _is_folder(value))  # else it is a name
        if is_path and isinstance(value, str) and value != MISSING:
            return str(Path(value).absolute())
        return value

    return {key: absolute(key, value) for key, value in node.items()}


def _is_folder(value: Any) -> bool:
    return isinstance(value, str) and Path(value).is_dir()


def select_device(device: str) -> torch.device:
    """`auto`, `cpu` or `cuda` as a torch device; `cuda` without one is a UserError."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but torch sees no CUDA device; use device=auto or cpu.")
    return torch.device(device)


def _is_node(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def resolve(node: Node, where: str) -> Callable[..., Any]:
    """The class or function of genodiff that a config node names. Raises UserError for another."""
    name = node.get("_target_")
    if not isinstance(name, str):
        raise UserError(f"{where} has no _target_; give the dotted name of a genodiff class.")
    module, _, attribute = name.rpartition(".")
    # A config travels with a checkpoint: it may name our own parts and nothing else.
    if module.split(".")[0] != "genodiff":
        raise UserError(
            f"{where}._target_={name} is outside genodiff; only its parts can be built."
        )
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{where}._target_={name} does not exist ({error}); check the spelling."
        ) from error


def _written(value: Any) -> str:
    """A value of a config as it is written there."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{','.join(map(_written, value))}]" if isinstance(value, list) else str(value)


def _spell(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return "a list such as [A,B]"
    if origin in (Union, types.UnionType):
        return " or ".join(_spell(member) for member in arguments)
    if origin is Literal:
        return "one of " + ", ".join(str(member) for member in arguments)
    if annotation in (None, types.NoneType):
        return "null"
    names = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
    names |= {Path: "a path"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))
