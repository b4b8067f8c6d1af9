"""A page with everything that pages are made of, opened in a browser."""

from __future__ import annotations

import math

import jinja2
import numpy as np
import plotly.graph_objects as go
import pytest

from densevit.pages.figures import PALETTE, to_json
from densevit.pages.page import Card, Column, environment, inline_json, number, write_page
from densevit.pages.thumbnails import picture
from tests.browser import has_color

TEMPLATE = """
{% extends 'base.html.j2' %}
{% import 'parts.html.j2' as parts %}
{% block content %}
<section id="numbers">{{ parts.headline([('mIoU', '42.0', 'percent')]) }}
{{ parts.table('classes', 'IoU per class', columns, rows) }}</section>
<section id="plots">{{ parts.plot('bars', 'Two bars', figure, 'one and two') }}
{{ parts.plot('picked', 'One of two', picked, 'a or b', pick='Class') }}</section>
<section id="pictures">
{{ parts.gallery('images', cards, [('score', 'worst first'), ('-score', 'best first')]) }}</section>
{% endblock %}
"""
HOSTILE = '<script>document.title = "broken"</script>'
NAMES = ['road', 'Sky', 'car', HOSTILE, 'pole', 'tree 10', 'tree 9', 'wall', 'void', 'bus']


def cards() -> list[Card]:
    made = []
    for index in range(12):
        image = np.zeros((30, 41, 3), np.uint8)
        image[:, : 3 * index] = 255, 0, 0
        pictures = [picture(image, 'truth', 20), picture(255 - image, 'prediction', 20, lossless=True)]
        order = {'score': None if index == 4 else (index * 5) % 12}
        large = [picture(image, 'truth')] if index == 0 else ()
        made.append(Card(f'image {index}', pictures, f'mIoU {order["score"]}', large, NAMES[index % 10], order))
    return made


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    env = environment()
    loader, env.loader = env.loader, jinja2.ChoiceLoader([jinja2.DictLoader({'try.html.j2': TEMPLATE}), env.loader])
    bars = go.Figure([
        go.Bar(name=name, x=[name], y=[index + 1], marker_color=PALETTE[index]) for index, name in enumerate('ab')
    ]).update_layout(showlegend=True)  # fmt: skip
    picked = go.Figure([go.Scatter(x=[0, 1], y=[index, 1], meta=name) for index, name in enumerate('ab')])
    rows = [
        {'name': name, 'iou': math.nan if name == 'void' else (37 * index) % 100 + 0.5}
        for index, name in enumerate(NAMES)
    ]
    try:
        return write_page(
            tmp_path_factory.mktemp('page') / 'new' / 'page.html', 'try.html.j2', title='A <page>', plots=True,
            subtitle='of a test', sections=[('numbers', 'Numbers'), ('plots', 'Plots'), ('pictures', 'Pictures')],
            columns=[Column('name', 'class'), Column('iou', 'IoU', 1, 'in percent')], rows=rows, cards=cards(),
            figure=to_json(bars, 300), picked=to_json(picked, 300),
        )  # fmt: skip
    finally:
        env.loader = loader


def column(browser, selector: str = '#classes tbody tr:not([hidden]) th') -> list[str]:
    return [cell.text for cell in browser.all(selector)]


def test_nothing_is_fetched_and_text_stays_text(browser, page):
    browser.open(page)
    browser.draw('#bars')
    assert browser.driver.title == 'A <page>'
    assert HOSTILE in column(browser)
    assert browser.requests() == []
    assert browser.complaints() == []


def test_the_policy_stops_what_would_be_fetched(browser, page):
    browser.open(page)
    browser.run("new Image().src = 'http://127.0.0.1:9/x.png'; fetch('http://127.0.0.1:9/y').catch(() => 0)")
    found = browser.wait(lambda: ' '.join(browser.complaints()), 'the console complains')
    assert 'Content Security Policy' in found


def test_sorting(browser, page):
    browser.open(page)
    assert column(browser) == NAMES
    name, iou = browser.all('#classes thead th')
    iou.find_element('css selector', 'button').click()
    values = column(browser, '#classes tbody td')
    assert iou.get_attribute('aria-sort') == 'descending'
    assert values[-1] == '–'
    assert values[:-1] == sorted(values[:-1], key=float, reverse=True) and len(values) == 10
    iou.find_element('css selector', 'button').send_keys('\ue007')  # Enter
    values = column(browser, '#classes tbody td')
    assert values[-1] == '–' and values[:-1] == sorted(values[:-1], key=float)
    name.find_element('css selector', 'button').click()
    assert (name.get_attribute('aria-sort'), iou.get_attribute('aria-sort')) == ('ascending', None)
    names = column(browser)
    assert names.index('tree 9') + 1 == names.index('tree 10')
    assert names.index('road') + 1 == names.index('Sky')


def test_filter(browser, page):
    browser.open(page)
    box = browser.find('[data-filter=classes]')
    box.send_keys('TREE')
    assert column(browser) == ['tree 10', 'tree 9']
    assert browser.find('[data-count=classes]').text == '2 of 10'
    box.send_keys(' 9')
    assert column(browser) == ['tree 9']
    browser.find('[data-filter=images]').send_keys('bus')
    assert column(browser, '#images .card:not([hidden]) .name') == ['image 9']


