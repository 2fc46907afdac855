"""Configuration of the Sphinx documentation builder; build with ``tox -e docs``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from smolmix_sync import __version__

project = "smolmix-sync"
author = "the smolmix-sync developers"
release = version = __version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "settings_table"]
exclude_patterns = ["_build", "_ext"]
html_theme = "alabaster"
html_theme_options = {"description": "Blocking Python sockets over the Nym mixnet", "page_width": "1100px"}
html_show_sourcelink = False
html_static_path: list[str] = []
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Wire layout", "notes")]
# Names of code and of RFC sections that are no Python objects are not looked for.
nitpicky = False
