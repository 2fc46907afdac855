"""The directive ``tunnel-settings``: a definition list of every setting, from the code itself."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from smolmix_sync.config import settings


class TunnelSettings(SphinxDirective):
    """Insert a table of name, variable, default and meaning of all fields of TunnelConfig."""

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        lines = [".. list-table::", "   :header-rows: 1", "   :widths: 24 14 62", ""]
        lines += ["   * - Setting", "     - Default", "     - Meaning"]
        for item in settings():
            default = "none" if item.default is None else f"``{_shown(item.default)}``"
            variables = ", ".join(f"``{name}``" for name in item.environment)
            also = f" In the browser client: ``{item.wasm_name}``." if item.wasm_name else ""
            lines += [
                f"   * - ``{item.name}``",
                f"     - {default}",
                f"     - {item.doc} ({variables}){also}",
            ]
        return self.parse_text_to_nodes("\n".join(lines))


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(str(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("tunnel-settings", TunnelSettings)
    return {"parallel_read_safe": True}
