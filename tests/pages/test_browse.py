"""The page of what a model is fed: labels are drawn where they are, classes filter, keys lead on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from densevit.config.reading import load_config  # noqa: E402
from densevit.data.samples import FedSamples, Instance, Sample, View  # noqa: E402
from densevit.data.scenes import generate  # noqa: E402
from densevit.data.tracing import Placement  # noqa: E402
from densevit.pages.browse import OUTSIDE, ClassStatistics, draw_view, token, write_browse  # noqa: E402
from tests.browser import has_color  # noqa: E402
from tests.scope import scope_restored  # noqa: E402

HEIGHT, WIDTH = 96, 131
PALETTE, NAMES = [(255, 0, 0), (0, 255, 0), (0, 0, 255)], ['sky', 'tree', 'traffic light']


# ---------------------------------------------------------------------------------------------------- pictures
def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def test_label_maps_are_drawn_where_they_are():
    labels = np.zeros((40, 60), int)
    labels[10:20, 10:30] = 1
    labels[20:30, 10:30] = 255
    labels[:10, 40:] = 3  # no class
    labels[:, 50:] = 255
    plain, drawn = draw_view(View(grey(40, 60), (40, 50), labels), PALETTE, NAMES, 255, side=60)
    assert plain.shape == drawn.shape == (40, 60, 3) and (plain == 128).all()
    assert (drawn[12:19, 12:29].argmax(-1) == 1).all() and (drawn[32:38, 2:38].argmax(-1) == 0).all()
    assert (drawn[:10, 40:50] == OUTSIDE).all()
    hatched = drawn[20:30, 10:30]
    assert len(np.unique(hatched.reshape(-1, 3), axis=0)) == 2 and (hatched == hatched[..., :1]).all()
    assert set(np.unique(drawn[:, 50:])) == {120, 190}


def test_names_are_written_on_large_pictures_only():
    labels = np.zeros((40, 60), int)
    _, small = draw_view(View(grey(40, 60), (40, 60), labels), PALETTE, NAMES, 255, side=150)
    _, large = draw_view(View(grey(40, 60), (40, 60), labels), PALETTE, NAMES, 255)
    assert large.shape == (120, 180, 3)  # three times as large, no more
    _, large = draw_view(View(grey(300, 400), (300, 400), np.zeros((300, 400), int)), PALETTE, NAMES, 255)
    assert large.shape == (384, 512, 3)
    assert (large > 200).all(-1).any() and (large < 30).all(-1).any()  # white letters with a black edge
    assert draw_view(View(grey(2000, 1000), (2000, 1000)), PALETTE, NAMES, 255)[0].shape == (512, 256, 3)


def test_objects_are_drawn_with_the_boxes_that_are_given():
    mask = np.zeros((90, 120), bool)
    mask[10:40, 20:60] = True
    objects = (
        Instance(2, (20, 10, 80, 70), mask),  # larger than its mask
        Instance(7, (90, 50, 110, 80), np.zeros((90, 120), bool)),  # no such class, and nothing in its mask
        Instance(0, (5, 5, 5, 9), None, ignored=True),
    )
    _, drawn = draw_view(View(grey(90, 120), (90, 120), instances=objects[:2]), PALETTE, NAMES, 255, side=120)
    assert (drawn[25, 35] > 128).tolist() == [False, False, True]
    assert drawn[50, 20].tolist() == [0, 0, 255] and drawn[70, 50].tolist() == [0, 0, 255]
    _, drawn = draw_view(View(grey(90, 120), (90, 120), instances=objects), PALETTE, NAMES, 255, side=120)
    assert (drawn != 128).any()
    _, drawn = draw_view(View(grey(90, 120), (90, 120), instances=()), PALETTE, NAMES, 255)
    assert (drawn == 128).all()


def test_statistics():
    labels = np.array([[0, 0, 1], [255, 9, 9]])
    padded = np.pad(labels, 1, constant_values=2)[1:, 1:]
    statistics = ClassStatistics(3)
    view = View(grey(2, 3), (2, 3), labels)
    assert statistics.add(Sample(0, 'a', view, (View(grey(3, 4), (2, 3), padded),) * 2), 9) == [0, 1]
    assert statistics.disk.tolist() == [2, 1, 0] and statistics.fed.tolist() == [4, 2, 0]
    assert statistics.void.tolist() == [3, 6] and statistics.images.tolist() == [1, 1, 0]
    objects = (Instance(1, (0, 0, 4, 9), None), Instance(1, (0, 0, 2, 2), None, ignored=True))
    view = View(grey(9, 9), (9, 9), instances=objects)
    statistics = ClassStatistics(2)
    assert statistics.add(Sample(0, 'a', view, (view,)), 255) == [1]
    assert statistics.sizes == [6.0] and statistics.counts_objects
    assert statistics.void.tolist() == [1, 1]


def test_tokens_mean_one_class():
    assert token('traffic light') == 'class:traffic-light;' != token('Traffic light pole')
    assert token('car') not in token('car park')


# -------------------------------------------------------------------------------------------------------- page
@pytest.fixture(scope='module')
def fed(tmp_path_factory) -> FedSamples:
    folder = tmp_path_factory.mktemp('data') / 'scenes'
    generate(folder, num_train=6, num_val=1, size=(HEIGHT, WIDTH), seed=0)
    broken = sorted((folder / 'ade/images/training').glob('*.png'))[2]
    broken.write_bytes(broken.read_bytes()[:90])
    with scope_restored():
        return FedSamples(load_config('upernet_patchconvnet-tiny_scenes', {'data_root': str(folder / 'ade')}), 'train')


@pytest.fixture(scope='module')
def page(tmp_path_factory, fed) -> Path:
    path = tmp_path_factory.mktemp('page') / 'data.html'
    samples = fed.samples(list(range(6)), 2, 0)
    written, odd = write_browse(path, fed, samples, title='a <b>', subtitle='of a test', facts=[('seed', '0')])
    assert odd == 1
    return written


def shown(browser) -> list[str]:
    return [each.text for each in browser.all('#cards .card:not([hidden]) .name')]


def test_the_page_needs_nothing_and_shows_pictures(browser, page):
    browser.open(page)
    assert browser.driver.title == 'a <b>'
    browser.wait(lambda: len(browser.all('#cards .strip img[src]')) >= 6, 'pictures are decoded')
    image = browser.screenshot('#cards')
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 500
    browser.draw('#class-plot')
    assert has_color(browser.screenshot('#class-plot'), '#0072B2')
    assert browser.requests() == [] and browser.complaints() == []
    assert len(shown(browser)) == 6


@pytest.mark.parametrize('dark', [False, True])
def test_a_phone(browser, page, dark):
    browser.open(page, width=360, height=800, dark=dark)
    assert browser.overflow() <= 0
    browser.run("document.querySelector('.card .open').click()")
    browser.wait(lambda: browser.all('#viewer .drawn img[src]'), 'the picture is decoded')
    assert browser.overflow() <= 0


def test_classes_filter(browser, page):
    browser.open(page)
    buttons = {each.get_attribute('data-preset'): each for each in browser.all('[data-preset]')}
    preset, button = next(
        (key, each) for key, each in buttons.items() if 1 < int(each.text.split()[-1]) < 6 and ';' != key
    )
    count = int(button.text.split()[-1])
    button.click()
    assert len(shown(browser)) == count and button.get_attribute('aria-pressed') == 'true'
    assert all(preset in each.get_attribute('data-text') for each in browser.all('#cards .card:not([hidden])'))
    assert browser.find('[data-count=cards]').text == f'{count} of 6'
    button.click()
    assert len(shown(browser)) == 6 and button.get_attribute('aria-pressed') == 'false'
    buttons['odd;'].click()
    (card,) = browser.all('#cards .card:not([hidden])')
    assert 'cannot read' in card.text and 'on the disk, version 1, version 2' in card.text
    assert 'cannot read' in browser.find('#warnings').text


def test_keys_lead_on_and_hide_the_labels(browser, page):
    browser.open(page)
    names = shown(browser)
    browser.run("document.querySelector('.card .open').click()")
    title = browser.find('#viewer-title')
    assert title.text == names[0]
    browser.press('\ue014')  # right
    assert title.text == names[1]
    browser.wait(lambda: len(browser.all('#viewer .drawn img[src]')) == 3, 'three pictures are decoded')
    assert 'version 2' in browser.find('#viewer').text and 'PhotoMetricDistortion' in browser.find('#viewer').text
    labelled = browser.screenshot('#viewer .layers').astype(int)
    browser.press('l')
    plain = browser.screenshot('#viewer .layers').astype(int)
    assert np.abs(labelled - plain).mean() > 10
    assert browser.find('#viewer [data-labels]').get_attribute('aria-pressed') == 'false'
    browser.find('#viewer [data-labels]').click()
    assert np.abs(browser.screenshot('#viewer .layers').astype(int) - labelled).mean() < 1
    browser.press('\ue012', '\ue012')  # left, past the first
    assert title.text == names[-1]


def test_order_and_table(browser, page):
    browser.open(page)
    browser.run("const e = document.querySelector('[data-order=cards]'); e.value = '-classes'; "
                "e.dispatchEvent(new Event('change'))")  # fmt: skip
    counts = [int(each.get_attribute('data-by-classes')) for each in browser.all('#cards .card')]
    assert counts == sorted(counts, reverse=True) and counts[-1] == 0
    browser.run("document.querySelectorAll('#class-table thead button')[3].click()")
    images = [int(each.text) for each in browser.all('#class-table tbody td:nth-child(4)')]
    assert images == sorted(images, reverse=True) and len(images) == 13 and images[0] == 5


def test_the_same_seed_gives_the_same_page(page, fed, tmp_path):
    again, _ = write_browse(
        tmp_path / 'data.html', fed, fed.samples(list(range(6)), 2, 0), title='a <b>', subtitle='of a test',
        facts=[('seed', '0')],
    )  # fmt: skip
    assert again.read_bytes() == page.read_bytes()


def test_frames_show_what_the_versions_show(fed, tmp_path):
    original = View(grey(50, 100), (50, 100), np.zeros((50, 100), int), placement=Placement())
    part = View(grey(25, 20), (25, 20), np.zeros((25, 20), int), placement=Placement(90, 10, -1, 1))
    whole = View(grey(100, 200), (100, 200), np.zeros((100, 200), int), placement=Placement(0, 0, 0.5, 0.5))
    unknown = View(grey(25, 20), (25, 20), np.zeros((25, 20), int))
    sample = Sample(0, 'a.png', original, (whole, part, unknown))
    path, _ = write_browse(tmp_path / 'page.html', fed, [sample], title='', subtitle='')
    (frame,) = [line for line in path.read_text().splitlines() if line.startswith('<rect ')]
    # three times as large; from x = 70 to 90 of 100
    assert 'x="210.0" y="30.0" width="60.0" height="75.0"' in frame
