"""Near misses: what a user may have meant."""

import difflib
import re

from sklearn.utils._param_validation import InvalidParameterError


def with_near_miss(error, estimator):
    """scikit-learn's error on a parameter, with the nearest name that is known, if there is one."""
    text = str(error)
    parameter = re.match(r"The '(\w+)' parameter", text)
    value = getattr(estimator, parameter.group(1), None) if parameter else None
    options = re.search(r"a str among \{(.*?)\}", text)
    if not isinstance(value, str) or options is None:
        return error
    near = difflib.get_close_matches(value, re.findall(r"'(.*?)'", options.group(1)), 1, 0.5)
    return InvalidParameterError(f"{text} Did you mean {near[0]!r}?") if near else error
