"""A real browser that opens the pages: headless Chromium, without a network, driven by selenium."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

# Nothing of Chromium's own may ask the network either; the sandbox needs rights that containers do not have.
FLAGS = (
    '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync', '--hide-scrollbars',
)  # fmt: skip


class Browser:
    """One window. ``driver`` is selenium's, for clicks and keys."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a file in a window of this size, in CSS pixels."""
        metrics = dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        self.driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', metrics)
        scheme = [dict(name='prefers-color-scheme', value='dark' if dark else 'light')]
        self.driver.execute_cdp_cmd('Emulation.setEmulatedMedia', dict(features=scheme))
        for kind in ('performance', 'browser'):
            self.driver.get_log(kind)  # forgets those of the page before
        self.driver.get(Path(path).resolve().as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that JavaScript ``return``s."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        """The first element of a CSS selector."""
        return self.driver.find_element('css selector', selector)

    def all(self, selector: str) -> list[Any]:
        """All elements of a CSS selector."""
        return self.driver.find_elements('css selector', selector)

    def press(self, *keys: str) -> None:
        """Type into whatever has the focus."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """The first true value of ``condition``; fails after a minute, as the machine may be busy."""
        from selenium.common.exceptions import TimeoutException
        from selenium.webdriver.support.ui import WebDriverWait

        try:
            return WebDriverWait(self.driver, 60, poll_frequency=0.05).until(lambda _: condition())
        except TimeoutException:
            pytest.fail(f'it did not come to this within a minute: {what}')

    def draw(self, selector: str = '.plot') -> None:
        """Scroll to a plot and wait until plotly has drawn it."""
        self.run("document.querySelector(arguments[0]).scrollIntoView({behavior: 'instant'})", selector)
        self.wait(lambda: 'drawn' in self.run('return {...document.querySelector(arguments[0]).dataset}', selector),
                  f'{selector} is drawn')  # fmt: skip

    def screenshot(self, selector: str | None = None) -> np.ndarray:
        """RGB (H, W, 3) uint8 of the window, or of an element."""
        if selector:  # at once: the page's own scrolling is smooth
            scroll = "document.querySelector(arguments[0]).scrollIntoView({behavior: 'instant', block: 'nearest'})"
            self.run(scroll, selector)
        data = self.find(selector).screenshot_as_png if selector else self.driver.get_screenshot_as_png()
        return np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))

    def requests(self) -> list[str]:
        """Addresses that the page asked for, itself and what it holds left out."""
        events = [json.loads(entry['message'])['message'] for entry in self.driver.get_log('performance')]
        urls = [event['params']['request']['url'] for event in events if event['method'] == 'Network.requestWillBeSent']
        return [url for url in urls if not url.startswith(('data:', 'blob:')) and url != self.driver.current_url]

    def complaints(self) -> list[str]:
        """Errors and warnings of the console."""
        return [entry['message'] for entry in self.driver.get_log('browser')]

    def overflow(self) -> int:
        """By how many CSS pixels the page is wider than its window."""
        return self.run('return document.documentElement.scrollWidth - document.documentElement.clientWidth')


def has_color(image: np.ndarray, color: str, tolerance: int = 12) -> bool:
    """Whether at least 20 pixels of an RGB image have about the color '#rrggbb'."""
    wanted = np.array([int(color[index : index + 2], 16) for index in (1, 3, 5)])
    return int((np.abs(image.astype(int) - wanted).max(-1) <= tolerance).sum()) >= 20


@pytest.fixture(scope='session')
def browser(tmp_path_factory) -> Iterator[Browser]:
    """A browser; the test skips where there is none. A conftest.py imports it from here."""
    webdriver = pytest.importorskip('selenium.webdriver', reason='needs selenium: pip install selenium')
    chromium = shutil.which('chromium') or shutil.which('google-chrome')
    driver = shutil.which('chromedriver')
    if not chromium or not driver:
        pytest.skip('needs chromium and chromedriver, e.g. apt-get install chromium chromium-driver')
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f'--user-data-dir={tmp_path_factory.mktemp("chromium")}'):
        options.add_argument(flag)
    options.set_capability('goog:loggingPrefs', {'performance': 'ALL', 'browser': 'ALL'})
    found = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield Browser(found)
    found.quit()
