"""Sphinx builds the site from the pages of this folder: `make site`."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from pygments.lexers.special import TextLexer

if TYPE_CHECKING:
    from sphinx.application import Sphinx

CHECKOUT = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "ctbasis"
author = "The maintainers of ctbasis"
release = version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
language = "en"
# Options of commands keep their two hyphens.
smartquotes = False

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
    "repository_links",
    "verbs",
]

root_doc = "index"
source_suffix = {".md": "markdown"}
exclude_patterns = ["_extensions", "_static"]

# Pages are Markdown as GitHub shows it; a link to a heading is the one that works there.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

# A reference that leads nowhere is an error, in docstrings as well.
nitpicky = True
nitpick_ignore_regex = [
    # Types of other packages, as annotations spell them.
    (r"py:.*", r"(numpy|np|xarray|pathlib|collections|pydicom|click|cloup|typing|os)\b.*"),
    # Types that annotations name and that are no part of the public interface.
    (r"py:class", r"ImageLike|Kernel|Accuracy|Derivation"),
    (r"py:.*", r"(NDArray|Path|Sequence|Mapping|Literal|DataArray|Dataset|optional|array)\b.*"),
]

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False

copybutton_exclude = ".linenos, .gp, .go"

html_theme = "pydata_sphinx_theme"
html_title = "ctbasis"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {
    "logo": {"text": "ctbasis"},
    "navbar_align": "left",
    "navbar_persistent": ["search-button"],
    "header_links_before_dropdown": 7,
    "show_prev_next": True,
    "show_toc_level": 2,
    "back_to_top_button": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["footer"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
templates_path = ["_templates"]

# Links to other sites are compared by `make site-links`, which needs the Internet.
linkcheck_ignore = [r"http://localhost.*", r"http://127\.0\.0\.1.*"]
linkcheck_timeout = 20


def setup(app: Sphinx) -> None:
    """Show the drawing of the layers, a language of its own for the tests, as text."""
    app.add_lexer("layers", TextLexer)
