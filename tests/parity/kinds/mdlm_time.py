"""Times from given uniforms: stratified or not, by importance or not, for several ranges."""

import ast
import re

from genodiff.diffusion import ImportanceTimes, LogLinear, NoiseSchedule, UniformTimes
from genodiff.diffusion.times import stratify
from tests.parity.cases import Case
from tests.parity.mdlm import assert_close, importance_t_min, schedule_of

NAME = re.compile(r"t_anti(?P<stratified>[01])_is(?P<importance>[01])_eps(?P<eps>[^_]+)_\w+")


def check(case: Case) -> None:
    u = case.arrays["u"].double()[:, None]
    names = [name for name in case.arrays if name != "u"]
    assert names
    for name in names:
        setting = NAME.fullmatch(name)
        assert setting is not None, name
        schedule = _schedule(case.entry["arrays"][name]["meaning"])
        uniforms = stratify(u) if setting["stratified"] == "1" else u
        t = UniformTimes(t_min=float(setting["eps"])).at(schedule, uniforms).t
        if setting["importance"] == "1":
            # The published order: first the clipped range, then the importance map.
            t = ImportanceTimes(importance_t_min(schedule)).at(schedule, t).t
        assert_close(t[:, 0], case.arrays[name], atol=1e-6, rtol=1e-5)


def _schedule(meaning: str) -> NoiseSchedule:
    """The schedule in an array's description: a configuration, or loglinear with eps 1e-3."""
    configuration = re.search(r"schedule (\{.*\})", meaning)
    return (
        LogLinear() if configuration is None else schedule_of(ast.literal_eval(configuration[1]))
    )
