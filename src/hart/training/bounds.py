"""How large the numbers of a recipe may be: above, they are taken for a mistake. None is near what a run uses."""

from __future__ import annotations

from hart.config import Config, require

MOST_STEPS = 10**9
MOST_IMAGES = 10**6
"""Of one step, of a buffer."""
MOST_VIEWS = 1000
MOST_PROCESSES = 1024
LARGEST = 1e9
"""Of weights, rates and the like."""


def require_within(config: Config, low: float, high: float, *names: str) -> None:
    """Raise `ConfigError` for the first of the fields `names` that is not from `low` to `high`, or not a number."""
    for name in names:
        value = getattr(config, name)
        where = f"{type(config).__name__}.{name}"
        require(value >= low, f"{where} must be at least {low:g}, not {value:.6g}")
        require(value <= high, f"{where} must be at most {high:,}, not {value:.6g}")


def require_above(config: Config, low: float, high: float, *names: str) -> None:
    """As `require_within`, without `low` itself."""
    for name in names:
        value = getattr(config, name)
        require(value > low, f"{type(config).__name__}.{name} must be above {low:g}, not {value:.6g}")
    require_within(config, low, high, *names)
