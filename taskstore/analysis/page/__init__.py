"""Shows a store on one HTML page that needs no network and no other file."""

from taskstore.analysis.page.driver import Page, write_page

__all__ = ["Page", "write_page"]
