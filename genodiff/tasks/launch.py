"""What every task's `__main__` does: compose its config, check it, run it, turn errors into exit
codes.

A task is a function whose keyword parameters are the keys of `configs/<task>.yaml`; their
annotations are the types the command line is held to.
"""

import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable
from difflib import get_close_matches

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from genodiff.config import config_dir
from genodiff.errors import OutsideError, UserError
from genodiff.ranks import is_first
from genodiff.tasks.build import check_arguments

Run = Callable[..., int | None]


def launch(task: str, run: Run) -> None:
    """Runs `run(**config)` and exits: 0 (or what it returns), 2 for a user's mistake, 1 if
    something outside failed, 130 if interrupted."""
    # Hydra then lets exceptions through instead of printing them and exiting with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = _run_composed(task, run)
    except UserError as error:
        code = _complain(task, str(error))
    except OutsideError as error:
        code = _complain(task, str(error), 1)
    except (HydraException, OmegaConfBaseException) as error:
        code = _complain(task, explain(error))
    except KeyboardInterrupt:
        code = _complain(task, "interrupted.", 130)
    sys.exit(code)


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

    composed()
    if failures:
        raise failures[0]
    return max((code or 0 for code in codes), default=0)


def explain(error: Exception) -> str:
    """One line out of Hydra's several, with the nearest known key where a key is unknown."""
    text = str(error)
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        key = unknown.group(1)
        known = _known_keys(error)
        near = get_close_matches(key, known, n=1) or get_close_matches(
            key.split(".")[-1], known, n=1
        )
        near = [name for name in near if not name.endswith("_target_")]
        hint = f"did you mean {near[0]}=?" if near else "see --help for the keys."
        return f"unknown key {key}=; {hint}"
    choice = re.search(r"Could not find '(\w+)/([^']+)'", text)
    if choice and (options := re.search(r"Available options in '\w+':((?:\s+\w+)+)", text)):
        known = options.group(1).split()
        if "Config" in known:
            known = known[: known.index("Config")]
        return f"{choice.group(1)}={choice.group(2)} is none of {', '.join(known)}."
    return re.sub(r"\s+", " ", text).strip()


def _known_keys(error: BaseException) -> list[str]:
    cause: BaseException | None = error
    while cause is not None:
        node = getattr(cause, "parent_node", None)
        if isinstance(node, DictConfig):
            prefix = node._get_full_key(None)
            return [f"{prefix}.{key}" if prefix else str(key) for key in node]
        cause = cause.__cause__
    return []


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
