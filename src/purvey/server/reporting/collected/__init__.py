"""A prepared dataset as one HTML page that stands alone: `page.rendered` over its record."""
