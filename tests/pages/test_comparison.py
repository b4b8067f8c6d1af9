"""The comparison page: results and measurements in tables, and a plot that does as it is told."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('mmengine')

from densevit.engine.model_index import Family, read_families  # noqa: E402
from densevit.engine.model_table import axes_of, models_of, results_of  # noqa: E402
from densevit.pages.comparison import write_comparison  # noqa: E402
from tests.browser import has_color  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = read_families(ROOT)
FAST, SLOW = 'semfpn_pvtv2-b0_ade20k', 'upernet_swin_ade20k'


def content(results: list[dict[str, Any]], threads: int = 2) -> dict[str, Any]:
    """As tools/benchmark.py writes it."""
    machine = {'cpu': 'a <processor>', 'threads': threads, 'date': '2026-01-02', 'rates': {}}
    return {'kind': 'inspect', 'machine': machine, 'results': results}


def measured(model: str, images_per_s: float, peak_bytes: int | None = 3_000_000, **more: Any) -> dict[str, Any]:
    result = dict(
        model=model, size=[512, 512], batch=1, train=False, dtype='float32', device='cpu', threads=2,
        images_per_s=images_per_s,
    )  # fmt: skip
    return result | ({} if peak_bytes is None else {'peak_bytes': peak_bytes}) | more


# -------------------------------------------------------------------------------------------------------- page
def written(path: Path, families: list[Family], contents: list[dict[str, Any]]) -> Path:
    models = models_of(families)
    return write_comparison(path, models, results_of(families), *axes_of(models, contents))


@pytest.fixture(scope='module')
def page(tmp_path_factory) -> Path:
    contents = [content([measured(FAST, 8.0), measured(SLOW, 2.0)])]
    return written(tmp_path_factory.mktemp('page') / 'models.html', FAMILIES, contents)


@pytest.fixture
def shown(browser, page):
    """The browser with the page in its first state."""

    def open_page(**how: Any) -> Any:
        browser.open(page, **how)
        browser.draw('#comparison')
        browser.wait(lambda: browser.run("return 'ready' in document.getElementById('comparison').dataset"), 'ready')
        return browser

    return open_page


def choose(browser, name: str, value: str) -> None:
    """Select an option, or tick a box, as a click does."""
    browser.run(
        "const e = document.getElementById(arguments[0]); if (e.type === 'checkbox') e.click(); "
        "else { e.value = arguments[1]; e.dispatchEvent(new Event('change')); }", name, value,
    )  # fmt: skip


def plot(browser) -> dict[str, Any]:
    """What plotly draws: of each trace its visibility and places, and the axes."""
    return browser.run(
        "const c = document.querySelector('#comparison .canvas'); return {traces: Object.fromEntries(c.data.map((t) => "
        '[t.name, {visible: t.visible, x: t.x, y: t.y, symbol: t.marker?.symbol, text: t.text}])), '
        'x: c.layout.xaxis.title.text, y: c.layout.yaxis.title.text, type: c._fullLayout.xaxis.type};'
    )


def points(found: dict[str, Any]) -> int:
    return sum(x is not None for name, t in found['traces'].items() if name != 'Pareto front' for x in t['x'])


def test_the_page_needs_nothing_and_is_drawn(shown):
    browser = shown()
    assert browser.requests() == [] and browser.complaints() == []
    image = browser.screenshot('#comparison')
    assert has_color(image, '#0072B2') and has_color(image, '#009E73')
    found = plot(browser)
    assert set(found['traces']) == {'PatchConvNet', 'PVT', 'PVTv2', 'Swin Transformer', 'timm', 'Pareto front'}
    count = Counter(row['metric'] for row in results_of(FAMILIES) if not row['tested'])['ADE20K mIoU']
    assert points(found) == count > 25
    assert f'{count} results of' in browser.find('#note').text
    assert all(symbol.endswith('-open') for trace in found['traces'].values() for symbol in trace['symbol'] or ())
    assert (found['y'], found['type']) == ('ADE20K mIoU', 'linear')


def test_results_under_other_conditions(shown):
    browser = shown()
    rows = [row for row in results_of(FAMILIES) if row['metric'] == 'ADE20K mIoU']
    others = sum(not row['usual'] for row in rows)
    assert '10 more were tested otherwise.' in browser.find('#note').text
    choose(browser, 'tested', 'usual')
    found = plot(browser)
    assert points(found) == len(rows) - others < len(rows) - 10
    assert not any('*' in text for t in found['traces'].values() for text in t['text'] or ())
    choose(browser, 'tested', 'scales')
    found = plot(browser)
    assert points(found) == sum(row['tested'] != '' for row in rows) == 10
    assert 45.81 in found['traces']['Swin Transformer']['y']
    choose(browser, 'tested', 'any')
    found = plot(browser)
    assert points(found) == len(rows)
    assert sum('*' in text for t in found['traces'].values() for text in t['text'] or ()) == others
    choose(browser, 'tested', 'scales')
    choose(browser, 'metric', 'COCO mask AP')  # which nobody reports at several scales
    assert points(plot(browser)) > 10


@pytest.mark.parametrize('dark', [False, True])
def test_a_phone(shown, dark):
    browser = shown(width=360, height=800, dark=dark)
    assert browser.overflow() <= 0
    assert has_color(browser.screenshot('#comparison'), '#0072B2')


def test_axes(shown):
    browser = shown()
    choose(browser, 'cost', 'params')
    found = plot(browser)
    assert found['x'] == 'parameters, M'
    assert 59.941862 in found['traces']['Swin Transformer']['x']
    choose(browser, 'cost', 'throughput-0')
    found = plot(browser)
    assert found['x'].startswith('images per second (cpu, float32, batch 1)')
    assert set(found['traces']) == {'PVTv2', 'Swin Transformer', 'Pareto front'}
    assert 'more is better' in browser.find('#note').text
    # the slower model is the better one: both are on the front, and more throughput is to the right
    assert found['traces']['Pareto front'] | {'text': None} == {
        'visible': True, 'x': [8, 2], 'y': [37.2, 44.51], 'symbol': None, 'text': None,
    }  # fmt: skip
    choose(browser, 'log', '')
    assert plot(browser)['type'] == 'log'


def test_metrics_and_methods(shown):
    browser = shown()
    choose(browser, 'cost', 'throughput-0')
    choose(browser, 'metric', 'nuclei mask AP')
    found = plot(browser)
    assert found['x'] == 'multiply-adds of one image, G'  # nothing was measured for what is left
    assert found['traces']['PatchConvNet']['symbol'] == ['circle']  # filled
    assert found['traces']['PatchConvNet']['text'] == ['measured']
    choose(browser, 'metric', 'COCO box AP')
    every = sum(len(t['x']) for t in plot(browser)['traces'].values())
    choose(browser, 'method', 'Cascade Mask R-CNN')
    found = plot(browser)
    assert set(found['traces']) == {'Swin Transformer', 'Pareto front'}
    assert sum(len(t['x']) for t in found['traces'].values()) < every
    choose(browser, 'names', '')
    assert plot(browser)['traces']['Swin Transformer']['text'] == ['swin', 'swin-s', 'swin-b']


def test_the_legend_hides_a_family(shown):
    browser = shown()
    before = plot(browser)['traces']
    assert max(before['Pareto front']['y']) == max(y for y in before['PatchConvNet']['y'] if y)
    toggle = next(
        each for each in browser.all('#comparison .legendtoggle') if 'PatchConvNet' in each.get_attribute('aria-label')
    )
    browser.run('arguments[0].focus()', toggle)
    browser.press('\ue007')  # Enter
    browser.wait(lambda: plot(browser)['traces']['PatchConvNet']['visible'] == 'legendonly', 'the family is hidden')
    best = max(y for name in ('PVT', 'PVTv2', 'Swin Transformer', 'timm') for y in before[name]['y'] if y)
    browser.wait(lambda: max(plot(browser)['traces']['Pareto front']['y']) == best, 'the front goes on without it')
    assert not has_color(browser.screenshot('#comparison .cartesianlayer'), '#0072B2')
    choose(browser, 'cost', 'params')
    assert plot(browser)['traces']['PatchConvNet']['visible'] == 'legendonly'
    choose(browser, 'front', '')
    assert plot(browser)['traces']['Pareto front']['visible'] is False


def test_tables(shown):
    browser = shown(width=1280)
    for name in ('table', 'without-table', 'measurements'):
        box = f"document.getElementById('{name}').parentElement"
        assert browser.run(f'return {box}.scrollWidth - {box}.clientWidth') <= 0, f'{name} is cut'
    names = [each.text for each in browser.all('#without-table tbody th')]
    models = models_of(FAMILIES)
    assert set(names) == set(models) - {row['model'] for row in results_of(FAMILIES)} and len(names) > 40
    browser.find('[data-filter=table]').send_keys('swin_ade20k mmsegmentation')
    visible = [row.text for row in browser.all('#table tbody tr:not([hidden])')]
    assert len(visible) == 2 and SLOW in visible[0] and '44.41' in visible[0] and '2.00' in visible[0]
    assert '45.79' in visible[1] and 'several scales and flips' in visible[1]
    browser.find('[data-filter=table]').clear()
    browser.find('[data-filter=table]').send_keys('ade20k ')
    browser.run("document.querySelectorAll('#table thead button')[2].click()")
    values = [float(cell.text) for cell in browser.all('#table tbody tr:not([hidden]) td:nth-child(3)')]
    assert values == sorted(values, reverse=True) and len(values) >= 25
    browser.run(
        "document.querySelector('#comparison .canvas').emit('plotly_click', {points: [{customdata: arguments[0], "
        'y: 44.51}]})', SLOW,
    )  # fmt: skip
    assert '44.51' in browser.find('#table tr.found').text


def test_text_stays_text(tmp_path):
    """A metafile may say anything."""
    text = (ROOT / 'configs/swin/metafile.yml').read_text()
    text = text.replace('reported by mmsegmentation', '"</script><b>bold</b>"')
    page = written(tmp_path / 'page.html', [Family('configs/swin/metafile.yml', text)], [])
    assert '</script><b>' not in page.read_text()
