"""Reports are one self-contained HTML page each.

data: what a page shows, already bounded; charts, calendar, atlas: data -> SVG text; raster: heat maps as tiny PNGs;
page: sections -> HTML, with the style and script that lie beside it.
"""
