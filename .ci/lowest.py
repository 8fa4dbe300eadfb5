"""Write the oldest versions that a pyproject.toml allows, as constraints for pip: `name>=1.2` becomes
`name==1.2`.
"""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
extras = [needed for name, needed in project["optional-dependencies"].items() if name != "dev"]
for requirement in sorted({part for needed in [project["dependencies"], *extras] for part in needed}):
    if found := re.fullmatch(r"([\w.-]+)[>=]=([\w.]+)", requirement):
        sys.stdout.write(f"{found[1]}=={found[2]}\n")
