'use strict';
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // ---------------------------------------------------------------- tables
  // Numbers by data-value, text by its words; what is unknown stands last in both directions.
  const compare = (a, b) => (typeof a === 'number' && typeof b === 'number' ? a - b
    : String(a).localeCompare(String(b), undefined, { numeric: true }));
  const ordered = (items, valueOf, sign) => items
    .map((item) => [item, valueOf(item)])
    .sort(([, a], [, b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)))
    .map(([item]) => item);
  const cellValue = (row, column) => {
    const cell = row.cells[column];
    if (!('value' in cell.dataset)) return cell.textContent.trim();
    return cell.dataset.value === '' ? null : Number(cell.dataset.value);
  };
  for (const table of all('table[data-sortable]')) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector('button').addEventListener('click', () => {
      const first = head.classList.contains('number') ? 'descending' : 'ascending';
      const other = first === 'ascending' ? 'descending' : 'ascending';
      const next = head.getAttribute('aria-sort') === first ? other : first;
      heads.forEach((each) => each.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', next);
      const body = table.tBodies[0];
      body.append(...ordered([...body.rows], (row) => cellValue(row, column), next === 'ascending' ? 1 : -1));
    }));
  }

  // ------------------------------------------------- filter boxes and order
  for (const box of all('[data-filter]')) {
    const target = document.getElementById(box.dataset.filter);
    const items = target.tBodies ? [...target.tBodies[0].rows] : [...target.children];
    const texts = new Map(items.map((item) => [item, (item.dataset.text ?? item.textContent).toLowerCase()]));
    const count = document.querySelector(`[data-count="${box.dataset.filter}"]`);
    box.addEventListener('input', () => {
      const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const [item, text] of texts) {
        item.hidden = !words.every((word) => text.includes(word));
        shown += !item.hidden;
      }
      count.textContent = `${shown} of ${items.length}`;
    });
  }
  for (const list of all('select[data-order]')) {
    const target = document.getElementById(list.dataset.order);
    const initial = [...target.children];
    list.addEventListener('change', () => {
      const descending = list.value.startsWith('-');
      const attribute = `data-by-${list.value.replace(/^-/, '')}`;
      const valueOf = (item) => {
        const text = item.getAttribute(attribute);
        return text === null || text === '' ? null : Number.isNaN(Number(text)) ? text : Number(text);
      };
      target.append(...ordered(initial, valueOf, descending ? -1 : 1));
    });
  }

  // --------------------------------------------------------------- pictures
  // The text of a picture stands beside its img and is decoded when the card comes near the window.
  const show = (root) => all('img:not([src])', root).forEach((img) => {
    img.src = `data:image/webp;base64,${img.nextElementSibling.textContent}`;
  });
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      show(target.querySelector('.strip') ?? target);
    }
  }, { rootMargin: '300px' });
  all('.card, .picture').forEach((card) => near.observe(card));

  // ------------------------------------------------------------ the full view
  const viewer = document.getElementById('viewer');
  const body = viewer.querySelector('.viewer-body');
  let current = null;
  const cardsAround = (card) => [...card.parentElement.children].filter((each) => !each.hidden);
  const view = (card) => {
    current = card;
    const cards = cardsAround(card);
    const views = document.createElement('div');
    views.className = 'views';
    for (const cell of all('.cell', card.querySelector('.large') ?? card.querySelector('.strip'))) {
      views.append(cell.cloneNode(true));
    }
    show(views);
    const text = document.createElement('p');
    text.textContent = card.querySelector('.text')?.textContent ?? '';
    body.replaceChildren(text, views);
    body.scrollTop = 0;
    document.getElementById('viewer-title').textContent = card.querySelector('.name').textContent;
    viewer.querySelector('.viewer-place').textContent = `${cards.indexOf(card) + 1} of ${cards.length}`;
    if (!viewer.open) viewer.showModal();
  };
  const step = (by) => {
    const cards = cardsAround(current);
    view(cards[(cards.indexOf(current) + by + cards.length) % cards.length]);
  };
  document.addEventListener('click', (event) => {
    const button = event.target.closest?.('.card > .open');
    if (button) view(button.parentElement);
  });
  viewer.addEventListener('keydown', (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    step(by);
  });
  all('[data-step]', viewer).forEach((button) => button.addEventListener('click', () => step(Number(button.dataset.step))));
  viewer.querySelector('[data-close]').addEventListener('click', () => viewer.close());
  viewer.addEventListener('click', (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener('close', () => {
    body.replaceChildren();
    current?.querySelector('.open').focus();
  });

  // ------------------------------------------------------------------ plots
  // plotly's script lies in the page as text and runs when the first plot comes near the window.
  const loadPlotly = () => {
    if (window.Plotly) return;
    const script = document.createElement('script');
    script.textContent = document.getElementById('plotly').textContent;
    document.head.append(script);
  };
  const theme = (layout) => {
    const changes = { 'font.color': color('--ink'), 'font.family': getComputedStyle(document.body).fontFamily,
      paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
      'modebar.bgcolor': 'rgba(0,0,0,0)', 'modebar.color': color('--soft'), 'modebar.activecolor': color('--ink'),
      'hoverlabel.bgcolor': color('--panel'), 'hoverlabel.font.color': color('--ink') };
    for (const axis of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
      changes[`${axis}.gridcolor`] = color('--grid');
      changes[`${axis}.zerolinecolor`] = color('--line');
      changes[`${axis}.linecolor`] = color('--line');
    }
    return changes;
  };
  const toggle = (canvas, index) => window.Plotly.restyle(
    canvas, { visible: canvas.data[index].visible === 'legendonly' ? true : 'legendonly' }, [index]);
  // plotly's legend answers to the pointer only.
  const keyboardLegend = (canvas) => {
    const named = canvas.data.map((trace, index) => [trace, index])
      .filter(([trace]) => trace.name && trace.showlegend !== false && trace.visible !== false);
    const entries = all('.legend .traces', canvas);
    entries.forEach((entry) => {
      const name = entry.querySelector('.legendtext')?.dataset.unformatted ?? entry.textContent;
      const found = named.find(([trace]) => trace.name === name);
      const area = entry.querySelector('.legendtoggle');
      if (!found || !area || area.hasAttribute('tabindex')) return;
      area.setAttribute('tabindex', '0');
      area.setAttribute('role', 'button');
      area.setAttribute('aria-label', `${name}: show or hide`);
      area.addEventListener('keydown', (event) => {
        if (event.key !== 'Enter' && event.key !== ' ') return;
        event.preventDefault();
        toggle(canvas, found[1]).then(() => all('.legend .traces', canvas)
          .find((each) => each.querySelector('.legendtext')?.dataset.unformatted === name)
          ?.querySelector('.legendtoggle').focus());
      });
    });
  };
  const addPicker = (figure, canvas) => {
    const choices = canvas.data.map((trace, index) => [trace.meta, index]).filter(([meta]) => typeof meta === 'string');
    if (!choices.length) return;
    const names = [...new Set(choices.map(([meta]) => meta))];
    const label = document.createElement('label');
    label.textContent = `${figure.dataset.pick} `;
    const list = document.createElement('select');
    list.append(...names.map((name) => new Option(name)));
    label.append(list);
    const line = document.createElement('p');
    line.className = 'tools';
    line.append(label);
    figure.querySelector('figcaption').after(line);
    const pick = () => window.Plotly.restyle(
      canvas, { visible: choices.map(([meta]) => meta === list.value) }, choices.map(([, index]) => index));
    list.addEventListener('change', pick);
    pick();
  };
  const drawn = new Set();
  const draw = async (figure) => {
    loadPlotly();
    const canvas = figure.querySelector('.canvas');
    const { data, layout } = JSON.parse(figure.querySelector('script').textContent);
    const touch = matchMedia('(pointer: coarse)').matches;  // there a drag scrolls the page
    if (touch) layout.dragmode = false;
    await window.Plotly.newPlot(canvas, data, layout, {
      responsive: true, displaylogo: false, displayModeBar: touch ? false : 'hover',
      modeBarButtons: [['toImage', 'resetScale2d']],
    });
    await window.Plotly.relayout(canvas, theme(canvas._fullLayout));
    canvas.on('plotly_afterplot', () => keyboardLegend(canvas));
    keyboardLegend(canvas);
    if (figure.dataset.pick) addPicker(figure, canvas);
    drawn.add(canvas);
    figure.dataset.drawn = '';
  };
  const coming = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      coming.unobserve(target);
      draw(target);
    }
  }, { rootMargin: '200px' });
  all('.plot').forEach((figure) => coming.observe(figure));
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
    drawn.forEach((canvas) => window.Plotly.relayout(canvas, theme(canvas._fullLayout)));
  });
})();
