"""Name this repository in pyproject.toml, just before it is published to the Comfy registry.

The registry wants addresses where the file has paths, and only GitHub knows where this is hosted:
GITHUB_SERVER_URL, GITHUB_REPOSITORY and GITHUB_SHA are its default variables.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(file: Path) -> None:
    server, repository, commit = (
        os.environ[f"GITHUB_{name}"] for name in ("SERVER_URL", "REPOSITORY", "SHA")
    )
    page = f"{server}/{repository}"
    urls = {
        "Homepage": page,
        "Documentation": f"{page}#readme",
        "Repository": page,
        "Issues": f"{page}/issues",
        "Changelog": f"{page}/blob/HEAD/CHANGELOG.md",
    }
    text = file.read_text(encoding="utf-8")
    for key, path in (("Icon", "assets/icon.png"), ("Banner", "assets/banner.png")):
        before = f'{key} = "{path}"'
        if text.count(before) != 1:
            sys.exit(f"{file}: expected one line: {before}")
        text = text.replace(before, f'{key} = "{page}/raw/{commit}/{path}"')
    listed = "".join(f'{key} = "{address}"\n' for key, address in urls.items())
    text = text.replace("[tool.comfy]\n", f"[project.urls]\n{listed}\n[tool.comfy]\n")
    file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path("pyproject.toml"))
