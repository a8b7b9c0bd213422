"""Experiments with one cell: the same text in four places (`compare`), and in a container with walls left out (`peel`).

    compare   text ─▶ process, container, machine, container in a machine ─▶ what it cost, saw and could reach
    peel      text ─▶ a container, and the same with some switches off ─▶ what differs: output, configuration, steps

Each gives one JSON document; everything here runs on the session's event loop, so that a view can ask for it again.
"""
