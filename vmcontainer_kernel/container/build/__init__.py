"""Building images from a Dockerfile.

    text ──lines──▶ logical lines ──dockerfile──▶ stages of instructions ──plan──▶ steps ──builder──▶ layers, an image

What is left of `builder` is pure; `cache` says when a step need not be done, `context` and `files` copy.
"""
