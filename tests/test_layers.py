"""Imports point one way: nn <- training <- estimators <- cli; evaluation and datasets know none."""

import ast
import sys
from pathlib import Path

import pytest

import sklearn_cpc

PACKAGE = Path(sklearn_cpc.__file__).parent
# Less the public names, which come from every room.
MODULES = sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "__init__.py"})

# Which rooms of the house each room may import.
ROOMS = {
    "nn": {"nn"},
    "training": {"nn", "training"},
    "evaluation": {"evaluation"},
    "datasets": {"datasets"},
    "estimators": {"nn", "training", "evaluation", "estimators"},
    # The command line is a user of all that has a public face, and nobody uses it.
    "cli": {"training", "evaluation", "datasets", "estimators", "cli"},
    "__main__": {"cli"},
}
# What nn may import from elsewhere, beside the standard library.
NN_LIBRARIES = {"torch", "numpy"}


def imported(source, module):
    """Absolute dotted names that a module imports, at the top or inside functions."""
    package = module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room(name):
    return name.split(".")[1]


def violations(source, module):
    for name in imported(source, module):
        top = name.split(".")[0]
        if top == "sklearn_cpc":
            wrong = "." not in name or room(name) not in ROOMS[room(module)]
        else:
            known = NN_LIBRARIES | sys.stdlib_module_names
            wrong = room(module) == "nn" and top not in known
        if wrong:
            yield name


def module_name(path):
    """`__init__` is kept, so that the last part is never the package itself."""
    return ".".join(["sklearn_cpc", *path.relative_to(PACKAGE).with_suffix("").parts])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    assert room(module_name(path)) in ROOMS
    assert list(violations(path.read_text(encoding="utf-8"), module_name(path))) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("nn.model", "import sklearn"),
        ("nn.model", "from skorch import NeuralNet"),
        ("nn.model", "from ..training import train"),
        ("nn.__init__", "from ..evaluation.splits import x"),
        ("nn.model", "def f():\n    from sklearn_cpc.estimators import x"),
        ("training.net", "from .. import estimators"),
        ("training.net", "from sklearn_cpc import evaluation"),
        ("training.net", "import sklearn_cpc"),
        ("training.net", "from .. import CPCTransformer"),
        ("evaluation.curves", "import sklearn_cpc.nn.patches"),
        ("evaluation.curves", "from ..estimators.transformer import CPCTransformer"),
        ("datasets", "from .nn import PatchGrid"),
        ("datasets", "from . import training"),
        ("estimators.transformer", "from ..datasets import load"),
        ("estimators.transformer", "from ..cli import main"),
        ("__main__", "from .estimators import CPCTransformer"),
    ],
)
def test_a_wrong_import_is_found(module, source):
    assert list(violations(source, f"sklearn_cpc.{module}"))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("nn.model", "import torch\nfrom torch.nn import functional\nimport difflib, numpy"),
        ("nn.model", "from .loss import info_nce\nfrom . import patches"),
        ("training.net", "import skorch\nfrom ..nn import CPCModel\nfrom .feed import ImageFeed"),
        ("estimators.transformer", "from ..training import train\nfrom ..evaluation import x"),
        ("evaluation.__init__", "from .splits import x\nimport sklearn"),
    ],
)
def test_a_right_import_is_left_alone(module, source):
    assert list(violations(source, f"sklearn_cpc.{module}")) == []