def test_order_of_pictures(browser, page):
    browser.open(page)
    order = [(index * 5) % 12 for index in range(12) if index != 4]
    for choice, sign in (('-score', -1), ('score', 1)):
        browser.run(
            "const list = document.querySelector('[data-order]'); list.value = arguments[0]; "
            "list.dispatchEvent(new Event('change'))",
            choice,
        )
        shown = [text.removeprefix('mIoU ') for text in column(browser, '#images .card .text')]
        assert shown == [str(value) for value in sorted(order, key=lambda value: sign * value)] + ['None']


def test_pictures_come_when_they_are_seen(browser, page):
    browser.open(page, height=300)
    loaded = 'return [...document.querySelectorAll("#images img")].filter((img) => img.src).length'
    assert browser.run(loaded) == 0
    browser.run("document.querySelector('#images').scrollIntoView({behavior: 'instant'})")
    browser.wait(lambda: browser.run(loaded) >= 2, 'pictures are decoded')
    widths = 'return [...document.querySelectorAll("#images img[src]")].map((img) => img.naturalWidth)'
    browser.wait(lambda: set(browser.run(widths)) == {20}, 'they are pictures')
    shown = browser.screenshot('#images .card:nth-child(1) .cell:nth-child(2)')
    assert has_color(shown, '#ffffff')


def test_pictures_by_keyboard(browser, page):
    browser.open(page)
    first = browser.find('#images .open')
    browser.run('arguments[0].focus()', first)
    browser.press('\ue007')  # Enter
    title = browser.find('#viewer-title')
    assert title.text == 'image 0'
    assert len(browser.all('.viewer-body img')) == 1, 'the larger picture'
    assert browser.run("return document.querySelector('.viewer-body img').naturalWidth") in (0, 41)
    browser.press('\ue014')  # right
    assert (title.text, browser.find('.viewer-place').text) == ('image 1', '2 of 12')
    browser.press('\ue012')
    browser.press('\ue012')  # left, left: around
    assert title.text == 'image 11'
    browser.press('\ue00c')  # Escape
    assert not browser.find('#viewer').is_displayed()
    assert browser.driver.switch_to.active_element.get_attribute('aria-label') == 'image 11: show large'


def test_the_first_tab_leads_past_the_header(browser, page):
    browser.open(page)
    browser.press('\ue004')
    skip = browser.driver.switch_to.active_element
    assert skip.text == 'Skip to the content' and skip.rect['x'] >= 0
    assert browser.run('return getComputedStyle(document.activeElement).outlineStyle') == 'solid'


def test_legend_by_click_and_by_keyboard(browser, page):
    browser.open(page)
    browser.draw('#bars')
    assert all(has_color(browser.screenshot('#bars'), PALETTE[index]) for index in (0, 1))
    visible = "return document.querySelector('#bars .canvas').data.map((trace) => trace.visible ?? true)"
    browser.all('#bars .legendtoggle')[0].click()
    browser.wait(lambda: browser.run(visible) == ['legendonly', True], 'the first is off')
    browser.wait(lambda: browser.run('return document.querySelectorAll("#bars .bars path").length') == 1, 'one bar')
    shown = browser.screenshot('#bars .bglayer + .layer-below, #bars .cartesianlayer')
    assert has_color(shown, PALETTE[1]) and not has_color(shown, PALETTE[0])
    browser.wait(lambda: len(browser.all('#bars .legendtoggle[tabindex]')) == 2, 'the keyboard reaches the legend')
    browser.run('arguments[0].focus()', browser.all('#bars .legendtoggle')[0])
    browser.run("document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}))")
    browser.wait(lambda: browser.run(visible) == [True, True], 'and on again')


def test_one_trace_at_a_time(browser, page):
    browser.open(page)
    browser.draw('#picked')
    visible = "return document.querySelector('#picked .canvas').data.map((trace) => trace.visible)"
    browser.wait(lambda: browser.run(visible) == [True, False], 'the first')
    browser.find('#picked select').send_keys('b')
    browser.wait(lambda: browser.run(visible) == [False, True], 'the second')


@pytest.mark.parametrize('dark', [False, True])
@pytest.mark.parametrize('width', [360, 1280])
def test_width_and_colours(browser, page, width, dark):
    browser.open(page, width=width, dark=dark)
    browser.draw('#bars')
    assert browser.overflow() <= 0
    shown = browser.screenshot()
    assert shown.shape[1] == width
    assert (np.median(shown) < 60) == dark
    colors = browser.run("return document.querySelector('#bars .canvas').layout.font.color")
    assert colors == ('#e9eaec' if dark else '#1c1d1f')


def test_a_page_without_plots_carries_no_plotly(tmp_path):
    path = write_page(tmp_path / 'plain.html', 'base.html.j2', title='plain')
    assert path.stat().st_size < 40_000
    assert 'id="plotly"' not in path.read_text()


def test_an_unknown_name_is_an_error(tmp_path):
    with pytest.raises(jinja2.UndefinedError, match='wrong'):
        environment().from_string('{{ wrong }}').render()


def test_numbers():
    assert [number(value, 1) for value in (1234.56, None, math.nan, 'text')] == ['1,234.6', '–', '–', 'text']


def test_json_cannot_end_its_element():
    assert '<' not in inline_json({'a': '</script><!--'})
    with pytest.raises(ValueError):
        inline_json({'a': math.nan})
