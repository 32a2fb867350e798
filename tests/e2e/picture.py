"""`python -m tests.e2e.picture COMMENT.md PICTURE.png`: a comment as GitHub would show it, by headless Chromium.

The comment comes from a run of test_main_job.py: `pytest tests/e2e/test_main_job.py --basetemp DIR` leaves it as
`comment.md` below DIR.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from markdown_it import MarkdownIt

PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; padding: 24px; width: 900px; background: #fff; color: #1f2328;
  font: 14px/1.5 "DejaVu Sans", "Noto Sans", sans-serif; }}
.comment {{ border: 1px solid #d0d7de; border-radius: 6px; overflow: hidden; }}
.head {{ background: #f6f8fa; border-bottom: 1px solid #d0d7de; padding: 8px 16px; color: #59636e; }}
.head b {{ color: #1f2328; }}
.head span {{ border: 1px solid #d0d7de; border-radius: 2em; padding: 0 7px; font-size: 12px; }}
.body {{ padding: 4px 16px 16px; overflow-wrap: anywhere; }}
h2 {{ font-size: 20px; border-bottom: 1px solid #d0d7de; padding-bottom: 6px; }}
h3 {{ font-size: 17px; }}
code {{ background: #eff1f3; border-radius: 6px; padding: 2px 5px; font: 12px "DejaVu Sans Mono", monospace; }}
pre {{ background: #f6f8fa; border-radius: 6px; padding: 12px; overflow: hidden; }}
pre code {{ background: none; padding: 0; }}
table {{ border-collapse: collapse; margin: 8px 0; }}
td, th {{ border: 1px solid #d0d7de; padding: 6px 12px; }}
blockquote {{ margin: 0; padding: 0 14px; color: #59636e; border-left: 4px solid #d0d7de; }}
a {{ color: #0969da; text-decoration: none; }}
</style><div class="comment"><div class="head"><b>github-actions</b> <span>bot</span> commented</div>
<div class="body">{body}</div></div>"""


def main(source: Path, target: Path, height: int = 860) -> None:
    """Render the comment at `source` and photograph it into `target`."""
    body = MarkdownIt("commonmark", {"html": True}).enable("table").render(source.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "comment.html"
        page.write_text(PAGE.format(body=body), encoding="utf-8")
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={folder}/profile", "--force-device-scale-factor=1.5"]
        command += [f"--window-size=950,{height}", f"--screenshot={target.absolute()}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
