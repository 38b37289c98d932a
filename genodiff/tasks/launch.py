"""What every task's `__main__` does: compose its config, check it, run it, turn errors into exit
codes.

A task is a function whose keyword parameters are the keys of `configs/<task>.yaml`; their
annotations are the types the command line is held to.
"""

import errno
import inspect
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from genodiff.config import config_dir
from genodiff.errors import OutsideError, UserError
from genodiff.ranks import is_first
from genodiff.tasks.build import check_arguments, resolve
from genodiff.tasks.words import as_hydra_reads

Run = Callable[..., int | None]


def launch(task: str, run: Run) -> None:
    """Runs `run(**config)` and exits: 0 (or what it returns), 2 for a user's mistake, 1 if
    something outside failed, 130 if interrupted."""
    # Hydra then lets exceptions through instead of printing them and exiting with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        sys.argv[1:] = as_hydra_reads(sys.argv[1:], _text_keys(run))
        code = _run_composed(task, run)
    except UserError as error:
        code = _complain(task, str(error))
    except OutsideError as error:
        code = _complain(task, str(error), 1)
    except (HydraException, OmegaConfBaseException) as error:
        code = _complain(task, explain(error))
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG):
            raise
        code = _complain(task, f"{error.filename}: {error.strerror}; give a path you may use.")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        code = _complain(
            task,
            f"there is not enough memory ({str(error).splitlines()[0]}); use smaller batches (in "
            "training, trainer.micro_batch= keeps the law of the large one) or shorter sequences.",
            1,
        )
    except KeyboardInterrupt:
        code = _complain(task, "interrupted.", 130)
    sys.exit(code)


def is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether memory is what was missing; PyTorch has no class for that of the CPU."""
    told = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError) or any(words in str(error) for words in told)


def _text_keys(run: Run) -> list[str]:
    """The keys whose values are text."""
    parameters = inspect.signature(run).parameters.values()
    return [each.name for each in parameters if each.annotation in (str, str | None)]


def user_overrides() -> list[str]:
    """The `key=value` words of the command line, as given."""
    return list(HydraConfig.get().overrides.task)


def command_line() -> list[str]:
    """The command that is being run."""
    return ["genodiff", str(HydraConfig.get().job.config_name), *user_overrides()]


def _run_composed(task: str, run: Run) -> int:
    codes: list[int | None] = []
    failures: list[Exception] = []

    # By lists: hydra.main returns nothing, and adds lines of its own to an exception it meets.
    @hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=task)
    def composed(config: DictConfig) -> None:
        _configure_logging()  # here, because Hydra has just done it its own way
        try:
            container = OmegaConf.to_container(config, resolve=True)
            assert isinstance(container, dict)
            arguments = {str(key): value for key, value in container.items()}
            check_arguments(run, arguments, where="")
            codes.append(run(**arguments))
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # Hydra runs the other jobs, says which one failed, and raises it again
            failures.append(error)

    try:
        composed()
    except ValueError as error:
        if "Config group override must be a string" not in str(error):
            raise
        raise UserError(
            "a group such as data= needs a name, not null or a number; see --help."
        ) from error
    if failures:
        raise failures[0]
    return max((code or 0 for code in codes), default=0)


def explain(error: Exception) -> str:
    """One line out of Hydra's several, with the nearest known key where a key is unknown."""
    text = str(error)
    bare = re.search(r"Error parsing override '(.+)'\s+missing EQUAL", text)
    if bare:
        return f"{bare.group(1)} is not key=value; write both, with nothing but = between them."
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        return f"unknown key {unknown.group(1)}=; {_instead_of(unknown.group(1), error)}"
    choice = re.search(r"Could not find '(\w+)/([^']+)'", text)
    if choice and (options := re.search(r"Available options in '\w+':((?:\s+\w+)+)", text)):
        known = options.group(1).split()
        if "Config" in known:
            known = known[: known.index("Config")]
        near = get_close_matches(choice.group(2), known, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        return f"{choice.group(1)}={choice.group(2)} is none of {', '.join(known)}{hint}"
    return re.sub(r"\s+", " ", text).strip()


def _instead_of(key: str, error: BaseException) -> str:
    """What there is in place of an unknown key: one that is spelt alike, or has its last word
    elsewhere; else what there is beside it."""
    node = _parent_node(error)
    if node is None:
        return "see --help for the keys."
    group, _, name = key.rpartition(".")
    if "_target_" in node and name in inspect.signature(resolve(node, group)).parameters:
        return f"this configuration leaves it at its default; write +{key}=."
    beside = [str(each) for each in node if each != "_target_"]
    everything: Any = OmegaConf.to_container(node._get_root(), resolve=False)
    elsewhere = [
        f"{above}.{name}"
        for above, keys in everything.items()
        if isinstance(keys, dict) and name in keys
    ]
    near = elsewhere if len(elsewhere) == 1 else get_close_matches(name, beside, n=1, cutoff=0.7)
    if near:
        prefix = f"{group}." if group and near != elsewhere else ""
        return f"did you mean {prefix}{near[0]}=?"
    if not group:
        return "see --help for the keys."
    return f"this {group}= takes {', '.join(beside) or 'no keys'}."


def _parent_node(error: BaseException) -> DictConfig | None:
    """The part of the config in which a key was not found."""
    cause: BaseException | None = error
    while cause is not None:
        node = getattr(cause, "parent_node", None)
        if isinstance(node, DictConfig):
            return node
        cause = cause.__cause__
    return None


def _complain(task: str, message: str, code: int = 2) -> int:
    print(f"genodiff {task}: {message}", file=sys.stderr)
    return code


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _configure_logging() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s", force=True)
    logging.getLogger("genodiff").setLevel(logging.INFO if is_first() else logging.ERROR)
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Advice about data-loader workers and the like is not for genodiff's users.
    warnings.filterwarnings("ignore", module=r"lightning\..*")
