"""What the plots of all pages have in common: colours, marks, and the way into a page."""

from __future__ import annotations

import plotly.graph_objects as go
import plotly.io

__all__ = ['DASHES', 'PALETTE', 'SYMBOLS', 'to_json']

# Okabe and Ito, "Color Universal Design", 2008 (jfly.uni-koeln.de/color): eight colours that people with any colour
# blindness tell apart. Black and yellow are left out: the one is lost on a dark page, the other on a light one. A grey
# stands for them.
PALETTE = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#808080')
# A second difference beside the colour, in the same order.
SYMBOLS = ('circle', 'square', 'diamond', 'triangle-up', 'x', 'cross', 'star')
DASHES = ('solid', 'dash', 'dot', 'dashdot', 'longdash', 'longdashdot')


def to_json(figure: go.Figure, height: int = 420) -> str:
    """A figure for the template's ``plot``: without plotly's own theme, as the page gives it the reader's colours.

    Args:
        figure: it is changed.
        height: in CSS pixels; the width is the page's.
    """
    legend = figure.layout.showlegend or any(trace.type == 'heatmap' for trace in figure.data)
    figure.update_layout(
        template='none',
        height=height,
        margin=dict(l=10, r=10, t=60 if legend else 30, b=10),
        legend=dict(orientation='h', yref='container', yanchor='top', y=1, xref='container', x=0),
    )
    figure.update_xaxes(automargin=True, title_standoff=12)
    figure.update_yaxes(automargin=True, title_standoff=12)
    return plotly.io.to_json(figure, engine='json')
