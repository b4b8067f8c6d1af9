"""The page of a check: findings filter by level and word, files are shown, and nothing comes from the network."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from densevit.check.data import DatasetReport  # noqa: E402
from densevit.check.estimates import Disk, Memory  # noqa: E402
from densevit.check.finding import Finding  # noqa: E402
from densevit.check.report import CheckReport  # noqa: E402
from densevit.pages.check import MOST_FILES, _thumbnail, write_check  # noqa: E402
from densevit.pages.figures import PALETTE  # noqa: E402
from tests.browser import has_color  # noqa: E402

EVIL = '<script>document.title = "evil"</script>'


def report(folder) -> CheckReport:
    image = folder / 'street <1>.png'
    Image.fromarray(np.full((40, 61, 3), (200, 30, 40), np.uint8)).save(image)
    files = (str(image), str(folder / 'not there.png'), *(f'/no/{number}.txt' for number in range(MOST_FILES + 5)))
    dataset = DatasetReport('train_dataloader.dataset', '/data/streets', 3, None, {'sky': 0.75, 'tram': 0.25}, 0.125)
    other = DatasetReport('val_dataloader.dataset', '/data/streets', 2, 9, {'sky': 0.5, 'tram': 0.5})
    findings = [
        Finding('note', 'memory', 'train_dataloader.batch_size', 'about 1 GiB.'),
        Finding('error', 'label-out-of-range', 'train_dataloader.dataset', f'the value 7 {EVIL}', files),
        Finding('warning', 'batch-and-rate', 'train_dataloader.batch_size', 'batch: 2 images.'),
    ]
    memory = Memory(2**20, 2**21, 2**20, 2**30, 2, (256, 512), 2**33)
    return CheckReport(
        '/configs/streets.py', False, findings, [dataset, other], memory, Disk(2**27, 3, '/work', 2**35)
    )  # fmt: skip


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp('check')
    return write_check(folder / 'pages' / 'index.html', report(folder))


def shown(browser) -> list[str]:
    return browser.run(
        "return [...document.querySelectorAll('#list > li')].filter(e => !e.hidden).map(e => e.className)"
    )


def test_findings_are_filtered_by_level_and_word(browser, page):
    browser.open(page)
    assert browser.run('return document.title') == 'streets: check'
    assert 'Training must not start: 1 error, 1 warning, 1 note.' in browser.find('header').text
    assert shown(browser) == ['of-error', 'of-warning', 'of-note']  # the worst first
    browser.find('[data-preset="warning;"]').click()
    assert shown(browser) == ['of-warning']
    assert browser.find('[data-preset="warning;"]').get_attribute('aria-pressed') == 'true'
    browser.find('[data-preset="warning;"]').click()
    assert len(shown(browser)) == 3
    browser.find('#filter').send_keys('value range')
    assert shown(browser) == ['of-error']
    assert browser.find('[data-count]').text == '1 of 3'
    assert EVIL in browser.find('.of-error .message').text


def test_files(browser, page):
    browser.open(page)
    browser.find('.of-error summary').click()
    names = [each.text for each in browser.all('.of-error .names li')]
    assert len(names) == MOST_FILES + 1 and names[-1] == 'and 7 more: see the JSON file'
    cards = browser.all('#cards .card')
    assert len(cards) == 1 and 'street <1>.png' in cards[0].text  # of what is there
    browser.wait(lambda: browser.run("return document.querySelector('#cards img').naturalWidth") == 61, 'the picture')


@pytest.mark.parametrize(('width', 'dark'), [(1280, False), (360, True)])
def test_classes_are_drawn_on_any_screen(browser, page, width, dark):
    browser.open(page, width=width, dark=dark)
    browser.draw('#class-plot')
    assert has_color(browser.screenshot('#class-plot'), PALETTE[0])
    assert browser.overflow() <= 0
    assert browser.requests() == [] and browser.complaints() == []
    options = browser.run("return [...document.querySelectorAll('#class-plot option')].map(each => each.textContent)")
    assert options == ['train_dataloader.dataset', 'val_dataloader.dataset']


def test_a_check_without_findings_and_data(tmp_path):
    text = write_check(tmp_path / 'a.html', CheckReport('/configs/a.py', quick=True)).read_text()
    assert 'Nothing was found.' in text and 'Training may start: nothing found.' in text
    assert 'id="plotly"' not in text and 'id="cards"' not in text and 'id="data"' not in text


def test_thumbnails_of_label_maps_are_visible(tmp_path):
    labels = np.array([[0, 1, 2], [2, 255, 0]], np.uint8)
    Image.fromarray(labels).save(tmp_path / 'label.png')
    assert _thumbnail(str(tmp_path / 'label.png'))[..., 0].tolist() == [[0, 100, 200], [200, 255, 0]]
    Image.fromarray(labels.astype(np.uint16) * 100).save(tmp_path / 'deep.png')
    assert _thumbnail(str(tmp_path / 'deep.png')).shape == (2, 3, 3)
    (tmp_path / 'broken.jpg').write_bytes(b'\xff\xd8\xff')
    assert _thumbnail(str(tmp_path / 'broken.jpg')) is None
