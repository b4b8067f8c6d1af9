"""The page of a test, from made-up numbers, in a browser."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from densevit.errors import UserError
from densevit.evaluation.tables import write_json
from densevit.pages.figures import PALETTE
from densevit.pages.page import Card
from densevit.pages.report import headline, training_figures, write_report_page
from densevit.pages.runs import compare_runs, read_report
from densevit.pages.thumbnails import picture
from tests.browser import has_color

CLASSES = ['sky', 'road', 'tram', 'pole', 'tree', 'kerb', 'sign', 'wall', 'never seen']


def thumbnails(index: int) -> list:
    image = np.full((20, 33, 3), 20 * index, np.uint8)
    return [picture(image, caption) for caption in ('truth', 'prediction', 'errors')]


def numbers(name: str, gain: float = 0.0, task: str = 'segmentation') -> dict:
    """What a test of 12 images writes into report.json."""
    rng = np.random.default_rng(1)
    count = len(CLASSES)
    matrix = rng.integers(1, 50, (count, count)) + 1000 * np.eye(count, dtype=np.int64)
    matrix[-1] = matrix[:, -1] = 0
    segmentation = task == 'segmentation'
    if not segmentation:
        matrix = np.pad(matrix, ((0, 1), (0, 1)), constant_values=60)
    per_class = {
        label: {'IoU': 40.0 + 5 * index + gain * (-1) ** index, 'Acc': 80.0}
        if segmentation
        else {'bbox_mAP': 0.4 + 0.05 * index + gain / 100, 'segm_mAP': 0.3}
        for index, label in enumerate(CLASSES)
    }
    per_class['never seen'] = dict.fromkeys(per_class['sky'], math.nan)
    curve = np.linspace(1, 0.2, 101).tolist()
    bars = {'title': 'IoU by share', 'about': 'about it', 'value': 'IoU, %', 'count': 'pixels', 'rows': [
        {'name': 'small', 'value': 20.0 + gain, 'count': 10}, {'name': 'large', 'value': math.nan, 'count': 0},
    ]}  # fmt: skip
    return {
        'version': 2,
        'name': name,
        'task': task,
        'conditions': [
            {'name': 'images', 'value': '12', 'unusual': False},
            {'name': 'views', 'value': 'one' if gain < 5 else '6, averaged', 'unusual': gain >= 5},
        ],
        'classes': CLASSES,
        'palette': [(20 * index, 90, 200) for index in range(count)],
        'metrics': {'mIoU': 61.25 + gain, 'aAcc': math.nan} if segmentation else {'coco/segm_mAP': 0.5, 'x_mAP_s': 0.1},
        'per_class': per_class,
        'curves': {} if segmentation else {'bbox': {'sky': curve}, 'segm': {'sky': curve}},
        'confusion': matrix,
        'failures': [bars],
        'position': {'title': 'Wrong by place', 'values': rng.random((8, 8)).tolist()},
        'score': 'mean IoU',
        'images': [
            {'index': index, 'name': f'{index}.jpg', 'score': math.nan if index == 5 else 10.0 * index + gain * index}
            for index in range(12)
        ],
        'training': {'loss': [(50, 2.0), (100, 1.0)], 'lr': [(50, 1e-3), (100, 0.0)], 'mIoU': [(100, 50.0 + gain)]},
        'card': {
            'facts': {
                'checkpoint': 'best.pth',
                'data': '12 images',
                'date': '2026',
                'command': 'python <tools/test.py>',
            },
            'parts': [{'part': 'total', 'params': 1_500_000, 'macs': None}],
            'parts_of': 'one image',
        },
        'config': 'model = dict(type="<b>")',
    }


def page_of(folder, data):
    cards = [
        Card(row['name'], thumbnails(row['index']), 'text', (), CLASSES[row['index'] % 8], {'score': row['score']})
        for row in data['images']
    ]
    return write_report_page(folder / 'index.html', data, cards=cards, worst=cards[:2], best=cards[-2:], examples=[])


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    return page_of(tmp_path_factory.mktemp('report'), numbers('a <config>'))


def test_every_part_is_drawn_offline(browser, page):
    browser.open(page)
    plots = [each.get_attribute('id') for each in browser.all('.plot')]
    assert plots == [
        'class-bars', 'confusion-matrix', 'pr-points', 'failure-1', 'failure-position', 'training-1', 'training-2',
        'training-3',
    ]  # fmt: skip
    for each in plots:
        browser.draw(f'#{each}')
        shown = browser.screenshot(f'#{each} .canvas')
        assert shown.std() > 5, f'{each} is blank'
    assert has_color(browser.screenshot('#failure-1'), PALETTE[0])
    assert browser.requests() == []
    assert browser.complaints() == []
    links = [each.get_attribute('href').rpartition('#')[2] for each in browser.all('nav a')]
    assert all(browser.all(f'section#{each}') for each in links) and len(links) == 10
    assert '<b>' in browser.run("return document.querySelector('#card pre').textContent")
    assert 'picture of attention' not in browser.find('#worst').text


def test_attention_is_explained_where_it_is_shown(tmp_path):
    data = numbers('x')
    seen = picture(np.zeros((20, 33, 3), np.uint8), 'attention: sky, yellow: 12 x the mean')
    cards = [Card('0.jpg', thumbnails(0), large=[seen])]
    page = write_report_page(tmp_path / 'index.html', data, cards=cards, worst=cards, best=[], examples=[])
    assert 'full yellow stands for so many times the mean' in page.read_text()


def test_conditions_are_below_the_title(browser, page, tmp_path):
    browser.open(page)
    assert [each.text for each in browser.all('header .conditions li')] == ['images 12', 'views one']
    assert not browser.all('.unusual')
    browser.open(page_of(tmp_path, numbers('x', gain=5.0)))
    assert [each.text for each in browser.all('.conditions .unusual')] == ['views 6, averaged']


def test_cells_of_few_classes_have_their_numbers(browser, page, tmp_path):
    browser.open(page)
    browser.draw('#confusion-matrix')
    shown = [each.text for each in browser.all('#confusion-matrix .heatmap-label')]
    matrix = numbers('x')['confusion'][:-1, :-1]
    wanted = 100 * matrix / matrix.sum(1, keepdims=True)
    assert [text for text in shown if text] == [f'{each:.0f}' for each in wanted.ravel() if each >= 0.5]
    many = [f'class {index}' for index in range(25)]
    data = {**numbers('x'), 'classes': many, 'confusion': np.eye(25, dtype=np.int64), 'palette': [(0, 0, 0)] * 25}
    browser.open(page_of(tmp_path, data))
    browser.draw('#confusion-matrix')
    assert not browser.all('#confusion-matrix .heatmap-label')


def test_classes_sort_and_filter(browser, page):
    browser.open(page)
    browser.all('#class-table thead button')[1].click()
    names = [cell.text for cell in browser.all('#class-table tbody th')]
    assert names == [*CLASSES[:8][::-1], 'never seen']
    browser.find('[data-filter=class-table]').send_keys('tr')
    assert [cell.text for cell in browser.all('#class-table tbody tr:not([hidden]) th')] == ['tree', 'tram']


def test_confusions_leave_out_what_is_right(browser, page):
    browser.open(page)
    rows = [[cell.text for cell in row.find_elements('css selector', 'th, td')] for row in browser.all('#confusion-table tbody tr')]  # fmt: skip  # noqa: E501
    counts = [int(row[3]) for row in rows]
    assert len(rows) == 40 and counts == sorted(counts, reverse=True)
    assert all(row[0] != row[1] for row in rows)


def test_the_matrix_has_a_logarithmic_scale(browser, page):
    browser.open(page)
    browser.draw('#confusion-matrix')
    visible = "return document.querySelector('#confusion-matrix .canvas').data.map((trace) => trace.visible)"
    before = browser.screenshot('#confusion-matrix .canvas')
    browser.find('#confusion-matrix select').send_keys('log')
    browser.wait(lambda: browser.run(visible) == [False, True], 'logarithmic')
    browser.wait(lambda: (browser.screenshot('#confusion-matrix .canvas') != before).mean() > 0.1, 'other colours')


def test_legend_click_takes_bars_away(browser, page):
    browser.open(page)
    browser.draw('#class-bars')
    bars = 'return document.querySelectorAll("#class-bars .bars .point path").length'
    before = browser.run(bars)
    browser.all('#class-bars .legendtoggle')[1].click()
    browser.wait(lambda: browser.run(bars) == before // 2, 'half of them')
    shown = browser.screenshot('#class-bars')
    assert has_color(shown, PALETTE[0]) and not has_color(shown[120:], PALETTE[1])


def test_next_image_by_keyboard(browser, page):
    browser.open(page)
    browser.run("document.querySelector('#all-images .card:nth-child(3) .open').focus()")
    browser.press('\ue007', '\ue014')
    assert browser.find('#viewer-title').text == '3.jpg'
    browser.wait(lambda: browser.run("return document.querySelector('.viewer-body img').naturalWidth") == 33, 'shown')


@pytest.mark.parametrize('dark', [False, True])
def test_a_phone_scrolls_one_way(browser, page, dark):
    browser.open(page, width=360, dark=dark)
    for each in browser.all('.plot'):
        browser.draw('#' + each.get_attribute('id'))
    assert browser.overflow() <= 0


def test_detection(browser, tmp_path):
    browser.open(page_of(tmp_path, numbers('detector', task='detection')))
    browser.draw('#pr-curves')
    picked = [option.text for option in browser.all('#pr-curves option')]
    assert picked == ['mean over the classes', 'sky']
    assert 'nothing' in browser.find('#confusion-table').text
    assert not browser.all('#pr-points')
    assert browser.complaints() == []


def test_without_truth(browser, tmp_path):
    data = {**numbers('x'), 'per_class': {}, 'confusion': None, 'failures': [], 'position': None, 'training': {}}
    cards = [Card('0.jpg', thumbnails(0)[1:2])]
    path = write_report_page(tmp_path / 'index.html', data, cards=cards, worst=[], best=[], examples=cards)
    browser.open(path)
    assert 'without truth' in browser.find('#metrics').text
    assert [link.text for link in browser.all('nav a')] == ['Metrics', 'Examples', 'All images', 'Model card']
    assert browser.all('.plot') == []


def test_headline_leaves_out_sizes_and_has_a_dash():
    rows = headline({'coco/segm_mAP': 0.512, 'coco/segm_mAP_s': 0.1, 'coco/bbox_mAP': -1.0, 'mIoU': math.nan})
    assert [(name, value) for name, value, _ in rows] == [('segm_mAP', '0.512'), ('bbox_mAP', '–'), ('mIoU', '–')]


def test_no_log_no_curves():
    assert training_figures({'': {}}) == []


# ------------------------------------------------------------------------------------------------- two runs
def saved(folder, data):
    write_json(folder / 'report.json', data)
    write_json(folder / 'thumbnails.json', {str(index): thumbnails(index) for index in range(12)})
    return folder


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')
    return saved(folder / 'a', numbers('old')), saved(folder / 'b', numbers('new', gain=2.0))


def test_two_runs(browser, both, tmp_path):
    page, unequal = compare_runs(*both, tmp_path / 'deep' / 'runs.html')
    browser.open(page)
    assert unequal == [] and not browser.all('.warning')
    assert browser.find('h1').text == 'old and new'
    metrics = [[cell.text for cell in row.find_elements('css selector', 'th, td')] for row in browser.all('#metric-table tbody tr')]  # fmt: skip  # noqa: E501
    assert metrics == [['mIoU', '61.25', '63.25', '2.00'], ['aAcc', '–', '–', '–']]
    browser.draw('#class-bars')
    shown = browser.screenshot('#class-bars')
    assert has_color(shown, PALETTE[2]) and has_color(shown, PALETTE[3])
    traces = browser.run("return document.querySelector('#class-bars .canvas').data.map((trace) => trace.y.length)")
    assert traces == [4, 4]
    # the last image differs most, and the one without a score is not there
    names = [each.text for each in browser.all('#images-that-differ .name')]
    assert names[:2] == ['11.jpg', '10.jpg'] and len(names) == 11 and '5.jpg' not in names
    captions = [each.text for each in browser.all('#images-that-differ .card:first-child .tag')]
    assert captions == ['truth', 'prediction, old', 'errors, old', 'prediction, new', 'errors, new']
    browser.draw('#training-2')
    legend = [each.text for each in browser.all('#training-2 .legendtext')]
    assert legend == ['old mIoU', 'new mIoU']
    assert browser.requests() == browser.complaints() == []
    browser.open(tmp_path / 'deep' / 'runs.html', width=360)
    assert browser.overflow() <= 0


def test_runs_of_one_config_are_called_by_their_folders(both, tmp_path):
    again = saved(tmp_path / 'again', numbers('old'))
    page, _ = compare_runs(both[0], again / 'report.json', tmp_path / 'x.html')
    assert '<title>a and again</title>' in page.read_text()


@pytest.mark.parametrize('folders, names', [
    (('one/report', 'two/report'), 'one/report and two/report'),
    (('one/a/report', 'two/a/report'), 'one/a/report and two/a/report'),
    (('one/report', 'one/report'), 'first and second'),
])  # fmt: skip
def test_runs_in_folders_of_one_name_are_told_apart(tmp_path, folders, names):
    page, _ = compare_runs(*(saved(tmp_path / each, numbers('old')) for each in folders), tmp_path / 'x.html')
    assert f'<title>{names}</title>' in page.read_text()


def test_other_conditions_are_told(browser, both, tmp_path):
    other = saved(tmp_path / 'c', numbers('averaged', gain=5.0))
    page, unequal = compare_runs(both[0], other, tmp_path / 'x.html')
    assert unequal == ['views: one (old), 6, averaged (averaged)']
    browser.open(page)
    assert 'not tested under the same conditions' in browser.find('.warning').text
    assert unequal[0] in browser.find('.warning').text
    facts = [row.text for row in browser.all('#facts tbody tr')]
    assert 'tested: views one 6, averaged' in facts


@pytest.mark.parametrize('change, message', [
    ({'classes': [*CLASSES[:-1], 'dog']}, "same classes: 9 and 9, the first difference is 'never seen' and 'dog'"),
    ({'images': []}, "same images: 12 and 0, the first difference is '0.jpg' and 'nothing'"),
    ({'task': 'detection'}, "same tasks: 1 and 1, the first difference is 'segmentation' and 'detection'"),
])  # fmt: skip
def test_other_data_is_refused(both, tmp_path, change, message):
    other = saved(tmp_path / 'other', {**numbers('new'), **change})
    with pytest.raises(UserError, match=message):
        compare_runs(both[0], other, tmp_path / 'x.html')


def test_what_is_no_report(tmp_path):
    with pytest.raises(UserError, match='holds no report.json: write one with tools/test.py'):
        read_report(tmp_path)
    path = tmp_path / 'report.json'
    path.write_text('{')
    with pytest.raises(UserError, match='is no JSON'):
        read_report(tmp_path)
    path.write_text(json.dumps({'version': 99}))
    with pytest.raises(UserError, match='version 99, expected 2'):
        read_report(path)
