"""Settings of Sphinx for `make docs`."""

import jax
import latex2mathml.converter
from docutils import nodes

import mechlab

jax.Array.__qualname__ = "Array"  # as users know it
project = "mechlab"
author = "the mechlab founders"
copyright = f"2026, {author}"
version = release = mechlab.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
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
html_math_renderer = "mathml"
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["code.css"]
html_title = f"mechlab {release}"


def setup(app):
    def formula(display):
        def visit(self, node):
            self.body.append(latex2mathml.converter.convert(node.astext(), display=display))
            raise nodes.SkipNode

        return visit, None

    def at_full_size(app, doctree):
        for picture in doctree.findall(nodes.image):
            picture["scale"] = 100  # Sphinx links a picture that says how large it is to its file

    # MathML is what browsers show and print by themselves, without a script or a network
    app.add_html_math_renderer("mathml", formula("inline"), formula("block"))
    app.connect("doctree-read", at_full_size)
