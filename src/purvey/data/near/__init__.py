"""Near duplicates: texts that share most of their letters, images that show the same picture.

Promises: what is called near was compared in full, not by its signature alone; the signatures of
a column take at most 128 bytes a value for texts and 800 for images.
"""
