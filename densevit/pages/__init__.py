"""HTML pages that hold all they show: reports, comparisons, data; written by Jinja2, plotted by plotly."""
