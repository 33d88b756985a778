"""Learning to answer about an image: an image for each token row, the loss on the answers.

Knows no files: images come in as tensors.
"""
