"""A finished run as one HTML page that stands alone: `page.rendered` over `values.RunReport`.

Promises: no script, no outside resource, every text from outside escaped. Draws its own SVG and
imports no plotting library.
"""
