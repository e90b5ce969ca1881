"""Settings of Sphinx for `make docs`."""

import mechlab

project = "mechlab"
author = "the mechlab founders"
copyright = f"2026, {author}"
version = release = mechlab.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
napoleon_use_ivar = True  # attributes are described once, in the class's docstring
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"exclude-members": "items, keys, values, from_tuple, to_tuple"}
autodoc_member_order = "bysource"
html_theme = "furo"
html_title = f"mechlab {release}"
