"""`report.html` in a real browser: drawn in the light, in the dark and on paper, it asks the network for nothing."""

from __future__ import annotations

import http.server
import shutil
import struct
import subprocess
import threading
import zlib
from dataclasses import replace
from html import unescape
from typing import TYPE_CHECKING

import pytest

from ci.evidence import Companion
from ci.models import HubModel
from ci.phases import PHASES, PhaseTime
from ci.report.dashboard import render_dashboard, render_matrix
from ci.report.html_page import render_html
from tests.ci.report import samples
from tests.ci.report.companion_samples import make_exports
from tests.ci.report.history_samples import make_formats_matrix, make_history, make_many, make_matrix

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ci.report.results import Results

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(BROWSER is None, reason="no chromium here: apt-get install chromium draws the page"),
    pytest.mark.xdist_group("browser"),
]
FORWARD = "test_forward_equivalence[mixtral]"
DARK = "--blink-settings=preferredColorScheme=0"
LIGHT = "--blink-settings=preferredColorScheme=1"


def browse(tmp_path: Path, *options: str) -> str:
    """Runs the browser once, headless, and returns what it printed."""
    assert BROWSER is not None
    profile = tmp_path / "profile"
    common = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
    quiet = ("--disable-component-update", "--disable-sync", "--hide-scrollbars", f"--user-data-dir={profile}")
    command = [BROWSER, *common, *quiet, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def pixels(png: bytes) -> list[bytes]:
    """Distinct colours of a PNG as browsers write it (8 bits, RGB or RGBA, not interlaced): its unfiltered rows."""
    width, height, depth, kind = struct.unpack(">IIBB", png[16:26])
    assert (depth, kind) in ((8, 2), (8, 6))
    step = 3 if kind == 2 else 4
    data, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += 12 + length
    return _unfiltered(zlib.decompress(data), width * step, height, step)


def _unfiltered(raw: bytes, stride: int, height: int, step: int) -> list[bytes]:
    rows, above = [], bytearray(stride)
    for row in range(height):
        start = row * (stride + 1)
        kind, line = raw[start], bytearray(raw[start + 1 : start + 1 + stride])
        for i in range(stride):
            left = line[i - step] if i >= step else 0
            corner = above[i - step] if i >= step else 0
            line[i] = (line[i] + _predicted(kind, left, above[i], corner)) & 255
        rows.append(bytes(line))
        above = line
    return rows


def _predicted(kind: int, left: int, up: int, corner: int) -> int:
    if kind == 4:
        guess = left + up - corner
        return min((left, up, corner), key=lambda value: abs(guess - value))
    return (0, left, up, (left + up) // 2)[kind]


def brightness(rows: list[bytes]) -> float:
    """Mean of all channels, 0 to 255."""
    return sum(map(sum, rows)) / sum(map(len, rows))


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(render_html(samples.failing()), encoding="utf-8")
    return path


def shot(page: Path, *options: str) -> list[bytes]:
    """The rows of pixels of a small window on the page."""
    out = page.with_name("shot.png")
    browse(page.parent, "--window-size=300,160", f"--screenshot={out}", *options, page.as_uri())
    return pixels(out.read_bytes())


def test_it_is_drawn_in_the_light_and_in_the_dark(page: Path) -> None:
    light, dark = shot(page, LIGHT), shot(page, DARK)
    assert len(set(light)) > 30
    assert brightness(light) > 200
    assert brightness(dark) < 80


def test_it_is_printed_with_its_folds_open(page: Path) -> None:
    out = page.with_name("report.pdf")
    browse(page.parent, f"--print-to-pdf={out}", "--no-pdf-header-footer", page.as_uri())
    content = out.read_bytes()
    assert content.startswith(b"%PDF-")
    assert content.count(b"/Type /Page\n") >= 3


def test_its_parts_are_there_after_the_browser_has_read_it(page: Path) -> None:
    text = browse(page.parent, "--dump-dom", page.as_uri())
    assert text.count("<svg") > 10
    assert text.count("<figure>") == text.count("</figure>") > 10
    assert "decoder.1.mixer.query" in text


class RequestRecorder(http.server.BaseHTTPRequestHandler):
    """Serves the page and notes every request."""

    seen: list[str]
    page: bytes
    around: bytes

    def do_GET(self) -> None:
        self.seen.append(self.path)
        known = {"/report.html": self.page, "/phone": self.around}
        self.send_response(200 if self.path in known else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(known.get(self.path, b""))

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def recorder() -> Iterator[http.server.HTTPServer]:
    server = http.server.HTTPServer(
        ("127.0.0.1", 0), type("Own", (RequestRecorder,), {"seen": [], "page": b"", "around": b""})
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_it_asks_for_nothing_but_itself_even_when_hostile(tmp_path: Path, recorder: http.server.HTTPServer) -> None:
    origin = f"http://127.0.0.1:{recorder.server_port}"
    handler = recorder.RequestHandlerClass
    handler.page = (  # type: ignore[attr-defined]
        render_html(samples.hostile())
        .replace("</main>", f'<img src="{origin}/img"><script>fetch("{origin}/js")</script></main>')
        .encode()
    )
    browse(tmp_path, "--virtual-time-budget=1500", "--dump-dom", f"{origin}/report.html")
    assert set(handler.seen) - {"/favicon.ico"} == {"/report.html"}  # type: ignore[attr-defined]


LONG = "model.layers.2.block_sparse_moe.experts.5.w1.weight" * 3
PHONE = """<!doctype html><iframe id="page" src="report.html" style="width: 400px; height: 900px; border: 0"></iframe>
<p id="width"></p><script>page.onload = () => {
  const root = page.contentDocument.documentElement; width.textContent = `${root.scrollWidth} in ${root.clientWidth}`;
}</script>"""


@pytest.mark.parametrize("run", ["failing", "passing", "long"])
def test_it_fits_a_phone(tmp_path: Path, recorder: http.server.HTTPServer, run: str) -> None:
    wrong = samples.mismatch(moe=True)
    long = replace(wrong, evidence={**wrong.evidence, "diagnosis": f"layer 1, MLP: it does not hold {LONG}; {LONG}"})
    results = (
        samples.make_results(samples.plan_of("mixtral"), {FORWARD: long}) if run == "long" else getattr(samples, run)()
    )
    handler = recorder.RequestHandlerClass
    handler.page = render_html(results).encode()  # type: ignore[attr-defined]
    handler.around = PHONE.encode()  # type: ignore[attr-defined]
    text = browse(
        tmp_path, "--virtual-time-budget=1500", "--dump-dom", f"http://127.0.0.1:{recorder.server_port}/phone"
    )
    needed, given = text.split('id="width">')[1].split("</p>")[0].split(" in ")
    assert 300 < int(given) <= 400
    assert int(needed) <= int(given)


CLICKS = """<!doctype html><iframe id="page" src="report.html" style="width: 1200px; height: 900px"></iframe>
<pre id="said"></pre><script>page.onload = () => {
  const d = page.contentDocument, out = [], view = page.contentWindow;
  const isShown = row => view.getComputedStyle(row).display !== "none";
  const rows = () => [...d.querySelectorAll("#models tbody tr")];
  const names = () => rows().filter(isShown).map(r => r.cells[0].textContent.trim());
  const search = d.querySelector(".tools input"), heads = [...d.querySelectorAll("#models thead th")];
  const type = text => { search.value = text; search.dispatchEvent(new view.Event("input")); };
  const tell = what => out.push(`${what}|${d.querySelector(".tools output").textContent}|${names().slice(0, 3)}`);
  tell("all"); type("MODEL-1 04"); tell("search"); type("no such model"); tell("none"); type("");
  const failed = d.querySelector('.tools button[value="failed"]');
  failed.click(); tell("failed"); failed.click(); tell("again");
  heads[0].click(); tell("up"); heads[0].click(); tell("down");
  const number = heads.find(h => h.dataset.sort === "number" && h.textContent.includes("limit"));
  number.click(); number.click(); tell("worst");
  said.textContent = out.join("\\n");
}</script>"""


@pytest.mark.parametrize("page", ["report", "dashboard"])
def test_256_models_are_searched_filtered_and_sorted(
    tmp_path: Path, recorder: http.server.HTTPServer, page: str
) -> None:
    handler = recorder.RequestHandlerClass
    handler.page = (make_large_report() if page == "report" else make_large_dashboard()).encode()  # type: ignore[attr-defined]
    handler.around = CLICKS.encode()  # type: ignore[attr-defined]
    address = f"http://127.0.0.1:{recorder.server_port}/phone"
    text = unescape(browse(tmp_path, "--virtual-time-budget=4000", "--dump-dom", address))
    lines = text.split('id="said">')[1].split("</pre>")[0].splitlines()
    said = {what: (count, names) for what, count, names in (line.split("|") for line in lines)}
    assert said["all"][0] == said["again"][0] == "256 of 256"
    assert said["search"] == ("1 of 256", "model-104")
    assert said["none"] == ("0 of 256", "")
    failing = [f"model-{number:03d}" for number in range(256) if number % 6 == 2]
    assert said["failed"] == (f"{len(failing)} of 256", ",".join(failing[:3]))
    assert said["up"][1] == "model-000,model-001,model-002"
    assert said["down"][1] == "model-255,model-254,model-253"
    assert set(said["worst"][1].split(",")) <= set(failing)
    assert set(handler.seen) - {"/favicon.ico"} == {"/phone", "/report.html"}  # type: ignore[attr-defined]


def make_large_report() -> str:
    models = {f"model-{n:03d}": HubModel(f"model-{n:03d}", f"org/model-{n}", "llama") for n in range(256)}
    plan = samples.plan_of(*models, models=models)
    faults = {f"test_forward_equivalence[model-{n:03d}]": samples.mismatch() for n in range(256) if n % 6 == 2}
    return render_html(samples.make_results(plan, faults))


def make_large_dashboard() -> str:
    return render_dashboard(make_many(nights=45), made="2026-11-27T00:00:00Z")


SORTED = """<!doctype html><iframe id="page" src="report.html" style="width: 1200px; height: 900px"></iframe>
<pre id="said"></pre><script>page.onload = () => {
  const d = page.contentDocument, heads = [...d.querySelectorAll("#matrix thead th")], out = [];
  const names = () => [...d.querySelectorAll("#matrix tbody tr")].map(r => r.cells[1].textContent.split(" ")[0]);
  for (const head of heads) {
    head.querySelector("button").click();
    out.push(names().map(n => n.slice(0, 5)).join(","));
  }
  said.textContent = out.join("\\n");
}</script>"""


def test_the_matrix_is_sorted_by_columns_that_some_cells_reach_over(
    tmp_path: Path, recorder: http.server.HTTPServer
) -> None:
    handler = recorder.RequestHandlerClass
    handler.page = render_matrix(make_formats_matrix(), made="2026-11-27T00:00:00Z").encode()  # type: ignore[attr-defined]
    handler.around = SORTED.encode()  # type: ignore[attr-defined]
    address = f"http://127.0.0.1:{recorder.server_port}/phone"
    text = browse(tmp_path, "--virtual-time-budget=2500", "--dump-dom", address)
    *_, by_looped, by_export = text.split('id="said">')[1].split("</pre>")[0].splitlines()
    assert by_looped == "right,wrong,dense,refus", "what is empty stands last"
    assert by_export == "right,wrong,dense,refus", "the column after a cell that reaches over two; a crash is worst"


LONG_ROWS = tuple(
    Companion("generation_config.json", "a.long.path_" * 9, "changed", judgement, "x" * 120, "y" * 120, "why " * 60)
    for judgement in ("defect", "finding", "permitted")
)


CLIPPED = """<!doctype html><iframe id="page" src="report.html" style="width: 400px; height: 900px; border: 0"></iframe>
<pre id="said"></pre><script>page.onload = () => {
  const d = page.contentDocument, out = [d.documentElement.scrollWidth];
  for (const fold of d.querySelectorAll("details")) fold.open = true;
  for (const box of d.querySelectorAll(".scroll, .card, figure, table.reflow, td"))
    if (box.scrollWidth > box.clientWidth + 1 && box.clientWidth)
      out.push(`${box.tagName}.${box.className}: ${box.textContent.trim().slice(0, 40)}`);
  said.textContent = out.join("\\n");
}</script>"""


def make_timed() -> Results:
    """A run whose tests have seconds in every phase, and whose tables are as wide as they get."""
    run = samples.failing()
    phases = tuple(PhaseTime(phase, "Hugging Face float64 gradients", 123.4, beside=56.7) for phase in PHASES)

    entries = tuple(
        replace(
            entry,
            phases=phases,
            cases=tuple(replace(case, seconds=2000.0, phases=phases) for case in entry.cases),
        )
        for entry in run.entries
    )
    return replace(run, entries=entries)


@pytest.mark.parametrize("page", ["failing", "passing", "mixed", "timed", "dashboard", "matrix", "formats", "exports"])
def test_nothing_is_clipped_at_400_pixels(tmp_path: Path, recorder: http.server.HTTPServer, page: str) -> None:
    made = "2026-11-27T00:00:00Z"
    pages = {
        "dashboard": lambda: render_dashboard(make_history(), made=made, matrix=make_matrix()),
        "matrix": lambda: render_matrix(make_matrix(), made=made),
        "formats": lambda: render_matrix(make_formats_matrix(), made=made),
        "timed": lambda: render_html(make_timed()),
        "exports": lambda: render_html(make_exports(smollm2=LONG_ROWS, mistral=LONG_ROWS[:1])),
    }
    handler = recorder.RequestHandlerClass
    html = pages[page]() if page in pages else render_html(getattr(samples, page)())
    handler.page = html.encode()  # type: ignore[attr-defined]
    handler.around = CLIPPED.encode()  # type: ignore[attr-defined]
    address = f"http://127.0.0.1:{recorder.server_port}/phone"
    text = unescape(browse(tmp_path, "--virtual-time-budget=2500", "--dump-dom", address))
    width, *clipped = text.split('id="said">')[1].split("</pre>")[0].splitlines()
    assert int(width) <= 400
    assert clipped == []
    assert ("Seconds by phase" in html) == (page == "timed")
