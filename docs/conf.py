"""Settings of the documentation: Markdown pages, and a reference generated from docstrings."""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rlseg import __version__

project = "rlseg"
author = "The rlseg developers"
copyright = author
release = version = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "jupyter_execute"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# The code blocks are run by tests/test_docs.py, in fresh folders; a build shows them as they are.
nb_execution_mode = "off"

html_theme = "furo"
html_title = f"rlseg {release}"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
# Several rooms have a `Config`; a name in a signature that fits two of them is left without a link.
suppress_warnings = ["ref.python"]


def escape_plain_text(
    app: Any, kind: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Makes docstrings reStructuredText: code in backticks, and `*S`, `|x|`, `name_` outside."""
    parts = re.split(r"(`[^`]*`)", "\n".join(lines))
    lines[:] = "".join(
        f"`{part}`" if part.startswith("`") else re.sub(r"([*|]|(?<=\w)_(?=\W|$))", r"\\\1", part)
        for part in parts
    ).split("\n")


def setup(app: Any) -> None:
    """Runs the escape before napoleon adds markup of its own."""
    app.connect("autodoc-process-docstring", escape_plain_text, priority=100)
