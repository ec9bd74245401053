"""The documentation site: `python -m sphinx -W --keep-going docs build/site`."""

import re
from typing import Any

from sphinx.application import Sphinx

import keras_aeos

project = "keras_aeos"
author = "The keras_aeos authors"
version = release = keras_aeos.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["benchmark", "figures", "runs"]
nitpicky = False

# Headings get the anchors that GitHub gives them, so that one link works in both places.
myst_heading_anchors = 4
myst_links_external_new_tab = False

# Docstrings write `code` in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_rtype = False

html_theme = "furo"
html_title = "keras_aeos"
html_show_copyright = False
html_show_sphinx = False


def restructured(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Turn Markdown's code blocks into those of reStructuredText, and escape absolute values."""
    text = re.sub(
        r"^( *)```python\n(.*?)^ *```$",
        lambda block: (
            f"{block[1]}.. code-block:: python\n\n" + re.sub(r"^", "    ", block[2], flags=re.M)
        ),
        "\n".join(lines),
        flags=re.M | re.S,
    )
    text = re.sub(r"\|(\w+)\|", r"\\|\1\\|", text)
    lines[:] = text.splitlines()


def setup(app: Sphinx) -> None:
    """Convert docstrings before napoleon reads them."""
    app.connect("autodoc-process-docstring", restructured, priority=100)
