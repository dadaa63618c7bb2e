"""What mkdocs does for this site beside its pages: reference pages from code, and files that pages name."""

from __future__ import annotations

from api_page import api_page
from commands_page import commands_page
from config_keys import undocumented
from config_page import all_keys, config_page
from links import DOCS, ROOT, for_site, outside, site_path
from messages_page import messages_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

GENERATED = {
    "api.md": api_page,
    "commands.md": commands_page,
    "config.md": config_page,
    "messages.md": messages_page,
}
ALWAYS = "README.md"
# The theme would fetch this for pages on the disk; docs/offline.js does the same.
FETCHED, OURS = "https://unpkg.com/iframe-worker/shim", "offline.js"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, the README, and every file of the repository that some page leads to.

    Raises:
        PluginError: a config key has no sentence.
    """
    if silent := undocumented(list(all_keys())):
        raise PluginError(f"config keys without a sentence below them: {', '.join(silent)}")
    for name, page in GENERATED.items():
        files.append(File.generated(config, name, content=page()))
    pages = {f"{DOCS}{f.src_uri}": f.content_string for f in files.documentation_pages()}
    readme = {ALWAYS: ROOT / ALWAYS}
    found = readme | outside(pages | {ALWAYS: readme[ALWAYS].read_text(encoding="utf-8")})
    for target, path in found.items():
        files.append(File.generated(config, site_path(target), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Links that leave docs/ lead to the site's own copies."""
    return for_site(page.file.src_uri, markdown)


def on_post_page(output: str, page: Page, **_: object) -> str:
    """No page fetches anything."""
    return output.replace(FETCHED, get_relative_url(OURS, page.url))


def on_post_template(output_content: str, **_: object) -> str:
    """Nor does the page for what is not there."""
    return output_content.replace(FETCHED, OURS)
