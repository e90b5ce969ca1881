"""Settings of Sphinx for `make docs`."""

import re

import jax
import latex2mathml.converter
from docutils import nodes

import mechlab

# Under the names that users have for them
jax.Array.__qualname__ = "Array"
jax.Device.__module__, jax.Device.__qualname__ = "jax", "Device"
project = "mechlab"
author = "the mechlab founders"
copyright = f"2026, {author}"
version = release = mechlab.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "jupyter_execute"]
nb_merge_streams = True
nb_execution_mode = "force"
nb_execution_timeout = 300  # seconds a cell
nb_execution_raise_on_error = True
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
napoleon_use_ivar = True  # attributes are described once, in the class's docstring
default_role = "py:obj"  # `names` of docstrings are code, and links where they stand on the page
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
html_math_renderer = "mathml"
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_title = f"mechlab {release}"


def each_by_itself(app, what, name, obj, options, lines):
    """Napoleon takes fields that a docstring describes together for a type and a name."""
    if "Attributes:" not in lines:
        return
    for at in reversed(range(lines.index("Attributes:") + 1, len(lines))):
        if together := re.match(r"    (\w+(?:, \w+)+):(.*)", lines[at]):
            fields, text = together.groups()
            end = at + 1
            while end < len(lines) and lines[end].startswith("     "):
                end += 1
            rest = lines[at + 1 : end]
            lines[at:end] = [
                line for field in fields.split(", ") for line in (f"    {field}:{text}", *rest)
            ]


def at_full_size(app, doctree):
    """Sphinx links a picture that says how large it is to its file."""
    for picture in doctree.findall(nodes.image):
        picture["scale"] = 100


def as_mathml(display):
    """Browsers show and print MathML by themselves, without a script or a network."""

    def visit(self, node):
        self.body.append(latex2mathml.converter.convert(node.astext(), display=display))
        raise nodes.SkipNode

    return visit, None


def setup(app):
    app.connect("autodoc-process-docstring", each_by_itself, priority=400)  # before napoleon
    app.connect("doctree-read", at_full_size)
    app.add_html_math_renderer("mathml", as_mathml("inline"), as_mathml("block"))
