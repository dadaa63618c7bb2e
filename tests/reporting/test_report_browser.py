"""The pages in a real browser: silent, without a request, unharmed by what models wrote, and fit for a phone."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, chromium, missing
from hostile_run import hostile_run
from report_run import hand_made_run

from cyclealign.files.jsonl import read_jsonl, write_jsonl
from cyclealign.files.run_dir import RunDir
from cyclealign.reporting.comparison import columns_of, write_comparison
from cyclealign.reporting.frame import POLICY
from cyclealign.reporting.page import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
    # Selenium's connection pool leaves its sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
HARM = "<script>window.harm = 1; fetch('http://127.0.0.1:9/x')</script><img src=x onerror='window.harm = 2'>"
LONG = "x" * 20_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def bad_run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Everything hostile; besides, one candidate is a script and the next is 20,000 letters without a space."""
    run = hostile_run(tmp_path_factory.mktemp("run"))
    for file in run.path.glob("*/*/candidates.jsonl"):
        records = list(read_jsonl(file))
        for record in records:
            record["candidates"][0]["text"] = HARM
            record["candidates"][1]["text"] = LONG
        write_jsonl(file, records)
    write_report(run)
    return run


@pytest.mark.parametrize("width", [1280, 375])
def test_nothing_is_said_asked_or_run(browser: Browser, bad_run: RunDir, width: int) -> None:
    browser.asked(), browser.said()
    browser.open(bad_run.report, width)
    assert browser.said() == []
    assert browser.asked() == [bad_run.report.absolute().as_uri()]
    assert browser.run("window.harm === undefined && document.scripts.length === 0 && document.images.length === 0")
    harmless = "[...document.querySelectorAll('.text')].filter(e => e.textContent.includes('window.harm'))"
    assert browser.run(f"{harmless}.length") > 30


@pytest.mark.parametrize("width", [1280, 800, 375, 320])
def test_nothing_is_wider_than_the_window_or_endlessly_long(browser: Browser, bad_run: RunDir, width: int) -> None:
    browser.open(bad_run.report, width)
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("Math.max(...[...document.querySelectorAll('.text')].map(e => e.offsetHeight))") < 300
    small = "[...document.querySelectorAll('figure svg[role=img] text')].map(e => e.getBoundingClientRect().height)"
    assert browser.run(f"Math.min(...{small})") > (8 if width <= 375 else 10)


def test_filters_hide_the_others_and_bring_them_back(browser: Browser, bad_run: RunDir) -> None:
    browser.open(bad_run.report)
    shown = "[...document.querySelectorAll('#rankings article')].filter(e => e.offsetParent !== null)"
    everything = browser.run(f"{shown}.length")
    assert everything == 24
    outcomes = browser.run("[...document.querySelectorAll('input[name=rankings-outcome]')].map(e => e.value)")
    assert len(outcomes) > 2
    press = "document.querySelector('input[name=rankings-{}][value=\"{}\"]').click()"
    for value in outcomes[1:]:
        browser.run(press.format("outcome", value))
        expected = browser.run(f"document.querySelectorAll('#rankings article[data-outcome=\"{value}\"]').length")
        assert browser.run(f"{shown}.length") == expected > 0
        browser.run(press.format("interaction", 1))
        assert browser.run(f"{shown}.every(e => e.dataset.outcome === '{value}' && e.dataset.interaction === '1')")
        browser.run(press.format("interaction", "all"))
    browser.run(press.format("outcome", "all"))
    assert browser.run(f"{shown}.length") == everything


def test_a_comparison_is_as_silent(browser: Browser, bad_run: RunDir, tmp_path: Path) -> None:
    page = write_comparison(tmp_path / "both.html", columns_of([bad_run, hand_made_run(tmp_path / "other")]))
    browser.asked(), browser.said()
    browser.open(page, 375)
    assert browser.said() == []
    assert browser.asked() == [page.absolute().as_uri()]
    assert browser.run("document.documentElement.scrollWidth") <= 375


def test_requests_would_be_seen(browser: Browser, tmp_path: Path) -> None:
    """A page without the policy asks a server, and a page with it complains: both are noticed here."""
    arrived: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            arrived.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/pixel.png"
        image = f"<img src='{address}'>"
        for head in ("", f"<meta http-equiv='Content-Security-Policy' content=\"{POLICY}\">"):
            (tmp_path / "page.html").write_text(f"<!doctype html><head>{head}</head>{image}")
            arrived.clear(), browser.asked(), browser.said()
            browser.open(tmp_path / "page.html")
            assert address in browser.asked()
            assert arrived == ([] if head else ["/pixel.png"])
            assert any("Content Security Policy" in line for line in browser.said()) == bool(head)
        server.shutdown()
