"""What the docstrings of public names say of parameters, against the signatures."""

import ast
import importlib
import inspect
import re

import pytest

MODULES = (
    "sklearn_cpc",
    "sklearn_cpc.nn",
    "sklearn_cpc.training",
    "sklearn_cpc.training.distributed",
    "sklearn_cpc.evaluation",
    "sklearn_cpc.estimators.collections",
    "sklearn_cpc.datasets",
)
HEADING = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.MULTILINE)
# "name : type, default=value", or several names that share a type.
ENTRY = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: : (.*))?$")


def sections(text):
    """The sections of a numpydoc docstring by their headings; the summary's is empty."""
    parts = HEADING.split(inspect.cleandoc(text) + "\n")
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def documented(text):
    """Names of documented parameters, and what is said of their kind."""
    lines = re.sub(r"\\\n\s*", "", sections(text).get("Parameters", "")).splitlines()
    entries = (ENTRY.match(line) for line in lines if line and not line.startswith(" "))
    found = [(name, entry[2] or "") for entry in entries for name in entry[1].split(", ")]
    return {name.lstrip("*"): kind for name, kind in found}


def public_names():
    """Every public class and function, and the public methods of the classes, once."""
    found = {}
    for module in map(importlib.import_module, MODULES):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                found[f"{value.__module__}.{name}"] = value
    for name, value in list(found.items()):
        for method, function in vars(value).items() if inspect.isclass(value) else ():
            function = getattr(function, "__func__", function)
            if inspect.isfunction(function) and not method.startswith("_"):
                found[f"{name}.{method}"] = function
    return found


PUBLIC = public_names()


def is_for_users(name):
    """Whether it is a name of the package, of `evaluation` or of `datasets`, or of such a class.

    Callbacks are called by the training, and a record's fields are its attributes.
    """
    home = "sklearn_cpc.estimators", "sklearn_cpc.evaluation", "sklearn_cpc.datasets"
    return name.startswith(home) and not name.endswith("ImageFolder")


def parameters(value):
    """The parameters that a caller passes."""
    if isinstance(value, type) and issubclass(value, Exception):
        return {}
    return {
        name: parameter
        for name, parameter in inspect.signature(value).parameters.items()
        if name not in ("self", "cls")
    }


def is_default(text, default):
    """Whether `text` names the default; words, such as "all four", are free."""
    if power := re.fullmatch(r"(\d+)\*\*(\d+)", text):
        return int(power[1]) ** int(power[2]) == default
    try:
        return ast.literal_eval(text) == default
    except (ValueError, SyntaxError):
        return True


def default_in(kind):
    """What a type line says after "default=", without the text that may follow."""
    found = re.search(r"default=(.*)$", kind)
    return found[1].strip() if found else None


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_documented_parameters_are_those_of_the_signature(name):
    value = PUBLIC[name]
    said, there = documented(value.__doc__ or ""), parameters(value)
    assert set(said) <= set(there)
    with_kind = [each for each in said if said[each]]
    assert with_kind == [each for each in there if each in with_kind]


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_documented_defaults_are_the_real_ones(name):
    value = PUBLIC[name]
    said, there = documented(value.__doc__ or ""), parameters(value)
    for each, kind in said.items():
        default, told = there[each].default, default_in(kind)
        if told is not None:
            assert default is not inspect.Parameter.empty, f"{each} has no default"
            assert is_default(told, default), f"{each}={default!r}"
        elif kind and each != "y":  # of another's words, or ignored
            assert default is inspect.Parameter.empty, f"{each}={default!r} is not told"


FOR_USERS = [name for name in sorted(PUBLIC) if is_for_users(name)]


@pytest.mark.parametrize("name", FOR_USERS)
def test_what_users_call_is_documented_in_full(name):
    value = PUBLIC[name]
    said = sections(value.__doc__)
    assert said[""].splitlines()[0].endswith(".")
    assert set(documented(value.__doc__)) == set(parameters(value))
    if inspect.isfunction(value) and "return " in inspect.getsource(value):
        assert "Returns" in said


def test_the_checks_see_what_is_wrong():
    def example(first, second=2):
        """Say.

        Parameters
        ----------
        first : int
        second : int, default=3
            A number.

        Returns
        -------
        third : int
        """

    assert documented(example.__doc__) == {"first": "int", "second": "int, default=3"}
    assert not is_default(default_in("int, default=3"), example.__defaults__[0])
    assert is_default("all four", ("down",))
    assert is_default("2**23", 2**23)
    assert not is_default("2**22", 2**23)
    assert "Returns" in sections(example.__doc__)
