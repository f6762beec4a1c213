from __future__ import annotations

import subprocess
import sys

import pytest

import tunewright


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, tunewright; print(sorted({'torch', 'transformers', 'pydantic', 'yaml', 'numpy'} & "
        "sys.modules.keys()), tunewright.__version__)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.startswith(
        "[] "
    )


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        _ = tunewright.nothing


def test_the_recipe_class_is_at_the_top():
    from tunewright.recipe import Recipe

    assert tunewright.Recipe is Recipe
