"""Sphinx: the pages of this folder and the API reference as a site (`make docs`)."""

from importlib.metadata import version as installed_version

project, author, language = "clipos-lightning", "The clipos-lightning authors", "en"
release = version = installed_version("clipos-lightning")
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
nb_execution_mode = "off"  # the outputs in the files; tests/scripts/test_notebooks.py runs them

html_theme = "furo"
html_title = f"clipos-lightning {release}"
html_show_sphinx = False
html_static_path: list[str] = []
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

myst_enable_extensions = ["colon_fence", "smartquotes"]
myst_heading_anchors = 3  # as on code hosts: links to headings work in both
suppress_warnings = ["misc.highlighting_failure"]  # shell sessions with placeholders

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give shapes
autodoc_preserve_defaults = True
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar, napoleon_attr_annotations = True, False
